"""StreamMeter, both halves: framing, what counts as usage, error and end, stripping, bounds."""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest

from tests.unit.core.twins import twins

DELTA = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"usage":null}\n\n'
STOP = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
USAGE_JSON = b'{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
USAGE = b"data: " + USAGE_JSON + b"\n\n"
DONE = b"data: [DONE]\n\n"
CHAT = DELTA + DELTA + STOP + USAGE + DONE


@pytest.fixture(params=twins("sse"))
def sse(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def run(sse: ModuleType, chunks: Iterable[bytes], **options: Any) -> tuple[Any, bytes]:
    meter = sse.StreamMeter(**options)
    out = b"".join([meter.feed(chunk) for chunk in chunks])
    return meter, out + meter.finish()


def every_cut(data: bytes) -> Iterable[list[bytes]]:
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    yield from ([data[:i], data[i:]] for i in range(1, len(data)))


def test_openai_chat_stream(sse: ModuleType) -> None:
    meter, out = run(sse, [CHAT])
    assert out == CHAT
    assert meter.usage_events == [USAGE_JSON]
    assert (meter.events, meter.done, meter.finished, meter.overflowed) == (4, True, True, False)
    assert meter.error_event is None
    assert meter.content_bytes == 2 * (len(DELTA) - 8) + len(STOP) - 8


def test_feed_without_stripping_returns_the_same_object(sse: ModuleType) -> None:
    meter = sse.StreamMeter()
    for chunk in (CHAT, b"", b"data: {", b"\xef\xbb", b"\r", b"\n"):
        assert meter.feed(chunk) is chunk
    assert meter.finish() == b""
    assert meter.finish() == b""


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_any_cut_and_line_end_gives_the_same(sse: ModuleType, eol: bytes, bom: bytes) -> None:
    stream = bom + (b": hello\n\n" + STOP + b"event: x\nid: 1\nretry: 5\n" + USAGE + DONE).replace(b"\n", eol)
    for chunks in every_cut(stream):
        meter, out = run(sse, chunks)
        assert out == stream
        assert (meter.usage_events, meter.events, meter.done) == ([USAGE_JSON], 2, True)


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_stripping_removes_just_the_usage_event(sse: ModuleType, eol: bytes, bom: bytes) -> None:
    usage = USAGE.replace(b"\n", eol)
    before, after = bom + STOP.replace(b"\n", eol), b": bye\n\n".replace(b"\n", eol) + DONE.replace(b"\n", eol)
    for chunks in every_cut(before + usage + after):
        meter, out = run(sse, chunks, strip_usage=True)
        assert out == before + after
        assert meter.usage_events == [USAGE_JSON]
    for chunks in every_cut(bom + usage + usage):
        assert run(sse, chunks, strip_usage=True)[1] == bom


def test_stripping_forwards_complete_events_at_once(sse: ModuleType) -> None:
    meter = sse.StreamMeter(strip_usage=True)
    assert meter.feed(DELTA[:10]) == b""
    assert meter.feed(DELTA[10:-1]) == b""
    assert meter.feed(b"\n" + USAGE[:-1]) == DELTA
    assert not meter.mid_event
    assert meter.feed(b"\n" + DONE) == DONE
    assert meter.feed(b"data: x\r\n\r") == b"data: x\r\n\r"
    assert meter.feed(b"\n") == b"\n"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"index":0}],"usage":{"total_tokens":1}}',
        b'{"choices":[],"usage":null}',
        b'{"choices":[],"prompt_filter_results":[]}',
        b'{"usage":{"total_tokens":1}}',
        b'{"x":{"choices":[]},"usage":{"total_tokens":1}}',
        b'{"error":{"code":1},"choices":[],"usage":{"total_tokens":1}}',
    ],
)
def test_stripping_keeps_events_that_carry_anything_else(sse: ModuleType, payload: bytes) -> None:
    stream = b"data: " + payload + b"\n\n"
    assert run(sse, [stream], strip_usage=True)[1] == stream


