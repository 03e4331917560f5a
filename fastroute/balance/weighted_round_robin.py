"""Smooth weighted round robin with nginx's semantics: w_i of every sum(w) picks, spread out evenly."""

from collections.abc import Callable, Sequence

from fastroute._core.counters import Segment
from fastroute._core.selection import SmoothWeightedRoundRobin


class WeightedRoundRobin:
    """Exact within one worker."""

    name = "weighted_round_robin"

    def __init__(self, weights: Sequence[int], segment: Segment, random_bits: Callable[[], int]) -> None:
        self._cycle = SmoothWeightedRoundRobin(weights)

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self._cycle.pick(candidates)
