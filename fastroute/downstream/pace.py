"""Pacing of fast streams: pieces that come within a millisecond of each other leave together.

A model's tokens are some ten milliseconds apart and are passed on at once. A provider that sends faster than that -
from a cache, or after a stall - would cost a wake-up, a metering call and a send for every piece; waiting for up to one
tick turns a burst into a few of each. One timer serves all streams of a worker.
"""

import asyncio
from typing import Final

#: Two pieces of one stream closer than this are a burst.
BURST_NS: Final = 1_000_000
_TICK_S: Final = 0.001


class Pace:
    """One tick for all streams of an event loop, running only while somebody waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []

    def tick(self) -> "asyncio.Future[None]":
        """Return a future that is done at the next tick."""
        future = self._loop.create_future()
        if not self._waiting:
            self._loop.call_later(_TICK_S, self._wake)
        self._waiting.append(future)
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
