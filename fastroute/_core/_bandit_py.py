"""Pure half of `bandit`: the readable reference.

Discounted Thompson sampling (Raj & Kalyani 2017): each endpoint has a number of successes S and failures F, which fade
with time; a pick draws from Beta(1 + S, 1 + F) of each and takes the greatest. All workers share S and F.
"""

import math
import struct
from typing import Final

from fastroute._core._bandit_rules import EDGES, FLOOR, INNER, MAX_FLOOR, SQUEEZE, TAIL, checked_shape
from fastroute._core._candidates_py import Candidates
from fastroute._core._counters_file import BANDIT, BANDIT_TIME_MS
from fastroute._core._counters_py import Segment
from fastroute._core._selection_py import _draw, _Random

_CELL: Final = struct.Struct("=ff")


def thompson(candidates: Candidates, bits: int, now_ms: int, tau_ms: int) -> int:
    """Return the candidate with the greatest draw from what is known of it.

    A candidate takes part in as many draws as its weight is of the greatest one. FLOOR of the picks for each, in all
    no more than MAX_FLOOR, is drawn by weight alone.
    """
    positions = candidates.positions
    if len(positions) <= 1:
        return positions[0] if positions else -1
    random = _Random(bits)
    candidates.segment.check_open()
    if random.unit() < min(FLOOR * len(positions), MAX_FLOOR):
        return _draw(candidates, random, now_ms, -1)[0]
    highest = max(candidates.weight_of(position, now_ms) for position in positions)
    best, best_won, best_lost = -1, 0.0, 1.0
    for position in positions:
        weight = candidates.weight_of(position, now_ms)
        if weight < highest and random.unit() * highest >= weight:
            continue
        successes, failures = posterior(candidates.segment, candidates.rows[position], now_ms, tau_ms)
        if successes + failures > 0.0:
            won = _gamma(random, 1.0 + successes)
            lost = _gamma(random, 1.0 + failures)
        else:
            won = random.unit()
            lost = 1.0 - won
        # won / (won + lost) is the draw; a / (a + b) > c / (c + d) if a d > c b.
        if best < 0 or won * best_lost > best_won * lost:
            best, best_won, best_lost = position, won, lost
    return best


def record(segment: Segment, row: int, reward: float, now_ms: int, tau_ms: int, cap: float) -> None:
    """Add a reward of 0 to 1 to an endpoint's successes and the rest of 1 to its failures.

    Both fade with time constant `tau_ms`, and together are at most `cap`: so many requests after a change, it is known.
    """
    reward = min(reward, 1.0) if reward > 0.0 else 0.0
    kept = _claim(segment, row, now_ms, tau_ms)
    while True:
        old = segment.cell(row, BANDIT)
        successes, failures = _unpack(old)
        successes = successes * kept + reward
        failures = failures * kept + (1.0 - reward)
        total = successes + failures
        if total > cap:
            successes *= cap / total
            failures *= cap / total
        if segment.cas_cell(row, BANDIT, old, _pack(successes, failures)):
            return


def posterior(segment: Segment, row: int, now_ms: int, tau_ms: int) -> tuple[float, float]:
    """Return (successes, failures) of an endpoint, faded to now."""
    since_ms = segment.cell(row, BANDIT_TIME_MS)
    successes, failures = _unpack(segment.cell(row, BANDIT))
    kept = math.exp(-(now_ms - since_ms) / tau_ms) if now_ms > since_ms else 1.0
    return successes * kept, failures * kept


def beta(a: float, b: float, bits: int) -> float:
    """Return a draw from Beta(a, b). Raises ValueError unless both are above 0."""
    checked_shape(a, b)
    random = _Random(bits)
    won, lost = _gamma(random, a), _gamma(random, b)
    total = won + lost
    # Both are too small to be told from 0 only where a and b are: then all is won or lost.
    return won / total if total > 0.0 else (1.0 if random.unit() * (a + b) < a else 0.0)


def _claim(segment: Segment, row: int, now_ms: int, tau_ms: int) -> float:
    """Move an endpoint's time to now and return what is kept over the time between: each is faded by one worker."""
    while True:
        since_ms = segment.cell(row, BANDIT_TIME_MS)
        if now_ms <= since_ms:
            return 1.0
        if segment.cas_cell(row, BANDIT_TIME_MS, since_ms, now_ms):
            return math.exp(-(now_ms - since_ms) / tau_ms)


def _gamma(random: _Random, a: float) -> float:
    """Draw from Gamma(a, 1) (Marsaglia & Tsang, A simple method for generating gamma variables, 2000)."""
    if a < 1.0:
        larger = _gamma(random, a + 1.0)
        return larger * math.pow(1.0 - random.unit(), 1.0 / a)
    d = a - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = _normal(random)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v = v * v * v
        u = 1.0 - random.unit()
        square = x * x
        flat = c * square
        if u < 1.0 - SQUEEZE * (flat * flat):
            return d * v
        if math.log(u) < 0.5 * square + d * (1.0 - v + math.log(v)):
            return d * v


def _normal(random: _Random) -> float:
    """Draw from the standard normal distribution (Doornik's form of the ziggurat, 2005)."""
    while True:
        bits = random.next()
        layer = bits & 0xFF
        u = (bits >> 11) * (1.0 / 4503599627370496.0) - 1.0
        x = u * EDGES[layer]
        if abs(u) < INNER[layer]:
            return x
        if layer == 0:
            return math.copysign(_tail(random), u)
        outer = math.exp(-0.5 * (EDGES[layer] * EDGES[layer] - x * x))
        inner = math.exp(-0.5 * (EDGES[layer + 1] * EDGES[layer + 1] - x * x))
        if inner + random.unit() * (outer - inner) < 1.0:
            return x


def _tail(random: _Random) -> float:
    """Draw from what of the normal distribution lies beyond TAIL (Marsaglia 1964)."""
    while True:
        beyond = -math.log(1.0 - random.unit()) / TAIL
        if -2.0 * math.log(1.0 - random.unit()) > beyond * beyond:
            return TAIL + beyond


def _pack(successes: float, failures: float) -> int:
    return int.from_bytes(_CELL.pack(failures, successes), "little", signed=True)


def _unpack(cell: int) -> tuple[float, float]:
    """Return (successes, failures)."""
    failures, successes = _CELL.unpack(cell.to_bytes(8, "little", signed=True))
    return successes, failures
