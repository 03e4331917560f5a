"""A provider with several keys in one scripted server that answers each key by a script of its own."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from fastroute.upstream.mock import MockUpstream, Request, Script
from tests.e2e.fleet import GOOD, Play
from tests.e2e.harness import ThreadedUpstream


class Use(NamedTuple):
    """A request as the provider saw it. at_s: monotonic seconds."""

    at_s: float
    key: str
    target: str


class KeyServer:
    """A provider that knows these keys; a context manager."""

    def __init__(self, *keys: str, default: Play = GOOD) -> None:
        self.keys = keys
        self.plays: dict[str, Play] = dict.fromkeys(keys, default)
        self.uses: list[Use] = []
        self._thread = ThreadedUpstream(self._script)
        self.upstream: MockUpstream

    def __enter__(self) -> Self:
        self.upstream = self._thread.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.__exit__(kind, error, trace)

    def _script(self, request: Request) -> Script:
        key = credential(request)
        self.uses.append(Use(time.monotonic(), key, request.target))
        play = self.plays[key]
        return play(request) if callable(play) else play

    def set(self, event: Any) -> None:
        """Let a `Barrier` pass."""
        self._thread.set(event)

    def provider(self, strategy: str | None, *, ident: str = "p", keys: Sequence[Any] = (), **more: Any) -> Any:
        """Return the provider's entry of a configuration, of the OpenAI dialect."""
        url = f"{self.upstream.url}/v1"
        named = keys or [{"key": key, "id": key} for key in self.keys]
        entry = {"id": ident, "type": "openai", "base_url": url, "keys": named, "models": ["m"], **more}
        return entry | ({"key_strategy": strategy} if strategy is not None else {})

    def counts(self, since: int = 0) -> Counter[str]:
        """Return how many requests each key was used for, those before the first `since` left out."""
        return Counter(use.key for use in self.uses[since:])


def credential(request: Request) -> str:
    """Return the key that a request carries, in whichever field its dialect has it."""
    bearer = (request.header(b"authorization") or b"").removeprefix(b"Bearer ")
    found = bearer or request.header(b"x-api-key") or request.header(b"x-goog-api-key") or b""
    return found.decode()
