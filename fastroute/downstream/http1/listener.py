"""The direct lane: connections served by the worker's own event loop, with no threads between client and corridor.

Granian's threads cost a request five changes of thread. What is given up for them here is Granian's HTTP parser; this
one reads HTTP/1.1 strictly (`heads`, `body`), and nothing else.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final, NamedTuple

from fastroute.downstream.http1.connection import Connection
from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.heads import HeadTable

log = logging.getLogger("fastroute")

TICK_S: Final = 1.0


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
    ) -> None:
        self.application = application
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
        self._ended: asyncio.Future[None] | None = None
        #: Seconds since the start: what stands still is measured in these.
        self.tick = 0
        self.stopping = False
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
        """Accept no more."""
        self.stopping = True
        self._shut()
        self._socket.close()
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
                lambda: Connection(self, loop), sock=self._socket.dup(), backlog=self._backlog
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
        if self.stopping and not self._connections and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _keep_time(self) -> None:
        while True:
            self.date_line = b"date: " + formatdate(self._wall() / 1e9, usegmt=True).encode() + b"\r\n"
            await asyncio.sleep(TICK_S)
            self.tick += 1
            for connection in list(self._connections):
                connection.check(self.tick)
            if not self.stopping:
                self._open_again()
