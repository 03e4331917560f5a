"""A small HTTP client for tests that look at bytes and header fields."""

import http.client
import json
from typing import Any, NamedTuple

from tests.e2e.harness import Gateway


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def connect(gateway: Gateway, timeout_s: float = 20.0) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=timeout_s)


def begin(
    link: http.client.HTTPConnection, key: str, document: object, path: str = "/v1/chat/completions", **headers: str
) -> http.client.HTTPResponse:
    """Send a request; return the response whose body is still to be read. Underscores in names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"content-type": "application/json", "authorization": f"Bearer {key}", **named}
    link.request("POST", path, json.dumps(document).encode(), fields)
    return link.getresponse()


def ask(gateway: Gateway, key: str, document: object, path: str = "/v1/chat/completions", **headers: str) -> Answer:
    """Send a request on a connection of its own and read the whole answer."""
    link = connect(gateway)
    try:
        response = begin(link, key, document, path, **headers)
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
    finally:
        link.close()


def chat(model: str = "m", **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def completion(usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """An answer as an OpenAI-compatible provider gives it."""
    counts = usage or {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": counts}
