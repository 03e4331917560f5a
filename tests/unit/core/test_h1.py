"""Upstream HTTP/1.1, both halves: every way to frame an answer, in any segments; the life of a connection."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from fastroute._core._h1_errors import HIGH_WATER, MAX_TRAILER_BYTES, READ_BUFFER_BYTES, UpstreamError
from tests.fuzz.corpus_responses import CHUNKED, FIVE, Case, cases, chunks, response
from tests.unit.core.twins import twins

CASES = cases()
HEAD = b"POST / HTTP/1.1\r\nhost: h\r\n\r\n"
DROP = frozenset({b"set-cookie", b"server"})


#: Where the line of the next chunk or a trailer is due, what neither is.
FAULTS = {
    "size": b"zz\r\n",
    "no-size": b"\r\n",
    "long-size": b"0" * 17,
    "large-size": b"4000000000000001\r\n",
    "long-extension": b"5;" + b"x" * 300,
    "bare-line-feed": b"5\nhello\r\n",
    "trailer": b"0\r\nA b\r\n\r\n",
    "long-trailer": b"0\r\nA: " + b"x" * MAX_TRAILER_BYTES,
    "no-end": b"0\r\n\rx",
}


@pytest.fixture(params=twins("h1"))
def h1(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class FakeTransport:
    """Remembers what the connection does to it."""

    def __init__(self) -> None:
        self.sent = b""
        self.paused = False
        self.aborts = 0

    def write(self, data: bytes) -> None:
        self.sent += bytes(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.sent += b"".join(pieces)

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def abort(self) -> None:
        self.aborts += 1


class FakeOwner:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.lost: list[Any] = []

    def give(self, connection: Any) -> None:
        self.given.append(connection)

    def connection_closed(self, connection: Any) -> None:
        self.lost.append(connection)


class Outcome(NamedTuple):
    """What an exchange came to. reusable: as it was before the peer closed."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool
    keep_alive: bool
    reusable: bool
    kind: str


class Line:
    """A connection over a fake transport, its request sent."""

    def __init__(self, h1: ModuleType, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self.buffer = bytearray(READ_BUFFER_BYTES)
        self.transport = FakeTransport()
        self.owner = FakeOwner()
        self.connection = h1.Connection(loop, self.buffer, DROP)
        self.connection.connection_made(self.transport)
        self.connection.owner = self.owner
        self.connection.start(HEAD, **options)

    def feed(self, data: bytes) -> None:
        """Deliver `data` as one read, or as several if the buffer is too small."""
        for at in range(0, len(data), READ_BUFFER_BYTES):
            piece = data[at : at + READ_BUFFER_BYTES]
            self.buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
            self.buffer[: len(piece)] = b"\xaa" * len(piece)  # the next connection reads into it
            if self.transport.aborts:
                return

    def end(self) -> None:
        """The peer closes."""
        if not self.transport.aborts:
            assert self.connection.eof_received() is False
        self.connection.connection_lost(None)


def drive(h1: ModuleType, loop: asyncio.AbstractEventLoop, pieces: Sequence[bytes], *, head: bool = False) -> Outcome:
    """Run one exchange over `pieces`, reading after each, then the peer closes."""
    line = Line(h1, loop, no_body=head)
    connection = line.connection
    body = b""
    for piece in pieces:
        line.feed(piece)
        body += connection.read()
        if line.transport.aborts:
            break
    reusable = connection.reusable
    line.end()
    body += connection.read()
    assert connection.closed
    assert not connection.reusable
    error = connection.error
    assert (error is not None) == (not connection.complete)
    return Outcome(
        connection.status,
        connection.headers if connection.status else [],
        body,
        connection.complete,
        connection.keep_alive,
        reusable,
        error.kind if error is not None else "",
    )


def cuts(data: bytes, seed: int = 0) -> Iterator[list[bytes]]:
    """Yield ways to cut `data` into segments."""
    yield [data]
    if len(data) < 3_000:
        yield [data[at : at + 1] for at in range(len(data))]
    if len(data) < 300:
        yield from ([data[:at], data[at:]] for at in range(1, len(data)))
    rng = random.Random(seed)
    for _ in range(5):
        edges = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(6))})
        yield [data[a:b] for a, b in pairwise(edges)]


