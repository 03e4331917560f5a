"""StreamMeter, both halves: cost per event without usage, in 16 KiB feeds and in one feed per event."""

from types import ModuleType
from typing import Any

import pytest

from tests.unit.core.twins import twins

OPENAI = (
    b'data: {"id":"chatcmpl-A1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" w"},"finish_reason":null}]}\n\n'
)
ANTHROPIC = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" a few words here"}      }\n\n'
)
GEMINI = (
    b'data: {"candidates": [{"content": {"parts": [{"text": "Hello"}],"role": "model"},"index": 0}],'
    b'"usageMetadata": {"promptTokenCount": 8,"candidatesTokenCount": 4,"totalTokenCount": 12}}\r\n\r\n'
)
EVENTS = [
    pytest.param(OPENAI, id="openai"),
    pytest.param(ANTHROPIC, id="anthropic"),
    pytest.param(GEMINI, id="gemini-with-usage"),
]
PER_FEED = 100


@pytest.mark.parametrize("strip", [False, True], ids=["relay", "strip"])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("sse", twins("sse"))
def test_a_feed_of_100_events(benchmark: Any, sse: ModuleType, event: bytes, strip: bool) -> None:
    benchmark(sse.StreamMeter(strip_usage=strip).feed, event * PER_FEED)


@pytest.mark.parametrize("strip", [False, True], ids=["relay", "strip"])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("sse", twins("sse"))
def test_a_feed_of_one_event(benchmark: Any, sse: ModuleType, event: bytes, strip: bool) -> None:
    benchmark(sse.StreamMeter(strip_usage=strip).feed, event)


@pytest.mark.parametrize("sse", twins("sse"))
def test_an_event_in_two_feeds(benchmark: Any, sse: ModuleType) -> None:
    meter = sse.StreamMeter()

    def feed() -> None:
        meter.feed(OPENAI[:90])
        meter.feed(OPENAI[90:])

    benchmark(feed)
