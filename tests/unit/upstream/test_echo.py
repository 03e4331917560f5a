"""The echo provider: exact bytes by hand, and shapes that the official SDKs parse into their typed models."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anthropic
import openai
import orjson
import pytest
from google import genai
from google.genai import types as genai_types

from fastroute.upstream.echo import DEFAULT_TEXT, MAX_TEXT_CHARS, Answer, answer, count_tokens
from fastroute.upstream.mock import MockUpstream, Request, Script, Send, chunk, response_head

TEXT = "Grüße aus  Wien,\nline two"


def ask(dialect: Any, operation: str, doc: object, stream: bool = False, **more: Any) -> Answer:
    return answer(dialect, operation, "m-1", orjson.dumps(doc), stream, wall_s=1700000000, ident="abc", **more)


def events(got: Answer, eol: bytes = b"\n") -> list[Any]:
    """Check the framing of each chunk and return the decoded data of each event, `[DONE]` as it is."""
    assert got.headers == [(b"content-type", b"text/event-stream")]
    found = []
    for piece in got.chunks:
        match = re.fullmatch(rb"(?:event: ([a-z._]+)\n)?data: ([^\r\n]*)" + eol * 2, piece)
        assert match, piece
        data = orjson.loads(match[2]) if match[2].startswith(b"{") else match[2].decode()
        assert match[1] is None or match[1].decode() == data["type"]
        found.append(data)
    return found


def body(got: Answer) -> Any:
    [data] = got.chunks
    assert dict(got.headers) == {b"content-type": b"application/json", b"content-length": b"%d" % len(data)}
    return orjson.loads(data)


PART = [{"type": "text", "text": "x"}]


@pytest.mark.parametrize(
    ("dialect", "operation", "doc"),
    [
        ("openai", "chat.completions", {"messages": [{"role": "user", "content": "x"}]}),
        (
            "openai",
            "chat.completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        ),
        ("openai", "completions", {"prompt": "x"}),
        ("openai", "completions", {"prompt": ["x"]}),
        ("openai", "responses", {"input": "x", "instructions": "be brief"}),
        ("openai", "responses", {"input": [{"role": "user", "content": "x"}]}),
        (
            "openai",
            "responses",
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
        ),
        ("anthropic", "messages", {"system": "s", "messages": [{"role": "user", "content": "x"}]}),
        (
            "anthropic",
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        ),
        ("gemini", "generateContent", {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}),
        ("gemini", "generateContent", {"contents": {"parts": [{"text": "x"}]}}),
        ("gemini", "generateContent", {"contents": "x", "systemInstruction": {"parts": [{"text": "s"}]}}),
    ],
)
def test_the_last_user_text_is_found_in_every_shape(dialect: str, operation: str, doc: dict[str, Any]) -> None:
    assert said(body(ask(dialect, operation, doc))) == "x"


def said(doc: Any) -> str:
    """Return the text of a whole answer of any dialect."""
    match doc:
        case {"choices": [{"message": {"content": text}}]} | {"choices": [{"text": text}]}:
            return str(text)
        case {"output": [{"content": [{"text": text}]}]} | {"content": [{"text": text}]}:
            return str(text)
        case {"candidates": [{"content": {"parts": [{"text": text}]}}]}:
            return str(text)
    raise AssertionError(doc)


def test_the_last_user_turn_wins_and_all_turns_are_counted() -> None:
    turns = [
        ("system", "0123"),
        ("user", "4567"),
        ("assistant", "89ab"),
        ("user", "cdef"),
        ("assistant", "ghij"),
    ]
    doc = {"messages": [{"role": role, "content": text} for role, text in turns]}
    got = body(ask("openai", "chat.completions", doc))
    assert said(got) == "cdef"
    usage = got["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 1, 6)


@pytest.mark.parametrize(
    "doc",
    [
        {},
        {"messages": None},
        {"messages": "x"},
        {"messages": [3, None]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "user", "content": {"text": {"text": {"text": {"text": {"text": "x"}}}}}}]},
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]},
    ],
)
def test_without_text_the_default_is_said(doc: object) -> None:
    assert said(body(ask("openai", "chat.completions", doc))) == DEFAULT_TEXT


def test_text_is_bounded_and_token_limits_are_kept() -> None:
    long = {"messages": [{"role": "user", "content": "ab " * MAX_TEXT_CHARS}]}
    assert len(said(body(ask("openai", "chat.completions", long)))) == MAX_TEXT_CHARS
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        doc = {"messages": [{"role": "user", "content": "aüüüüüü"}], **limit}
        got = body(ask("openai", "chat.completions", doc))
        assert said(got) == "aüüü"  # eight bytes end inside the fourth ü
        assert got["choices"][0]["finish_reason"] == "length"
        assert got["usage"]["completion_tokens"] <= 2
    doc = {"max_tokens": 1, "messages": [{"role": "user", "content": "abcdefgh"}]}
    assert body(ask("anthropic", "messages", doc))["stop_reason"] == "max_tokens"
    doc = {"contents": "abcdefgh", "generationConfig": {"maxOutputTokens": 1}}
    assert body(ask("gemini", "generateContent", doc))["candidates"][0]["finishReason"] == "MAX_TOKENS"
    got = events(ask("openai", "responses", {"input": "abcdefgh", "max_output_tokens": 1}, stream=True))
    assert got[-1]["type"] == "response.incomplete"
    assert got[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_token_counts() -> None:
    assert [count_tokens(text) for text in ("", "abc", "abcd", "abcdefg", "üüüü")] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("usage", [False, True])
def test_chat_stream_sequence(usage: bool) -> None:
    doc = {"messages": [{"role": "user", "content": TEXT}], "stream_options": {"include_usage": usage}}
    *got, done = events(ask("openai", "chat.completions", doc, stream=True))
    assert done == "[DONE]"
    if usage:
        last = got.pop()
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == count_tokens(TEXT)
        assert all(event["usage"] is None for event in got)
    else:
        assert not any("usage" in event for event in got)
    deltas = [event["choices"][0]["delta"] for event in got]
    assert deltas[0]["role"] == "assistant"
    assert deltas[-1] == {}
    assert [delta["content"] for delta in deltas[1:-1]] == ["Grüße ", "aus  ", "Wien,\n", "line ", "two"]
    finishes = [event["choices"][0]["finish_reason"] for event in got]
    assert finishes == [None] * (len(got) - 1) + ["stop"]


def test_responses_stream_sequence() -> None:
    got = events(ask("openai", "responses", {"input": "a b"}, stream=True))
    assert [event["type"].removeprefix("response.") for event in got] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in got] == list(range(10))
    assert got[-1]["response"]["usage"]["total_tokens"] == 2


def test_anthropic_stream_sequence() -> None:
    got = events(ask("anthropic", "messages", {"messages": [{"role": "user", "content": "a b"}]}, stream=True))
    assert [event["type"] for event in got] == [
        "message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert got[-2]["usage"] == {"output_tokens": 1}


def test_gemini_stream_as_events_and_as_array() -> None:
    doc = {"contents": "a b c"}
    got = events(ask("gemini", "streamGenerateContent", doc), eol=b"\r\n")
    assert [event["candidates"][0]["content"]["parts"][0]["text"] for event in got] == ["a ", "b ", "c"]
    assert ["usageMetadata" in event for event in got] == [False, False, True]
    array = ask("gemini", "streamGenerateContent", doc, alt_sse=False)
    assert array.headers[0][1].startswith(b"application/json")
    assert orjson.loads(b"".join(array.chunks)) == got
    assert len(array.chunks) == 4


def test_embeddings() -> None:
    def embed(**doc: object) -> Any:
        return body(ask("openai", "embeddings", doc))

    one = embed(input="hello")
    assert len(one["data"][0]["embedding"]) == 16
    assert embed(input=["hello", "x"])["data"][0] == one["data"][0]
    assert embed(input=["abcdefgh", "x"])["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert embed(input=[1, 2, 3])["usage"]["prompt_tokens"] == 3
    assert len(embed(input=[[1, 2], [3]])["data"]) == 2
    assert len(embed(input="a", dimensions=5)["data"][0]["embedding"]) == 5
    assert ask("openai", "embeddings", {"input": ["a"] * 2048, "dimensions": 3072}).status == 400
    assert len(body(ask("gemini", "embedContent", {"content": {"parts": [{"text": "a"}]}}))["embedding"]["values"])


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_refusals_are_in_the_dialect(dialect: Any) -> None:
    for data in (b"", b"[]", b"null", b"{", b"\xff"):
        got = answer(dialect, "messages", "m", data, False, wall_s=0, ident="x")
        assert got.status == 400
        assert "JSON object" in body(got)["error"]["message"]
    got = ask(dialect, "nonsense", {}, stream=True)
    assert got.status == 404
    assert {"openai": "type", "anthropic": "type", "gemini": "code"}[dialect] in body(got)["error"]


# === Through the SDKs, over a socket ===


def _script_for(request: Request) -> Script:
    """Serve the echo provider: enough routing for the three SDKs."""
    url = urlsplit(request.target)
    doc = orjson.loads(request.body)
    stream = doc.get("stream") is True
    if match := re.fullmatch(r"/v1(?:beta)?/models/([^:]+):(\w+)", url.path):
        alt_sse = parse_qs(url.query).get("alt") == ["sse"]
        got = answer("gemini", match[2], match[1], request.body, False, wall_s=1, ident="i", alt_sse=alt_sse)
    else:
        operation = url.path.removeprefix("/v1/").removeprefix("messages/").replace("/", ".")
        dialect: Any = "anthropic" if "/messages" in url.path else "openai"
        got = answer(dialect, operation, doc["model"], request.body, stream, wall_s=1, ident="i")
    if len(got.chunks) == 1 and got.headers[-1][0] == b"content-length":
        return [Send(response_head(got.status, got.headers) + got.chunks[0])]
    head = response_head(got.status, [*got.headers, (b"transfer-encoding", b"chunked")])
    return [Send(head), *(Send(chunk(piece)) for piece in got.chunks), Send(b"0\r\n\r\n")]


def serve(test: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        async with MockUpstream(_script_for) as upstream:
            await test(upstream.url)
            assert upstream.protocol_errors == []

    asyncio.run(asyncio.wait_for(run(), 30))


def strict(model: Any) -> None:
    """Fail where an SDK built the model without checking it (they do so for answers they cannot parse)."""
    type(model).model_validate(model.model_dump(by_alias=False, warnings=False))


def test_openai_sdk() -> None:
    async def check(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": TEXT}]
            whole = await client.chat.completions.create(model="m", messages=messages)
            strict(whole)
            assert whole.choices[0].message.content == TEXT
            async with client.chat.completions.stream(
                model="m", messages=messages, stream_options={"include_usage": True}
            ) as stream:
                async for event in stream:
                    if event.type == "chunk":
                        strict(event.chunk)
                final = await stream.get_final_completion()
            assert final.choices[0].message.content == TEXT
            assert final.usage == whole.usage
            text = await client.completions.create(model="m", prompt=TEXT)
            strict(text)
            pieces = [piece async for piece in await client.completions.create(model="m", prompt=TEXT, stream=True)]
            assert "".join(piece.choices[0].text for piece in pieces) == text.choices[0].text == TEXT
            packed = await client.embeddings.create(model="m", input=["a", "b"])  # asks for base64
            strict(packed)
            plain = await client.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
            assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]

    serve(check)


def test_openai_sdk_responses() -> None:
    async def check(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            whole = await client.responses.create(model="m", input=TEXT)
            strict(whole)
            assert whole.output_text == TEXT
            async with client.responses.stream(model="m", input=TEXT) as stream:
                async for event in stream:
                    strict(event)
                final = await stream.get_final_response()
            assert final.output_text == TEXT
            assert final.usage == whole.usage

    serve(check)


def test_anthropic_sdk() -> None:
    async def check(url: str) -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
            whole = await client.messages.create(model="m", max_tokens=99, messages=messages)
            strict(whole)
            assert whole.content[0].text == TEXT
            async with client.messages.stream(model="m", max_tokens=99, messages=messages) as stream:
                async for event in stream:
                    strict(event)
                final = await stream.get_final_message()
            assert final.content[0].text == TEXT
            assert final.usage.output_tokens == whole.usage.output_tokens == count_tokens(TEXT)
            count = await client.messages.count_tokens(model="m", messages=messages)
            assert count.input_tokens == whole.usage.input_tokens

    serve(check)


def test_gemini_sdk() -> None:
    async def check(url: str) -> None:
        client = genai.Client(api_key="k", http_options=genai_types.HttpOptions(base_url=url)).aio
        whole = await client.models.generate_content(model="m", contents=TEXT)
        assert whole.text == TEXT
        assert whole.candidates[0].finish_reason == genai_types.FinishReason.STOP
        pieces = [piece async for piece in await client.models.generate_content_stream(model="m", contents=TEXT)]
        assert "".join(piece.text for piece in pieces) == TEXT
        assert pieces[-1].usage_metadata == whole.usage_metadata
        count = await client.models.count_tokens(model="m", contents=TEXT)
        assert count.total_tokens == whole.usage_metadata.prompt_token_count
        found = await client.models.embed_content(model="m", contents=["a", "b"])
        assert [len(item.values) for item in found.embeddings] == [16, 16]
        await client.aclose()

    serve(check)
