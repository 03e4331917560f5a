"""Least connections: the endpoint with the least in flight for its weight; ties are broken at random."""

from collections.abc import Callable, Sequence

from fastroute._core.counters import Segment
from fastroute._core.selection import least_load_segment


class LeastConnections:
    """In-flight counts are those of all workers."""

    name = "least_connections"

    def __init__(self, weights: Sequence[int], segment: Segment, random_bits: Callable[[], int]) -> None:
        self._weights = [float(weight) for weight in weights]
        self._positions = list(range(len(weights)))
        self._segment = segment
        self._random_bits = random_bits

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return least_load_segment(self._segment, self._positions, self._weights, candidates, self._random_bits())
