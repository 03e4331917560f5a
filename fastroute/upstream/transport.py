"""The fast transport: HTTP/1.1 over the compiled client, from a keep-alive pool."""

from collections.abc import Callable
from typing import Final, Protocol

from fastroute._core.h1 import Connection, UpstreamError
from fastroute.context import CONNECT, FIRST_BYTE, Context
from fastroute.interfaces import Exchange
from fastroute.upstream.pool import Pool

#: A body larger than this is written in pieces of this size, waiting for the transport in between.
WRITE_PIECE_BYTES: Final = 262_144

#: A kept-alive connection that is closed without a byte of answer within this time of sending was most likely closed
#: by the peer while idle, as the request was on its way; later than that the peer had the request and died of it.
STALE_WITHIN_NS: Final = 1_000_000_000


class UpstreamRequest:
    """One request to an endpoint.

    start: request line and our own fields; lines: the client's fields that may cross; extra: defaults the client did
    not send. Each is a sequence of complete lines.
    """

    __slots__ = ("body", "connect_ns", "extra", "first_byte_ns", "lines", "start", "target")

    def __init__(
        self,
        target: bytes,
        start: bytes,
        lines: bytes,
        extra: bytes,
        body: bytes,
        connect_ns: int,
        first_byte_ns: int,
    ) -> None:
        self.target = target
        self.start = start
        self.lines = lines
        self.extra = extra
        self.body = body
        self.connect_ns = connect_ns
        self.first_byte_ns = first_byte_ns


class Transport(Protocol):
    """Sends requests to one origin."""

    async def send(self, request: UpstreamRequest, ctx: Context) -> Exchange:
        """Send a request and return the exchange once the head of its answer is there. Raises UpstreamError."""

    async def close(self) -> None:
        """Close idle connections and refuse new requests."""


class FastTransport:
    """One origin, by the compiled client."""

    def __init__(self, pool: Pool, monotonic_ns: Callable[[], int]) -> None:
        self._pool = pool
        self._now = monotonic_ns

    async def send(self, request: UpstreamRequest, ctx: Context) -> Exchange:
        """Send a request and return the exchange once the head of its answer is there. Raises UpstreamError."""
        connection = self._pool.take()
        if connection is not None:
            sent_ns = self._now()
            try:
                return await self._exchange(connection, request, ctx)
            except UpstreamError as error:
                stale = error.kind == "closed" and not connection.answered
                if not stale or self._now() - sent_ns > STALE_WITHIN_NS:
                    raise
        ctx.enter(CONNECT, request.connect_ns)
        return await self._exchange(await self._pool.open(), request, ctx)

    async def _exchange(self, connection: Connection, request: UpstreamRequest, ctx: Context) -> Exchange:
        body = request.body
        head = b"%b%b%bcontent-length: %d\r\n\r\n" % (request.start, request.lines, request.extra, len(body))
        try:
            ctx.enter(FIRST_BYTE, request.first_byte_ns)
            if len(body) <= WRITE_PIECE_BYTES:
                connection.start(head, body)
            else:
                await self._write_pieces(connection, head, body, ctx)
            if not connection.status:
                await connection.wait()
        except BaseException:
            # Whatever it was - an error, the client's departure, a deadline - this connection is in mid-exchange.
            connection.abort()
            connection.close()
            raise
        return connection

    async def _write_pieces(self, connection: Connection, head: bytes, body: bytes, ctx: Context) -> None:
        """Send a large body without filling the transport's buffer, until the provider answers early, if it does."""
        connection.start(head, partial=True)
        view = memoryview(body)
        for offset in range(0, len(body), WRITE_PIECE_BYTES):
            if connection.status:
                return
            last = offset + WRITE_PIECE_BYTES >= len(body)
            connection.write(view[offset : offset + WRITE_PIECE_BYTES], last)
            await connection.drain()
            ctx.progress += 1

    async def close(self) -> None:
        """Close idle connections and refuse new requests."""
        await self._pool.close()
