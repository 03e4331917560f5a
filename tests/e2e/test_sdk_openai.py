"""The official OpenAI SDK, unmodified, against a running gateway: the echo provider, and a scripted one for faults."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from fastroute.upstream.mock import Cut, MockUpstream, Request, Script, Send, json_response, sse_response
from tests.e2e.harness import Gateway, ThreadedUpstream

KEY = "sk-sdk"
ASK: list[Any] = [{"role": "user", "content": "hello over there"}]


def script_for(request: Request) -> Script:
    model = json.loads(request.body)["model"]
    if model.startswith("status-"):
        error = {"error": {"message": "no", "type": "t", "param": None, "code": "c"}}
        return json_response(int(model[7:]), error, [(b"retry-after", b"7"), (b"x-request-id", b"req_provider")])
    start = sse_response([{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "half"}, "finish_reason": None}]}])  # fmt: skip
    whole = b"".join(step.data for step in start if isinstance(step, Send))
    return [Send(whole.removesuffix(b"0\r\n\r\n")), Cut()]


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(script_for) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    return {
        "auth": {"keys": [{"id": "app", "key": KEY, "models": ["echo*", "status-*", "dies"]}]},
        "providers": [
            {"id": "echo", "type": "echo", "models": ["echo-1", "echo-2", "hidden"]},
            {
                "id": "mock",
                "type": "openai",
                "base_url": f"{upstream.url}/v1",
                "keys": ["sk-up"],
                "models": ["status-*", "dies"],
            },
        ],
        "routing": {"retry": {"max_attempts": 1}},
    }


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="echo-1", messages=ASK)
    assert done.choices[0].message.content == "hello over there"
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0


def test_streamed_chat_without_and_with_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="echo-1", messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello over there"
    assert all(chunk.usage is None for chunk in chunks)
    asked: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="echo-1", messages=ASK, stream=True, stream_options=asked))
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_other_operations(client: openai.OpenAI) -> None:
    assert client.completions.create(model="echo-1", prompt="one two").choices[0].text == "one two"
    assert client.responses.create(model="echo-1", input="three four").output_text == "three four"
    events = [event.type for event in client.responses.create(model="echo-1", input="five", stream=True)]
    assert (events[0], events[-1]) == ("response.created", "response.completed")
    assert client.embeddings.create(model="echo-1", input="six").data[0].embedding


def test_models_are_those_the_key_may_use(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo-1", "echo-2", "dies"]
    assert client.models.retrieve("echo-2").id == "echo-2"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("hidden")
    with pytest.raises(openai.NotFoundError, match="hidden"):
        client.chat.completions.create(model="hidden", messages=ASK)


def test_async(gateway: Gateway) -> None:
    async def main() -> str:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY) as client:
            whole = await client.chat.completions.create(model="echo-2", messages=ASK)
            stream = await client.chat.completions.create(model="echo-2", messages=ASK, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert whole.choices[0].message.content == "".join(parts)
            return "".join(parts)

    assert asyncio.run(main()) == "hello over there"


def test_a_wrong_key(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="echo-1", messages=ASK)
    assert "sk-wrong" not in str(caught.value)


@pytest.mark.usefixtures("unhurt")
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_a_provider_error_arrives_whole(client: openai.OpenAI, status: int, kind: type[openai.APIStatusError]) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=f"status-{status}", messages=ASK)
    assert caught.value.response.json() == {"error": {"message": "no", "type": "t", "param": None, "code": "c"}}
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-request-id"]) == ("7", "req_provider")
    assert headers["x-fastroute-attempts"] == "1"


def test_a_stream_that_dies_raises(client: openai.OpenAI) -> None:
    parts = []
    with pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(model="dies", messages=ASK, stream=True):
            parts.append(chunk.choices[0].delta.content)
    assert parts == ["half"]
