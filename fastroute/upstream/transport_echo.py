"""The embedded `echo` provider as a transport: answers without a network, so that a first run works offline."""

import asyncio
from collections.abc import Callable

from fastroute._core.h1 import UpstreamError
from fastroute.context import FIRST_BYTE, Context
from fastroute.interfaces import Exchange, Header
from fastroute.upstream.echo import answer
from fastroute.upstream.transport import UpstreamRequest


class EchoExchange:
    """An answer that was made here; one chunk at a time, as if it came over the network."""

    __slots__ = ("_chunks", "_ready", "headers", "length", "status")

    error = None

    def __init__(self, status: int, headers: list[Header], chunks: list[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.length = sum(map(len, chunks)) if len(chunks) == 1 else -1
        self._chunks = chunks[::-1]
        self._ready = True

    @property
    def complete(self) -> bool:
        """Return whether everything has been read."""
        return not self._chunks

    def read(self) -> bytes:
        """Return the next chunk."""
        if not self._ready and self.length < 0:
            return b""
        self._ready = False
        return self._chunks.pop() if self._chunks else b""

    async def wait(self) -> None:
        """Let others run, then have the next chunk ready."""
        await asyncio.sleep(0)
        self._ready = True

    def close(self) -> None:
        """Nothing is held."""


class EchoTransport:
    """Speaks whichever dialect the request is in."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns

    async def send(self, request: UpstreamRequest, ctx: Context) -> Exchange:
        """Answer a request."""
        ctx.enter(FIRST_BYTE, request.first_byte_ns)
        reply = answer(
            ctx.operation.dialect,
            ctx.operation.name,
            ctx.model,
            request.body,
            ctx.stream,
            wall_s=self._wall_ns() // 1_000_000_000,
            ident=ctx.request_id,
            alt_sse=b"alt=sse" in ctx.query,
        )
        if not reply.chunks:
            raise UpstreamError("malformed", "the echo provider has nothing to say", sent=False)
        return EchoExchange(reply.status, reply.headers, reply.chunks)

    async def close(self) -> None:
        """Nothing is held."""
