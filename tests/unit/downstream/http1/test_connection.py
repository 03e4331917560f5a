import asyncio
import random
import socket
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.downstream.http1 import connection as connections
from fastroute.downstream.http1.body import RATE_GRACE_S
from fastroute.downstream.http1.connection import HELD_BYTES, IDLE_S, LAST_IDLE_S, LINGER_BYTES, LINGER_S, Connection
from fastroute.downstream.http1.exchange import DISCARD_BYTES, Exchange
from fastroute.downstream.http1.listener import DirectListener, LaneLimits
from fastroute.downstream.lane import AnswerCutError, ClientGoneError
from fastroute.errors import GatewayError
from fastroute.outgoing import Outbox
from tests.unit.outboxes import BusyOutbox

Application = Callable[[Exchange], Awaitable[None]]
LIMIT = 1 << 20
GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"


class Wire:
    """A transport in memory. `sent` is what the client has got."""

    def __init__(self) -> None:
        self.sent = b""
        self.unsent = 0
        self.reading = True
        self.ended = ""

    def write(self, data: bytes) -> None:
        assert self.ended in ("", "eof"), "written after the end"
        self.sent += data

    def write_eof(self) -> None:
        self.ended = "eof"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "aborted")

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> Any:
        assert name == "socket"
        return self

    def fileno(self) -> int:
        raise OSError("it is in memory")


@pytest.fixture(autouse=True, params=[Outbox, BusyOutbox])
def outbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stand, "make_outbox", request.param)


