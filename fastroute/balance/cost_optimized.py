"""Cost optimised: the endpoint where a success is expected to cost the least; of those that cost alike, the least busy.

Cheap and failing is dear: (input price x prompt tokens + output price x expected tokens) / share that goes well.
"""

from fastroute._core.candidates import Candidates
from fastroute._core.cheapest import Cheapest
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo


class CostOptimized(BaseStrategy):
    """An endpoint without a price is chosen only where nobody has one."""

    name = "cost_optimized"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._band: float = info.options.cost_band
        self._cheapest = Cheapest(info.prices, info.window_ms)

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self._cheapest.pick(
            candidates, self._bits(), ask.now_ms, ask.prompt_tokens, ask.output_tokens, self._band
        )