# === Framing ===


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_answer_in_any_segments(h1: ModuleType, loop: asyncio.AbstractEventLoop, case: Case) -> None:
    for pieces in cuts(case.raw):
        got = drive(h1, loop, pieces, head=case.head)
        assert got.kind == case.kind, pieces
        assert got.reusable is case.reusable, pieces
        if case.kind in ("", "truncated") and got.status:
            assert (got.status, got.body) == (case.status, case.body), pieces
        assert got.complete is (case.kind == "")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_parse_response_head_agrees_with_the_connection(
    h1: ModuleType, loop: asyncio.AbstractEventLoop, case: Case
) -> None:
    got = drive(h1, loop, [case.raw])
    raw = case.raw
    try:
        while (parsed := h1.parse_response_head(raw, DROP)) is not None and parsed[1] < 200 and parsed[1] != 101:
            raw = raw[parsed[0] :]
    except UpstreamError as error:
        assert error.kind == got.kind == "malformed"
        assert not got.status
        return
    if parsed is None or parsed[1] == 101 or case.name == "too-many-interim":
        assert not got.status
    else:
        assert (parsed[1], parsed[2]) == (got.status, got.headers)
        assert raw[: parsed[0]].endswith(b"\r\n\r\n")


def test_the_parts_of_a_head(h1: ModuleType) -> None:
    raw = response(b"Content-TYPE:  a/b ", b"X: \t", b"X:2", b"Server: s", b"Set-Cookie: c", FIVE, body=b"hello")
    assert h1.parse_response_head(raw, DROP) == (
        len(raw) - 5,
        200,
        [(b"content-type", b"a/b"), (b"x", b""), (b"x", b"2"), (b"content-length", b"5")],
        5,
        True,
    )
    assert h1.parse_response_head(raw[: len(raw) - 6]) is None
    assert h1.parse_response_head(b"") is None


@pytest.mark.parametrize(
    ("fields", "length", "keep_alive"),
    [
        ([FIVE], 5, True),
        ([b"Content-Length: 999999999999999999"], 999_999_999_999_999_999, True),
        ([CHUNKED], -1, True),
        ([], -2, False),
        ([FIVE, b"Connection: close"], 5, False),
        ([b"Connection: keep-alive"], -2, False),
    ],
)
def test_length_and_keep_alive(h1: ModuleType, fields: list[bytes], length: int, keep_alive: bool) -> None:
    assert h1.parse_response_head(response(*fields))[3:] == (length, keep_alive)


def test_fields_that_the_connection_field_names_are_left_out(h1: ModuleType) -> None:
    fields = (b"A: 1", b"B: 2", b"Connection: a, X-Y", b"X-y: 3", b"Connection: Content-Type", b"Content-Type: t", FIVE)
    assert h1.parse_response_head(response(*fields))[2] == [
        (b"b", b"2"),
        (b"content-type", b"t"),
        (b"content-length", b"5"),
    ]


def test_errors_are_of_one_kind_and_count_as_sent(h1: ModuleType) -> None:
    with pytest.raises(UpstreamError) as caught:
        h1.parse_response_head(b"hello\r\n\r\n")
    assert (caught.value.kind, caught.value.sent) == ("malformed", True)
    assert caught.value.message == str(caught.value) != ""


# === Chunks by themselves ===


def test_the_decoder_stops_at_the_end(h1: ModuleType) -> None:
    decoder = h1.ChunkedDecoder()
    assert decoder.feed(b"5\r\nhel") == (b"hel", 6)
    assert decoder.feed(b"") == (b"", 0)
    assert not decoder.done
    assert decoder.feed(b"lo\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nHTTP") == (b"loabc", 27)
    assert decoder.done
    assert decoder.feed(b"more") == (b"", 0)


