import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from fastroute.downstream.http1 import listener as listeners
from fastroute.downstream.http1.connection import FULL_IDLE_S, IDLE_S
from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.listener import DirectListener, LaneLimits
from fastroute.downstream.listener import open_socket
from fastroute.outgoing import Outbox

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"


class Stage:
    """A listener on a port of its own; requests wait for `go`."""

    def __init__(self, max_connections: int = 100) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.socket = open_socket("127.0.0.1", 0, 100)
        self.port = self.socket.getsockname()[1]
        limits = LaneLimits(max_connections, 4096, 5, 5, 0)
        outbox = Outbox(asyncio.get_running_loop())
        self.listener = DirectListener(
            self._answer,
            self.socket,
            limits,
            backlog=100,
            wall_ns=lambda: 10**18,
            outbox=outbox,
            refuse=lambda error, path: (error.status, [], b""),
        )
        self.serving = asyncio.create_task(self.listener.serve())

    async def _answer(self, exchange: Exchange) -> None:
        await self.go.wait()
        await exchange.respond(200, [], b"ok")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def ask(link: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    reader, writer = link
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2) == b"ok"
    return head


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    def run_it(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(test(), 20))

    return run_it


def test_it_serves_and_ends(run: Any) -> None:
    async def test() -> None:
        stage = Stage()
        link = await stage.connect()
        assert b"date: Sun, 09 Sep 2001 01:46:40 GMT\r\n" in await ask(link)
        await ask(link)
        stage.listener.stop()
        assert await link[0].read() == b""
        await stage.serving
        link[1].close()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            socket.create_connection(("127.0.0.1", stage.port), 1)

    run(test)


def test_requests_under_way_are_finished(run: Any) -> None:
    async def test() -> None:
        stage = Stage()
        stage.go.clear()
        link = await stage.connect()
        link[1].write(GET)
        await asyncio.sleep(0.05)
        stage.listener.stop()
        await asyncio.sleep(0.05)
        assert not stage.serving.done()
        stage.go.set()
        answer = await link[0].read()
        assert answer.endswith(b"ok")
        assert b"connection: close" in answer
        await stage.serving
        link[1].close()

    run(test)


@pytest.fixture
def long_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test say itself when the last call is over, however slow the machine is."""
    monkeypatch.setattr(listeners, "LAST_CALL_S", 3600)


async def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the other side closes; a reset raises."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.usefixtures("long_call")
def test_who_waits_to_be_let_in_when_it_stops_is_served(run: Any) -> None:
    async def test() -> None:
        stage = Stage(max_connections=4)
        first = await stage.connect()
        await ask(first)
        # Nothing is awaited between these: the listener finds them all when it is told to stop.
        late = [socket.create_connection(("127.0.0.1", stage.port), 1) for _ in range(5)]
        for sock in late:
            sock.sendall(GET)
        stage.listener.stop()
        for sock in late[:3]:
            answer = await read_all(sock)
            assert (answer[:13], b"\r\nconnection: close\r\n" in answer) == (b"HTTP/1.1 200 ", True)
        for sock in late[3:]:  # for whom there was no room
            with pytest.raises(ConnectionResetError):
                await read_all(sock)
        stage.listener._end_last_call()
        assert await first[0].read() == b""
        first[1].close()
        await stage.serving

    run(test)


@pytest.mark.usefixtures("long_call")
def test_a_request_that_is_on_its_way_when_it_stops_is_served(run: Any) -> None:
    async def test() -> None:
        stage = Stage()
        link = await stage.connect()
        await ask(link)
        stage.listener.stop()
        assert b"\r\nconnection: close\r\n" in await ask(link)
        assert await link[0].read() == b""
        link[1].close()
        assert not stage.serving.done()
        stage.listener._end_last_call()
        await stage.serving

    run(test)


@pytest.mark.usefixtures("long_call")
def test_a_tick_during_the_last_call_ends_nobody(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "TICK_S", 0.01)

    async def test() -> None:
        stage = Stage()
        link = await stage.connect()
        await ask(link)
        while stage.listener.tick < 3:
            await asyncio.sleep(0.01)
        stage.listener.stop()
        while stage.listener.tick < 6:
            await asyncio.sleep(0.01)
        assert b"\r\nconnection: close\r\n" in await ask(link)
        link[1].close()
        stage.listener._end_last_call()
        await stage.serving

    run(test)


@pytest.mark.usefixtures("long_call")
@pytest.mark.parametrize("by", ["the last call", "a tick"])
def test_a_request_that_a_loop_which_was_held_up_has_not_read_is_served(run: Any, by: str) -> None:
    async def test() -> None:
        stage = Stage()
        link = socket.create_connection(("127.0.0.1", stage.port), 1)
        while not stage.listener._connections:
            await asyncio.sleep(0.01)
        [connection] = stage.listener._connections
        stage.listener.stop()
        # Nothing is awaited between these: timers that are due come before what can be read.
        link.sendall(GET)
        if by == "the last call":
            stage.listener._end_last_call()
        else:
            connection.check(10_000)
        answer = await read_all(link)
        assert (answer[:13], b"\r\nconnection: close\r\n" in answer) == (b"HTTP/1.1 200 ", True)
        stage.listener._end_last_call()
        await stage.serving

    run(test)


def test_no_more_connections_than_there_may_be(run: Any) -> None:
    async def test() -> None:
        stage = Stage(max_connections=2)
        first, second = await stage.connect(), await stage.connect()
        await ask(first)
        await ask(second)
        # The kernel takes more; nobody serves them until there is room.
        third = await stage.connect()
        waiting = asyncio.create_task(ask(third))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        first[1].close()
        await waiting
        stage.listener.stop()
        await stage.serving
        for _, writer in (second, third):
            writer.close()

    run(test)


def test_idle_ones_make_room_sooner_when_there_is_none(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "TICK_S", 0.01)

    async def test() -> None:
        stage = Stage(max_connections=2)
        first, second = await stage.connect(), await stage.connect()
        await ask(first)
        await ask(second)
        third = await stage.connect()
        waiting = asyncio.create_task(ask(third))
        assert await second[0].read() == b""
        await waiting
        assert FULL_IDLE_S < stage.listener.tick < IDLE_S
        stage.listener.stop()
        await stage.serving
        for link in (first, second, third):
            link[1].close()

    run(test)


def test_stopped_before_it_began(run: Any) -> None:
    async def test() -> None:
        stage = Stage()
        stage.listener.stop()
        await stage.serving

    run(test)


def test_stopped_in_the_moment_of_opening_again(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        stage = Stage(max_connections=1)
        link = await stage.connect()
        await ask(link)
        [connection] = stage.listener._connections
        stage.listener.leave(connection)
        stage.listener.stop()
        link[1].close()
        await stage.serving
        await asyncio.sleep(0.01)

    run(test)
    assert caplog.text == ""
