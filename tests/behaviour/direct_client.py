"""The other way in beside `gateway_in_process.Client`: a connection of the direct lane with a transport in memory."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastroute.context import READ_BODY, Context
from fastroute.downstream.http1.connection import Connection
from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.listener import DirectListener, LaneLimits
from tests.behaviour.gateway_in_process import KEY, InProcess, Stepper
from tests.unit.downstream.http1.test_connection import Wire, read_answers, settle

#: A transport takes so much in one go, and asks for a pause when more than that is waiting.
SEGMENT_BYTES = 1 << 16
_FIELDS = b"host: gateway\r\nauthorization: Bearer " + KEY.encode() + b"\r\ncontent-type: application/json\r\n"


class DrainedWire(Wire):
    """A wire whose client takes what was sent a little later, and that tells the connection of its end.

    slowly: the client is behind after everything that is sent, not only after what is large.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, slowly: bool) -> None:
        super().__init__()
        self.connection: Connection | None = None
        self.pauses = 0
        self._paused = False
        self._lost = False
        self._loop = loop
        self._slowly = slowly

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self._paused and (self._slowly or len(data) > SEGMENT_BYTES):
            self._paused = True
            self.pauses += 1
            self.connection.pause_writing()  # type: ignore[union-attr]
            self._loop.call_later(0.0005, self._resume)

    def is_closing(self) -> bool:
        return self._lost or super().is_closing()

    def close(self) -> None:
        super().close()
        self._loop.call_soon(self.lose)

    def abort(self) -> None:
        super().abort()
        self._loop.call_soon(self.lose)

    def lose(self) -> None:
        """Lose the connection, once."""
        self.ended = self.ended or "lost"
        if not self._lost:
            self._lost = True
            self.connection.connection_lost(None)  # type: ignore[union-attr]

    def _resume(self) -> None:
        self._paused = False
        if not self._lost:
            self.connection.resume_writing()  # type: ignore[union-attr]


class Unopened(DirectListener):
    """A listener whose connections are made by hand."""

    def _open_again(self) -> None:
        """Do nothing: there is no socket."""


class DirectClient:
    """One client with one connection to a gateway in this event loop. at: called at each await of its request."""

    def __init__(self, inside: InProcess, *, slowly: bool, at: Callable[[int, Any], None]) -> None:
        loop = asyncio.get_running_loop()
        self._listener = Unopened(
            self._serve,
            None,  # type: ignore[arg-type]
            LaneLimits(10, 8192, header_timeout_s=5, write_timeout_s=5, min_body_rate=1),
            backlog=1,
            wall_ns=lambda: 0,
            outbox=inside.outbox,
            refuse=inside.gateway.reject,
        )
        self._inside = inside
        self._at = at
        self._over = asyncio.Event()
        self._exchange: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        self.wire = DrainedWire(loop, slowly=slowly)
        self.connection = self.wire.connection = Connection(self._listener, loop)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]

    async def _serve(self, exchange: Exchange) -> None:
        self.task, self._exchange = asyncio.current_task(), exchange
        try:
            await Stepper(self._inside.gateway.handle(exchange), self._step)
        finally:
            self._over.set()

    def _step(self, number: int, awaited: Any) -> None:
        ctx = self._inside.watch.last
        if ctx is not None and ctx.departure is None and ctx.phase != READ_BODY:
            # As for a request that has lived for a while.
            ctx.departure = asyncio.create_task(self._departed(ctx))
        self._at(number, awaited)

    async def _departed(self, ctx: Context) -> None:
        await self._inside.watch._watch_departure(ctx)

    def leave(self) -> None:
        """Leave at once, whatever is under way."""
        self.wire.lose()

    def end_input(self) -> None:
        """Close one's own side, as somebody does who will not read the answer either."""
        if not self.connection.eof:
            self.connection.eof_received()

    async def post(self, path: str, *pieces: bytes, length: bool) -> None:
        """Send a request as it comes in segments, and wait until it is over. length: it is announced."""
        self._over.clear()
        framing = b"content-length: %d" % sum(map(len, pieces)) if length else b"transfer-encoding: chunked"
        await self._send(b"POST " + path.encode() + b" HTTP/1.1\r\n" + _FIELDS + framing + b"\r\n\r\n")
        for piece in pieces:
            await self._send(piece if length else b"%x\r\n%b\r\n" % (len(piece), piece))
        if not length:
            await self._send(b"0\r\n\r\n")
        await self._over.wait()
        await settle()

    async def _send(self, data: bytes) -> None:
        for at in range(0, len(data), SEGMENT_BYTES):
            if self.wire.ended or self.connection.eof:
                return
            self.connection.data_received(data[at : at + SEGMENT_BYTES])
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    @property
    def finished(self) -> bool:
        """Return whether the last answer was sent whole, and whoever asked is still there."""
        return self._exchange is not None and self._exchange.finished and self.wire.ended != "lost"

    @property
    def may_go_on(self) -> bool:
        """Return whether the connection can be used for another request."""
        return self.wire.ended == "" and not self.connection.eof

    def statuses(self, requests: int) -> list[int]:
        """Return the statuses of so many whole answers; there are no others."""
        answers = read_answers(self.wire.sent, (b"POST",) * requests, closed=self.wire.ended != "")
        return [status for status, _, _ in answers]

    async def hang_up(self) -> list[str]:
        """Leave if it is still there; return what the connection keeps."""
        connection = self.connection
        # Before the loss of the connection wakes them.
        left = [f"waits: {waiter!r}" for waiter in connection._waiters if not waiter.done()]
        self.leave()
        await settle()
        left += [f"{name} is left" for name in ("exchange", "_task") if getattr(connection, name) is not None]
        left += [f"counted: {one!r}" for one in self._listener._connections]
        return left
