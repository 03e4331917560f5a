"""What a lane is: the way in which requests come in and answers go out. The corridor knows no more of it than this."""

from collections.abc import Awaitable
from typing import Protocol

from fastroute.context import Context
from fastroute.errors import GatewayError
from fastroute.interfaces import Header


class ClientGoneError(GatewayError):
    """The client left before its request was complete, or its framing broke off: who still reads learns why."""

    def __init__(self) -> None:
        super().__init__(400, "invalid_request_error", "the request body broke off", close=True)


class AnswerCutError(Exception):
    """Raised through the server to make it cut a connection whose answer cannot be completed honestly."""


class Downstream(Protocol):
    """One request on the client's side.

    Names of fields are in lower case. `head` stands for all of its head but its content-length, `length` (-1 for none):
    heads that are alike are one object; None where nobody has looked, and then `length` says nothing. `started`: the
    head of the answer is on its way; `finished`: so is its last byte.
    """

    method: str
    path: bytes
    query: bytes
    started: bool
    finished: bool

    @property
    def head(self) -> object:
        """Return what stands for the head."""

    @property
    def length(self) -> int:
        """Return the content-length."""

    @property
    def whole_body(self) -> bytes | None:
        """Return the request body if all of it is here already, and nothing else has to be done for it."""

    @property
    def headers(self) -> list[Header]:
        """Return the header fields."""

    def read_body(self, length: int, limit: int, ctx: Context | None = None) -> Awaitable[bytes]:
        """Return the whole request body.

        length: the declared content-length, -1 if none. ctx: whose progress grows with each piece. Raises GatewayError
        413 as soon as `limit` is passed, and ClientGoneError if the client leaves in the middle.
        """

    def departed(self) -> Awaitable[None]:
        """Return once the client has left (or the answer is complete)."""

    def respond(self, status: int, headers: list[Header], body: bytes) -> Awaitable[None]:
        """Send a whole answer."""

    def start(self, status: int, headers: list[Header]) -> Awaitable[None]:
        """Send the head of an answer whose body follows in pieces."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a piece of the body; to be awaited, which takes as long as the client makes it take."""

    def finish(self, data: bytes = b"") -> Awaitable[None]:
        """Send the last piece and end the answer."""


def too_large(limit: int) -> GatewayError:
    """Return the refusal of a body over the limit. The rest of the body is not read, so the connection closes."""
    return GatewayError(413, "request_too_large", f"the request body is larger than {limit} bytes", close=True)
