"""The pool against a scripted upstream, on both event loops, with both halves of h1; after each nothing is left."""

import asyncio
import gc
import ssl
import weakref
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import pytest
import trustme
import uvloop

from fastroute._core._h1_errors import READ_BUFFER_BYTES, UpstreamError
from fastroute.upstream import pool as pool_module
from fastroute.upstream.mock import Cut, MockUpstream, Request, Script, Send, Stall, json_response
from fastroute.upstream.pool import IDLE_NS, Origin, Pool
from tests.unit.core.twins import twins

Run = Callable[[Coroutine[Any, Any, None]], None]
HEAD = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"


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


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 1_000

    def __call__(self) -> int:
        return self.ns


def make_pool(port: int, most: int = 8, tls: ssl.SSLContext | None = None, clock: Clock | None = None) -> Pool:
    """Return a pool of the running loop, for 127.0.0.1."""
    loop = asyncio.get_running_loop()
    return Pool(loop, Origin("127.0.0.1", port, tls), bytearray(READ_BUFFER_BYTES), clock or Clock(), most)


def always_ok(_: Request) -> Script:
    return json_response(200, {})


async def exchange(connection: Any) -> bytes:
    """Run one exchange to its end and give the connection back."""
    connection.start(HEAD)
    while not connection.complete:
        await connection.wait()
    body: bytes = connection.read()
    connection.close()
    return body


async def settle(turns: int = 5) -> None:
    """Let everything happen that is about to."""
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)


def shown(pool: Pool, live: int, idle: int, waiting: int = 0) -> None:
    scheme = "https" if pool._origin.tls else "http"
    origin = f"{scheme}://127.0.0.1:{pool._origin.port}"
    assert repr(pool) == f"<Pool {origin} live={live} idle={idle} waiting={waiting}>"


def test_a_connection_is_used_again(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port)
            assert pool.take() is None
            connection = await pool.open()
            shown(pool, live=1, idle=0)
            assert await exchange(connection) == b"{}"
            shown(pool, live=1, idle=1)
            assert pool.take() is connection
            assert pool.take() is None
            await exchange(connection)
            assert connection.reused
            await pool.close()
            await settle()
            shown(pool, live=0, idle=0)
            assert (upstream.connections, upstream.protocol_errors) == (1, [])

    run(main())


def test_the_connection_used_last_is_used_next(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port)
            first, second, third = [await pool.open() for _ in range(3)]
            for connection in (second, third, first):
                await exchange(connection)
            shown(pool, live=3, idle=3)
            assert [pool.take(), pool.take(), pool.take(), pool.take()] == [first, third, second, None]
            for connection in (first, second, third):
                connection.abort()
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


def test_at_the_limit_requests_queue_and_are_served_in_turn(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=2)
            first, second = await pool.open(), await pool.open()
            order: list[int] = []

            async def one(number: int) -> Any:
                connection = await pool.open()
                order.append(number)
                return connection

            tasks = [asyncio.create_task(one(number)) for number in range(4)]
            await settle()
            shown(pool, live=2, idle=0, waiting=4)
            for connection in (second, first, second, first):
                await exchange(connection)
                await settle()
            assert order == [0, 1, 2, 3]
            assert [await task for task in tasks] == [second, first, second, first]
            shown(pool, live=2, idle=0)
            for connection in (first, second):
                await exchange(connection)
            await pool.close()
            await settle()
            shown(pool, live=0, idle=0)
            assert upstream.connections == 2

    run(main())


def test_a_connection_that_ends_lets_the_next_in_line_dial(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=1)
            first = await pool.open()
            tasks = [asyncio.create_task(pool.open()) for _ in range(2)]
            await settle()
            first.start(HEAD)
            first.abort()
            first.close()
            await settle()
            shown(pool, live=1, idle=0, waiting=1)
            second = await tasks[0]
            assert second is not first
            second.abort()
            await settle()
            (await tasks[1]).abort()
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


@pytest.mark.parametrize("moment", ["queued", "handed a connection", "told to dial"])
def test_a_waiter_that_gives_up_loses_nothing(run: Run, moment: str) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=1)
            first = await pool.open()
            gone, stays = (asyncio.create_task(pool.open()) for _ in range(2))
            await settle()
            shown(pool, live=1, idle=0, waiting=2)
            if moment == "queued":
                gone.cancel()
                await settle()
                shown(pool, live=1, idle=0, waiting=1)
                await exchange(first)
            elif moment == "handed a connection":
                await exchange(first)
                gone.cancel()
            else:
                first.abort()
                pool.connection_closed(first)
                gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            second = await stays
            assert (second is first) is (moment != "told to dial")
            shown(pool, live=1, idle=0)
            await exchange(second)
            shown(pool, live=1, idle=1)
            await pool.close()
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


