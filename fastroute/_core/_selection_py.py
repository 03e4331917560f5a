"""Pure half of `selection`: the readable reference.

`candidates` is everywhere a list or tuple of positions into the arrays; an empty one gives -1, a position out
of range is an IndexError. `bits` is a random integer of which the low 64 bits count. A cost is
(load + 1) / weight, lower is better; a weight that is not positive makes it infinite, and so does a
load that is no number.
"""

from collections.abc import Callable, Sequence
from math import inf
from operator import index
from typing import Final, TypeAlias

from fastroute._core._counters_py import Segment

MAX_POSITIONS: Final = 65536
MAX_WEIGHT: Final = 1_000_000

_Load: TypeAlias = Callable[[int], float]

_MASK_32: Final = (1 << 32) - 1
_MASK_64: Final = (1 << 64) - 1


class RoundRobin:
    """Each candidate in turn, in cyclic order of position: exactly fair on a fixed set of candidates."""

    def __init__(self, n: int, start: int = 0) -> None:
        """Serve positions 0..n-1 (n at most 65536, ValueError), first from `start` modulo n on.

        Workers that share endpoints start at different places, or they all begin with the same one.
        """
        self._n = checked_count(n)
        self._next = index(start) % n if n else 0

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the first candidate at or cyclically after the position that follows the last pick."""
        best, nearest = -1, self._n
        for candidate in candidates:
            _check(candidate, self._n)
            distance = (candidate - self._next) % self._n
            if distance < nearest:
                best, nearest = candidate, distance
        if best >= 0:
            self._next = (best + 1) % self._n
        return best


class SmoothWeightedRoundRobin:
    """nginx's smooth weighted round robin (ngx_http_upstream_round_robin.c, `get_peer` and `free_peer`).

    On a fixed set the picks spread evenly, `current` sums to 0 after each, and every sum(weights) picks hold
    each candidate exactly `weight` times. Whoever is not a candidate neither gains nor counts in the total.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        """Take one weight per position: 0 (never picked) to 1,000,000; at most 65536 of them (ValueError)."""
        self._weights = checked_weights(weights)
        self._current = [0] * len(self._weights)
        self._effective = list(self._weights)

    @property
    def current(self) -> list[int]:
        """A copy of the current weights, by position."""
        return list(self._current)

    @property
    def effective(self) -> list[int]:
        """A copy of the effective weights: failures lower them, each pick that sees the candidate adds 1."""
        return list(self._effective)

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the next candidate; all of them are checked before any weight changes."""
        for candidate in candidates:
            _check(candidate, len(self._weights))
        best, total = -1, 0
        for candidate in candidates:
            weight, effective = self._weights[candidate], self._effective[candidate]
            if weight == 0:
                continue
            self._current[candidate] += effective
            total += effective
            if effective < weight:
                self._effective[candidate] = effective + 1
            if best < 0 or self._current[candidate] > self._current[best]:
                best = candidate
        if best >= 0:
            self._current[best] -= total
        return best

    def succeeded(self, i: int) -> None:
        """Note a success. Changes no weight, as in nginx: what a failure took comes back pick by pick."""
        _check(i, len(self._weights))

    def failed(self, i: int, max_fails: int = 1) -> None:
        """Lower the effective weight by weight / max_fails, not below 0; max_fails 0 leaves it alone."""
        _check(i, len(self._weights))
        if max_fails < 0:
            raise ValueError("max_fails must not be negative")
        if max_fails:
            self._effective[i] = max(0, self._effective[i] - self._weights[i] // max_fails)


def least_load(loads: Sequence[float], weights: Sequence[float], candidates: Sequence[int], bits: int) -> int:
    """Return the candidate of least cost; `bits` decide between equals, uniformly."""
    return _least(lambda i: loads[i], weights, candidates, bits)


def least_load_segment(
    segment: Segment, endpoints: Sequence[int], weights: Sequence[float], candidates: Sequence[int], bits: int
) -> int:
    """Return `least_load` where the load at position i is `segment.in_flight(endpoints[i])`."""
    return _least(lambda i: segment.in_flight(endpoints[i]), weights, candidates, bits)


def p2c(loads: Sequence[float], weights: Sequence[float], candidates: Sequence[int], bits: int) -> int:
    """Return the better of two distinct candidates drawn uniformly by `bits`; between equals the first.

    The power of two choices: Mitzenmacher, "The power of two choices in randomized load balancing" (1996).
    """
    return _better(lambda i: loads[i], weights, candidates, bits)


def p2c_segment(
    segment: Segment, endpoints: Sequence[int], weights: Sequence[float], candidates: Sequence[int], bits: int
) -> int:
    """Return `p2c` where the load at position i is `segment.in_flight(endpoints[i])`."""
    return _better(lambda i: segment.in_flight(endpoints[i]), weights, candidates, bits)


def checked_count(n: int) -> int:
    """Return `n`, or raise ValueError if no balancer can have that many positions."""
    if not 0 <= n <= MAX_POSITIONS:
        raise ValueError(f"n must be 0 to {MAX_POSITIONS}, not {n}")
    return n


def checked_weights(weights: Sequence[int]) -> list[int]:
    """Return a copy of `weights`, or raise ValueError if there are too many or one is out of bounds."""
    checked = [index(weight) for weight in weights]
    checked_count(len(checked))
    for i, weight in enumerate(checked):
        if not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(f"weight {i} must be 0 to {MAX_WEIGHT}, not {weight}")
    return checked


def _least(load: _Load, weights: Sequence[float], candidates: Sequence[int], bits: int) -> int:
    if not candidates:
        return -1
    costs = [_cost(load, weights, candidate) for candidate in candidates]
    least = min(costs)
    ties = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == least]
    return ties[(bits & _MASK_64) * len(ties) >> 64]


def _better(load: _Load, weights: Sequence[float], candidates: Sequence[int], bits: int) -> int:
    n = len(candidates)
    if n == 0:
        return -1
    if n == 1:
        _check(candidates[0], len(weights))
        return candidates[0]
    # Multiply-shift: a 32-bit half scaled to 0..n-1; no value is favoured by more than n / 2**32.
    at_first = (bits >> 32 & _MASK_32) * n >> 32
    at_second = (bits & _MASK_32) * (n - 1) >> 32
    first, second = candidates[at_first], candidates[at_second + (at_second >= at_first)]
    return second if _cost(load, weights, second) < _cost(load, weights, first) else first


def _cost(load: _Load, weights: Sequence[float], i: int) -> float:
    if i < 0:
        raise IndexError(f"candidate {i} is negative")
    weight = weights[i]
    if not weight > 0.0:
        return inf
    cost = (load(i) + 1.0) / weight
    return cost if cost == cost else inf


def _check(i: int, n: int) -> None:
    if not 0 <= index(i) < n:
        raise IndexError(f"position {i} is not in 0..{n - 1}")
