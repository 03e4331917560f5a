"""The three official SDKs, sync and async, against answers scripted in the provider's own words, and its deaths."""

import asyncio
from collections.abc import Iterator
from http.client import IncompleteRead
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors

from fastroute.upstream.mock import Script, Send, json_response, response_head, sse_response
from tests.e2e.client import begin, connect
from tests.e2e.harness import Gateway
from tests.e2e.stage import (
    ASK,
    DONE,
    KEY,
    MODEL,
    Stage,
    dying,
    event,
    failing,
    piece,
    sent,
    stream_head,
    streamed,
    whole,
)

#: Each error is met by endpoints that nothing has happened to.
pytestmark = pytest.mark.usefixtures("unhurt")

TURNS: Any = ASK["messages"]
CLAUDE: Any = {"model": "c-1", "max_tokens": 8, "messages": TURNS}
RATE_LIMITS = [(b"retry-after", b"7"), (b"x-ratelimit-remaining-requests", b"0"), (b"x-request-id", b"req_1")]


@pytest.fixture(scope="module")
def gateway_config(stage: Stage) -> dict[str, Any]:
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            stage.provider("oai"),
            stage.provider("ant", "anthropic", models=["c-1"]),
            stage.provider("gem", "gemini", models=["g-1"]),
        ],
        "routing": {"retry": {"max_attempts": 1}},
    }


# === OpenAI ===


@pytest.fixture
def oai(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def a_response(status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": "said", "annotations": []}
    item = {"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": [part]}
    top = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "status": status, "output": [item]}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    return {**top, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage}


def response_events() -> list[bytes]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    found: list[dict[str, Any]] = [
        {"type": "response.created", "response": a_response("in_progress")},
        {"type": "response.output_text.delta", **place, "delta": "said", "logprobs": []},
        {"type": "response.completed", "response": a_response("completed")},
    ]
    return [event({**data, "sequence_number": at}, data["type"]) for at, data in enumerate(found)]


def a_text_completion() -> dict[str, Any]:
    choice = {"text": "said", "index": 0, "finish_reason": "stop", "logprobs": None}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL, "choices": [choice]}