def test_stripping_allows_white_space_and_an_unterminated_event(sse: ModuleType) -> None:
    spaced = b'data:{ "choices" : [ ] , "usage" :\t{ "total_tokens": 1 } }\n'
    assert run(sse, [spaced + b"\n" + DONE], strip_usage=True)[1] == DONE
    assert run(sse, [DELTA + spaced], strip_usage=True)[1] == DELTA


@pytest.mark.parametrize(
    ("payload", "counts"),
    [
        (b'{"usage":{"a":1}}', True),
        (b'{"usage" : \n {"a":1}}', True),
        (b'{"usage":null}', False),
        (b'{"usage": null}', False),
        (b'{"usage":""}', False),
        (b'{"usage":', False),
        (b'{"text":"the \\"usage\\":{} key"}', False),
        (b'{"text":"usage","a":1}', False),
        (b'{"usages":{"a":1}}', False),
        (b'{"usageMetadata": {"promptTokenCount": 1}}', True),
        (b'{"message":{"usage":{"input_tokens":1}}}', True),
        (b'{"type":"x","response":{"usage":{"input_tokens":1}}}', True),
        (b'{"x_groq":{"id":"r","usage":{"prompt_tokens":1}}}', True),
        (b'{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"usage":1}}}]}}]}', False),
        (b'{"response":{"tools":[{"parameters":{"properties":{"usage":{"type":"string"}}}}]}}', False),
        (b'{"a":"]}","b":"\\\\","usage":{}}', True),
        (b'[{"usageMetadata":{}}]', True),
        (b'"usage":{}', False),
    ],
)
def test_what_counts_as_usage(sse: ModuleType, payload: bytes, counts: bool) -> None:
    meter, _ = run(sse, [b"data: " + payload.replace(b"\n", b"\ndata: ") + b"\n\n"])
    assert meter.usage_events == ([payload] if counts else [])
    assert meter.content_bytes == (0 if counts else len(payload))
    assert meter.events == 1


@pytest.mark.parametrize(
    ("block", "is_error", "done"),
    [
        (b'event: error\ndata: {"error":{"message":"no"}}', True, False),
        (b"event:error\ndata: overloaded", True, False),
        (b'data: {"error":{"message":"no"}}', True, False),
        (b'data: {"error":"no"}', True, False),
        (b'data: {"id":"g","error":{"code":400},"choices":[]}', True, False),
        (b'data: {"type": "error", "error": {"type": "overloaded_error"}}', True, False),
        (b'data: {"type":"error","code":"server_error","message":"no"}', True, False),
        (b'data: {"type":"response.failed","response":{"error":{}}}', True, True),
        (b"event: response.failed\ndata: {}", True, True),
        (b'data: {"type":"response.created","response":{"error":null,"x":{"error":1}}}', False, False),
        (b'data: {"error":null}', False, False),
        (b'data: {"error": null}', False, False),
        (b'data: {"choices":[{"error":{"code":1}}]}', False, False),
        (b'data: {"text":"{\\"error\\":1"}', False, False),
        (b"event: error", False, False),
        (b"event: message_stop\ndata: {}", False, True),
        (b'data: {"type" : "message_stop"}', False, True),
        (b'data: {"type":"response.completed","response":{}}', False, True),
        (b'data: {"type":"response.incomplete"}', False, True),
        (b'data: {"type":"response.complete"}', False, False),
        (b'data: {"item":{"type":"message_stop"}}', False, False),
        (b"data:[DONE]", False, True),
        (b"data: \t[DONE] ", False, True),
        (b"data: [DONE].", False, False),
        (b"data: [DON", False, False),
    ],
)
def test_errors_and_ends(sse: ModuleType, block: bytes, is_error: bool, done: bool) -> None:
    meter, _ = run(sse, [block + b"\n\n"])
    assert (meter.error_event is not None, meter.done, meter.finished) == (is_error, done, done)
    if is_error:
        assert meter.error_event == block.split(b"data: ")[1]


