"""The virtual clock: events in the order of their times, those of one time in the order they were made."""

import heapq
from collections.abc import Callable
from typing import Any, Final

#: Where the clock starts, in ms. Not 0, which stands for "never" in the cells of a segment.
START_MS: Final = 1_000_000.0


class Clock:
    """`now`: monotonic milliseconds. It moves only from event to event."""

    def __init__(self) -> None:
        self.now = START_MS
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    @property
    def now_ms(self) -> int:
        """The time as fastroute's code is told it."""
        return int(self.now)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return (self.now - START_MS) / 1000.0

    def after(self, delay_ms: float, call: Callable[..., None], *args: Any) -> None:
        """Call something once that many milliseconds have passed."""
        self._made += 1
        heapq.heappush(self._events, (self.now + delay_ms, self._made, call, args))

    def run(self) -> None:
        """Let time pass until nothing is left to happen."""
        while self._events:
            self.now, _, call, args = heapq.heappop(self._events)
            call(*args)