def test_openai_whole_answers(oai: openai.OpenAI, stage: Stage) -> None:
    embedding = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
    embeddings = {
        "object": "list",
        "model": MODEL,
        "data": [embedding],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    bodies = [a_response("completed"), a_text_completion(), embeddings]
    stage.play(whole("said"), *(json_response(200, body) for body in bodies))
    chat = oai.chat.completions.create(model=MODEL, messages=TURNS)
    assert chat.choices[0].message.content == "said"
    assert chat.usage is not None
    assert chat.usage.total_tokens == 18
    assert oai.responses.create(model=MODEL, input="x").output_text == "said"
    assert oai.completions.create(model=MODEL, prompt="x").choices[0].text == "said"
    assert oai.embeddings.create(model=MODEL, input="x", encoding_format="float").data[0].embedding == [0.5, -0.25]
    targets = [request.target for request in stage.requests]
    assert targets == ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"]


def test_openai_streams(oai: openai.OpenAI, stage: Stage) -> None:
    stage.play(streamed("a", "b"))
    chunks = list(oai.chat.completions.create(model=MODEL, messages=TURNS, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["a", "b"]
    asked: Any = {"include_usage": True}
    *_, last = oai.chat.completions.create(model=MODEL, messages=TURNS, stream=True, stream_options=asked)
    assert last.usage is not None
    assert last.usage.total_tokens == 18
    stage.play(sse_response(response_events()))
    with oai.responses.stream(model=MODEL, input="x") as stream:
        assert [found.delta for found in stream if found.type == "response.output_text.delta"] == ["said"]
    stage.play(sse_response([a_text_completion(), DONE]))
    assert [part.choices[0].text for part in oai.completions.create(model=MODEL, prompt="x", stream=True)] == ["said"]


def test_openai_async(gateway: Gateway, stage: Stage) -> None:
    stage.play(whole("said"), streamed("a", "b"), failing(429, RATE_LIMITS), dying(piece("a")))

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
            create: Any = client.chat.completions.create
            chat = await create(model=MODEL, messages=TURNS)
            assert chat.choices[0].message.content == "said"
            found = [
                chunk.choices[0].delta.content async for chunk in await create(model=MODEL, messages=TURNS, stream=True)
            ]
            assert found == ["a", "b"]
            with pytest.raises(openai.RateLimitError) as caught:
                await create(model=MODEL, messages=TURNS)
            assert caught.value.request_id == "req_1"
            gateway.forget_health()
            with pytest.raises(openai.APIError):
                _ = [chunk async for chunk in await create(model=MODEL, messages=TURNS, stream=True)]
            assert MODEL in [model.id async for model in client.models.list()]
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-no", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_openai_typed_errors(oai: openai.OpenAI, stage: Stage, stream: bool) -> None:
    stage.play(failing(429, RATE_LIMITS))
    with pytest.raises(openai.RateLimitError) as caught:
        oai.chat.completions.create(model=MODEL, messages=TURNS, stream=stream)
    assert (caught.value.code, caught.value.type, caught.value.request_id) == ("c429", "scripted", "req_1")
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert caught.value.response.headers["retry-after"] == "7"


def test_openai_retries_by_itself(gateway: Gateway, stage: Stage) -> None:
    """The SDK's own retry honours the provider's `retry-after-ms`, so it has to arrive; then the cooldown is over."""
    stage.play(failing(429, [(b"retry-after-ms", b"20")]), whole("at last"))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=1) as client:
        answer = client.chat.completions.create(model=MODEL, messages=TURNS)
    assert answer.choices[0].message.content == "at last"
    assert len(stage.requests) == 2


#: Ways for a stream to end that are no end, after its first event. All but the first leave the event unfinished.
DEATHS: dict[str, list[Any]] = {
    "reset": [],
    "mid-event": [sent(b'data: {"id":"x","cho')],
    "mid-chunk": [Send(b"fff\r\ndata: {")],
    "bad-chunk": [Send(b"zz\r\n")],
}


def deaths(first: bytes) -> Iterator[tuple[str, Script]]:
    for name, steps in DEATHS.items():
        yield name, [stream_head(), sent(first), *steps, *dying()[1:]]


@pytest.mark.parametrize("name", DEATHS)
def test_openai_streams_that_die(oai: openai.OpenAI, stage: Stage, name: str) -> None:
    stage.play(dict(deaths(piece("a")))[name])
    with pytest.raises(openai.APIError):
        list(oai.chat.completions.create(model=MODEL, messages=TURNS, stream=True))
    stage.play(dict(deaths(response_events()[0]))[name])
    with pytest.raises(openai.APIError):
        list(oai.responses.create(model=MODEL, input="x", stream=True))
    stage.play(dict(deaths(event(a_text_completion())))[name])
    with pytest.raises(openai.APIError):
        list(oai.completions.create(model=MODEL, prompt="x", stream=True))


# === Anthropic ===


@pytest.fixture
def ant(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as made:
        yield made


def a_message(text: str = "said") -> dict[str, Any]:
    content = [{"type": "text", "text": text}] if text else []
    top = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c-1", "content": content}
    usage = {"input_tokens": 5, "output_tokens": 6}
    return {**top, "stop_reason": "end_turn" if text else None, "stop_sequence": None, "usage": usage}


def message_events() -> list[bytes]:
    block = {"type": "text", "text": ""}
    found: list[dict[str, Any]] = [
        {"type": "message_start", "message": a_message("")},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "said"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 6}},
        {"type": "message_stop"},
    ]
    return [event(data, data["type"]) for data in found]


def claude_failing(status: int, kind: str) -> Script:
    body = {"type": "error", "error": {"type": kind, "message": "scripted"}}
    headers = [(b"request-id", b"req_a"), (b"anthropic-ratelimit-tokens-remaining", b"0"), (b"retry-after", b"9")]
    return json_response(status, body, headers)


def test_anthropic_answers(ant: anthropic.Anthropic, stage: Stage) -> None:
    stage.play(
        json_response(200, a_message()), sse_response(message_events()), json_response(200, {"input_tokens": 12})
    )
    message = ant.messages.create(**CLAUDE)
    assert message.content[0].text == "said"  # type: ignore[union-attr]
    with ant.messages.stream(**CLAUDE) as stream:
        assert "".join(stream.text_stream) == "said"
        assert stream.get_final_message().usage.output_tokens == 6
    assert ant.messages.count_tokens(model="c-1", messages=TURNS).input_tokens == 12
    targets = [request.target for request in stage.requests]
    assert targets == ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]


