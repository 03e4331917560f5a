"""The direct lane: connections served by the worker's own event loop, with no threads between client and corridor.

Granian's threads cost a request five changes of thread. What is given up here to be rid of them is Granian's HTTP
parser; this one reads HTTP/1.1 strictly (`heads`, `body`), and nothing else.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from typing import Final, NamedTuple, cast

from fastroute.downstream.http1.connection import FULL_IDLE_S, IDLE_S, LAST_CALL_S, LAST_IDLE_S, Connection
from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.heads import HeadTable
from fastroute.errors import GatewayError
from fastroute.interfaces import Header
from fastroute.outgoing import Outbox

log = logging.getLogger("fastroute")

TICK_S: Final = 1.0

#: Returns (status, headers, body) of the answer to what is no request; of that, its path is known, or b"".
Refuse = Callable[[GatewayError, bytes], tuple[int, list[Header], bytes]]


class LaneLimits(NamedTuple):
    """What one connection, or all of them, may use. Bytes, seconds, bytes per second, counts."""

    max_connections: int
    max_head_bytes: int
    header_timeout_s: float
    write_timeout_s: float
    min_body_rate: int


class DirectListener:
    """Serves an application in the running event loop until `stop`; then requests under way are finished."""

    def __init__(
        self,
        application: Callable[[Exchange], Awaitable[None]],
        sock: socket.socket,
        limits: LaneLimits,
        *,
        backlog: int,
        wall_ns: Callable[[], int],
        outbox: Outbox,
        refuse: Refuse,
    ) -> None:
        """outbox: of the loop that it will serve in."""
        self.outbox = outbox
        self.application = application
        self.refuse = refuse
        self.heads = HeadTable()
        self.max_head_bytes = limits.max_head_bytes
        self.header_timeout_s = limits.header_timeout_s
        self.write_timeout_s = limits.write_timeout_s
        self.min_body_rate = limits.min_body_rate
        self._max_connections = limits.max_connections
        self._socket = sock
        self._backlog = backlog
        self._wall = wall_ns
        self._connections: set[Connection] = set()
        self._server: asyncio.AbstractServer | None = None
        self._opening: asyncio.Task[None] | None = None
        #: Connections that the kernel had accepted when it stopped.
        self._entering: set[asyncio.Task[object]] = set()
        self._last_call_over = False
        self._ended: asyncio.Future[None] | None = None
        #: Seconds since the start: what stands still is measured in these.
        self.tick = 0
        self.stopping = False
        self.idle_s = IDLE_S
        self.date_line = b""
        #: What is to be awaited where there is nothing to wait for.
        self.done = asyncio.get_running_loop().create_future()
        self.done.set_result(None)

    async def serve(self) -> None:
        """Serve; returns once `stop` was called and every connection is finished."""
        self._ended = asyncio.get_running_loop().create_future()
        timer = asyncio.create_task(self._keep_time())
        try:
            if not self.stopping:
                await self._open()
            self._check_end()
            await self._ended
        finally:
            timer.cancel()

    def stop(self) -> None:
        """Accept no more but those who wait for it already."""
        self.stopping = True
        self._shut()
        self._let_in_the_last()
        self._socket.close()
        asyncio.get_running_loop().call_later(LAST_CALL_S, self._end_last_call)

    def _protocol(self, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
        """Return what speaks with a new client. It is a protocol in all but its descent."""
        return cast(asyncio.Protocol, Connection(self, loop))

    def _let_in_the_last(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._connections) + len(self._entering) < self._max_connections:
            try:
                sock, _ = self._socket.accept()
            except OSError:  # nobody is left, or no descriptors are
                return
            entering: asyncio.Task[object] = loop.create_task(
                loop.connect_accepted_socket(partial(self._protocol, loop), sock)
            )
            self._entering.add(entering)
            entering.add_done_callback(self._entered)

    def _entered(self, entering: asyncio.Task[object]) -> None:
        self._entering.discard(entering)
        if not entering.cancelled() and (error := entering.exception()) is not None:
            log.error("cannot serve a connection: %s", error)
        self._check_end()

    def _end_last_call(self) -> None:
        self._last_call_over = True
        for connection in list(self._connections):
            connection.stop()
        self._check_end()

    def enter(self, connection: Connection) -> None:
        """Count a new connection. With as many as there may be, more wait in the kernel's queue."""
        self._connections.add(connection)
        if len(self._connections) >= self._max_connections:
            self._shut()

    def leave(self, connection: Connection) -> None:
        """Count a connection no more."""
        self._connections.discard(connection)
        if self.stopping:
            self._check_end()
        else:
            self._open_again()

    def _open_again(self) -> None:
        if self._server is None and self._opening is None and len(self._connections) < self._max_connections:
            self._opening = asyncio.get_running_loop().create_task(self._open())

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            # A server closes its socket when it stops accepting; ours is for the next one too.
            server = await loop.create_server(
                partial(self._protocol, loop), sock=self._socket.dup(), backlog=self._backlog
            )
        except OSError as error:
            if self.stopping:
                # Its socket was closed before its turn came.
                return
            # Out of descriptors: the next tick tries again.
            log.error("cannot accept connections: %s", error.strerror or error)
            return
        finally:
            self._opening = None
        self._server = server
        if self.stopping or len(self._connections) >= self._max_connections:
            self._shut()

    def _check_end(self) -> None:
        left = self._connections or self._entering
        if self._last_call_over and not left and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _may_be_idle_s(self) -> int:
        if self._last_call_over:
            # Those that were idle when it began to stop have ended; one that was just being accepted is found so.
            return LAST_IDLE_S
        return FULL_IDLE_S if len(self._connections) >= self._max_connections else IDLE_S

    async def _keep_time(self) -> None:
        while True:
            self.date_line = b"date: " + formatdate(self._wall() / 1e9, usegmt=True).encode() + b"\r\n"
            await asyncio.sleep(TICK_S)
            self.tick += 1
            self.idle_s = self._may_be_idle_s()
            for connection in list(self._connections):
                connection.check(self.tick)
            if not self.stopping:
                self._open_again()