def test_the_first_error_is_kept(sse: ModuleType) -> None:
    meter, _ = run(sse, [b'data: {"error":1}\n\ndata: {"error":2}\n\n'])
    assert meter.error_event == b'{"error":1}'


@pytest.mark.parametrize(
    ("payload", "finished"),
    [
        (b'{"choices":[{"finish_reason":"stop"}]}', True),
        (b'{"choices":[{"finish_reason": null}]}', False),
        (b'{"choices":[{"finish_reason":""}]}', False),
        (b'{"type":"message_delta","delta":{"stop_reason":"end_turn"}}', True),
        (b'{"message":{"stop_reason":null}}', False),
        (b'{"candidates": [{"finishReason": "STOP"}]}', True),
        (b'{"choices":[{"message":{"finish_reason":"x"}}]}', False),
        (b'{"choices":[{"native_finish_reason":"stop"}]}', False),
    ],
)
def test_finish_reasons(sse: ModuleType, payload: bytes, finished: bool) -> None:
    meter, _ = run(sse, [b"data: " + payload + b"\n\n"])
    assert (meter.finished, meter.done) == (finished, False)


def test_events_without_data_are_ignored(sse: ModuleType) -> None:
    meter, _ = run(sse, [b": c\n\n\n\nevent: ping\n\ndata\n\ndata:\n\ndata: \n\ndatax: 1\n\nid: 4\n\n data: 1\n\n"])
    assert (meter.events, meter.content_bytes) == (0, 0)
    meter, _ = run(sse, [b"data: a\ndata:b\ndata\n\ndata:  c\n\n"])
    assert (meter.events, meter.content_bytes) == (2, len(b"a\nb\n") + len(b" c"))


def test_multi_line_data_is_joined(sse: ModuleType) -> None:
    meter, _ = run(sse, [b'data: {"usage":\r\ndata: {"a":\rdata:1}}\n\n'])
    assert meter.usage_events == [b'{"usage":\n{"a":\n1}}']


def test_only_the_last_usage_is_kept(sse: ModuleType) -> None:
    stream = b"".join(b'data: {"usage":{"n":%d}}\n\n' % n for n in range(100))
    assert run(sse, [stream])[0].usage_events == [b'{"usage":{"n":99}}']


def test_keep_all_is_bounded_to_the_first_two_and_the_last_62(sse: ModuleType) -> None:
    stream = b"".join(b'data: {"usage":{"n":%d}}\n\n' % n for n in range(100))
    kept = run(sse, [stream], keep_all=True)[0].usage_events
    assert kept == [b'{"usage":{"n":%d}}' % n for n in (0, 1, *range(38, 100))]


def test_an_event_too_long_is_forwarded_unmetered(sse: ModuleType) -> None:
    exact = b'data: {"usage":{}}\n'
    longer = b'data: {"usage":{} }\n'
    for eol in (b"\n", b"\r"):
        for strip in (False, True):
            for chunks in every_cut((longer + b"\n" + exact + b"\n").replace(b"\n", eol)):
                meter, out = run(sse, chunks, strip_usage=strip, max_event_bytes=len(exact))
                assert out == (longer + b"\n" + exact + b"\n").replace(b"\n", eol)
                assert (meter.overflowed, meter.events, meter.usage_events) == (True, 1, [b'{"usage":{}}'])


def test_an_event_too_long_is_not_held_back(sse: ModuleType) -> None:
    meter = sse.StreamMeter(strip_usage=True, max_event_bytes=10)
    assert meter.feed(b"data: 7890") == b""
    assert meter.feed(b"1") == b"data: 78901"
    assert meter.overflowed
    assert meter.mid_event
    assert meter.feed(b"x\n") == b"x\n"
    assert meter.feed(b"\ndata: 1") == b"\n"
    assert not meter.mid_event
    assert meter.finish() == b"data: 1"
    assert meter.events == 1


