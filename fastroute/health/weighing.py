"""Endpoints in poor health get less: once a second each worker multiplies their weights by what its health is worth.

Weights only, and never to nothing: whom to leave out altogether is for the breaker to say. The share of good answers
counts squared, with five good ones to begin with, so that an endpoint without a failure has its weight in full, however
little it was used. Latency is left to the strategies that look at it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastroute._core.attempts import Attempts
from fastroute._core.candidates import Candidates

INTERVAL_S: Final = 1.0
#: However bad, it gets this share of its weight: else nobody would notice that it is well again.
LEAST: Final = 0.05
_GOOD_TO_BEGIN_WITH: Final = 5


def weight_factor(good: int, failed: int) -> float:
    """Return what an endpoint's weight is multiplied by, LEAST to 1, for its answers in the window."""
    share = (good + _GOOD_TO_BEGIN_WITH) / (good + failed + _GOOD_TO_BEGIN_WITH)
    return max(LEAST, share * share)


def weigh(candidates: Candidates, rows: Sequence[int], attempts: Attempts, now_ms: int) -> None:
    """Set the factor of every endpoint of a pool. rows: theirs, in the order of their positions."""
    for position, row in enumerate(rows):
        good, failed = attempts.health(row, now_ms)
        candidates.set_factor(position, weight_factor(good, failed))


class Weighing:
    """Weighs again and again, by a timer of the loop. snapshot: returns the one in force."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Any], monotonic_ns: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._snapshot = snapshot
        self._now = monotonic_ns
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; the first time is in INTERVAL_S."""
        self._timer = self._loop.call_later(INTERVAL_S, self._tick)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        snapshot = self._snapshot()
        if snapshot.health_weights:
            now_ms = self._now() // 1_000_000
            for pool in snapshot.routes.pools.values():
                weigh(pool.candidates, pool.info.rows, snapshot.attempts, now_ms)
        self.start()
