"""What providers and their SDKs say: usage, errors and credentials, one module per dialect. Pure functions, no I/O."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from fastroute.dialects import anthropic, gemini, openai
from fastroute.interfaces import DialectName, Usage


class Dialect(Protocol):
    """What every dialect module offers."""

    @property
    def NAME(self) -> DialectName:
        """The word for it in configuration and records."""

    @property
    def KEEP_ALL(self) -> bool:
        """Whether `usage_from_events` needs every event with usage, not only the last one."""

    @property
    def DEFAULT_HEADERS(self) -> tuple[tuple[bytes, bytes], ...]:
        """Request headers to add where the client sent none of that name."""

    @property
    def REQUEST_ID(self) -> bytes:
        """The answer's field in which its SDKs look for the id of the request."""

    def usage_from_json(self, body: bytes) -> Usage | None:
        """Return the usage of a whole response body; None if the provider reported none."""

    def usage_from_events(self, payloads: Sequence[bytes]) -> Usage | None:
        """Return the usage of a stream from `StreamMeter.usage_events`; None if there is none in them."""

    def error_body(self, status: int, code: str, message: str, param: str | None = None, request_id: str = "") -> bytes:
        """Return the JSON body of an error answer; `code` is a word of ours (`model_not_found`, ...).

        request_id: for the dialects whose errors name it; "" if it is not known.
        """

    def error_event(self, status: int, code: str, message: str, request_id: str = "") -> bytes:
        """Return complete events that end a broken stream such that the official SDKs raise."""

    def auth_headers(self, key: str) -> list[tuple[bytes, bytes]]:
        """Return the headers that carry the provider key upstream; ValueError if it cannot be sent."""


DIALECTS: Final[Mapping[DialectName, Dialect]] = MappingProxyType(
    {"openai": openai, "anthropic": anthropic, "gemini": gemini}
)
