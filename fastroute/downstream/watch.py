"""The watch: one timer per worker that enforces the deadlines of all its requests and notices departed clients.

A timer, and a watcher for the client's departure, cost more than relaying a small answer does. So there is one tick for
the whole worker, and a request gets its own departure watcher only once it has lived for `ARM_AFTER_NS`; by then it
waits for its provider, not for us. Deadlines are exact to one tick.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastroute.context import CLIENT_GONE, DRAIN, READ_BODY, TOTAL, Context

TICK_S: Final = 0.05
_TICK_NS: Final = 50_000_000
ARM_AFTER_NS: Final = 150_000_000
#: A tick that is later than this found the worker standing still, or stopped.
STILL_NS: Final = 250_000_000


class Watch:
    """Deadlines and departures of the requests in flight in one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        monotonic_ns: Callable[[], int],
        departed: Callable[[Context], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._now = monotonic_ns
        self._departed = departed
        self._active: set[Context] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._forgave = False

    def __len__(self) -> int:
        return len(self._active)

    def enter(self, ctx: Context) -> None:
        """Begin to watch a request."""
        self._active.add(ctx)
        if self._timer is None:
            self._wait()

    def leave(self, ctx: Context) -> None:
        """End watching a request; also its departure watcher."""
        self._active.discard(ctx)
        if ctx.departure is not None:
            ctx.departure.cancel()
            ctx.departure = None

    def snapshots(self) -> set[int]:
        """Return the generations of the snapshots that requests in flight began with."""
        return {ctx.snapshot.generation for ctx in self._active}

    def drain(self) -> None:
        """Interrupt every request that is still in flight: the grace time is over."""
        for ctx in list(self._active):
            ctx.interrupt(DRAIN)

    def _tick(self) -> None:
        if not self._active:
            self._timer = None
            return
        late_ns = self._now() - self._due_ns
        self._wait()
        if late_ns > STILL_NS:
            # What has come meanwhile was not read: it was not they who were late.
            for ctx in self._active:
                ctx.marked_ns += late_ns
            self._forgave = not self._forgave
            if self._forgave:
                return
        now = self._now()
        for ctx in list(self._active):
            self._check(ctx, now)

    def _wait(self) -> None:
        self._due_ns = self._now() + _TICK_NS
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def _check(self, ctx: Context, now: int) -> None:
        if ctx.progress != ctx.seen_progress:
            ctx.seen_progress = ctx.progress
            ctx.marked_ns = now
        elif ctx.limit_ns and now - ctx.marked_ns >= ctx.limit_ns:
            ctx.interrupt(ctx.phase)
            return
        if ctx.deadline_ns and now >= ctx.deadline_ns:
            ctx.interrupt(TOTAL)
        elif ctx.departure is None and ctx.phase != READ_BODY and now - ctx.started_ns >= ARM_AFTER_NS:
            ctx.departure = self._loop.create_task(self._watch_departure(ctx))

    async def _watch_departure(self, ctx: Context) -> None:
        await self._departed(ctx)
        ctx.departure = None
        if ctx in self._active:
            ctx.interrupt(CLIENT_GONE)
