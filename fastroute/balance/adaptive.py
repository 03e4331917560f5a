"""Adaptive: discounted Thompson sampling on a reward of success, time to first token and cost.

    reward = ok x (w x 2^(-latency / median latency) + (1 - w) x (1 - min(1, cost / (2 x median cost))))

An endpoint at both medians earns one half. With the median itself in place of its double, the cheapest endpoint, once
it has most of the traffic, would be its own measure and earn nothing by being cheap. A failure earns nothing; a request
that is itself to blame, or whose client left, is not counted.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastroute._core.attempts import NEUTRAL, OK
from fastroute._core.bandit import record, thompson
from fastroute._core.candidates import Candidates
from fastroute.balance.base import BaseStrategy
from fastroute.balance.latency import normalised_ms, observed_ms
from fastroute.balance.median import RollingMedian
from fastroute.interfaces import Ask, PoolInfo, Result

#: A token of answer costs about as much as this many of prompt; costs are compared for this size.
_OUTPUT_SIZE: Final = 4
_UNKNOWN: Final = -1.0


class Adaptive(BaseStrategy):
    """What is known of an endpoint is shared by all workers and fades; the medians are this worker's and pool's."""

    name = "adaptive"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        options = info.options
        self._tau_ms: int = options.adaptive_tau_ms
        self._cap = float(options.adaptive_cap)
        # Where no price is known, cost tells nobody apart.
        self._latency_weight: float = options.adaptive_latency_weight if any(info.prices) else 1.0
        self.latency = RollingMedian()
        self.cost = RollingMedian()

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return thompson(candidates, self._bits(), ask.now_ms, self._tau_ms)

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Reward the endpoint for how the attempt went."""
        if result.verdict == NEUTRAL:
            return
        reward = self._reward(position, ask, result) if result.verdict == OK else 0.0
        now_ms = observed_ms(ask, result)
        record(self._info.segment, self._info.rows[position], reward, now_ms, self._tau_ms, self._cap)

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over the medians; what is known of endpoints stays in the segment."""
        self.latency.adopt(previous.latency)
        self.cost.adopt(previous.cost)

    def _reward(self, position: int, ask: Ask, result: Result) -> float:
        weight = self._latency_weight
        reward = weight * self._speed(normalised_ms(ask, result))
        return (
            reward + (1.0 - weight) * self._thrift(self._unit_cost(position, ask, result)) if weight < 1.0 else reward
        )

    def _speed(self, latency_ms: float) -> float:
        """Return 1 for no time at all, one half at the median, also where the time is not known."""
        self.latency.add(latency_ms)
        if latency_ms < 0.0 or self.latency.value <= 0.0:
            return 0.5
        return float(2.0 ** (-latency_ms / self.latency.value))

    def _thrift(self, cost: float) -> float:
        """Return 1 for what is free, one half at the median, 0 from its double on and where the cost is not known."""
        if cost < 0.0:
            return 0.0
        self.cost.add(cost)
        return 1.0 - min(1.0, cost / (2.0 * self.cost.value)) if cost > 0.0 else 1.0

    def _unit_cost(self, position: int, ask: Ask, result: Result) -> float:
        """Return the cost in pico-USD for the size of the request, lest large requests look dear; -1 if not known."""
        output_tokens = result.output_tokens or ask.output_tokens
        cost_pico = result.cost_nano_usd * 1000
        prices = self._info.prices[position]
        if cost_pico < 0:
            if prices is None:
                return _UNKNOWN
            cost_pico = ask.prompt_tokens * prices[0] + output_tokens * prices[2]
        return cost_pico / (ask.prompt_tokens + _OUTPUT_SIZE * output_tokens + 1)