def test_an_unterminated_last_event_counts_if_its_json_is_complete(sse: ModuleType) -> None:
    for end in (b"", b"\n"):
        assert run(sse, [DELTA + USAGE[:-2] + end])[0].usage_events == [USAGE_JSON]
    meter, out = run(sse, [b'data: {"usage":{"n":1}}\n\ndata: {"usage":{"n":2'], strip_usage=True)
    assert meter.usage_events == [b'{"usage":{"n":1}}']
    assert (meter.events, meter.content_bytes) == (1, len(b'{"usage":{"n":2'))
    assert out == b'data: {"usage":{"n":1}}\n\ndata: {"usage":{"n":2'


def test_bare_json_without_data_is_harmless_and_an_error_in_it_is_seen(sse: ModuleType) -> None:
    error = b'{\n  "error": {\n    "code": 499,\n    "status": "CANCELLED"\n  }\n}'
    for eol in (b"\n", b"\r\n"):
        stream = b'data: {"candidates": []}\n\n'.replace(b"\n", eol) + error.replace(b"\n", eol) + eol
        for chunks in every_cut(stream):
            meter, out = run(sse, chunks)
            assert (meter.events, out) == (1, stream)
            assert meter.error_event == error.replace(b"\n", eol)
    assert run(sse, [b'{"usage":{"error":1}}\n\n{"error":\n'])[0].error_event is None


def test_mid_event(sse: ModuleType) -> None:
    meter = sse.StreamMeter()
    for chunk, inside in ((b"\xef", True), (b"\xbb\xbf", False), (b"d", True), (b"ata: 1\n", True), (b"\n", False)):
        meter.feed(chunk)
        assert meter.mid_event is inside


def test_bytes_that_only_begin_like_a_bom(sse: ModuleType) -> None:
    for stream in (b"\xef\xbb\n\ndata: 1\n\n", b"\xef\xbb", b"\xefdata: 1\n\ndata: 1\n\n"):
        for strip in (False, True):
            for chunks in every_cut(stream):
                meter, out = run(sse, chunks, strip_usage=strip)
                assert (out, meter.events) == (stream, stream.count(b"\n\ndata"))


def test_bad_arguments(sse: ModuleType) -> None:
    with pytest.raises(ValueError, match="max_event_bytes must be at least 1"):
        sse.StreamMeter(max_event_bytes=0)
    for wrong in (bytearray(b"data: 1\n\n"), "data: 1\n\n", None):
        with pytest.raises(TypeError):
            sse.StreamMeter().feed(wrong)


@pytest.mark.parametrize("sse", twins("sse"))
def test_whole_events_only(sse: ModuleType) -> None:
    stream = b'data: {"a":1}\n\nevent: x\r\ndata: 2\r\n\r\n: comment\n\ndata: {"usage":{"b":3}}\n\ndata: tail'
    ends = {0} | {stream.index(part) + len(part) for part in (b"1}\n\n", b"2\r\n\r\n", b"comment\n\n", b"3}}\n\n")}
    for size in range(1, len(stream) + 1):
        meter = sse.StreamMeter(whole_events=True)
        out = b""
        for at in range(0, len(stream), size):
            out += meter.feed(stream[at : at + size])
            # CRLF that is cut in two: the CR ends the event, the LF follows with the next piece.
            assert len(out) in ends or out.endswith(b"2\r\n\r")
            assert not meter.mid_event
        assert out + meter.finish() == stream
        assert meter.usage_events == [b'{"usage":{"b":3}}']


@pytest.mark.parametrize("sse", twins("sse"))
def test_a_long_event_is_not_held_back(sse: ModuleType) -> None:
    meter = sse.StreamMeter(whole_events=True, max_event_bytes=10)
    assert meter.feed(b"data: 1\n\ndata: 23456789") == b"data: 1\n\ndata: 23456789"
    assert meter.mid_event
    assert meter.feed(b"0\n\n") == b"0\n\n"
    assert not meter.mid_event
