"""Pure half of `quantile`: the readable reference."""

import math
from array import array
from typing import Final

from fastroute._core._candidates_py import Candidates
from fastroute._core._counters_file import IN_FLIGHT
from fastroute._core._quantile_bins import (
    BINS,
    CACHE_MS,
    ENOUGH,
    ESTIMATES,
    EXPLORED,
    FIRST_PRIOR,
    LOG_GAMMA,
    WINDOW_MS,
    WINDOWS,
    checked_count,
    checked_quantile,
    phase_ms,
)
from fastroute._core._selection_py import _Random

_EMPTY: Final = (0,) * BINS
_PHASES: Final = WINDOW_MS // CACHE_MS


class _Series:
    """What was observed of one position within WINDOWS rotating windows, and the sum of these.

    estimate, seen: quantile `q` and the number of observations when it was last looked at; -1 and 0 for none.
    """

    __slots__ = ("changed", "count", "epoch", "estimate", "expires_ms", "phase", "q", "seen", "sum", "windows")

    def __init__(self, phase: int) -> None:
        self.windows = [array("I", _EMPTY) for _ in range(WINDOWS)]
        self.sum = array("I", _EMPTY)
        self.count = 0
        self.epoch = 0
        self.phase = phase
        self.changed = False
        self.estimate = -1.0
        self.seen = 0
        self.q = -1.0
        self.expires_ms = 0

    def observe(self, bin_: int, now_ms: int) -> None:
        self.turn(now_ms)
        self.windows[self.epoch % WINDOWS][bin_] += 1
        self.sum[bin_] += 1
        self.count += 1
        self.changed = True

    def refresh(self, q: float, now_ms: int) -> None:
        """Bring `estimate` and `seen` up to date, unless they are hardly out of it."""
        if q == self.q and now_ms < self.expires_ms:
            return
        self.turn(now_ms)
        if self.changed or q != self.q:
            self.estimate = self.find(q)
            self.seen = self.count
            self.changed = False
            self.q = q
        tick = (max(0, now_ms) + self.phase) // CACHE_MS
        self.expires_ms = (tick + 1) * CACHE_MS - self.phase

    def turn(self, now_ms: int) -> None:
        """Empty the windows whose time is over. Time that goes back is taken to stand still."""
        epoch = (max(0, now_ms) + self.phase * _PHASES) // WINDOW_MS
        for step in range(min(epoch - self.epoch, WINDOWS)):
            self.empty((self.epoch + 1 + step) % WINDOWS)
        self.epoch = max(self.epoch, epoch)

    def empty(self, at: int) -> None:
        window = self.windows[at]
        gone = sum(window)
        if gone:
            for bin_ in range(BINS):
                self.sum[bin_] -= window[bin_]
            self.windows[at] = array("I", _EMPTY)
            self.count -= gone
            self.changed = True

    def find(self, q: float) -> float:
        if not self.count:
            return -1.0
        rank = int(q * (self.count - 1))
        reached = 0
        for bin_ in range(BINS):
            reached += self.sum[bin_]
            if reached > rank:
                break
        return ESTIMATES[bin_]