def test_all_waiters_give_up_and_the_connection_becomes_idle(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=1)
            first = await pool.open()
            tasks = [asyncio.create_task(pool.open()) for _ in range(3)]
            await settle()
            await exchange(first)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            shown(pool, live=1, idle=1)
            await pool.close()

    run(main())


def test_a_full_queue_refuses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_WAITERS", 2)

    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=1)
            first = await pool.open()
            tasks = [asyncio.create_task(pool.open()) for _ in range(2)]
            await settle()
            with pytest.raises(UpstreamError) as caught:
                await pool.open()
            assert (caught.value.kind, caught.value.sent) == ("overflow", False)
            await pool.close()
            for task in tasks:
                with pytest.raises(UpstreamError) as caught:
                    await task
                assert caught.value.sent is False
            shown(pool, live=1, idle=0)
            first.abort()
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


def test_a_shutdown_does_not_hide_a_cancellation(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=1)
            first = await pool.open()
            task = asyncio.create_task(pool.open())
            await settle()
            await pool.close()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            first.abort()
            await settle()

    run(main())


@pytest.mark.parametrize("rst", [False, True])
def test_a_connection_that_the_peer_closes_while_idle_is_forgotten(run: Run, rst: bool) -> None:
    async def main() -> None:
        async with MockUpstream(lambda _: [*json_response(200, {}), Cut(rst=rst)]) as upstream:
            pool = make_pool(upstream.port)
            await exchange(await pool.open())
            await asyncio.sleep(0.05)
            assert pool.take() is None
            shown(pool, live=0, idle=0)
            await exchange(await pool.open())
            await pool.close()

    run(main())


def test_an_answer_that_says_close_is_not_kept(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(lambda _: json_response(200, {}, [(b"connection", b"close")])) as upstream:
            pool = make_pool(upstream.port)
            await exchange(await pool.open())
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


def test_connections_idle_for_too_long_are_swept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SWEEP_S", 0.01)

    async def main() -> None:
        clock = Clock()
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, clock=clock)
            old, new = await pool.open(), await pool.open()
            await exchange(old)
            clock.ns += IDLE_NS - 1
            await exchange(new)
            await asyncio.sleep(0.05)
            shown(pool, live=2, idle=2)
            clock.ns += 1
            await asyncio.sleep(0.05)
            shown(pool, live=1, idle=1)
            assert old.closed
            assert pool.take() is new
            await exchange(new)
            clock.ns += IDLE_NS
            await asyncio.sleep(0.05)
            shown(pool, live=0, idle=0)
            assert pool._sweeper is None  # with nothing idle no timer runs
            await pool.close()

    run(main())


def test_after_close_nothing_is_kept(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port)
            idle, used = await pool.open(), await pool.open()
            await exchange(idle)
            await pool.close()
            await pool.close()
            await settle()
            shown(pool, live=1, idle=0)
            await exchange(used)
            await settle()
            shown(pool, live=0, idle=0)
            assert pool._sweeper is None

    run(main())


# === Dialling ===


def test_a_refused_connection(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            port = upstream.port
        pool = make_pool(port, most=1)
        tasks = [asyncio.create_task(pool.open()) for _ in range(3)]  # each makes room for the next
        for task in tasks:
            with pytest.raises(UpstreamError) as caught:
                await task
            assert (caught.value.kind, caught.value.sent) == ("connect", False)
        shown(pool, live=0, idle=0)

    run(main())


def test_dialling_can_be_given_up_at_any_moment(run: Run) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok) as upstream:
            pool = make_pool(upstream.port, most=1)
            for turns in range(12):
                task = asyncio.create_task(pool.open())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    (await task).abort()
                except asyncio.CancelledError:
                    pass
                await settle()
                shown(pool, live=0, idle=0)

    run(main())


