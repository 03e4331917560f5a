"""The official Anthropic SDK, unmodified, against a running gateway."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from fastroute.upstream.mock import Cut, MockUpstream, Request, Script, Send, json_response, sse_response
from tests.e2e.harness import Gateway, ThreadedUpstream

KEY = "sk-sdk"
ASK: Any = {"max_tokens": 64, "messages": [{"role": "user", "content": "hello over there"}]}


def script_for(request: Request) -> Script:
    if b'"overloaded"' in request.body:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
        return json_response(529, error, [(b"request-id", b"req_a"), (b"anthropic-ratelimit-requests-remaining", b"0")])
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
               "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1}}  # fmt: skip
    start = sse_response([b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % dump(message)])
    whole = b"".join(step.data for step in start if isinstance(step, Send))
    return [Send(whole.removesuffix(b"0\r\n\r\n")), Cut()]


def dump(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(script_for) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    mock = {"id": "mock", "type": "anthropic", "base_url": upstream.url, "keys": ["sk-up"]}
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            {"id": "echo", "type": "echo", "models": ["claude-echo"]},
            {**mock, "models": ["overloaded", "dies"]},
        ],
    }


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as made:
        yield made


def test_messages(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="claude-echo", **ASK)
    assert message.content[0].text == "hello over there"  # type: ignore[union-attr]
    assert message.usage.input_tokens > 0


def test_streamed_messages(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="claude-echo", **ASK) as stream:
        assert "".join(stream.text_stream) == "hello over there"
        assert stream.get_final_message().stop_reason == "end_turn"


def test_count_tokens_and_models(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="claude-echo", messages=ASK["messages"]).input_tokens > 0
    assert "claude-echo" in [model.id for model in client.models.list()]


def test_async(gateway: Gateway) -> None:
    async def main() -> str:
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY) as client:
            async with client.messages.stream(model="claude-echo", **ASK) as stream:
                return await stream.get_final_text()

    assert asyncio.run(main()) == "hello over there"


def test_errors(gateway: Gateway, client: anthropic.Anthropic) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-wrong") as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            stranger.messages.create(model="claude-echo", **ASK)
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(model="unknown", **ASK)
    # Where this SDK looks for it; a refusal of the gateway's has the gateway's.
    assert refused.value.request_id == refused.value.response.headers["x-request-id"]
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="overloaded", **ASK)
    assert caught.value.status_code == 529
    assert caught.value.response.headers["request-id"] == "req_a"
    assert caught.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"


def test_a_stream_that_dies_raises(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIError):
        with client.messages.stream(model="dies", **ASK) as stream:
            stream.until_done()