class Quantiles:
    """Quantiles of what was observed at positions 0..n-1 within the last minute, each within 2 % of the true one.

    Values are positive numbers of any unit, here milliseconds: 1 to 4 million, others count as the nearest of these.
    A position takes 11 KB from its first observation on. A new one may take up to 250 ms to be seen.
    """

    def __init__(self, n: int) -> None:
        """Raises ValueError for more than 65536 positions."""
        self._series: list[_Series | None] = [None] * checked_count(n)

    def observe(self, position: int, value: float, now_ms: int) -> None:
        """Note one value. Raises IndexError for a position that does not exist."""
        self._check(position)
        series = self._series[position]
        if series is None:
            series = self._series[position] = _Series(phase_ms(position))
        series.observe(bin_of(value), now_ms)

    def estimate(self, position: int, q: float, now_ms: int) -> tuple[float, int]:
        """Return (quantile, number of observations) of a position; (-1, 0) if there are none.

        The quantile q, at least 0 and less than 1 (ValueError), of n values is the one at rank floor(q (n - 1)).
        """
        q = checked_quantile(q)
        self._check(position)
        series = self._series[position]
        if series is None:
            return -1.0, 0
        series.refresh(q, now_ms)
        return series.estimate, series.seen

    def restore(self, position: int, previous: "Quantiles", old: int) -> None:
        """Share with `previous` what was and will be observed at its position `old`."""
        self._check(position)
        previous._check(old)
        self._series[position] = previous._series[old]

    def pick(self, candidates: Candidates, q: float, bits: int, now_ms: int, target: float) -> int:
        """Return the candidate with the least expected quantile x (in flight + 1) / weight; equals by weight.

        Candidates expected within `target` (0 for none) come first. Few observations are blended with the prior, the
        mean of those known. A small share of picks goes to a candidate that has too few, if it may turn out better.
        """
        q = checked_quantile(q)
        if candidates.size > len(self._series):
            raise IndexError("more candidates than positions")
        if len(candidates.positions) <= 1:
            return candidates.positions[0] if candidates.positions else -1
        random = _Random(bits)
        candidates.segment.check_open()
        exploring = random.unit() < EXPLORED
        enough = ENOUGH / (1.0 - q)
        prior = self._prior(candidates, q, now_ms)
        best, late, least, tied = -1, True, 0.0, 0.0
        other, other_least, other_tied = -1, 0.0, 0.0
        for position in candidates.positions:
            estimate, seen = self._cached(position)
            expected = blended(estimate, seen, prior, enough)
            weight = candidates.weight_of(position, now_ms)
            in_flight = max(0, candidates.segment.total(candidates.rows[position], IN_FLIGHT))
            load = (in_flight + 1) / weight
            cost = expected * load
            is_late = target > 0.0 and expected > target
            if best < 0 or (cost < least if is_late == late else late):
                best, late, least, tied = position, is_late, cost, weight
            elif is_late == late and cost == least:
                tied += weight
                if random.unit() * tied < weight:
                    best = position
            if exploring and seen < enough and in_flight <= seen:
                hope = estimate * seen / (seen + 1.0) * load if seen else 0.0
                if other < 0 or hope < other_least:
                    other, other_least, other_tied = position, hope, weight
                elif hope == other_least:
                    other_tied += weight
                    if random.unit() * other_tied < weight:
                        other = position
        return other if other >= 0 and other_least < least else best

    def _prior(self, candidates: Candidates, q: float, now_ms: int) -> float:
        """Bring all candidates up to date; return the mean of those that anything is known of."""
        total, known = 0.0, 0
        for position in candidates.positions:
            series = self._series[position]
            if series is None:
                continue
            series.refresh(q, now_ms)
            if series.seen:
                total += series.estimate
                known += 1
        return total / known if known else FIRST_PRIOR

    def _cached(self, position: int) -> tuple[float, int]:
        series = self._series[position]
        return (series.estimate, series.seen) if series is not None else (-1.0, 0)

    def _check(self, position: int) -> None:
        if not 0 <= position < len(self._series):
            raise IndexError(f"position {position} is not in 0..{len(self._series) - 1}")


def bin_of(value: float) -> int:
    """Return the bin of a value; 0 for what is not a number."""
    if not value > 1.0:
        return 0
    at = math.log(value) / LOG_GAMMA
    return math.ceil(at) if at < BINS - 1 else BINS - 1


def blended(estimate: float, seen: int, prior: float, enough: float) -> float:
    """Return the estimate, with the prior in place of the observations that are missing from `enough`."""
    if seen >= enough:
        return estimate
    return (seen * estimate + (enough - seen) * prior) / enough if seen else prior
