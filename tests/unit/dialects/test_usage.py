"""Usage of each dialect from samples of our own and from odd usage objects."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.dialects import DIALECTS, Dialect, anthropic, gemini, openai
from fastroute.dialects._body import MAX_TOKENS
from fastroute.interfaces import Usage
from tests.unit.core.twins import twins

SAMPLES = Path(__file__).parents[2] / "data" / "dialects"
KEEPERS = [pytest.param(dialect, id=name) for name, dialect in DIALECTS.items()]


@pytest.mark.parametrize(
    ("dialect", "name", "usage"),
    [
        (openai, "openai_chat.json", Usage(250, 600, 100, 0, 50, 150, 120, 30)),
        (anthropic, "anthropic_message.json", Usage(12, 400, 100, 200, 0, 30, 20, 0)),
        (anthropic, "anthropic_compaction.json", Usage(50200, 7000, 500, 30, 0, 910, 0, 0)),
        (gemini, "gemini_generate.json", Usage(270, 200, 0, 0, 100, 25, 60, 15)),
        (gemini, "gemini_stream_array.json", Usage(8, output_tokens=3)),
    ],
)
def test_usage_of_a_body(dialect: Dialect, name: str, usage: Usage) -> None:
    assert dialect.usage_from_json((SAMPLES / name).read_bytes()) == usage


@pytest.mark.parametrize(
    ("dialect", "name", "usage", "events"),
    [
        (openai, "openai_chat_stream.sse", Usage(12, 8, output_tokens=5, reasoning_tokens=4), 4),
        (openai, "openai_responses_stream.sse", Usage(43, 32, output_tokens=16, reasoning_tokens=24), 3),
        (anthropic, "anthropic_stream.sse", Usage(9, 70, 110, 40, 0, 30, 3, 0), 7),
        (gemini, "gemini_stream.sse", Usage(8, output_tokens=6, reasoning_tokens=11), 3),
    ],
)
@pytest.mark.parametrize("eol", [b"\n", b"\r\n"])
@pytest.mark.parametrize("sse", twins("sse"))
def test_usage_of_a_stream(sse: ModuleType, eol: bytes, dialect: Dialect, name: str, usage: Usage, events: int) -> None:
    body = (SAMPLES / name).read_bytes().replace(b"\n", eol)
    meter = sse.StreamMeter(keep_all=dialect.KEEP_ALL)
    for start in range(0, len(body), 50):
        meter.feed(body[start : start + 50])
    meter.finish()
    assert dialect.usage_from_events(meter.usage_events) == usage
    assert (meter.events, meter.finished, meter.error_event) == (events, True, None)
    assert meter.done == (dialect is not gemini)


def test_compaction_as_the_top_level_shows_it() -> None:
    body = (SAMPLES / "anthropic_compaction.json").read_bytes()
    assert anthropic.usage_from_json(body, billed=False) == Usage(200, 0, 0, 30, 0, 10, 0, 0)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(9)),
        ({"total_tokens": 9}, Usage(9)),
        ({"completion_tokens": 9}, Usage(output_tokens=9)),
        # DeepSeek, and look-alikes with their own names
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}, Usage(5, 4, output_tokens=1)),
        ({"prompt_tokens": 9, "cached_tokens": 4}, Usage(5, 4)),
        ({"prompt_tokens": 9, "num_cached_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}, Usage(5, 4)),
        (
            {"prompt_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
            Usage(3, 4, 2),
        ),
        # xAI: completion_tokens without reasoning
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 22,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(10, output_tokens=5, reasoning_tokens=7),
        ),
        # the same numbers, but they add up
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 12,
                "total_tokens": 22,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(10, output_tokens=5, reasoning_tokens=7),
        ),
        # Mistral: prompt_tokens without audio
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "total_tokens": 111,
                "prompt_tokens_details": {"audio_tokens": 100},
            },
            Usage(9, input_audio_tokens=100, output_tokens=2),
        ),
        # more in a part than in the whole
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 161, "audio_tokens": 3}}, Usage(0, 7)),
        (
            {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 1}},
            Usage(reasoning_tokens=5),
        ),
        # nothing usable
        ({}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 1.5, "completion_tokens": "3"}, None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": MAX_TOKENS + 1}, None),
        ({"prompt_tokens": 4, "completion_tokens": -5, "prompt_tokens_details": [1]}, Usage(4)),
        ({"type": "duration", "seconds": 3}, None),
    ],
)
def test_openai_usage_objects(raw: dict[str, Any], usage: Usage | None) -> None:
    assert openai.usage_from_json(json.dumps({"usage": raw}).encode()) == usage


def test_openai_finds_usage_in_events() -> None:
    chunk, groq = b'{"usage":{"prompt_tokens":1}}', b'{"x_groq":{"usage":{"prompt_tokens":2}}}'
    response = b'{"response":{"usage":{"input_tokens":3}}}'
    for payload, tokens in ((chunk, 1), (groq, 2), (response, 3)):
        assert openai.usage_from_events([b'{"usage":{"prompt_tokens":9}}', payload]) == Usage(tokens)
    # what only looked like usage does not hide the real one
    assert openai.usage_from_events([chunk, b'{"response":{"usage":"none"}}', b"[1]", b"{"]) == Usage(1)
    assert openai.usage_from_events([]) is None


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"input_tokens": 3}, Usage(3)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 5}, Usage(3, 0, 5, 0, 0, 4)),
        ({"input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 5}}, Usage(3, 0, 0, 5)),
        (
            {
                "input_tokens": 3,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_1h_input_tokens": 50},
            },
            Usage(3, 0, 0, 5),
        ),
        ({"output_tokens": 4, "output_tokens_details": {"thinking_tokens": 9}}, Usage(reasoning_tokens=4)),
        ({"input_tokens": 9, "iterations": [{"input_tokens": 4}, 7, None, {}]}, Usage(9)),
        ({"input_tokens": 9, "iterations": "many"}, Usage(9)),
        ({"iterations": [{"input_tokens": 4}, {"output_tokens": 5}]}, Usage(4, output_tokens=5)),
        ({"cache_read_input_tokens": 9}, None),
        ({"input_tokens": -3, "output_tokens": None}, None),
    ],
)
def test_anthropic_usage_objects(raw: dict[str, Any], usage: Usage | None) -> None:
    assert anthropic.usage_from_json(json.dumps({"usage": raw}).encode()) == usage


def test_anthropic_cut_after_message_start() -> None:
    start = b'{"type":"message_start","message":{"usage":{"input_tokens":7,"output_tokens":1}}}'
    assert anthropic.usage_from_events([start]) == Usage(7, output_tokens=1)
    null = b'{"type":"message_delta","usage":{"input_tokens":null,"output_tokens":5}}'
    assert anthropic.usage_from_events([start, null]) == Usage(7, output_tokens=5)
    assert anthropic.usage_from_events([]) is None


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"promptTokenCount": 4}, Usage(4)),
        ({"promptTokenCount": 4, "promptTokenDetails": [{"modality": "AUDIO", "tokenCount": 4}]}, Usage(0, 0, 0, 0, 4)),
        ({"promptTokenCount": 4, "promptTokensDetails": [{"modality": 4, "tokenCount": 3}]}, Usage(1, 0, 0, 0, 3)),
        (
            {"promptTokenCount": 4, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}, 1]},
            Usage(0, 0, 0, 0, 4),
        ),
        ({"promptTokenCount": 4, "cachedContentTokenCount": 9}, Usage(0, 4)),
        (
            {
                "promptTokenCount": 4,
                "toolUsePromptTokenCount": 10,
                "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}],
            },
            Usage(8, 0, 0, 0, 6),
        ),
        (
            {"candidatesTokenCount": 4, "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}]},
            Usage(output_audio_tokens=4),
        ),
        ({"trafficType": "ON_DEMAND"}, None),
        ({"promptTokenCount": -4}, None),
        ({}, None),
    ],
)
def test_gemini_usage_objects(raw: dict[str, Any], usage: Usage | None) -> None:
    assert gemini.usage_from_json(json.dumps({"usageMetadata": raw}).encode()) == usage


@pytest.mark.parametrize("dialect", KEEPERS)
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"1", b"[]", b"[1]", b"{", b"\xff", b"<html>", b'{"usage":null,"usageMetadata":null}'),
        *(b'{"usage":3,"usageMetadata":"x"}', b'{"usage":[],"usageMetadata":[]}', b'{"totalTokens": 31}'),
        *(b'{"input_tokens": 7}', b"[" * 5000),
    ],
)
def test_no_usage(dialect: Dialect, body: bytes) -> None:
    assert dialect.usage_from_json(body) is None
    assert dialect.usage_from_events([body]) is None


def test_a_body_that_the_scanner_refuses_is_decoded() -> None:
    deep = b'{"a":' + b"[" * 200 + b"]" * 200 + b',"usage":{"prompt_tokens":3}}'
    assert openai.usage_from_json(deep) == Usage(3)
    assert openai.usage_from_json(b'{"usage":null,"usage":{"prompt_tokens":3}}') == Usage(3)


PLAIN = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def answer(filling: bytes, raw: dict[str, Any]) -> bytes:
    return b'{"choices":[{"content":"' + filling + b'"}],"usage":' + json.dumps(raw).encode() + b"}"


@pytest.mark.parametrize("filling", [b"x", b"x" * 10_000, b'"}],"c":[{"d":"' * 1000])
@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (PLAIN, Usage(5, output_tokens=2)),
        # xAI's way to count: reasoning stands beside the completion.
        (
            {**PLAIN, "total_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 1}},
            Usage(5, output_tokens=2, reasoning_tokens=1),
        ),
        ({**PLAIN, "prompt_tokens_details": {"cached_tokens": 1}}, Usage(4, 1, output_tokens=2)),
        ({**PLAIN, "something": "else"}, Usage(5, output_tokens=2)),
    ],
)
def test_the_usage_does_not_depend_on_how_long_the_answer_is(filling: bytes, raw: dict[str, Any], usage: Usage) -> None:
    assert openai.usage_from_json(answer(filling, raw)) == usage


@pytest.mark.parametrize("filling", [b"\xff", b"\xff" * 10_000])
def test_a_plain_usage_is_read_whatever_stands_beside_it(filling: bytes) -> None:
    assert openai.usage_from_json(answer(filling, PLAIN)) == Usage(5, output_tokens=2)


numbers = st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=2), st.integers(-5, 50), st.integers())
names = st.sampled_from(
    [
        *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "cached_tokens"),
        *("reasoning_tokens", "audio_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
        *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "thinking_tokens", "promptTokenCount"),
        *("candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount", "toolUsePromptTokenCount"),
        *("prompt_tokens_details", "completion_tokens_details", "cache_creation", "output_tokens_details"),
        *("iterations", "promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails", "modality"),
        "tokenCount",
    ]
)
usages = st.recursive(
    st.one_of(numbers, st.just("AUDIO")),
    lambda inner: st.one_of(st.dictionaries(names, inner, max_size=12), st.lists(inner, max_size=3)),
    max_leaves=25,
)


@pytest.mark.parametrize("dialect", KEEPERS)
@settings(max_examples=300, deadline=None)
@given(raw=st.dictionaries(names, usages, max_size=12))
def test_any_usage_object_gives_sane_buckets(dialect: Dialect, raw: dict[str, Any]) -> None:
    body = json.dumps({"usage": raw, "usageMetadata": raw}).encode()
    usage = dialect.usage_from_json(body)
    if usage is not None:
        for field in Usage.__struct_fields__:
            value = getattr(usage, field)
            assert type(value) is int
            assert 0 <= value <= 100 * MAX_TOKENS
