import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.listener import DirectListener, LaneLimits
from fastroute.downstream.listener import open_socket

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
        self.listener = DirectListener(self._answer, self.socket, limits, backlog=100, wall_ns=lambda: 10**18)
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
