"""Real provider answers, where the recordings lie beside the repository: our buckets against their counts."""

import base64
import json
import random
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from fastroute.dialects import Dialect, anthropic, gemini, openai
from fastroute.interfaces import Usage
from tests.unit.core.twins import twins

RECORDINGS = Path(__file__).parents[4] / "shared" / "recordings"
APIS: dict[str, Dialect] = {
    "chat.completions": openai,
    "completions": openai,
    "embeddings": openai,
    "responses": openai,
    "responses.compact": openai,
    "messages": anthropic,
    "generateContent": gemini,
    "streamGenerateContent": gemini,
    "batchEmbedContents": gemini,
    "countTokens": gemini,
}

#: APIs that are recorded and not served. Whatever else is recorded is replayed.
NOT_SERVED = {
    "audio.transcriptions",
    # Anthropic's before `messages`
    "complete",
    "responses.compact",
    # Bedrock
    "converse",
    "converse-stream",
    "count-tokens",
    "invoke",
    "invoke-with-response-stream",
    # Cohere
    "chat-v1",
    "chat-v2",
    "embed",
    "generate",
    # Ollama
    "ollama/chat",
    "ollama/embed",
    "ollama/embeddings",
    "ollama/generate",
    # Vertex
    "predict",
}

#: Recordings whose counts contradict themselves; disjoint buckets must differ from them in one field.
IMPOSSIBLE = {
    # more cached than prompt tokens: clipped
    "azure/chat-completions-json-200-chat-function-calling-azure-grok-4-1-fast-non-reasoning-can-use-parall-97c4e3": (
        "cache_read_tokens",
        293,
    ),
    "azure/chat-completions-stream-200-chat-streaming-responses-azure-grok-4-1-fast-non-reasoning-supports-st-2ef190": (
        "cache_read_tokens",
        7,
    ),
    # more reasoning than completion tokens: clipped (the gateway's own `cost` shows that it charges the sum)
    "vercel-gateway/chat-completions-stream-200-multi-tool-streaming-36c93c": ("reasoning_tokens", 10),
    # more reasoning than completion tokens, in a stream that failed: clipped
    "openrouter/chat-completions-stream-200-test-openrouter-stream-error-baafd4": ("reasoning_tokens", 10),
}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def recorded() -> list[Path]:
    return [path for path in sorted(RECORDINGS.glob("*/*.json")) if path.name != "_index.json"]


def recordings() -> list[Any]:
    if not RECORDINGS.is_dir():
        reason = "no ../shared/recordings beside the repository"
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in recorded() if read(path)["api"] in APIS
    ]


def body_of(recording: dict[str, Any]) -> bytes:
    response = recording["response"]
    if response.get("body_b64"):
        return base64.b64decode(response["body_b64"])
    return (response.get("body") or "").encode()


def cut(body: bytes, rng: random.Random) -> list[bytes]:
    edges = sorted({0, len(body), *(rng.randrange(len(body) + 1) for _ in range(rng.randrange(40)))})
    return [body[a:b] for a, b in pairwise(edges)]


def meter(sse: ModuleType, dialect: Dialect, body: bytes, rng: random.Random, strip: bool) -> tuple[Any, bytes]:
    meter = sse.StreamMeter(keep_all=dialect.KEEP_ALL, strip_usage=strip)
    out = b"".join([meter.feed(chunk) for chunk in cut(body, rng)])
    return meter, out + meter.finish()


def flat(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens_total": usage.total_input,
        "completion_tokens": usage.total_output,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_creation_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        "audio_tokens": usage.input_audio_tokens + usage.output_audio_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def expected(recording: dict[str, Any]) -> dict[str, int]:
    usage = dict(recording["expected_usage"])
    prompt = usage.pop("prompt_tokens")
    usage["input_tokens_total"] = recording.get("usage_extra", {}).get("input_tokens_total", prompt)
    field, value = IMPOSSIBLE.get(recording["id"], ("", 0))
    if field:
        usage[field] = value
    return usage


def check(recording: dict[str, Any], usage: Usage | None, top_level: Usage | None) -> None:
    """Compare with the recording; `top_level` is Anthropic's count without its iterations."""
    if recording["expected_usage"] is None:
        assert usage is None
        return
    assert usage is not None
    assert top_level is not None
    assert flat(top_level) == expected(recording)
    assert min(msgspec.to_builtins(usage)) >= 0
    extra = recording.get("usage_extra", {})
    if "audio_prompt_tokens" in extra:
        assert usage.input_audio_tokens == extra["audio_prompt_tokens"]
        assert usage.output_audio_tokens == extra["audio_completion_tokens"]
    if "cache_creation_1h_tokens" in extra:
        assert usage.cache_write_1h_tokens == extra["cache_creation_1h_tokens"]
    if "iterations_sum" in extra:
        whole = extra["iterations_sum"]
        assert usage.total_output == whole["output_tokens"]
        assert usage.total_input == (
            whole["input_tokens"] + whole["cache_read_tokens"] + whole["cache_creation_tokens"]
        )
    else:
        assert usage == top_level


@pytest.mark.parametrize("path", recordings())
@pytest.mark.parametrize("sse", twins("sse"))
def test_usage_of_a_recording(sse: ModuleType, path: Path) -> None:
    recording = read(path)
    dialect = APIS[recording["api"]]
    body = body_of(recording)
    if recording["framing"] == "sse":
        rng = random.Random(recording["id"])
        for _ in range(5):
            check_stream(sse, recording, dialect, body, rng)
        return
    usage = dialect.usage_from_json(body)
    plain = anthropic.usage_from_json(body, billed=False) if dialect is anthropic else usage
    check(recording, usage, plain)


def check_stream(sse: ModuleType, recording: dict[str, Any], dialect: Dialect, body: bytes, rng: random.Random) -> None:
    seen, out = meter(sse, dialect, body, rng, strip=False)
    assert out == body
    usage = dialect.usage_from_events(seen.usage_events)
    plain = usage
    if dialect is anthropic:
        plain = anthropic.usage_from_events(seen.usage_events, billed=False)
    check(recording, usage, plain)
    facts = recording.get("stream_facts") or {}
    in_stream = (recording.get("expected_error") or {}).get("in_stream") or facts.get("error_in_stream")
    assert (seen.error_event is not None) == bool(in_stream), facts
    if facts:
        assert seen.done >= facts["done_marker"]
        assert seen.finished == facts["complete"] or in_stream
        uncounted = facts["unparsable_events"] + bool(re.search(rb"data: ?\[DONE\]", body))
        assert seen.events == facts["n_events"] - uncounted
    again, rest = meter(sse, dialect, body, rng, strip=True)
    assert again.usage_events == seen.usage_events
    assert again.events == seen.events
    assert b"[DONE]" not in body or b"[DONE]" in rest
    assert len(rest) <= len(body)
