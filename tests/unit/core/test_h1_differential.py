"""h1 beside h11 and llhttp (httptools): what we accept, h11 reads the same way, and what is valid they all accept.

Strictness goes one way only. Two parsers in a row that read the same bytes differently are how answers are smuggled; a
parser that refuses more than its neighbours cannot take part in that.
"""

import asyncio
import re
from types import ModuleType
from typing import Any, NamedTuple

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus_responses import CHUNKED, Case, cases, chunks, response
from tests.unit.core.test_h1 import Line, drive
from tests.unit.core.test_h1_hypothesis import cut, mutated, well_framed
from tests.unit.core.twins import twins

LOOP_FREE = asyncio.new_event_loop()  # futures need one; it never runs
LOOP_FREE.close()
CASES = cases()
ACCEPTED = [case for case in CASES if not case.kind]
NOT_HEAD = [case for case in ACCEPTED if not case.head]  # llhttp cannot be told what the request was

#: Accepted by us alone, and why nothing can come of it.
OURS_ALONE = {"trailer-is-no-header": "trailers are thrown away unread, so framing fields among them mean nothing"}
#: Where llhttp refuses what h11 and we accept.
LLHTTP_REFUSES = {**OURS_ALONE, "chunk-size-empty-extension": "llhttp wants a name behind the semicolon"}
#: An answer with trailers, which h11 judges and we do not.
TRAILERS = re.compile(rb"\r\n0+(?:;[^\r\n]*)?\r\n.+?\r\n\r\n", re.DOTALL)

#: Fields that we take out of an answer and h11 leaves in.
HOP = {b"connection", b"transfer-encoding", b"set-cookie", b"server"}


