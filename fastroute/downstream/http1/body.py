"""A request's body as it comes, where it does not come together with its head."""

import asyncio
from typing import Final

from fastroute._core.h1 import ChunkedDecoder, UpstreamError
from fastroute.downstream.http1.heads import BROKEN, CHUNKED

#: For how long nobody looks at how fast a body comes: a first window's worth may take its time.
RATE_GRACE_S: Final = 5


class IncomingBody:
    """The part of a body that has come. left: bytes that are still to come, -1 if that is not known.

    `broken`: it will never be complete, because its framing is wrong or its sender has left; `slow`: because it comes
    too slowly.
    """

    __slots__ = ("_decoder", "_kept", "_pieces", "_waiter", "began", "broken", "complete", "left", "size", "slow")

    def __init__(self, framing: int, length: int) -> None:
        self._decoder = ChunkedDecoder() if framing == CHUNKED else None
        self._pieces: list[bytes] = []
        self._kept = True
        self._waiter: asyncio.Future[None] | None = None
        self.left = -1 if framing == CHUNKED else length
        self.size = 0
        self.complete = False
        self.broken = framing == BROKEN
        self.slow = False
        #: When somebody began to wait for it, in ticks of the listener; -1: nobody has.
        self.began = -1

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; return what comes after it."""
        if self.broken:
            return b""
        if self._decoder is None:
            piece, rest = data[: self.left], data[self.left :]
            self.left -= len(piece)
            self.complete = not self.left
        else:
            try:
                piece, taken = self._decoder.feed(data)
            except UpstreamError:
                self.spoil()
                return b""
            rest = data[taken:]
            self.complete = self._decoder.done
        self.size += len(piece)
        if self._kept and piece:
            self._pieces.append(piece)
        self.wake()
        return rest

    def spoil(self) -> None:
        """Note that it will never be complete."""
        self.broken = True
        self.wake()

    def drop(self) -> None:
        """Forget it; what is still to come is thrown away."""
        self._kept = False
        self._pieces.clear()

    def take(self) -> bytes:
        """Return all of it."""
        return b"".join(self._pieces)

    async def wait(self) -> None:
        """Wait until more of it has come, or it is known that no more will."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def wake(self) -> None:
        """End a `wait`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def check_rate(self, tick: int, bytes_per_s: int) -> None:
        """Give up a body that somebody waits for and that comes more slowly than so. tick: seconds of the listener."""
        waited_s = tick - self.began
        if self.began >= 0 and waited_s > RATE_GRACE_S and self.size < (waited_s - RATE_GRACE_S) * bytes_per_s:
            self.slow = True
            self.wake()
