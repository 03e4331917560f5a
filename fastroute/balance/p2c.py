"""Power of two choices: of two endpoints drawn at random, the one with less in flight for its weight.

Nearly as good as looking at all of them, and free of the herd that follows a stale minimum (Mitzenmacher 2001).
"""

from collections.abc import Callable, Sequence

from fastroute._core.counters import Segment
from fastroute._core.selection import p2c_segment


class PowerOfTwoChoices:
    """In-flight counts are those of all workers."""

    name = "p2c"

    def __init__(self, weights: Sequence[int], segment: Segment, random_bits: Callable[[], int]) -> None:
        self._weights = [float(weight) for weight in weights]
        self._positions = list(range(len(weights)))
        self._segment = segment
        self._random_bits = random_bits

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        if len(candidates) == 1:
            return candidates[0]
        return p2c_segment(self._segment, self._positions, self._weights, candidates, self._random_bits())