def refuse_for_nothing(error: GatewayError, path: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Say what was wrong, and with what path."""
    return error.status, [(b"x-code", error.code.encode()), (b"x-path", path)], error.message.encode()


class Stand:
    """A connection, its transport, and what its application saw."""

    make_outbox = Outbox

    def __init__(self, application: Application) -> None:
        loop = asyncio.get_running_loop()
        limits = LaneLimits(10, 4096, header_timeout_s=5, write_timeout_s=7, min_body_rate=100)
        self.listener = DirectListener(
            application,
            None,  # type: ignore[arg-type]
            limits,
            backlog=1,
            wall_ns=lambda: 0,
            outbox=self.make_outbox(loop),
            refuse=refuse_for_nothing,
        )
        self.wire = Wire()
        self.connection = Connection(self.listener, loop)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]

    async def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)
            await settle()

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.listener.tick += 1
            self.connection.check(self.listener.tick)
        await settle()

    def answers(self, *methods: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """Return the answers that the client has got, read by another parser. methods: of its requests."""
        return read_answers(self.wire.sent, methods, closed=self.wire.ended != "")


def read_answers(
    data: bytes, methods: tuple[bytes, ...], *, closed: bool
) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    found = []
    client = h11.Connection(h11.CLIENT)
    client.receive_data(data)
    if closed:
        client.receive_data(b"")
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        client.send(h11.EndOfMessage())
        body = b""
        while True:
            event = client.next_event()
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        assert isinstance(event, h11.EndOfMessage), event
        found.append((answer.status_code, dict(answer.headers), body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
    assert not client.trailing_data[0], "more than was asked for"
    return found


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def repeat(exchange: Exchange) -> None:
    """Answer with what was asked."""
    body = await exchange.read_body(-1, LIMIT)
    await exchange.respond(200, [(b"x-path", exchange.path)], exchange.method.encode() + b" " + body)


def post(body: bytes, *fields: bytes, path: bytes = b"/a") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: h", b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    head = b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# --- requests in, answers out


def test_one_after_another() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.feed(GET, post(b"one"), post(b""), chunked(b"tw", b"o"), chunked())
        bodies = [body for _, _, body in stand.answers(b"GET", *[b"POST"] * 4)]
        assert bodies == [b"GET ", b"POST one", b"POST ", b"POST two", b"POST "]
        assert stand.wire.ended == ""

    run(test)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([GET, post(b"one"), post(b"x" * 50), chunked(b"a" * 20, b"b"), b"\r\n" + GET])), st.data()
)
def test_however_it_is_cut(requests: list[bytes], data: Any) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]

    async def test() -> None:
        whole, cut = Stand(repeat), Stand(repeat)
        await whole.feed(*requests)
        await cut.feed(*pieces)
        for _ in requests:
            await settle()
        assert cut.wire.sent == whole.wire.sent
        assert len(whole.answers(*[b"POST"] * len(requests))) == len(requests)

    run(test)


def test_byte_by_byte() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        for request in (post(b"body"), chunked(b"bo", b"dy")):
            await stand.feed(*[request[at : at + 1] for at in range(len(request))])
        assert [body for _, _, body in stand.answers(b"POST", b"POST")] == [b"POST body"] * 2

    run(test)


def test_the_next_request_waits_for_the_answer() -> None:
    async def test() -> None:
        order: list[str] = []
        go = asyncio.Event()

        async def application(exchange: Exchange) -> None:
            order.append(f"begin {exchange.path!r}")
            await go.wait()
            order.append(f"end {exchange.path!r}")
            await exchange.respond(200, [], b"")

        stand = Stand(application)
        await stand.feed(post(b"", path=b"/1") + post(b"", path=b"/2"))
        assert order == ["begin b'/1'"]
        go.set()
        await settle()
        assert order == ["begin b'/1'", "end b'/1'", "begin b'/2'", "end b'/2'"]

    run(test)


def test_a_stream() -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-type", b"text/event-stream")])
        for piece in (b"a", b"", b"bc"):
            await exchange.send(piece)
        await exchange.finish(b"d")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(GET, GET)
        first, second = stand.answers(b"GET", b"GET")
        assert (first[2], second[2], first[1][b"transfer-encoding"]) == (b"abcd", b"abcd", b"chunked")

    run(test)


def test_a_stream_of_known_length() -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", b"4")])
        await exchange.send(b"ab")
        await exchange.finish(b"cdTOO MUCH")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(GET, GET)
        assert [body for _, _, body in stand.answers(b"GET", b"GET")] == [b"abcd"] * 2

    run(test)


def test_a_stream_that_is_too_short_is_cut() -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", b"4")])
        await exchange.finish(b"ab")
        assert not exchange.finished

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(GET)
        assert stand.wire.ended == "aborted"

    run(test)


@pytest.mark.parametrize("streamed", [False, True])
def test_http_1_0(streamed: bool) -> None:
    async def application(exchange: Exchange) -> None:
        if streamed:
            await exchange.start(200, [])
            await exchange.send(b"o")
            await exchange.finish(b"k")
        else:
            await exchange.respond(200, [], b"ok")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(b"GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n")
        [(_, headers, body)] = stand.answers(b"GET")
        assert body == b"ok"
        assert b"transfer-encoding" not in headers
        # What ends with the connection cannot leave it open.
        assert headers[b"connection"] == (b"close" if streamed else b"keep-alive")
        assert stand.wire.ended == ("closed" if streamed else "")

    run(test)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_answers_without_a_body(status: int, streamed: bool) -> None:
    method = b"HEAD" if status == 200 else b"GET"

    async def application(exchange: Exchange) -> None:
        if streamed:
            await exchange.start(status, [])
            await exchange.send(b"not")
            await exchange.finish(b"sent")
        else:
            await exchange.respond(status, [], b"not sent")

    async def test() -> None:
        stand = Stand(application)
        request = method + b" / HTTP/1.1\r\nhost: h\r\n\r\n"
        await stand.feed(request, request)
        assert stand.wire.sent.endswith(b"\r\n\r\n")
        assert [status for status, _, _ in stand.answers(method, method)] == [status] * 2

    run(test)


def test_what_stands_in_every_answer_once() -> None:
    async def application(exchange: Exchange) -> None:
        given = [(b"date", b"yesterday")] if exchange.path == b"/own" else []
        await exchange.respond(418, given, b"")

    async def test() -> None:
        stand = Stand(application)
        stand.listener.date_line = b"date: today\r\n"
        await stand.feed(post(b"", path=b"/own"), post(b"", path=b"/none"))
        assert stand.wire.sent.count(b"date: ") == 2
        assert [headers[b"date"] for _, headers, _ in stand.answers(b"POST", b"POST")] == [b"yesterday", b"today"]
        assert stand.wire.sent.startswith(b"HTTP/1.1 418 I'm a Teapot\r\n")

    run(test)


# --- the end of a connection


@pytest.mark.parametrize("by", ["client", "answer", "shutdown"])
def test_the_last_answer(by: str) -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.respond(200, [(b"connection", b"close")] if by == "answer" else [], b"ok")

    async def test() -> None:
        stand = Stand(application)
        stand.listener.stopping = by == "shutdown"
        await stand.feed(post(b"", *([b"connection: close"] if by == "client" else [])))
        [(_, headers, body)] = stand.answers(b"POST")
        assert (headers[b"connection"], body, stand.wire.ended) == (b"close", b"ok", "closed")
        assert stand.wire.sent.count(b"connection") == 1

    run(test)


@pytest.mark.parametrize("error", [AnswerCutError(), asyncio.CancelledError(), RuntimeError("a fault")])
def test_what_cannot_be_answered_is_cut(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [])
        raise error

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(GET)
        assert stand.wire.ended == "aborted"

    run(test)
    assert ("a fault" in caplog.text) == isinstance(error, RuntimeError)


async def refuse(exchange: Exchange) -> None:
    await exchange.respond(401, [], b"no")


@pytest.mark.parametrize("size", [1, DISCARD_BYTES])
def test_a_body_that_nobody_wants_is_thrown_away(size: int) -> None:
    async def test() -> None:
        stand = Stand(refuse)
        request = post(b"x" * (size + 5))
        await stand.feed(request[: -size or None], request[-size:] + GET, GET)
        assert [status for status, _, _ in stand.answers(b"POST", b"GET", b"GET")] == [401] * 3
        assert stand.wire.ended == ""

    run(test)


@pytest.mark.parametrize("request_", [post(b"x" * (DISCARD_BYTES + 100)), chunked(b"x" * 1000)])
def test_a_body_that_is_too_long_to_be_thrown_away_ends_the_connection(request_: bytes) -> None:
    async def test() -> None:
        stand = Stand(refuse)
        await stand.feed(request_[:90])
        [(status, headers, _)] = stand.answers(b"POST")
        assert (status, headers[b"connection"], stand.wire.ended) == (401, b"close", "eof")
        # It is read for a while, or the client would be reset before it has read why.
        await stand.feed(b"x" * 1000)
        await stand.pass_time(LINGER_S)
        assert stand.wire.ended == "eof"
        await stand.pass_time(1)
        assert stand.wire.ended == "aborted"

    run(test)


def test_nobody_is_read_for_ever() -> None:
    async def test() -> None:
        stand = Stand(refuse)
        await stand.feed(post(b"x" * (DISCARD_BYTES + 100))[:90])
        await stand.feed(*[b"x" * (1 << 20)] * (LINGER_BYTES >> 20))
        assert stand.wire.ended == "eof"
        await stand.feed(b"x")
        assert stand.wire.ended == "aborted"

    run(test)


def test_a_body_over_the_limit() -> None:
    async def application(exchange: Exchange) -> None:
        try:
            await exchange.read_body(-1 if exchange.headers[1][0] == b"transfer-encoding" else 2000, 1000)
        except GatewayError as error:
            await exchange.respond(error.status, [(b"connection", b"close")], b"")

    async def test() -> None:
        for request in (post(b"x" * 2000), chunked(b"x" * 900, b"x" * 101), chunked(b"x" * 900, b"x" * 101)[:-3]):
            stand = Stand(application)
            await stand.feed(request)
            assert stand.answers(b"POST")[0][0] == 413

    run(test)


def test_to_be_told_to_go_on() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        request = post(b"body", b"expect: 100-continue")
        await stand.feed(request[:-4])
        assert stand.wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stand.feed(request[-4:])
        assert stand.answers(b"POST")[0][2] == b"POST body"
        # Who does not wait is not told.
        await stand.feed(request)
        assert stand.wire.sent.count(b"100 Continue") == 1

    run(test)


def test_who_is_refused_is_not_told_to_go_on() -> None:
    async def test() -> None:
        stand = Stand(refuse)
        await stand.feed(post(b"body", b"expect: 100-continue")[:-4])
        # Whether the body comes all the same cannot be known.
        assert stand.answers(b"POST")[0][1][b"connection"] == b"close"
        assert b"100 Continue" not in stand.wire.sent

    run(test)


@pytest.mark.parametrize(
    ("data", "status", "path"),
    [
        (b"\x16\x03\x01", 400, b""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b""),
        (b"GET / HTTP/1.1\n\n", 400, b"/"),
        (b"GET /a?key=b HTTP/1.1\nx: y\n\n", 400, b"/a"),
        (b"GET http://h/a/b#c HTTP/1.1\r\n\r\n", 400, b"/a/b"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", 400, b"/"),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nx\r\n\r\n", 400, b"/a"),
        (b"GET /a HTTP/1.1\r\nx: " + b"y" * 5000, 431, b"/a"),
    ],
)
def test_what_is_no_request(data: bytes, status: int, path: bytes) -> None:
    async def application(exchange: Exchange) -> None:
        raise AssertionError("not a request")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(data)
        [(seen, headers, body)] = stand.answers(b"GET")
        assert (seen, headers[b"connection"], stand.wire.ended) == (status, b"close", "eof")
        code = b"invalid_request_error" if status == 400 else b"headers_too_large"
        assert (headers[b"x-code"], headers[b"x-path"]) == (code, path)
        assert b"request head" in body
        await stand.feed(GET)
        assert stand.wire.sent.count(b"HTTP/1.1") == 1

    run(test)


def test_what_would_have_been_answered_without_a_body_is_refused_without_one() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.feed(b"HEAD /a HTTP/1.1\r\nx\r\n\r\n")
        [(status, headers, body)] = stand.answers(b"HEAD")
        assert (status, headers[b"x-path"], body) == (400, b"/a", b"")

    run(test)


# --- clients that leave


def test_who_leaves_in_the_middle_of_a_request() -> None:
    async def test() -> None:
        for request in (post(b"body"), chunked(b"body")):
            for lost in (False, True):
                errors: list[BaseException] = []

                async def application(exchange: Exchange, errors: list[BaseException] = errors) -> None:
                    try:
                        await exchange.read_body(-1, LIMIT)
                    except ClientGoneError as error:
                        errors.append(error)
                        await exchange.respond(400, [], b"")

                stand = Stand(application)
                await stand.feed(request[:-3])
                if lost:
                    stand.connection.connection_lost(None)
                else:
                    assert stand.connection.eof_received()
                await settle()
                assert len(errors) == 1
                assert stand.wire.ended == ("" if lost else "closed")
                assert bool(stand.wire.sent) != lost

    run(test)


def test_a_broken_chunk() -> None:
    async def application(exchange: Exchange) -> None:
        with pytest.raises(ClientGoneError):
            await exchange.read_body(-1, LIMIT)
        await exchange.respond(400, [], b"")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(chunked(b"body").replace(b"4\r\n", b"z\r\n") + GET)
        [(status, headers, _)] = stand.answers(b"POST")
        assert (status, headers[b"connection"]) == (400, b"close")

    run(test)


def test_the_departure_is_seen_by_whoever_waits_for_it() -> None:
    async def test() -> None:
        for lost in (False, True):
            seen: list[str] = []

            async def application(exchange: Exchange, seen: list[str] = seen) -> None:
                await exchange.departed()
                seen.append("departed")

            stand = Stand(application)
            await stand.feed(GET)
            assert seen == []
            stand.connection.connection_lost(None) if lost else stand.connection.eof_received()
            await settle()
            assert seen == ["departed"]

    run(test)


def test_watchers_that_were_called_off_are_forgotten() -> None:
    async def application(exchange: Exchange) -> None:
        watcher = asyncio.create_task(exchange.departed())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        watcher.cancel()
        await asyncio.sleep(0)
        await exchange.respond(200, [], b"")

    async def test() -> None:
        stand = Stand(application)
        for _ in range(20):
            await stand.feed(GET)
        inside: Any = stand.connection
        assert inside._waiters == []

    run(test)


def test_an_idle_client_that_leaves() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        assert not stand.connection.eof_received()
        stand.connection.connection_lost(None)
        await settle()

    run(test)


# --- what stands still


def test_nobody_is_read_faster_than_wanted() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def application(exchange: Exchange) -> None:
            await go.wait()
            await repeat(exchange)

        stand = Stand(application)
        body = b"x" * (2 * HELD_BYTES)
        request = post(body)
        await stand.feed(request[: HELD_BYTES // 2])
        assert stand.wire.reading
        await stand.feed(request[HELD_BYTES // 2 : -10])
        assert not stand.wire.reading
        go.set()
        await settle()
        assert stand.wire.reading
        await stand.feed(request[-10:])
        assert stand.answers(b"POST")[0][2] == b"POST " + body

    run(test)


def test_a_flood_of_requests_is_not_read_ahead() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def application(exchange: Exchange) -> None:
            await go.wait()
            await exchange.respond(200, [], b"")

        stand = Stand(application)
        count = HELD_BYTES // len(GET) + 2
        await stand.feed(GET * count, GET)
        assert not stand.wire.reading
        go.set()
        for _ in range(count + 1):
            await settle()
        assert stand.wire.reading
        assert stand.wire.sent.count(b"HTTP/1.1 200") == count + 1

    run(test)


def test_a_client_that_does_not_read() -> None:
    async def test() -> None:
        sent: list[int] = []

        async def application(exchange: Exchange) -> None:
            await exchange.start(200, [])
            for number in range(3):
                await exchange.send(b"x")
                sent.append(number)
            await exchange.finish()

        stand = Stand(application)
        stand.connection.pause_writing()
        await stand.feed(GET + GET)
        assert sent == []
        stand.connection.resume_writing()
        await settle()
        await settle()
        assert sent == [0, 1, 2] * 2
        # Nor is the next request begun before it has read the answer to the last.
        stand.connection.pause_writing()
        await stand.feed(GET)
        assert len(sent) == 6

    run(test)


def test_an_answer_that_nobody_takes_is_cut() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.feed(GET)
        stand.wire.unsent = 1000
        await stand.pass_time(7)
        stand.wire.unsent = 900
        await stand.pass_time(7)
        assert stand.wire.ended == ""
        await stand.pass_time(1)
        assert stand.wire.ended == "aborted"

    run(test)


def test_what_the_kernel_holds_is_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    held = 4_000_000
    monkeypatch.setattr(connections, "held_by_kernel", lambda transport: held)

    async def test() -> None:
        nonlocal held
        stand = Stand(repeat)
        await stand.feed(GET)
        stand.wire.unsent = 1000
        for _ in range(30):
            held -= 1
            await stand.pass_time(1)
        assert stand.wire.ended == ""
        await stand.pass_time(7)
        assert stand.wire.ended == "aborted"

    run(test)


def test_what_the_kernel_holds() -> None:
    outbox = Outbox(None)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ours, _ = server.accept()
        with ours:
            wire = Wire()
            wire.get_extra_info = lambda name: {"socket": ours}[name]  # type: ignore[assignment, misc]
            ours.setblocking(False)
            sent = 0
            with suppress(BlockingIOError):
                while True:
                    sent += ours.send(b"x" * 65536)
            held = connections.held_by_kernel(outbox.take_over(wire))
            assert 0 < held <= sent
            while sent:
                sent -= len(client.recv(1 << 20))
            # Whoever has read all of it has acknowledged all but perhaps the last of it.
            assert connections.held_by_kernel(outbox.take_over(wire)) < held
    assert connections.held_by_kernel(outbox.take_over(Wire())) == 0


def test_half_a_head_has_its_time() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.pass_time(30)
        await stand.feed(GET[:-5])
        await stand.pass_time(3)
        await stand.feed(GET[-5:-3])
        await stand.pass_time(2)
        assert stand.wire.sent == b""
        await stand.pass_time(1)
        [(status, headers, body)] = stand.answers(b"GET")
        assert (status, headers[b"x-code"], headers[b"x-path"]) == (408, b"request_timeout", b"/a")
        assert b"in time" in body

    run(test)


def test_no_head_is_cut_off_before_its_time() -> None:
    """It begins between two ticks: the first one after it may come at once."""

    async def test() -> None:
        stand = Stand(repeat)
        stand.listener.header_timeout_s = 1.5
        await stand.feed(GET[:-5])
        await stand.pass_time(2)
        assert stand.wire.sent == b""
        await stand.pass_time(1)
        [(status, headers, body)] = stand.answers(b"GET")
        assert (status, headers[b"x-code"], headers[b"x-path"]) == (408, b"request_timeout", b"/a")
        assert b"in time" in body

    run(test)


def test_an_idle_connection_has_its_time() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.pass_time(IDLE_S)
        await stand.feed(GET)
        await stand.pass_time(IDLE_S)
        assert stand.wire.ended == ""
        await stand.pass_time(1)
        assert stand.wire.ended == "closed"

    run(test)


def test_a_request_may_take_its_time() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def application(exchange: Exchange) -> None:
            await go.wait()
            await exchange.respond(200, [], b"")

        stand = Stand(application)
        await stand.feed(GET)
        await stand.pass_time(10 * IDLE_S)
        go.set()
        await settle()
        assert stand.answers(b"GET")[0][0] == 200

    run(test)


@pytest.mark.parametrize("rate", [99, 100])
def test_a_body_that_comes_too_slowly(rate: int) -> None:
    async def application(exchange: Exchange) -> None:
        try:
            await exchange.read_body(100_000, LIMIT)
        except GatewayError as error:
            await exchange.respond(error.status, [(b"connection", b"close")], b"")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(post(b"x" * 100_000)[: -100_000 or None])
        await stand.pass_time(RATE_GRACE_S)
        for _ in range(20):
            if not stand.wire.sent:
                await stand.feed(b"x" * rate)
            await stand.pass_time(1)
        assert bool(stand.wire.sent) == (rate < 100)
        if stand.wire.sent:
            assert stand.answers(b"POST")[0][0] == 408

    run(test)


# --- whatever comes


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_noise_never_leaves_a_connection_hanging(seed: int) -> None:
    """Whatever bytes come, each connection has answered, waits for more, or has ended; and nothing is raised."""
    rng = random.Random(seed)
    parts = [GET, post(b"one"), chunked(b"two"), b"\r\n", b"\0", b"GET / HTTP/1.0\r\n\r\n", b"x" * 100, post(b"")[:-9]]

    async def test() -> None:
        stand = Stand(rng.choice([repeat, refuse]))
        stream = b"".join(rng.choices(parts, k=5))
        at = rng.randrange(len(stream))
        await stand.feed(stream[:at])
        if stand.wire.ended in ("", "eof"):
            await stand.feed(stream[at:])
        await settle()
        if not stand.wire.ended and rng.random() < 0.5:
            stand.connection.eof_received()
            await settle()
        assert stand.connection.exchange is None or not stand.wire.ended

    run(test)


def test_blank_lines_do_not_keep_an_idle_connection() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        for _ in range(IDLE_S):
            await stand.feed(b"\r\n")
            await stand.pass_time(1)
        assert stand.wire.ended == ""
        await stand.pass_time(1)
        assert stand.wire.ended == "closed"

    run(test)


def test_a_flood_of_blank_lines_costs_no_more_than_its_bytes() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            stand.connection.data_received(b"\r\n" * 5000 + GET)
        finally:
            sys.setprofile(None)
        # Not one by one.
        assert calls < 1000
        await settle()
        assert stand.answers(b"GET")[0][0] == 200

    run(test)


def test_nothing_is_begun_behind_the_last_answer() -> None:
    """Also where that answer is still on its way: the client reads it slowly, and has sent more requests."""

    async def test() -> None:
        served: list[bytes] = []

        async def application(exchange: Exchange) -> None:
            served.append(exchange.path)
            # Interrupted while it waits for the client to read: the answer is complete all the same.
            _ = exchange.respond(200, [], b"ok")

        stand = Stand(application)
        stand.wire.unsent = 5
        stand.connection.pause_writing()
        await stand.feed(post(b"", b"connection: close", path=b"/last") + GET)
        stand.connection.resume_writing()
        await settle()
        await stand.feed(GET)
        assert served == [b"/last"]
        # Nor is it told, behind that answer, that half a request has waited for too long.
        await stand.pass_time(6)
        assert len(stand.answers(b"POST")) == 1

    run(test)


def test_who_has_sent_more_behind_the_last_answer_can_read_it() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.feed(post(b"", b"connection: close") + GET)
        assert (len(stand.answers(b"POST")), stand.wire.ended) == (1, "eof")
        assert not stand.connection.eof_received()

    run(test)


def test_who_was_just_being_accepted_does_not_delay_the_end() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        stand.listener.stopping = True
        late = Stand(repeat)
        late.listener.stopping = True
        await late.feed(GET)
        assert late.answers(b"GET")[0][1][b"connection"] == b"close"
        stand.listener.idle_s = LAST_IDLE_S
        # The first tick may come at once: what it sends may be on its way.
        await stand.pass_time(1)
        assert stand.wire.ended == ""
        await stand.pass_time(1)
        assert stand.wire.ended == "closed"

    run(test)


def test_who_was_told_nothing_of_the_end_may_send_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LAST_CALL_S", 3600)
    go = asyncio.Event()

    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await go.wait()
        await exchange.finish(b"ok")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(GET)
        stand.listener.stopping = True
        go.set()
        await settle()
        [(_, headers, _)] = stand.answers(b"GET")
        assert (b"connection" in headers, stand.wire.ended) == (False, "")
        await stand.feed(GET)
        [_, (_, headers, body)] = stand.answers(b"GET", b"GET")
        assert (headers[b"connection"], body, stand.wire.ended) == (b"close", b"ok", "closed")

    run(test)


def test_who_sends_nothing_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LAST_CALL_S", 0)

    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [])
        stand.listener.stopping = True
        await exchange.finish(b"ok")

    async def test() -> None:
        nonlocal stand
        stand = Stand(application)
        await stand.feed(GET)
        await asyncio.sleep(0.01)
        assert (len(stand.answers(b"GET")), stand.wire.ended) == (1, "closed")

    stand: Stand
    run(test)


def test_who_is_still_sending_what_nobody_wanted_can_read_the_answer_at_a_stop() -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.respond(401, [], b"no")

    async def test() -> None:
        stand = Stand(application)
        await stand.feed(post(b"x" * 1000)[:-500])
        stand.connection.stop()
        assert (len(stand.answers(b"POST")), stand.wire.ended) == (1, "eof")
        await stand.feed(b"x" * 500)
        await stand.pass_time(LINGER_S + 1)
        assert stand.wire.ended == "aborted"

    run(test)


# --- the task of a connection


def others() -> set["asyncio.Task[Any]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["lost", "left", "closing"])
def test_one_task_serves_all_requests_of_a_connection_and_ends_with_it(end: str) -> None:
    async def test() -> None:
        stand = Stand(repeat)
        assert not others()
        seen = set()
        for _ in range(3):
            await stand.feed(GET)
            seen |= others()
        assert len(seen) == 1
        if end == "closing":
            await stand.feed(post(b"", b"connection: close"))
        elif end == "left":
            await stand.feed(GET)
            assert not stand.connection.eof_received()
        else:
            await stand.feed(GET[:-2])
        stand.connection.connection_lost(None)
        await settle()
        assert not others()
        assert len(stand.answers(*[b"GET"] * (3 if end == "lost" else 4))) >= 3

    run(test)


def test_a_request_after_the_task_was_ended_begins_another() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        await stand.feed(GET)
        for task in others():
            task.cancel()
        await settle()
        assert not others()
        await stand.feed(GET)
        assert len(stand.answers(b"GET", b"GET")) == 2

    run(test)


def test_what_was_asked_is_not_kept_while_the_connection_is_idle() -> None:
    async def test() -> None:
        kept: list[weakref.ref[Method]] = []

        async def keep(exchange: Exchange) -> None:
            # Of what an exchange holds, only this can be watched.
            exchange.method = method = Method(exchange.method)
            kept.append(weakref.ref(method))
            del method
            await repeat(exchange)

        stand = Stand(keep)
        await stand.feed(post(b"x" * 1000))
        assert [method() for method in kept] == [None]

    run(test)


class Method(str):
    """Of a request."""

    __slots__ = ("__weakref__",)


def test_requests_that_came_together_let_others_have_their_turn() -> None:
    async def test() -> None:
        stand = Stand(repeat)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while len(stand.wire.sent.split(b"HTTP/1.1 200")) <= 100:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        stand.connection.data_received(GET * 100)
        await task
        assert turns >= 100

    run(test)


@pytest.mark.parametrize("stopping", [False, True])
def test_an_answer_of_known_length(stopping: bool) -> None:
    async def test() -> None:
        async def answer(exchange: Exchange) -> None:
            await exchange.respond(200, [(b"content-length", b"2"), (b"a", b"b")], b"ok")
            assert exchange.started
            assert exchange.finished

        stand = Stand(answer)
        stand.listener.stopping = stopping
        stand.listener.date_line = b"date: now\r\n"
        await stand.feed(GET)
        last = {b"connection": b"close"} if stopping else {}
        fields = {b"content-length": b"2", b"a": b"b", b"date": b"now", **last}
        assert stand.answers(b"GET") == [(200, fields, b"ok")]
        assert bool(stand.wire.ended) == stopping

    run(test)
