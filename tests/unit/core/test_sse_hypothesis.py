"""Both halves of StreamMeter agree on any stream cut anywhere, and stripping removes exactly the usage-only events."""

from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastroute._core import _sse_py
from tests.unit.core.twins import twins

STATE = ("usage_events", "error_event", "events", "done", "finished", "content_bytes", "overflowed", "mid_event")

WORDS = [
    *(b'"usage"', b'"usageMetadata"', b'"error"', b'"finish_reason"', b'"finishReason"', b'"stop_reason"'),
    *(b'"choices"', b'"type"', b'"message_stop"', b'"response.failed"', b'"response.completed"', b"message_stop"),
    *(b"{", b"}", b"[", b"]", b":", b",", b" ", b"null", b'""', b'"', b"\\", b'\\"', b"1", b"[DONE]", b"x" * 9),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\ndata: ", b"\n\ndata:", b"\nevent: error\n", b"event:", b":", b"data"),
    *(b"\xef\xbb\xbf", b"\xef", b"\xc3\xa9"),
]
soup = st.lists(st.sampled_from(WORDS), max_size=40).map(b"".join)
eols = st.sampled_from([b"\n", b"\r\n", b"\r"])
payloads = st.sampled_from(
    [
        b'{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}',
        b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}',
        b'{"type":"message_start","message":{"usage":{"input_tokens":1}}}',
        b'{"type":"response.failed","response":{"error":{"code":"x"}}}',
        b'{"choices":[],"usage":null}',
        b'{"error":{"code":1},"choices":[],"usage":{}}',
        b"[DONE]",
        b"text",
        b"",
    ]
)
usage_only = st.sampled_from([b'{"choices":[],"usage":{"n":1}}', b'{"usage" : {"n":1}, "choices" : [ ]}'])


@st.composite
def marked_blocks(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Return a complete event and whether it only carries usage."""
    strip = draw(st.booleans())
    eol = draw(eols)
    lines = draw(st.lists(st.sampled_from([b": note", b"id: 7", b"event: error", b"event: message_stop"]), max_size=2))
    if strip:
        lines = [line for line in lines if line != b"event: error"]
    data = draw(usage_only if strip else payloads)
    lines.append(draw(st.sampled_from([b"data: ", b"data:"])) + data)
    return b"".join(line + eol for line in lines) + eol, strip


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(i, len(data)) for i in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def run(sse: ModuleType, chunks: list[bytes], options: dict[str, Any]) -> tuple[list[bytes], list[Any]]:
    meter = sse.StreamMeter(**options)
    outs, states = [], []
    for chunk in chunks:
        outs.append(meter.feed(chunk))
        states.append([getattr(meter, name) for name in STATE] + [list(meter.usage_events)])
    outs.append(meter.finish())
    states.append([getattr(meter, name) for name in STATE])
    return outs, states


options = st.fixed_dictionaries(
    {
        "keep_all": st.booleans(),
        "strip_usage": st.booleans(),
        "max_event_bytes": st.sampled_from([1, 2, 3, 7, 20, 60, 1 << 20]),
    }
)
boms = st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"])
events = st.lists(marked_blocks().map(lambda block: block[0])).map(b"".join)
streams = st.tuples(boms, st.one_of(soup, events)).map(b"".join)
cuts = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 6)), max_size=8)


@pytest.mark.parametrize("sse", [p for p in twins("sse") if p.id == "c"])
@settings(max_examples=600, deadline=None)
@given(stream=streams, at=cuts, options=options)
def test_the_halves_agree_on_everything_at_every_step(
    sse: ModuleType, stream: bytes, at: list[int], options: dict[str, Any]
) -> None:
    chunks = cut(stream, at)
    assert run(sse, chunks, options) == run(_sse_py, chunks, options)


#: A whole event as it is sent, of 14 bytes but for the blank line; what is nearly one, and what it may come after.
PLAIN = b'data: {"a":1}\n\n'
NEARLY = [PLAIN * 2, b'data: {"a":1}\nid: 7\n\n', b'data: {"a":\r1}\n\n', b"data: {\n", b"data: {\n\n\n"]
OPEN = [b"data: {}\n", b"event: error\n", b": note", b"\n", b"\r", b"data: {}\r\n\r", b"x" * 20, b"\xef\xbb\xbf"]
pieces = st.one_of(
    st.just(PLAIN), st.sampled_from(NEARLY), st.sampled_from(OPEN), marked_blocks().map(lambda block: block[0])
)
sizes = st.fixed_dictionaries({"max_event_bytes": st.sampled_from([13, 14, 15, 1 << 20]), "strip_usage": st.booleans()})


@pytest.mark.parametrize("sse", twins("sse"))
@settings(max_examples=600, deadline=None)
@given(chunks=st.lists(pieces, max_size=8), sizes=sizes)
@example(chunks=[b'data: {"choices":[],"usage":{}}\r\r', PLAIN, b"\n"], sizes={"strip_usage": True})
def test_a_feed_may_be_one_whole_event(sse: ModuleType, chunks: list[bytes], sizes: dict[str, Any]) -> None:
    outs, states = run(sse, chunks, sizes)
    assert (outs, states) == run(_sse_py, chunks, sizes)
    whole_outs, whole_states = run(sse, [b"".join(chunks)], sizes)
    assert b"".join(outs) == b"".join(whole_outs)
    assert states[-1] == whole_states[-1]


@pytest.mark.parametrize("sse", twins("sse"))
@settings(max_examples=300, deadline=None)
@given(stream=streams, at=cuts, options=options)
def test_where_the_stream_is_cut_does_not_matter(
    sse: ModuleType, stream: bytes, at: list[int], options: dict[str, Any]
) -> None:
    outs, states = run(sse, cut(stream, at), options)
    whole_outs, whole_states = run(sse, [stream], options)
    assert b"".join(outs) == b"".join(whole_outs)
    assert states[-1] == whole_states[-1]
    if not options["strip_usage"]:
        assert b"".join(outs) == stream


@pytest.mark.parametrize("sse", twins("sse"))
@settings(max_examples=300, deadline=None)
@given(blocks=st.lists(marked_blocks(), max_size=8), at=cuts, bom=st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_the_output_is_the_input_minus_usage_only_events(
    sse: ModuleType, blocks: list[tuple[bytes, bool]], at: list[int], bom: bytes
) -> None:
    # A block that begins with LF after one that ends with CR would merge into CRLF; none does.
    stream = bom + b"".join(block for block, _ in blocks)
    outs, _ = run(sse, cut(stream, at), {"strip_usage": True})
    assert b"".join(outs) == bom + b"".join(block for block, strip in blocks if not strip)