def test_the_decoder_leaves_its_argument_alone(h1: ModuleType) -> None:
    data = b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
    copy = bytes(bytearray(data))
    assert h1.ChunkedDecoder().feed(data) == (b"abc", len(data))
    assert data == copy


@pytest.mark.parametrize("bad", [b"0x5", b"-1", b"+5", b"5_0", b" 5", b"5 ", b"0" * 17, b"g"])
def test_a_bad_size_is_refused_at_its_first_wrong_byte(h1: ModuleType, bad: bytes) -> None:
    decoder = h1.ChunkedDecoder()
    with pytest.raises(UpstreamError):
        for at in range(len(bad)):
            decoder.feed(bad[at : at + 1])


def test_trailers_are_bounded_as_a_whole(h1: ModuleType) -> None:
    lines, rest = divmod(MAX_TRAILER_BYTES, 5)
    decoder = h1.ChunkedDecoder()
    decoder.feed(b"0\r\n")
    for _ in range(lines):
        decoder.feed(b"A: b\r\n")  # 5 bytes each, the line feed not counted
    assert rest == 2
    with pytest.raises(UpstreamError):
        decoder.feed(b"A: b\r\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_decoder_had_before_a_fault_is_kept(h1: ModuleType, fault: str) -> None:
    decoder = h1.ChunkedDecoder()
    assert decoder.feed(b"3\r\nabc\r\n2\r\nd") == (b"abcd", 12)
    assert decoder.before_fault == b""
    with pytest.raises(UpstreamError):
        decoder.feed(b"e\r\n5\r\nhello\r\n" + FAULTS[fault])
    assert decoder.before_fault == b"ehello"


def test_a_fault_may_have_nothing_before_it(h1: ModuleType) -> None:
    decoder = h1.ChunkedDecoder()
    decoder.feed(b"3\r\nabc\r\n")
    with pytest.raises(UpstreamError):
        decoder.feed(b"zz\r\n")
    assert decoder.before_fault == b""


# === The exchange ===


def test_a_request_goes_out_as_it_is(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop, body=b"{}")
    assert line.transport.sent == HEAD + b"{}"
    line = Line(h1, loop, partial=True)
    line.connection.write(b"a", False)
    line.connection.write(memoryview(b"bc"), True)
    assert line.transport.sent == HEAD + b"abc"


def test_waiting_ends_with_the_head_with_each_piece_and_with_the_end(
    h1: ModuleType, loop: asyncio.AbstractEventLoop
) -> None:
    line = Line(h1, loop)
    connection = line.connection
    waiter = connection.wait()
    line.feed(b"HTTP/1.1 200 OK\r\n")
    assert not waiter.done()
    assert connection.answered
    line.feed(b"Content-Length: 6\r\n\r\n")
    assert waiter.done()
    assert (connection.status, connection.length, connection.read(), connection.complete) == (200, 6, b"", False)
    waiter = connection.wait()
    line.feed(b"abc")
    line.feed(b"d")
    assert waiter.done()
    assert connection.read() == b"abcd"
    assert connection.read() == b""
    waiter = connection.wait()
    line.feed(b"ef")
    assert waiter.done()
    assert connection.complete
    assert connection.read() == b"ef"


def test_an_error_is_raised_by_wait_now_and_later(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    before = line.connection.wait()
    line.feed(b"hello\r\n\r\n")
    after = line.connection.wait()
    for waiter in (before, after):
        error = waiter.exception()
        assert isinstance(error, UpstreamError)
        assert error.kind == "malformed"
    assert line.transport.aborts == 1
    assert line.connection.closed


def test_what_came_before_an_error_can_be_read(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    line.feed(response(CHUNKED, body=b"5\r\nhello\r\n"))
    line.feed(b"x")
    assert line.connection.error.kind == "malformed"
    assert line.connection.read() == b"hello"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_came_before_a_fault_in_the_same_read_can_be_read(
    h1: ModuleType, loop: asyncio.AbstractEventLoop, fault: str
) -> None:
    line = Line(h1, loop)
    connection = line.connection
    line.feed(response(CHUNKED, body=b"2\r\nab\r\n"))
    assert connection.read() == b"ab"
    waiter = connection.wait()
    line.feed(b"5\r\nhello\r\n" + FAULTS[fault])
    assert waiter.done()
    assert waiter.exception() is None
    assert line.transport.aborts == 1
    assert (connection.read(), connection.read()) == (b"hello", b"")
    assert connection.wait().exception().kind == connection.error.kind == "malformed"
    assert (connection.complete, connection.closed, connection.reusable) == (False, True, False)


@pytest.mark.parametrize("body", [b"", b"5\r\nhello\r\n"])
def test_a_head_in_the_same_read_as_a_fault_is_known(
    h1: ModuleType, loop: asyncio.AbstractEventLoop, body: bytes
) -> None:
    line = Line(h1, loop)
    waiter = line.connection.wait()
    line.feed(response(b"A: b", CHUNKED, line=b"HTTP/1.1 429 x", body=body + b"zz\r\n"))
    assert waiter.done()
    assert waiter.exception() is None
    assert (line.connection.status, line.connection.headers) == (429, [(b"a", b"b")])
    assert line.connection.read() == body[3:8]
    assert line.connection.wait().exception().kind == "malformed"


def test_what_came_before_a_fault_and_is_too_much_to_read_on_stops_nobody(
    h1: ModuleType, loop: asyncio.AbstractEventLoop
) -> None:
    line = Line(h1, loop)
    data = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
    line.feed(response(CHUNKED, body=data))
    for _ in range(4):
        line.feed(data)
    assert not line.transport.paused
    line.feed(data + b"zz\r\n")
    assert len(line.connection.read()) == 300_000 > HIGH_WATER
    assert line.connection.error.kind == "malformed"


def test_a_waiter_that_was_cancelled_is_left_alone(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    for data in (response(FIVE), b"hello\r\n\r\n"):
        line = Line(h1, loop)
        line.connection.wait().cancel()
        line.feed(data)
        line.end()


def test_reading_pauses_beyond_the_high_water_mark(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    size = 4 * HIGH_WATER
    line.feed(response(b"Content-Length: %d" % size))
    fed = 0
    while not line.transport.paused:
        line.feed(b"x" * 50_000)
        fed += 50_000
    assert HIGH_WATER < fed <= HIGH_WATER + 50_000
    line.feed(b"x" * 50_000)  # what the kernel had already handed over
    assert len(line.connection.read()) == fed + 50_000
    assert not line.transport.paused
    line.connection.read()
    line.feed(b"x" * (size - fed - 50_000))
    assert line.connection.complete


def test_a_paused_connection_is_not_reusable_until_it_is_read(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    line.feed(response(b"Content-Length: %d" % (2 * HIGH_WATER), body=b"x" * 2 * HIGH_WATER))
    assert line.connection.complete
    assert line.transport.paused
    assert not line.connection.reusable
    line.connection.read()
    assert line.connection.reusable


def test_reading_after_the_connection_is_gone_resumes_nothing(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    line.feed(response(body=b"x" * (HIGH_WATER + 1)))
    assert line.transport.paused
    line.end()
    assert line.connection.complete
    assert len(line.connection.read()) == HIGH_WATER + 1
    assert line.transport.paused


def test_writing_waits_for_the_transport(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop, partial=True)
    connection = line.connection
    assert connection.drain().done()
    connection.pause_writing()
    assert connection.write_paused
    waiter = connection.drain()
    assert not waiter.done()
    connection.resume_writing()
    assert waiter.done()
    assert connection.drain().done()
    connection.pause_writing()
    waiter = connection.drain()
    waiter.cancel()
    connection.resume_writing()
    connection.pause_writing()
    waiter = connection.drain()
    connection.connection_lost(None)
    assert waiter.done()
    assert connection.drain().done()
    with pytest.raises(UpstreamError) as caught:
        connection.write(b"x", True)
    assert caught.value.kind == "closed"


@pytest.mark.parametrize("data", [response(FIVE), response(FIVE, body=b"hello"), b"hello\r\n\r\n"])
def test_an_answer_wakes_who_waits_to_send_more(h1: ModuleType, loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    """A provider that has answered early may never read the rest of the request."""
    line = Line(h1, loop, partial=True)
    line.connection.pause_writing()
    waiter = line.connection.drain()
    line.feed(data)
    assert waiter.done()


def test_an_end_of_input_wakes_who_waits_to_send_more(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop, partial=True)
    line.connection.pause_writing()
    waiter = line.connection.drain()
    line.connection.eof_received()
    assert waiter.done()


def test_an_answer_before_the_end_of_the_request_ends_the_connection(
    h1: ModuleType, loop: asyncio.AbstractEventLoop
) -> None:
    line = Line(h1, loop, partial=True)
    line.connection.write(b"part", False)
    line.feed(response(FIVE, line=b"HTTP/1.1 413 Too Large", body=b"hello"))
    connection = line.connection
    assert (connection.status, connection.complete, connection.read()) == (413, True, b"hello")
    assert not connection.reusable
    line.connection.write(b"rest", True)
    assert not connection.reusable


def test_an_answer_begun_early_but_ended_after_the_request_is_fine(
    h1: ModuleType, loop: asyncio.AbstractEventLoop
) -> None:
    line = Line(h1, loop, partial=True)
    line.feed(response(FIVE, body=b"he"))
    line.connection.write(b"rest", True)
    line.feed(b"llo")
    assert line.connection.reusable


# === The connection between exchanges ===


def answer(line: Line, body: bytes = b"hello", *fields: bytes) -> None:
    line.feed(response(b"Content-Length: %d" % len(body), *fields, body=body))


def test_a_second_exchange_begins_afresh(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    connection = line.connection
    assert not connection.reused
    line.feed(response(CHUNKED, body=chunks(b"hello")))
    assert connection.read() == b"hello"
    connection.close()
    assert line.owner.given == [connection]
    assert connection.reusable
    connection.start(HEAD, b"2")
    assert line.transport.sent == HEAD + HEAD + b"2"
    assert connection.reused
    state = (connection.status, connection.headers, connection.complete, connection.answered, connection.error)
    assert state == (0, [], False, False, None)
    line.feed(response(CHUNKED, body=chunks(b"other")))
    assert connection.read() == b"other"
    assert connection.reusable


def test_half_a_head_does_not_reach_the_next_exchange(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    line.feed(b"HTTP/1.1 200 OK\r\nContent-")
    line.feed(b"Length: 0\r\n\r\n")
    line.connection.start(HEAD)
    line.feed(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n")
    assert line.connection.status == 201


def test_a_connection_in_use_cannot_be_started(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    with pytest.raises(UpstreamError) as caught:
        line.connection.start(HEAD)
    assert caught.value.sent is False
    line.feed(response(FIVE))
    with pytest.raises(UpstreamError):
        line.connection.start(HEAD)
    assert line.transport.sent == HEAD


@pytest.mark.parametrize("data", [b"x", b"\r\n", response(FIVE, body=b"other"), b"HTTP/1.1 408 "])
def test_an_idle_connection_on_which_something_comes_is_dropped(
    h1: ModuleType, loop: asyncio.AbstractEventLoop, data: bytes
) -> None:
    line = Line(h1, loop)
    answer(line)
    assert line.connection.reusable
    line.connection.close()
    line.feed(data)
    assert line.transport.aborts == 1
    assert line.connection.closed
    assert not line.connection.reusable
    with pytest.raises(UpstreamError) as caught:
        line.connection.start(HEAD)
    assert (caught.value.kind, caught.value.sent) == ("closed", False)
    assert line.connection.read() == b"hello"


def test_an_idle_connection_that_ends_is_closed_without_error(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    answer(line)
    line.connection.close()
    line.end()
    assert line.connection.error is None
    assert line.connection.closed
    assert line.owner.lost == [line.connection]


def test_closing_twice_gives_once(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    answer(line)
    for _ in range(3):
        line.connection.close()
    assert line.owner.given == [line.connection]
    line.connection.start(HEAD)
    line.connection.close()
    assert len(line.owner.given) == 2


def test_closing_before_any_exchange_gives_nothing(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    connection = h1.Connection(loop, bytearray(10))
    connection.owner = owner = FakeOwner()
    connection.close()
    assert owner.given == []
    assert not connection.reusable
    connection.abort()  # no transport yet
    assert connection.closed


def test_aborting_is_safe_at_any_time(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    line = Line(h1, loop)
    waiter = line.connection.wait()
    line.connection.abort()
    line.connection.abort()
    line.connection.connection_lost(None)
    line.connection.abort()
    assert isinstance(waiter.exception(), UpstreamError)
    assert line.connection.closed
    error = line.connection.wait().exception()
    assert isinstance(error, UpstreamError)
    assert line.owner.lost == [line.connection]


Stage = Callable[[Line], None]
STAGES: list[tuple[str, list[bytes], str]] = [
    ("before-anything", [], "closed"),
    ("in-the-status-line", [b"HTTP/1.1"], "truncated"),
    ("after-an-interim-head", [b"HTTP/1.1 100 Continue\r\n\r\n"], "truncated"),
    ("after-the-head", [response(FIVE)], "truncated"),
    ("in-the-body", [response(FIVE), b"hel"], "truncated"),
    ("in-a-chunk", [response(CHUNKED), b"5\r\nhel"], "truncated"),
    ("before-the-last-chunk", [response(CHUNKED), b"5\r\nhello\r\n"], "truncated"),
    ("until-close", [response(), b"hello"], ""),
    ("complete", [response(FIVE, body=b"hello")], ""),
]


@pytest.mark.parametrize("reset", [False, True], ids=["eof", "reset"])
@pytest.mark.parametrize(("name", "pieces", "kind"), STAGES, ids=[stage[0] for stage in STAGES])
def test_the_peer_leaves_at_any_stage(
    h1: ModuleType, loop: asyncio.AbstractEventLoop, name: str, pieces: list[bytes], kind: str, reset: bool
) -> None:
    line = Line(h1, loop)
    for piece in pieces:
        line.feed(piece)
    waiter = line.connection.wait()
    if reset:
        line.connection.connection_lost(ConnectionResetError(104, "reset"))
    else:
        line.end()
    connection = line.connection
    error = connection.error
    if name == "until-close" and reset:
        # A reset is no end of an answer: how much of it was lost nobody can tell.
        kind = "truncated"
    assert (error.kind if error else "") == kind
    assert connection.complete is (kind == "")
    assert not connection.reusable
    assert connection.closed
    assert line.owner.lost == [connection]
    if name != "complete":
        assert waiter.done()
        assert (waiter.exception() is not None) is (kind != "")
    else:
        waiter.cancel()


def test_one_buffer_serves_many_connections(h1: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
    first, second = Line(h1, loop), Line(h1, loop)
    assert first.connection.get_buffer(-1) is first.buffer
    second.buffer = first.buffer
    second.connection = h1.Connection(loop, first.buffer)
    second.connection.connection_made(second.transport)
    second.connection.start(HEAD)
    for a, b in zip(response(FIVE, body=b"hello"), response(FIVE, body=b"other"), strict=True):
        first.feed(bytes([a]))
        second.feed(bytes([b]))
    assert first.connection.read() == b"hello"
    assert second.connection.read() == b"other"
