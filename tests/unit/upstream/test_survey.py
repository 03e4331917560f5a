"""What an answer's header fields say that matters to the corridor."""

import pytest

from fastroute._core.h1 import UpstreamError
from fastroute.interfaces import Header
from fastroute.upstream.survey import Survey, survey

JSON: Header = (b"content-type", b"application/json")


@pytest.mark.parametrize(
    ("value", "events"),
    [
        (b"text/event-stream", True), (b"text/event-stream; charset=utf-8", True), (b"Text/Event-Stream", True),
        (b"application/json", False), (b"text/event", False), (b"", False), (b"x-text/event-stream", False),
    ],
)  # fmt: skip
def test_the_content_type_tells_an_event_stream(value: bytes, events: bool) -> None:
    for first in (b"", b"{", b"data: {}"):
        assert survey([(b"content-type", value)], first) == Survey(events, False)


@pytest.mark.parametrize(
    ("first", "events"),
    [
        (b"data: {}\n\n", True), (b"event: message_start", True), (b"id: 1", True), (b": keep-alive\n\n", True),
        (b"", False), (b'{"id": 1}', False), (b" data: x", False), (b"[", False), (b"DATA:", False),
    ],
)  # fmt: skip
def test_without_one_the_first_bytes_do(first: bytes, events: bool) -> None:
    assert survey([], first) == Survey(events, False)
    assert survey([(b"server", b"x")], first).events is events


def test_the_providers_own_id() -> None:
    assert survey([JSON, (b"x-request-id", b"req_1")], b"") == Survey(False, True)
    assert survey([JSON, (b"request-id", b"req_1")], b"") == Survey(False, False)


@pytest.mark.parametrize("value", [b"identity", b"Identity"])
def test_a_plain_answer_may_say_so(value: bytes) -> None:
    assert survey([(b"content-encoding", value), JSON], b"") == Survey(False, False)


@pytest.mark.parametrize("value", [b"gzip", b"br", b"deflate", b"zstd", b"identity, gzip", b""])
def test_an_encoded_answer_is_no_answer(value: bytes) -> None:
    """It could not be metered. The request was sent: it may have been served."""
    with pytest.raises(UpstreamError) as caught:
        survey([JSON, (b"content-encoding", value)], b"")
    assert (caught.value.kind, caught.value.sent) == ("malformed", True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"x-ratelimit-remaining-tokens", True), (b"anthropic-ratelimit-requests-limit", True), (b"ratelimit", True),
        (b"x-tokenlimit-limit", True), (b"limit", False), (b"x-limi", False), (b"content-limit", False), (b"", False),
    ],
)  # fmt: skip
def test_fields_that_tell_of_limits(name: bytes, told: bool) -> None:
    assert survey([JSON, (name, b"1")], b"").has_limits is told


def test_the_last_of_several_types_counts() -> None:
    events = (b"content-type", b"text/event-stream")
    assert survey([JSON, events], b"").events
    assert not survey([events, JSON], b"").events