def test_a_connection_that_is_lost_while_it_is_made_does_not_count() -> None:
    """With TLS the peer's end can arrive in the same turn of the loop as the last of its handshake."""

    class Loop:
        def create_future(self) -> Any:
            return asyncio.get_running_loop().create_future()

        async def create_connection(self, factory: Callable[[], Any], *_: Any, **__: Any) -> Any:
            connection = factory()
            connection.connection_made(None)
            connection.connection_lost(None)
            return None, connection

    async def main() -> None:
        loop: Any = Loop()
        pool = Pool(loop, Origin("127.0.0.1", 1, None), bytearray(10), Clock(), 1)
        for _ in range(2):  # the second would wait for ever if the first still counted
            with pytest.raises(UpstreamError):
                (await asyncio.wait_for(pool.open(), 1)).start(HEAD)
        shown(pool, live=0, idle=0)

    asyncio.run(main())


# === TLS ===


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls(run: Run, authority: trustme.CA) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok, ssl_context=server_context(authority, "127.0.0.1")) as upstream:
            pool = make_pool(upstream.port, tls=client_context(authority))
            assert await exchange(await pool.open()) == b"{}"
            shown(pool, live=1, idle=1)
            connection = pool.take()
            assert connection is not None
            await exchange(connection)
            await pool.close()
            await asyncio.sleep(0.05)
            shown(pool, live=0, idle=0)

    run(main())


@pytest.mark.parametrize("by", ["us", "the peer"])
def test_what_tls_needs_is_freed_with_its_connection(run: Run, authority: trustme.CA, by: str) -> None:
    """Its buffers are large, and workers let the collector of cycles look for them only now and then."""
    headers = [(b"connection", b"close")] if by == "the peer" else []

    async def main() -> None:
        script = json_response(200, {}, headers)
        async with MockUpstream(lambda _: script, ssl_context=server_context(authority, "127.0.0.1")) as upstream:
            pool = make_pool(upstream.port, tls=client_context(authority))
            connection = await pool.open()
            left = weakref.ref(connection.transport.get_extra_info("ssl_object"))
            await exchange(connection)
            del connection
            await pool.close()
            while left() is not None:
                await asyncio.sleep(0.01)

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


@pytest.mark.parametrize("fault", ["another name", "another address", "unknown authority"])
def test_a_certificate_that_is_not_the_peers_is_refused(run: Run, authority: trustme.CA, fault: str) -> None:
    name = {"another name": "api.example.com", "another address": "127.0.0.2"}.get(fault, "127.0.0.1")
    trusted = trustme.CA() if fault == "unknown authority" else authority

    async def main() -> None:
        async with MockUpstream(always_ok, ssl_context=server_context(authority, name)) as upstream:
            pool = make_pool(upstream.port, most=1, tls=client_context(trusted))
            for _ in range(2):
                with pytest.raises(UpstreamError) as caught:
                    await pool.open()
                assert (caught.value.kind, caught.value.sent) == ("tls", False)
                assert "certificate" in caught.value.message
            await settle()
            shown(pool, live=0, idle=0)
            assert upstream.request_count == 0

    run(main())


def test_a_peer_that_does_not_speak_tls(run: Run, authority: trustme.CA) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok, on_connect=[Send(b"220 ready\r\n")]) as upstream:
            pool = make_pool(upstream.port, tls=client_context(authority))
            with pytest.raises(UpstreamError) as caught:
                await pool.open()
            assert (caught.value.kind, caught.value.sent) == ("tls", False)
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


def test_a_handshake_that_stalls(run: Run, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "HANDSHAKE_TIMEOUT_S", 0.1)

    async def main() -> None:
        async with MockUpstream(always_ok, on_connect=[Stall()]) as upstream:
            pool = make_pool(upstream.port, tls=client_context(authority))
            with pytest.raises(UpstreamError) as caught:
                await pool.open()
            assert (caught.value.kind, caught.value.sent) == ("tls", False)
            await settle()
            shown(pool, live=0, idle=0)

    run(main())


def test_a_handshake_can_be_given_up_at_any_moment(run: Run, authority: trustme.CA) -> None:
    async def main() -> None:
        async with MockUpstream(always_ok, ssl_context=server_context(authority, "127.0.0.1")) as upstream:
            pool = make_pool(upstream.port, most=1, tls=client_context(authority))
            for turns in range(0, 24, 2):
                task = asyncio.create_task(pool.open())
                for _ in range(turns):
                    await asyncio.sleep(0.0005)
                task.cancel()
                try:
                    (await task).abort()
                except asyncio.CancelledError:
                    pass
                await settle()
                shown(pool, live=0, idle=0)

    run(main())