def test_anthropic_models(ant: anthropic.Anthropic) -> None:
    """In Anthropic's own shape, whichever header the SDK puts its key into."""
    models = {model.id: model for model in ant.models.list()}
    assert models["c-1"].type == "model"
    assert models["c-1"].display_name == "c-1"
    assert ant.models.retrieve("c-1").type == "model"
    with pytest.raises(anthropic.NotFoundError):
        ant.models.retrieve("nobody")


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.APIStatusError),
    ],
)
def test_anthropic_typed_errors(
    ant: anthropic.Anthropic, stage: Stage, status: int, word: str, kind: type[anthropic.APIStatusError]
) -> None:
    stage.play(claude_failing(status, word))
    with pytest.raises(kind) as caught:
        ant.messages.create(**CLAUDE)
    assert (caught.value.status_code, caught.value.request_id) == (status, "req_a")
    assert caught.value.body == {"type": "error", "error": {"type": word, "message": "scripted"}}
    assert caught.value.response.headers["anthropic-ratelimit-tokens-remaining"] == "0"
    assert caught.value.response.headers["retry-after"] == "9"


@pytest.mark.parametrize("name", DEATHS)
def test_anthropic_streams_that_die(ant: anthropic.Anthropic, stage: Stage, name: str) -> None:
    stage.play(dict(deaths(message_events()[0]))[name])
    with pytest.raises(anthropic.APIError), ant.messages.stream(**CLAUDE) as stream:
        stream.until_done()


def test_anthropic_async(gateway: Gateway, stage: Stage) -> None:
    scripts = [json_response(200, a_message()), sse_response(message_events()), claude_failing(429, "rate_limit_error")]
    stage.play(*scripts, dying(message_events()[0]))

    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
            assert (await client.messages.create(**CLAUDE)).usage.input_tokens == 5
            async with client.messages.stream(**CLAUDE) as stream:
                assert await stream.get_final_text() == "said"
            with pytest.raises(anthropic.RateLimitError):
                await client.messages.create(**CLAUDE)
            gateway.forget_health()
            with pytest.raises(anthropic.APIError):
                async with client.messages.stream(**CLAUDE) as stream:
                    await stream.until_done()

    asyncio.run(main())


# === Gemini ===


@pytest.fixture
def gem(gateway: Gateway) -> genai.Client:
    return genai.Client(api_key=KEY, http_options={"base_url": gateway.url})


def a_candidate(text: str) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, "finishReason": "STOP"}
    usage = {"promptTokenCount": 2, "candidatesTokenCount": 3, "totalTokenCount": 5}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "g-1"}


def gemini_failing(status: int, word: str) -> Script:
    return json_response(status, {"error": {"code": status, "message": "scripted", "status": word}}, RATE_LIMITS)


