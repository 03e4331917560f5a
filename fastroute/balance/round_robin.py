"""Round robin: each endpoint in turn, whatever its weight. Every worker starts at a place of its own."""

from collections.abc import Callable, Sequence

from fastroute._core.counters import Segment
from fastroute._core.selection import RoundRobin


class RoundRobinStrategy:
    """Exactly fair within one worker."""

    name = "round_robin"

    def __init__(self, weights: Sequence[int], segment: Segment, random_bits: Callable[[], int]) -> None:
        count = max(1, len(weights))
        self._cycle = RoundRobin(count, random_bits() % count)

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self._cycle.pick(candidates)