class Reading(NamedTuple):
    """What another parser makes of an answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def read_with_h11(raw: bytes, *, head: bool = False) -> Reading | None:
    """Return h11's reading of an answer that the close of the connection follows, None if it refuses."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    method = "HEAD" if head else "POST"
    client.send(h11.Request(method=method, target="/", headers=[("host", "h"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    status, headers, body = 0, [], b""
    try:
        client.receive_data(raw)
        client.receive_data(b"")
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return Reading(status, headers, body)
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


class _Messages:
    """Collects what llhttp reports: one entry per message."""

    def __init__(self) -> None:
        self.messages: list[Reading] = []
        self.parser: Any = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def on_message_begin(self) -> None:
        self._headers, self._body = [], b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.messages.append(Reading(self.parser.get_status_code(), self._headers, self._body))

    @property
    def begun(self) -> Reading:
        return Reading(self.parser.get_status_code(), self._headers, self._body)


def read_with_llhttp(raw: bytes) -> Reading | None:
    """Return llhttp's reading of the first final answer; one that only the close would end counts as it stands."""
    seen = _Messages()
    seen.parser = httptools.HttpResponseParser(seen)
    try:
        seen.parser.feed_data(raw)
    except httptools.HttpParserError:
        if not seen.messages:
            return None
    finals = [message for message in seen.messages if message.status >= 200]
    return finals[0] if finals else seen.begun


def without_hop(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the fields that cross: less hop-by-hop ones and those that a Connection field names."""
    named = {token.strip() for name, value in headers if name == b"connection" for token in value.lower().split(b",")}
    gone = HOP | (named - {b"content-length", b"content-type"})
    return [pair for pair in headers if pair[0] not in gone]


def agree(h1: ModuleType, raw: bytes, *, head: bool = False) -> None:
    """Check that h11 reads an answer as we do, if we accept it."""
    ours = drive(h1, LOOP_FREE, [raw], head=head)
    if not ours.complete:
        return
    theirs = read_with_h11(raw, head=head)
    assert theirs is not None, raw
    assert (theirs.status, theirs.body) == (ours.status, ours.body), raw
    assert without_hop(theirs.headers) == ours.headers


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize("h1", twins("h1"))
def test_h11_accepts_what_we_accept(h1: ModuleType, case: Case) -> None:
    if case.name not in OURS_ALONE:
        agree(h1, case.raw, head=case.head)


@pytest.mark.parametrize("case", NOT_HEAD, ids=[case.name for case in NOT_HEAD])
def test_llhttp_reads_what_is_valid_as_we_do(case: Case) -> None:
    theirs = read_with_llhttp(case.raw[: len(case.raw) - case.rest])
    if case.name in LLHTTP_REFUSES:
        assert theirs is None
        return
    assert theirs is not None
    assert (theirs.status, theirs.body) == (case.status, case.body)


@pytest.mark.parametrize("h1", twins("h1"))
@settings(max_examples=400, deadline=None)
@given(raw=mutated())
def test_h11_accepts_what_we_accept_of_mutated_answers(h1: ModuleType, raw: bytes) -> None:
    if not TRAILERS.search(raw):
        agree(h1, raw)


@pytest.mark.parametrize("h1", twins("h1"))
@settings(max_examples=300, deadline=None)
@given(raw=well_framed(), at=st.lists(st.integers(0, 400), max_size=5))
def test_all_accept_what_is_valid(h1: ModuleType, raw: bytes, at: list[int]) -> None:
    ours = drive(h1, LOOP_FREE, cut(raw, at))
    for theirs in (read_with_h11(raw), read_with_llhttp(raw)):
        assert theirs is not None
        if ours.status not in (204, 304):
            assert (theirs.status, theirs.body) == (ours.status, ours.body)


#: After good chunks, what ends an answer in a fault. h11 puts up with some of it, but has no more of the body either.
FAULTS = [
    b"zz\r\n", b"x", b"-1\r\n", b"0x5\r\nhello\r\n", b" 5\r\n", b"5 \r\n", b"\r\n", b"5;" + b"x" * 300, b"0" * 17,
    b"f" * 17, b"4000000000000001\r\n", b"5\n", b"0\r\n A: b\r\n\r\n", b"0\r\nA\r\n\r\n", b"0\r\n:\r\n\r\n",
    b"0\r\nA: " + b"x" * 9_000, b"0\r\n\rx", b"5\r\nhelloXX", b"5\r\nhello\n", b"5\r\nhello\rX",
]  # fmt: skip


def follow(h1: ModuleType, pieces: list[bytes]) -> tuple[bytes, str]:
    """Return the body and the kind of the error that somebody gets who reads only what a `wait` has announced."""
    line = Line(h1, LOOP_FREE)
    got = b""
    waiter = line.connection.wait()
    for piece in pieces:
        line.feed(piece)
        while waiter.done():
            if waiter.exception() is not None:
                return got, waiter.exception().kind
            got += line.connection.read()
            waiter = line.connection.wait()
    return got, ""


def read_until_fault(raw: bytes) -> bytes:
    """Return the body that h11 has of an answer before it refuses the rest, or finds that it has no end."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "h"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    body = b""
    with pytest.raises(h11.RemoteProtocolError):
        client.receive_data(raw)
        client.receive_data(b"")
        while True:
            event = client.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            assert not isinstance(event, h11.EndOfMessage)
    return body


@pytest.mark.parametrize("h1", twins("h1"))
@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=30), max_size=5),
    fault=st.sampled_from(FAULTS),
    at=st.lists(st.integers(0, 300), max_size=6),
)
def test_what_came_before_a_fault_is_read_however_it_is_cut(
    h1: ModuleType, pieces: list[bytes], fault: bytes, at: list[int]
) -> None:
    raw = response(CHUNKED, body=chunks(*pieces, end=fault))
    body = read_until_fault(raw)
    assert body == b"".join(pieces) + (b"hello" if fault.startswith(b"5\r\n") else b"")
    assert follow(h1, cut(raw, at)) == (body, "malformed")


def test_the_valid_cases_are_the_ones_that_h11_completes() -> None:
    refused = [case.name for case in ACCEPTED if read_with_h11(case.raw, head=case.head) is None]
    assert refused == list(OURS_ALONE)