def test_gemini_answers(gem: genai.Client, stage: Stage) -> None:
    stage.play(
        json_response(200, a_candidate("said")),
        sse_response([event(a_candidate("a")), event(a_candidate("b"))]),
        json_response(200, {"totalTokens": 12}),
        json_response(200, {"embeddings": [{"values": [0.5]}], "embedding": {"values": [0.5]}}),
    )
    answer = gem.models.generate_content(model="g-1", contents="x")
    assert answer.text == "said"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.total_token_count == 5
    parts = gem.models.generate_content_stream(model="g-1", contents="x")
    assert [part.text for part in parts] == ["a", "b"]
    assert gem.models.count_tokens(model="g-1", contents="x").total_tokens == 12
    [embedding] = gem.models.embed_content(model="g-1", contents="x").embeddings or []
    assert embedding.values == [0.5]
    assert [model.name for model in gem.models.list()][-1] == "models/g-1"
    assert gem.models.get(model="g-1").name == "models/g-1"


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (400, "INVALID_ARGUMENT", errors.ClientError),
        (429, "RESOURCE_EXHAUSTED", errors.ClientError),
        (500, "INTERNAL", errors.ServerError),
        (503, "UNAVAILABLE", errors.ServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_gemini_typed_errors(
    gem: genai.Client, stage: Stage, status: int, word: str, kind: type[errors.APIError], stream: bool
) -> None:
    stage.play(gemini_failing(status, word))
    with pytest.raises(kind) as caught:
        if stream:
            list(gem.models.generate_content_stream(model="g-1", contents="x"))
        else:
            gem.models.generate_content(model="g-1", contents="x")
    assert (caught.value.code, caught.value.status, caught.value.message) == (status, word, "scripted")


@pytest.mark.parametrize("name", DEATHS)
def test_gemini_streams_that_die(gem: genai.Client, stage: Stage, name: str) -> None:
    stage.play(dict(deaths(event(a_candidate("a"))))[name])
    with pytest.raises(errors.APIError):
        list(gem.models.generate_content_stream(model="g-1", contents="x"))


def test_a_gemini_array_that_breaks_off_is_cut(gateway: Gateway, stage: Stage) -> None:
    """Without `alt=sse` the stream is one JSON array: nothing true can be added, so the connection ends abruptly."""

    head = response_head(200, [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")])
    stage.play([Send(head), sent(b'[{"candidates":[]}'), *dying()[1:]])
    link = connect(gateway)
    response = begin(link, KEY, {"contents": []}, "/v1beta/models/g-1:streamGenerateContent")
    with pytest.raises(IncompleteRead) as caught:
        response.read()
    assert caught.value.partial in (b"", b'[{"candidates":[]}')
    link.close()


def test_gemini_async(gateway: Gateway, stage: Stage) -> None:
    scripts = [json_response(200, a_candidate("said")), sse_response([event(a_candidate("a"))])]
    stage.play(*scripts, gemini_failing(429, "RESOURCE_EXHAUSTED"), dying(event(a_candidate("a"))))

    async def main() -> None:
        client = genai.Client(api_key=KEY, http_options={"base_url": gateway.url}).aio
        assert (await client.models.generate_content(model="g-1", contents="x")).text == "said"
        parts = await client.models.generate_content_stream(model="g-1", contents="x")
        assert [part.text async for part in parts] == ["a"]
        with pytest.raises(errors.ClientError):
            await client.models.generate_content(model="g-1", contents="x")
        gateway.forget_health()
        parts = await client.models.generate_content_stream(model="g-1", contents="x")
        with pytest.raises(errors.APIError):
            _ = [part async for part in parts]
        await client.aclose()

    asyncio.run(main())


def test_unknown_models_and_wrong_keys(gateway: Gateway, ant: anthropic.Anthropic, gem: genai.Client) -> None:
    with pytest.raises(anthropic.NotFoundError):
        ant.messages.create(**{**CLAUDE, "model": "nobody"})
    with pytest.raises(errors.ClientError) as caught:
        gem.models.generate_content(model="nobody", contents="x")
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="sk-no", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(**CLAUDE)
