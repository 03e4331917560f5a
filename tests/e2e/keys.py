"""A provider with several keys in one scripted server that answers each key by a script of its own."""

from collections.abc import Sequence
from typing import Any

from fastroute.upstream.mock import Request
from tests.e2e.fleet import GOOD, Play, Plays


class KeyServer(Plays):
    """A provider that knows these keys, which are the names of the arrivals."""

    def __init__(self, *keys: str, default: Play = GOOD) -> None:
        super().__init__(keys, credential, default)
        self.keys = keys

    def provider(self, strategy: str | None, *, ident: str = "p", keys: Sequence[Any] = (), **more: Any) -> Any:
        """Return the provider's entry of a configuration, of the OpenAI dialect."""
        url = f"{self.upstream.url}/v1"
        named = keys or [{"key": key, "id": key} for key in self.keys]
        entry = {"id": ident, "type": "openai", "base_url": url, "keys": named, "models": ["m"], **more}
        return entry | ({"key_strategy": strategy} if strategy is not None else {})


def credential(request: Request) -> str:
    """Return the key that a request carries, in whichever field its dialect has it."""
    bearer = (request.header(b"authorization") or b"").removeprefix(b"Bearer ")
    found = bearer or request.header(b"x-api-key") or request.header(b"x-goog-api-key") or b""
    return found.decode()
