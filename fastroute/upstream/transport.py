"""The fast transport: HTTP/1.1 over the compiled client, from a keep-alive pool."""

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from fastroute._core.h1 import Connection, UpstreamError
from fastroute.context import CONNECT, FIRST_BYTE, Context
from fastroute.interfaces import Exchange
from fastroute.upstream.pool import Pool

#: A body larger than this is written in pieces of this size, waiting for the transport in between.
WRITE_PIECE_BYTES: Final = 262_144

#: Head and body of a request up to this size are sent as one.
JOIN_BYTES: Final = 65_536

#: A kept-alive connection that is closed without a byte of answer within this time of sending was most likely closed
#: by the peer while idle, as the request was on its way; later than that the peer had the request and died of it.
STALE_WITHIN_NS: Final = 1_000_000_000

#: Lines for the lengths of bodies below this are kept once they are made.
_MAX_KNOWN_LENGTH: Final = 16_384


class UpstreamRequest(msgspec.Struct, frozen=True, gc=False):
    """One request to an endpoint.

    start: request line and our own fields; lines: the client's fields that may cross; extra: defaults the client did
    not send. Each is a sequence of complete lines.
    """

    target: bytes
    start: bytes
    lines: bytes
    extra: bytes
    body: bytes
    connect_ns: int
    first_byte_ns: int


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
        self._lengths: dict[int, bytes] = {}

    async def send(self, request: UpstreamRequest, ctx: Context) -> Exchange:
        """Send a request and return the exchange once the head of its answer is there. Raises UpstreamError."""
        monotonic_ns = self._now
        connection = self._pool.take()
        # A connection that was kept alive may have been closed by its peer while the request was on its way.
        reused_at = None if connection is None else monotonic_ns()
        while True:
            if connection is None:
                ctx.enter(CONNECT, request.connect_ns)
                connection = await self._pool.open()
            try:
                ctx.enter(FIRST_BYTE, request.first_byte_ns)
                body = request.body
                size = len(body)
                lines = (request.start, request.lines, request.extra, self._length(size))
                if size <= JOIN_BYTES:
                    connection.start(b"".join((*lines, body)))
                elif size <= WRITE_PIECE_BYTES:
                    connection.start(b"".join(lines), body)
                else:
                    await self._write_pieces(connection, b"".join(lines), body, ctx)
                if not connection.status:
                    await connection.wait()
                return connection
            except BaseException as error:
                # Whatever it was - an error, the client's departure, a deadline - the connection is in mid-exchange.
                stale = isinstance(error, UpstreamError) and error.kind == "closed" and not connection.answered
                connection.abort()
                connection.close()
                if not stale or reused_at is None or self._now() - reused_at > STALE_WITHIN_NS:
                    raise
            connection = reused_at = None

    def _length(self, size: int) -> bytes:
        """Return the field that declares the length of a body, and the end of the head."""
        line = self._lengths.get(size)
        if line is None:
            line = b"content-length: %d\r\n\r\n" % size
            if size < _MAX_KNOWN_LENGTH:
                self._lengths[size] = line
        return line

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
