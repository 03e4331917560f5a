"""Least latency: the endpoint whose quantile of the time to first token, times its load, is the least.

The quantile is of the last minute in this worker and normalised by the size of the request; the load is (in flight + 1)
for the weight, over all workers. Who has been seen too little is taken for the mean and given a small share.
"""

from collections.abc import Sequence
from typing import Any

from fastroute._core.candidates import Candidates
from fastroute._core.quantile import Quantiles
from fastroute.balance.base import BaseStrategy
from fastroute.balance.latency import normalised_ms, observed_ms, scale
from fastroute.interfaces import Ask, PoolInfo, Result


class LeastLatency(BaseStrategy):
    """A latency target of the request puts those first that are expected within it; it refuses nobody."""

    name = "least_latency"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._quantile: float = info.options.least_latency_quantile
        self.quantiles = Quantiles(len(info.rows))

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        target = ask.latency_target_ms / scale(ask, ask.output_tokens) if ask.latency_target_ms else 0.0
        return self.quantiles.pick(candidates, self._quantile, self._bits(), ask.now_ms, target)

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Note how long the first token took, or what a failure counts for."""
        value = normalised_ms(ask, result)
        if value >= 0.0:
            self.quantiles.observe(position, value, observed_ms(ask, result))

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over what was observed of the endpoints that are still there."""
        for new, old in enumerate(positions):
            if old >= 0:
                self.quantiles.restore(new, previous.quantiles, old)
