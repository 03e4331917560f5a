"""Pure half of `cheapest`: the readable reference."""

import math
from collections.abc import Sequence

from fastroute._core._attempts_py import _EPOCHS, _FULL
from fastroute._core._candidates_py import Candidates
from fastroute._core._cheapest_rules import PRIOR, PRIOR_GOOD, Prices, checked
from fastroute._core._counters_file import IN_FLIGHT, WINDOW_0, WINDOW_BUCKETS
from fastroute._core._counters_py import Segment
from fastroute._core._selection_py import _Random


class Cheapest:
    """Chooses by what a success is expected to cost: the price of an attempt over the share that goes well.

    That share is of the breaker's window. Costs are pico-USD and exact up to 2^53 of them, some 9000 USD.
    """

    def __init__(self, prices: Sequence[Prices], window_ms: int) -> None:
        """Take the prices by position and the breaker's window. Raises ValueError for a negative price."""
        self._inward, self._outward, self._bucket_ms = checked(prices, window_ms)

    def expected(
        self, candidates: Candidates, position: int, now_ms: int, prompt_tokens: int, output_tokens: int
    ) -> float:
        """Return what a success is expected to cost at a position, in pico-USD; infinity if its price is unknown."""
        self._check(candidates)
        if not 0 <= position < candidates.size:
            raise IndexError(f"position {position} is not in 0..{candidates.size - 1}")
        tries = self._tries(candidates.segment, candidates.rows[position], now_ms)
        return self._price(position, prompt_tokens, output_tokens) * tries

    def pick(
        self, candidates: Candidates, bits: int, now_ms: int, prompt_tokens: int, output_tokens: int, band: float
    ) -> int:
        """Return the candidate with the least load of those that cost at most (1 + band) times the least.

        The load is (in flight + 1) for the weight and for each success; equals are drawn by weight. An unknown price
        is an infinite one: without any that is known, all are alike.
        """
        self._check(candidates)
        if len(candidates.positions) <= 1:
            return candidates.positions[0] if candidates.positions else -1
        random = _Random(bits)
        candidates.segment.check_open()
        costs: dict[int, tuple[float, float]] = {}
        limit = math.inf
        for position in candidates.positions:
            price = self._price(position, prompt_tokens, output_tokens)
            if price > limit:
                continue
            tries = self._tries(candidates.segment, candidates.rows[position], now_ms)
            costs[position] = price * tries, tries
            limit = min(limit, price * tries * (1.0 + band))
        best, least, tied = -1, 0.0, 0.0
        for position, (cost, tries) in costs.items():
            if cost > limit:
                continue
            weight = candidates.weight_of(position, now_ms)
            in_flight = max(0, candidates.segment.total(candidates.rows[position], IN_FLIGHT))
            load = (in_flight + 1) * tries / weight
            if best < 0 or load < least:
                best, least, tied = position, load, weight
            elif load == least:
                tied += weight
                if random.unit() * tied < weight:
                    best = position
        return best

    def _price(self, position: int, prompt_tokens: int, output_tokens: int) -> float:
        """Return the price of one attempt, infinity if it is unknown."""
        if self._inward[position] < 0.0:
            return math.inf
        return self._inward[position] * max(0, prompt_tokens) + self._outward[position] * max(0, output_tokens)

    def _tries(self, segment: Segment, row: int, now_ms: int) -> float:
        """Return how many attempts a success is expected to take."""
        good = failed = 0
        epoch = now_ms // self._bucket_ms
        first = segment.shared_at(row) + WINDOW_0
        for word in segment.words[first : first + WINDOW_BUCKETS]:
            if word and (epoch - (word >> 40)) % _EPOCHS < WINDOW_BUCKETS:
                good += word >> 20 & _FULL
                failed += word & _FULL
        return (good + failed + PRIOR) / (good + PRIOR_GOOD)

    def _check(self, candidates: Candidates) -> None:
        if candidates.size > len(self._inward):
            raise IndexError("more candidates than prices")
