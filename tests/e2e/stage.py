"""A scripted provider whose script every test sets anew, and the answers it gives: one set for each dialect."""

import asyncio
import json
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import httpx

from fastroute.upstream.mock import (
    Cut,
    MockUpstream,
    Request,
    Script,
    Send,
    chunk,
    json_response,
    response_head,
    sse_response,
)
from tests.e2e.harness import Gateway, ThreadedUpstream

KEY = "sk-client-key-of-the-tests"
UPSTREAM_KEY = "upstream-key-of-the-tests"
AUTH = {"authorization": f"Bearer {KEY}"}
CHAT = "/v1/chat/completions"
MODEL = "m-1"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

Play = Script | Callable[[Request], Script]


class Stage:
    """A `MockUpstream` in a thread; a context manager. What it answers is what was last given to `play`."""

    def __init__(self, *, default: Play = (), **options: Any) -> None:
        self._default = default
        self._plays: list[Play] = [default]
        self._thread = ThreadedUpstream(self._next, **options)
        self._seen = 0
        self.upstream: MockUpstream

    def __enter__(self) -> Self:
        self.upstream = self._thread.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.__exit__(kind, error, trace)

    def play(self, *plays: Play) -> None:
        """Answer the requests from now on with `plays` in turn, the last one again and again; forget the earlier ones.

        Nothing given: with the default.
        """
        self._plays = list(plays) or [self._default]
        self._seen = self.upstream.request_count

    def _next(self, request: Request) -> Script:
        play = self._plays.pop(0) if len(self._plays) > 1 else self._plays[0]
        return play(request) if callable(play) else play

    @property
    def requests(self) -> list[Request]:
        """The requests since the last `play`."""
        return self.upstream.requests[self._seen :]

    @property
    def request(self) -> Request:
        """The only request since the last `play`."""
        [request] = self.requests
        return request

    def set(self, event: asyncio.Event) -> None:
        """Let a `Barrier` pass."""
        self._thread.set(event)

    def provider(self, ident: str, kind: str = "openai", **more: Any) -> dict[str, Any]:
        """Return the provider entry of a configuration that leads here."""
        base = f"{self.upstream.url}/v1" if kind == "openai" else self.upstream.url
        entry = {"id": ident, "type": kind, "base_url": base, "keys": [UPSTREAM_KEY], "models": [MODEL]}
        return {**entry, **more}


def client_of(gateway: Gateway) -> httpx.Client:
    """Return a client with the test's key; a context manager."""
    return httpx.Client(base_url=gateway.url, headers=AUTH, trust_env=False, timeout=20)


# === Answers ===


def whole(text: str = "whole", model: str = MODEL, headers: Iterable[tuple[bytes, bytes]] = ()) -> Script:
    """Return a chat completion of `text`: 11 prompt tokens (3 of them cached), 7 completion tokens (2 reasoning)."""
    return json_response(200, chat(text, model), list(headers))


def chat(text: str, model: str = MODEL) -> dict[str, Any]:
    """Return a whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    top = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return {**top, "choices": [choice], "usage": USAGE}


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
}


def piece(text: str) -> bytes:
    """Return the event of one chunk of a streamed chat completion."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
                  "choices": [choice]})  # fmt: skip


def usage_piece() -> bytes:
    """Return the event that ends a streamed chat completion for which usage was asked."""
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
                  "choices": [], "usage": USAGE})  # fmt: skip


DONE = b"data: [DONE]\n\n"


def event(data: object, name: str = "") -> bytes:
    """Return one server-sent event."""
    first = f"event: {name}\n" if name else ""
    return f"{first}data: {json.dumps(data)}\n\n".encode()


def streamed(*texts: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Callable[[Request], Script]:
    """Return a play that streams `texts`, and the usage to those who ask for it."""

    def script_for(request: Request) -> Script:
        asked = (json.loads(request.body).get("stream_options") or {}).get("include_usage")
        events = [*map(piece, texts), *([usage_piece()] if asked else []), DONE]
        return sse_response(events, list(headers))

    return script_for


def stream_head(headers: Iterable[tuple[bytes, bytes]] = ()) -> Send:
    """Return the step that begins a streamed answer."""
    own = [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")]
    return Send(response_head(200, [*own, *headers]))


def sent(data: bytes) -> Send:
    """Return the step that sends one chunk."""
    return Send(chunk(data))


STREAM_END = Send(b"0\r\n\r\n")


def dying(*events: bytes) -> Script:
    """Return a script that streams `events` and then resets the connection."""
    return [stream_head(), *map(sent, events), Cut()]


def failing(status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> Script:
    """Return a script that answers an error of OpenAI's dialect."""
    error = {"message": f"scripted {status}", "type": "scripted", "param": None, "code": f"c{status}"}
    return json_response(status, {"error": error}, list(headers))
