"""Keep-alive pool of one origin: the warmest connection first, a bounded number, a bounded queue for them."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from fastroute._core.h1 import Connection, UpstreamError
from fastroute.outgoing import Outbox
from fastroute.upstream.headers import RESPONSE_DROP

#: Idle connections are closed after this long: below the 60 s and more that providers and their load balancers allow.
IDLE_NS: Final = 50_000_000_000
SWEEP_S: Final = 10.0
MAX_WAITERS: Final = 4096
HANDSHAKE_TIMEOUT_S: Final = 30.0


class Origin(NamedTuple):
    """Where to connect. tls: None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Pool:
    """Connections to one origin, for one event loop. `live` counts those dialled and not yet gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        buffer: bytearray,
        monotonic_ns: Callable[[], int],
        max_connections: int,
        outbox: Outbox | None = None,
    ) -> None:
        """outbox: of the loop; without one every connection writes for itself."""
        self._outbox = outbox
        self._loop = loop
        self._origin = origin
        self._buffer = buffer
        self._now = monotonic_ns
        self._max = max_connections
        self._idle: deque[tuple[int, Connection]] = deque()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._members: set[Connection] = set()
        self._dialling = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        scheme = "https" if self._origin.tls else "http"
        return (
            f"<Pool {scheme}://{self._origin.host}:{self._origin.port} live={self.live} idle={self.idle}"
            f" waiting={len(self._waiters)}>"
        )

    @property
    def live(self) -> int:
        """Return how many connections exist or are being dialled."""
        return len(self._members) + self._dialling

    @property
    def idle(self) -> int:
        """Return how many connections wait for a request."""
        return sum(1 for _, connection in self._idle if not connection.closed)

    def take(self) -> Connection | None:
        """Return an idle connection, the most recently used one first, or None."""
        while self._idle:
            _, connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def open(self) -> Connection:
        """Return a new connection, or, when there are as many as may be, the next that comes free.

        Raises UpstreamError: connect, tls, or overflow when too many requests wait already.
        """
        while self.live >= self._max:
            if len(self._waiters) >= MAX_WAITERS:
                raise UpstreamError("overflow", "too many requests wait for a connection", sent=False)
            waiter: asyncio.Future[Connection | None] = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                connection = await waiter
            except BaseException:
                self._forget(waiter)
                raise
            if connection is not None and not connection.closed:
                return connection
        return await self._dial()

    def give(self, connection: Connection) -> None:
        """Take a connection back; one that cannot serve another request is dropped."""
        if not connection.reusable or self._closed:
            connection.abort()
            self._dropped(connection)
            return
        connection.read()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append((self._now(), connection))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def connection_closed(self, connection: Connection) -> None:
        """Note that a transport is gone (called by the connection)."""
        self._dropped(connection)

    async def close(self) -> None:
        """Drop every idle connection; those in use are dropped when they are given back."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle.pop()[1].abort()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(UpstreamError("connect", "the gateway is shutting down", sent=False))

    async def _dial(self) -> Connection:
        self._dialling += 1
        host, port, tls = self._origin
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._loop, self._buffer, RESPONSE_DROP, self._outbox),
                host,
                port,
                ssl=tls,
                server_hostname=host if tls else None,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
            )
        except BaseException as error:  # noqa: BLE001 - cancellation too gives the slot back; all is raised again
            self._dialling -= 1
            self._wake_one()
            raise _dial_error(error, tls is not None) from None
        self._dialling -= 1
        if connection.closed:
            self._wake_one()
            raise UpstreamError("connect", "the connection was lost as it was made", sent=False)
        connection.owner = self
        self._members.add(connection)
        return connection

    def _dropped(self, connection: Connection) -> None:
        if connection in self._members:
            self._members.discard(connection)
            self._wake_one()

    def _wake_one(self) -> None:
        """Let one waiter dial, if there is room for it now."""
        while self._waiters and self.live < self._max:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _forget(self, waiter: "asyncio.Future[Connection | None]") -> None:
        """A waiter gave up; if it had been handed a connection at that moment, somebody else gets it."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            connection = waiter.result()
            if connection is not None:
                self.give(connection)
            else:
                self._wake_one()
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = self._now() - IDLE_NS
        while self._idle and (self._idle[0][0] <= oldest or self._idle[0][1].closed):
            self._idle.popleft()[1].abort()
        if self._idle:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)


def _dial_error(error: BaseException, tls: bool) -> BaseException:
    """Return what to raise for a failed dial; what is no failure of the network (cancellation) stays as it is."""
    if isinstance(error, ssl.SSLError):
        return UpstreamError("tls", _tls_message(error), sent=False)
    if tls and isinstance(error, ConnectionAbortedError):
        return UpstreamError("tls", "TLS failed: the handshake took too long", sent=False)
    if isinstance(error, OSError):
        return UpstreamError("connect", f"cannot connect: {error.strerror or 'failed'}", sent=False)
    return error


def _tls_message(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS certificate refused: {error.verify_message}"
    return f"TLS failed: {error.reason or 'handshake'}"
