"""What it costs to find nine fields in a chat body: both halves, by size and shape of body.

Targets: compiled 1.2 us for 1.1 KB and 1 GB/s at 100 KB; pure 40 us for 1.1 KB and 150 ms for 10 MB.
"""

from typing import Any

import orjson
import pytest

from tests.unit.core.twins import twins

FIELDS = (
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stream_options",
    "user",
    "service_tier",
    "messages",
)
LINE = "some text of a line of code or prose that goes on for a bit\n"
CONTENTS = {
    "1KB": ["You are a helpful assistant. " * 14, 'How do I say "hello" in Greek?\n' * 9, "thanks, " * 6],
    "100KB-long": [(LINE * 16 + 'he said "so"') * 4] * 25,
    "100KB-short": ["short message number 123"] * 1750,
    "100KB-cjk": ["\u4e2d\u6587\u5b57\u7b26\u6d4b\u8bd5" * 1800] * 3,
    "10MB-long": [LINE * 4000] * 40,
    "10MB-short": ["short message number 123"] * 175_000,
}


def chat_body(contents: list[str]) -> bytes:
    """Return an OpenAI chat request with one user message per content."""
    return orjson.dumps(
        {
            "model": "gpt-4o-mini",
            "stream": True,
            "max_tokens": 256,
            "temperature": 0.7,
            "n": 1,
            "stream_options": {"include_usage": True},
            "user": "u-123",
            "service_tier": "auto",
            "max_completion_tokens": None,
            "messages": [{"role": "user", "content": content} for content in contents],
        }
    )


@pytest.fixture(params=twins("jsonscan"))
def half(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("shape", CONTENTS)
def test_scan(benchmark: Any, half: Any, shape: str) -> None:
    body = chat_body(CONTENTS[shape])
    benchmark.extra_info["bytes"] = len(body)
    scan = half.Scanner(FIELDS).scan
    if len(body) > 1_000_000:
        result = benchmark.pedantic(scan, (body,), rounds=5, warmup_rounds=1)
    else:
        result = benchmark(scan, body)
    assert result[-1] == 10


@pytest.mark.parametrize("fault", ["truncated", "too_deep"])
def test_refuse(benchmark: Any, half: Any, fault: str) -> None:
    body = b'{"a":' + b"[" * 100_000 if fault == "too_deep" else chat_body(CONTENTS["1KB"])[:-1]
    scan = half.Scanner(FIELDS).scan

    def refuse() -> bool:
        try:
            scan(body)
        except ValueError:
            return True
        return False

    assert benchmark(refuse)


def test_unescape(benchmark: Any, half: Any) -> None:
    body = b'"caf\\u00e9 \\"au lait\\"\\n"'
    assert benchmark(half.unescape, body, 0, len(body)) == 'caf\u00e9 "au lait"\n'.encode()
