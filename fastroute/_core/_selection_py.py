"""Pure half of `selection`: the readable reference.

A choice is made among the positions of a `Candidates` after its `gate`; none gives -1. `bits` is a random integer of
which the low 64 bits count; a choice that needs more draws them from there by splitmix64 (Steele et al. 2014).
"""

from collections.abc import Iterator, Sequence
from operator import index
from typing import Final

from fastroute._core._attempts_py import decayed_cost, expected_load
from fastroute._core._candidates_py import Candidates
from fastroute._core._counters_file import COST, IN_FLIGHT, WORK

MAX_POSITIONS: Final = 65536
#: The product of three weights of 1000, as an endpoint may have.
MAX_WEIGHT: Final = 1_000_000_000
#: Loads that differ by less than this factor are alike: which of them is lower is noise.
ALIKE: Final = 1.5

_MASK_64: Final = (1 << 64) - 1
_ULP: Final = 1.0 / 9007199254740992.0
#: After this many rejections a draw by weight looks at every candidate instead.
_MAX_DRAWS: Final = 64


class _Random:
    """splitmix64. `next`: 64 random bits."""

    __slots__ = ("next",)

    def __init__(self, bits: int) -> None:
        self.next = _splitmix64(bits).__next__

    def below(self, n: int) -> int:
        return self.next() * n >> 64

    def unit(self) -> float:
        return (self.next() >> 11) * _ULP


def _first_word(bits: int) -> int:
    """Return what `_Random(bits).next()` gives first."""
    z = bits + 0x9E3779B97F4A7C15 & _MASK_64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK_64
    return z ^ z >> 31


def _splitmix64(state: int) -> Iterator[int]:
    while True:
        state = state + 0x9E3779B97F4A7C15 & _MASK_64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK_64
        yield z ^ z >> 31


class RoundRobin:
    """Each candidate in turn, in cyclic order of position: exactly fair on a fixed set of candidates."""

    def __init__(self, n: int, start: int = 0) -> None:
        """Serve positions 0..n-1 (n at most 65536, ValueError), first from `start` modulo n on.

        Workers that share endpoints start at different places, or they all begin with the same one.
        """
        self._n = checked_count(n)
        self._next = index(start) % n if n else 0

    @property
    def cursor(self) -> int:
        """The position at which the next pick begins."""
        return self._next

    @cursor.setter
    def cursor(self, position: int) -> None:
        _check(position, self._n)
        self._next = position

    def pick(self, candidates: Candidates) -> int:
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
        """Take one weight per position: 0 (never picked) to 1,000,000,000; at most 65536 of them (ValueError)."""
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

    def restore(self, i: int, current: int, effective: int) -> None:
        """Take over the weights a position had in another cycle; bounded by its weight here."""
        _check(i, len(self._weights))
        self._current[i] = current
        self._effective[i] = max(0, min(effective, self._weights[i]))

    def pick(self, candidates: Candidates) -> int:
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


def least_connections(candidates: Candidates, bits: int, now_ms: int) -> int:
    """Return the candidate with the least in flight for its weight, over all workers; equals by weight at random."""
    random = _Random(bits)
    candidates.segment.check_open()
    best, least, tied = -1, 0.0, 0.0
    for position in candidates.positions:
        weight = candidates.weight_of(position, now_ms)
        cost = max(0, candidates.segment.total(candidates.rows[position], IN_FLIGHT)) / weight
        if best < 0 or cost < least:
            best, least, tied = position, cost, weight
        elif cost == least:
            tied += weight
            if random.unit() * tied < weight:
                best = position
    return best


def p2c(candidates: Candidates, bits: int, now_ms: int, decay_ms: int) -> int:
    """Return the better of two candidates drawn by weight (Mitzenmacher 2001).

    Their load is cost x (in-flight work for their weight + 1). Of two that are alike the first drawn is taken, so that
    weights hold exactly when nothing else tells candidates apart.
    """
    count = len(candidates.positions)
    if count <= 1:
        return candidates.positions[0] if count else -1
    candidates.segment.check_open()
    if count == 2:
        # However often it takes to draw the other one, what has been drawn in vain decides nothing. Nor is there a need
        # to draw whether one of the greatest weight is taken.
        positions = candidates.positions
        first = positions[_first_word(bits) >> 63]
        first_weight = candidates.weight_of(first, now_ms)
        if first_weight < candidates.max_weight:
            first, first_weight = _draw(candidates, _Random(bits), now_ms, -1)
        second = positions[first == positions[0]]
        second_weight = candidates.weight_of(second, now_ms)
    else:
        random = _Random(bits)
        first, first_weight = _draw(candidates, random, now_ms, -1)
        second, second_weight = _draw(candidates, random, now_ms, first)
    mean = (first_weight + second_weight) / 2.0
    first_load = _load(candidates, first, first_weight / mean, now_ms, decay_ms)
    second_load = _load(candidates, second, second_weight / mean, now_ms, decay_ms)
    if first_load <= second_load * ALIKE and second_load <= first_load * ALIKE:
        return first
    return first if first_load < second_load else second


def weighted_random(candidates: Candidates, bits: int, now_ms: int) -> int:
    """Return a candidate drawn by weight."""
    count = len(candidates.positions)
    if count <= 1:
        return candidates.positions[0] if count else -1
    candidates.segment.check_open()
    return _draw(candidates, _Random(bits), now_ms, -1)[0]


def _draw(candidates: Candidates, random: _Random, now_ms: int, but: int) -> tuple[int, float]:
    """Draw a candidate by weight, another one than `but`: by rejection, so that no pool is too large for it.

    Return it with its weight.
    """
    positions = candidates.positions
    count, bits = len(positions), random.next
    for _ in range(_MAX_DRAWS):
        drawn = positions[bits() * count >> 64]
        if drawn == but:
            continue
        tried = (bits() >> 11) * _ULP * candidates.max_weight
        weight = candidates.weight_of(drawn, now_ms)
        if tried < weight:
            return drawn, weight
    drawn = _draw_from_all(candidates, random, now_ms, but)
    return drawn, candidates.weight_of(drawn, now_ms)


def _draw_from_all(candidates: Candidates, random: _Random, now_ms: int, but: int) -> int:
    """Draw as `_draw` does, at the cost of a look at everybody: for pools where few weigh far more than the rest."""
    others = [position for position in candidates.positions if position != but]
    total = 0.0
    for position in others:
        total += candidates.weight_of(position, now_ms)
    left = random.unit() * total
    for position in others:
        left -= candidates.weight_of(position, now_ms)
        if left < 0.0:
            return position
    return others[-1]


def _load(candidates: Candidates, position: int, share: float, now_ms: int, decay_ms: int) -> float:
    row = candidates.rows[position]
    segment = candidates.segment
    cost_ms = decayed_cost(segment.words[candidates.starts[position] + COST], now_ms, decay_ms)
    work = segment.total(row, WORK)
    return expected_load(cost_ms, work / 1000.0 / share if work > 0 else 0.0)


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


def _check(i: int, n: int) -> None:
    if not 0 <= index(i) < n:
        raise IndexError(f"position {i} is not in 0..{n - 1}")
