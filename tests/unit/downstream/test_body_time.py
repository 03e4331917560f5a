"""How long a body may take: each piece has its time, in either lane, and all of them have the request's."""

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any, Protocol

import pytest

from fastroute.context import Context
from fastroute.downstream.asgi import AsgiDownstream
from fastroute.downstream.http1.body import IncomingBody
from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.heads import CHUNKED, LENGTH, parse_head
from fastroute.downstream.lane import Downstream
from fastroute.downstream.request import Limits, RequestReader
from fastroute.downstream.watch import TICK_S, Watch

LIMIT_NS = 1_000_000_000
PIECES = [b"one", b"two", b"three", b"four"]


class Lane(Protocol):
    """A client that sends a body piece by piece."""

    downstream: Downstream

    def send(self, piece: bytes, more: bool) -> None: ...


class Direct:
    """Over the direct lane. As of a connection, only that somebody waits is of interest."""

    def __init__(self, framing: int) -> None:
        size = sum(map(len, PIECES))
        field = b"content-length: %d" % size if framing == LENGTH else b"transfer-encoding: chunked"
        head = parse_head(b"POST /a HTTP/1.1\r\nhost: h\r\n" + field + b"\r\n\r\n")
        self._framing = framing
        self._incoming = IncomingBody(framing, size)
        self.downstream: Any = Exchange(self, head, b"", -1, b"", self._incoming)  # type: ignore[arg-type]

    def expect(self, incoming: IncomingBody) -> None:
        assert incoming is self._incoming

    def send(self, piece: bytes, more: bool) -> None:
        if self._framing == CHUNKED:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece) + (b"" if more else b"0\r\n\r\n")
        self._incoming.feed(piece)


class Asgi:
    """Over ASGI."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        scope = {"method": "POST", "path": "/a", "raw_path": b"/a", "query_string": b"", "headers": []}
        self.downstream: Any = AsgiDownstream(scope, self._messages.get, None)  # type: ignore[arg-type]

    def send(self, piece: bytes, more: bool) -> None:
        self._messages.put_nowait({"type": "http.request", "body": piece, "more_body": more})


LANES: dict[str, Callable[[], Lane]] = {
    "length": lambda: Direct(LENGTH),
    "chunked": lambda: Direct(CHUNKED),
    "asgi": Asgi,
}


class Timers:
    """A loop whose one timer is called by a test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_task = loop.create_task
        self.call: Callable[[], None] | None = None

    def call_later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        assert delay_s == TICK_S
        self.call = call
        return None  # type: ignore[return-value]


class Reading:
    """A request whose body is awaited under the eyes of a watch, on a clock that only a test moves."""

    def __init__(self, lane: Lane, deadline_ns: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.now = 0
        self.lane = lane
        self.ctx = Context(None, lane.downstream, 1, "r", 0, 0, None)
        self.ctx.deadline_ns = deadline_ns
        self._timers = Timers(loop)
        self._watch = Watch(self._timers, lambda: self.now, lambda ctx: asyncio.sleep(0))  # type: ignore[arg-type]
        reader = RequestReader(Limits(1 << 20, 64, 8192, LIMIT_NS))

        async def read() -> bytes:
            body: bytes = await reader.expect(lane.downstream, self.ctx, -1)
            return body

        self.task = loop.create_task(read())
        self.ctx.task = self.task
        self._watch.enter(self.ctx)

    async def pass_time(self, step_ns: int) -> None:
        """Let the time pass, under the eyes of the watch; before that it looks at what has come."""
        end = self.now + step_ns
        while True:
            for _ in range(5):
                await asyncio.sleep(0)
            assert self._timers.call is not None
            self._timers.call()
            if self.now == end:
                return
            self.now = min(end, self.now + round(TICK_S * 1e9))

    def end(self) -> None:
        self._watch.leave(self.ctx)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.mark.parametrize("lane", LANES)
def test_each_piece_has_its_time(lane: str) -> None:
    async def test() -> None:
        reading = Reading(LANES[lane]())
        for at, piece in enumerate(PIECES):
            await reading.pass_time(LIMIT_NS - 1)
            assert reading.ctx.interrupted is None
            reading.lane.send(piece, at + 1 < len(PIECES))
        assert await reading.task == b"".join(PIECES)
        assert reading.now > 3 * LIMIT_NS
        reading.end()

    run(test)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("sent", [0, 1, 3])
def test_what_stands_still_is_given_up(lane: str, sent: int) -> None:
    async def test() -> None:
        reading = Reading(LANES[lane]())
        for piece in PIECES[:sent]:
            reading.lane.send(piece, True)
            await reading.pass_time(1)
        await reading.pass_time(LIMIT_NS)
        with pytest.raises(asyncio.CancelledError):
            await reading.task
        assert reading.ctx.interrupted == "read_body"
        reading.end()

    run(test)


@pytest.mark.parametrize("lane", LANES)
def test_no_body_has_longer_than_its_request(lane: str) -> None:
    async def test() -> None:
        reading = Reading(LANES[lane](), deadline_ns=2 * LIMIT_NS)
        for piece in PIECES[:2]:
            await reading.pass_time(LIMIT_NS - 1)
            reading.lane.send(piece, True)
        await reading.pass_time(2)
        with pytest.raises(asyncio.CancelledError):
            await reading.task
        assert reading.ctx.interrupted == "total"
        reading.end()

    run(test)
