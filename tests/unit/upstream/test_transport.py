"""The fast transport against a scripted upstream: reuse, the one retry, large bodies, early answers, and no leaks."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import pytest
import trustme
import uvloop

from fastroute._core._h1_errors import HIGH_WATER, READ_BUFFER_BYTES, UpstreamError
from fastroute.context import Context
from fastroute.interfaces import Exchange
from fastroute.outgoing import Outbox
from fastroute.upstream import pool as pool_module
from fastroute.upstream.mock import (
    Close,
    Cut,
    HalfClose,
    MockUpstream,
    Pause,
    ReadHead,
    ReadRequest,
    Request,
    Script,
    Send,
    Stall,
    TrickleSend,
    chunk,
    json_response,
    raw,
    response_head,
    sse_response,
)
from fastroute.upstream.pool import Origin, Pool
from fastroute.upstream.transport import STALE_WITHIN_NS, WRITE_PIECE_BYTES, FastTransport, UpstreamRequest
from tests.unit.core.twins import twins
from tests.unit.outboxes import BusyOutbox

Run = Callable[[Coroutine[Any, Any, None]], None]
MIB = 1 << 20


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def in_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main, 20))

    return in_loop


@pytest.fixture(params=twins("h1"), autouse=True)
def h1(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(pool_module, "Connection", request.param.Connection)
    return request.param


@pytest.fixture(autouse=True, params=[None, BusyOutbox])
def outbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "outbox", request.param)


class Client:
    """A transport of one origin, with what a test wants to look at."""

    outbox: type[Outbox] | None = None

    def __init__(self, port: int, *, most: int = 4, tls: ssl.SSLContext | None = None) -> None:
        self.ns = 0
        loop = asyncio.get_running_loop()
        outbox = self.outbox(loop) if self.outbox is not None else None
        origin = Origin("127.0.0.1", port, tls)
        self.pool = Pool(loop, origin, bytearray(READ_BUFFER_BYTES), lambda: self.ns, most, outbox)
        self.transport = FastTransport(self.pool, lambda: self.ns)
        self.ctx = Context(None, None, 1, "r", 0, 0, None)

    async def send(self, body: bytes = b"{}") -> Exchange:
        start = b"POST /v1/x HTTP/1.1\r\nhost: h\r\n"
        request = UpstreamRequest(b"/v1/x", start, b"a: 1\r\n", b"b: 2\r\n", body, 1, 1)
        return await self.transport.send(request, self.ctx)

    async def fetch(self, body: bytes = b"{}") -> tuple[int, bytes]:
        """Run one exchange to its end."""
        exchange = await self.send(body)
        try:
            return exchange.status, await read_all(exchange)
        finally:
            exchange.close()

    async def idle(self, live: int, idle: int) -> None:
        """Check that, after a moment, so many connections are left and nobody waits."""
        for _ in range(100):
            if (self.pool.live, self.pool.idle) == (live, idle):
                break
            await asyncio.sleep(0.005)
        assert repr(self.pool).endswith(f" live={live} idle={idle} waiting=0>")


async def read_all(exchange: Exchange) -> bytes:
    body = exchange.read()
    while not exchange.complete:
        await exchange.wait()
        body += exchange.read()
    return body


async def failure(client: Client, body: bytes = b"{}") -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await client.fetch(body)
    return caught.value


def ok(_: Request) -> Script:
    return json_response(200, b'{"ok":1}')


def test_what_is_sent(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(ok) as upstream:
            client = Client(upstream.port)
            assert await client.fetch(b'{"x":1}') == (200, b'{"ok":1}')
            [request] = upstream.requests
            lines = b"POST /v1/x HTTP/1.1\r\nhost: h\r\na: 1\r\nb: 2\r\ncontent-length: 7\r\n\r\n"
            assert request.raw == lines + b'{"x":1}'
            await client.idle(1, 1)
            await client.transport.close()
            await client.idle(0, 0)

    run(main())


def test_one_connection_serves_one_request_after_the_other(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(lambda _: sse_response(["a", "b"])) as upstream:
            client = Client(upstream.port)
            for _ in range(5):
                assert await client.fetch() == (200, b"data: a\n\ndata: b\n\n")
            assert (upstream.connections, upstream.request_count) == (1, 5)
            await client.idle(1, 1)
            await client.transport.close()

    run(main())


def test_many_at_once_share_few_connections(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(ok) as upstream:
            client = Client(upstream.port, most=3)
            got = await asyncio.gather(*(client.fetch() for _ in range(50)))
            assert set(got) == {(200, b'{"ok":1}')}
            assert upstream.connections == 3
            await client.idle(3, 3)
            await client.transport.close()
            await client.idle(0, 0)

    run(main())


# === A kept connection that turns out to be dead ===

DEAD: list[Script] = [[ReadRequest(), Cut()], [ReadRequest(), Close()], [ReadHead(), Cut(rst=False)]]


@pytest.mark.parametrize("death", DEAD, ids=["reset", "closed", "closed-early"])
def test_a_stale_connection_is_replaced_once(run: Run, death: Script) -> None:
    async def main() -> None:
        async with MockUpstream([ok_script(), death, ok_script()]) as upstream:
            client = Client(upstream.port)
            await client.fetch()
            assert await client.fetch() == (200, b'{"ok":1}')
            assert (upstream.connections, upstream.request_count) == (2, 3)
            await client.idle(1, 1)
            await client.transport.close()

    run(main())


@pytest.mark.parametrize("death", DEAD, ids=["reset", "closed", "closed-early"])
def test_the_second_connection_is_the_last(run: Run, death: Script) -> None:
    async def main() -> None:
        async with MockUpstream([ok_script(), death, death]) as upstream:
            client = Client(upstream.port)
            await client.fetch()
            error = await failure(client)
            assert (error.kind, error.sent) == ("closed", True)
            assert upstream.request_count == 3
            await client.idle(0, 0)

    run(main())


def test_a_fresh_connection_that_dies_is_no_stale_one(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream([[ReadRequest(), Cut()]]) as upstream:
            client = Client(upstream.port)
            assert (await failure(client)).kind == "closed"
            assert upstream.request_count == 1
            await client.idle(0, 0)

    run(main())


def test_after_the_first_byte_of_an_answer_nothing_is_repeated(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream([ok_script(), [Send(b"HTTP/1.1 2"), Close()]]) as upstream:
            client = Client(upstream.port)
            await client.fetch()
            assert (await failure(client)).kind == "truncated"
            assert upstream.request_count == 2
            await client.idle(0, 0)

    run(main())


def test_after_a_garbled_answer_nothing_is_repeated(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream([ok_script(), raw(b"HTTP/1.1 200 OK\n\n")]) as upstream:
            client = Client(upstream.port)
            await client.fetch()
            assert (await failure(client)).kind == "malformed"
            assert upstream.request_count == 2
            await client.idle(0, 0)

    run(main())


@pytest.mark.parametrize("late", [False, True])
def test_a_connection_that_dies_late_had_the_request(run: Run, late: bool) -> None:
    async def main() -> None:
        client: Client | None = None

        def script_for(_: Request) -> Script:
            assert client is not None
            if upstream.request_count != 2:
                return ok_script()
            client.ns += STALE_WITHIN_NS + late
            return [Cut()]

        async with MockUpstream(script_for) as upstream:
            client = Client(upstream.port)
            await client.fetch()
            if late:
                assert (await failure(client)).kind == "closed"
                await client.idle(0, 0)
            else:
                await client.fetch()
                assert upstream.request_count == 3
                await client.idle(1, 1)
            await client.transport.close()

    run(main())


def ok_script() -> Script:
    return json_response(200, b'{"ok":1}')


# === Failures ===


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([Cut()], "closed"),
        ([Close()], "closed"),
        ([HalfClose(), Pause(0.05)], "closed"),
        ([Send(b"HTTP/1.1 200 OK\r\ncontent-le"), Cut(rst=False)], "truncated"),
        ([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"), Close()], "truncated"),
        ([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"), HalfClose(), Pause(0.05)], "truncated"),
        ([Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"), Close()], "truncated"),
        ([Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n")], "malformed"),
        ([Send(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n")], "malformed"),
        ([Send(b"hello\r\n\r\n")], "malformed"),
    ],
)  # fmt: skip
def test_a_failed_exchange_leaves_no_connection(run: Run, script: Script, kind: str) -> None:
    async def main() -> None:
        async with MockUpstream(lambda _: script) as upstream:
            client = Client(upstream.port)
            assert (await failure(client)).kind == kind
            await client.idle(0, 0)

    run(main())


@pytest.mark.parametrize("turns", range(8))
def test_a_departed_caller_leaves_no_connection(run: Run, turns: int) -> None:
    async def main() -> None:
        async with MockUpstream(lambda _: [Stall()]) as upstream:
            client = Client(upstream.port)
            task = asyncio.create_task(client.fetch())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.idle(0, 0)

    run(main())


def test_an_exchange_closed_early_drops_its_connection(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(lambda _: [*sse_response(["a"])[:-1], Stall()]) as upstream:
            client = Client(upstream.port)
            exchange = await client.send()
            await client.idle(1, 0)
            exchange.close()
            exchange.close()
            await client.idle(0, 0)

    run(main())


# === Large bodies ===


def test_a_large_body_waits_for_a_slow_reader(run: Run) -> None:
    body = bytes(range(256)) * (10 * MIB // 256)

    async def main() -> None:
        script = [ReadHead(), Pause(0.1), ReadRequest(), *json_response(200, {})]
        async with MockUpstream([script]) as upstream:
            client = Client(upstream.port)
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    for connection in client.pool._members:
                        most = max(most, connection.transport.get_write_buffer_size())
                    await asyncio.sleep(0.001)

            watcher = asyncio.create_task(watch())
            assert await client.fetch(body) == (200, b"{}")
            watcher.cancel()
            assert upstream.requests[0].body == body
            assert WRITE_PIECE_BYTES / 4 < most <= 2 * WRITE_PIECE_BYTES
            assert client.ctx.progress >= 10 * MIB // WRITE_PIECE_BYTES
            await client.idle(1, 1)
            await client.transport.close()

    run(main())


@pytest.mark.parametrize(
    "size", [WRITE_PIECE_BYTES - 1, WRITE_PIECE_BYTES, WRITE_PIECE_BYTES + 1, 2 * WRITE_PIECE_BYTES]
)
def test_bodies_around_the_size_of_a_piece(run: Run, size: int) -> None:
    async def main() -> None:
        async with MockUpstream(ok) as upstream:
            client = Client(upstream.port)
            body = b"x" * size
            for _ in range(2):
                await client.fetch(body)
            assert [request.body for request in upstream.requests] == [body, body]
            assert upstream.connections == 1
            await client.transport.close()

    run(main())


REFUSAL = response_head(413, [(b"content-length", b"3")]) + b"big"


@pytest.mark.parametrize("end", [[Stall()], [HalfClose(), Stall()]], ids=["open", "half-closed"])
def test_an_early_answer_ends_the_upload(run: Run, end: Script) -> None:
    """The provider does not read the rest: waiting for that would be waiting for the deadline."""

    async def main() -> None:
        async with MockUpstream([[ReadHead(), Send(REFUSAL), *end]]) as upstream:
            client = Client(upstream.port)
            async with asyncio.timeout(5):
                assert await client.fetch(b"x" * 20 * MIB) == (413, b"big")
            await client.idle(0, 0)

    run(main())


@pytest.mark.parametrize("rst", [False, True])
def test_an_early_answer_and_a_closed_connection(run: Run, rst: bool) -> None:
    async def main() -> None:
        async with MockUpstream([[ReadHead(), Send(REFUSAL), Cut(rst=rst)]]) as upstream:
            client = Client(upstream.port)
            [got] = await asyncio.gather(client.fetch(b"x" * 20 * MIB), return_exceptions=True)
            if isinstance(got, UpstreamError):
                assert got.kind in ("closed", "truncated")  # a reset destroys what was not read yet
            else:
                assert got == (413, b"big")
            await client.idle(0, 0)

    run(main())


def test_a_provider_that_half_closes_during_an_upload(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream([[ReadHead(), HalfClose(), Stall()]]) as upstream:
            client = Client(upstream.port)
            async with asyncio.timeout(5):
                assert (await failure(client, b"x" * 20 * MIB)).kind == "closed"
            await client.idle(0, 0)

    run(main())


@pytest.mark.parametrize("how", ["length", "chunked", "until close"])
def test_a_large_answer_waits_for_a_slow_reader(run: Run, how: str) -> None:
    size = 12 * MIB
    fields = {
        "length": [(b"content-length", b"%d" % size)],
        "chunked": [(b"transfer-encoding", b"chunked")],
        "until close": [(b"connection", b"close")],
    }[how]
    piece = b"y" * MIB
    steps = [Send(chunk(piece) if how == "chunked" else piece) for _ in range(12)]
    end = {"length": [], "chunked": [Send(b"0\r\n\r\n")], "until close": [Close()]}[how]

    async def main() -> None:
        async with MockUpstream(lambda _: [Send(response_head(200, fields)), *steps, *end]) as upstream:
            client = Client(upstream.port)
            exchange = await client.send()
            await asyncio.sleep(0.2)
            got = len(exchange.read())
            assert got <= HIGH_WATER + READ_BUFFER_BYTES * 4
            while not exchange.complete:
                await exchange.wait()
                got += len(exchange.read())
            got += len(exchange.read())
            assert got == size
            exchange.close()
            await client.idle(*((0, 0) if how == "until close" else (1, 1)))
            await client.transport.close()

    run(main())


def test_an_answer_in_many_segments(run: Run) -> None:
    answer = response_head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"hello") + chunk(b"!") + b"0\r\n\r\n"

    async def main() -> None:
        async with MockUpstream(lambda _: [TrickleSend(answer, (1,), 0)]) as upstream:
            client = Client(upstream.port)
            for _ in range(2):
                assert await client.fetch() == (200, b"hello!")
            await client.idle(1, 1)
            await client.transport.close()

    run(main())


def test_a_reset_is_no_end_of_an_answer(run: Run) -> None:
    script = [Send(response_head(200, [(b"connection", b"close")]) + b"hello"), Pause(0.05), Cut()]

    async def main() -> None:
        async with MockUpstream([script]) as upstream:
            client = Client(upstream.port)
            assert (await failure(client)).kind == "truncated"
            await client.idle(0, 0)

    run(main())


# === TLS ===

LENGTH = response_head(200, [(b"content-length", b"9")]) + b"hello"
CHUNKS = response_head(200, [(b"transfer-encoding", b"chunked")]) + chunk(b"hello")
UNTIL_CLOSE = response_head(200, [(b"connection", b"close")]) + b"hello"


@pytest.mark.parametrize("end", [Close(), Cut(rst=False), Cut()], ids=["close_notify", "fin", "reset"])
@pytest.mark.parametrize("answer", [LENGTH, CHUNKS, UNTIL_CLOSE], ids=["length", "chunks", "until-close"])
def test_a_cut_under_tls_is_never_taken_for_the_end(run: Run, answer: bytes, end: Any) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def main() -> None:
        async with MockUpstream([[Send(answer), Pause(0.05), end]], ssl_context=server) as upstream:
            client = Client(upstream.port, tls=trusting)
            if answer == UNTIL_CLOSE and end == Close():
                assert await client.fetch() == (200, b"hello")
            elif answer == UNTIL_CLOSE and end == Cut(rst=False) and not isinstance(client.pool._loop, uvloop.Loop):
                await client.fetch()  # asyncio's TLS does not tell a bare FIN from close_notify; uvloop's does
            else:
                assert (await failure(client)).kind == "truncated"
            await client.idle(0, 0)

    run(main())
