"""Smooth weighted round robin with nginx's semantics: w_i of every sum(w) picks, spread out evenly."""

from collections.abc import Sequence
from typing import Any

from fastroute._core.attempts import FAILED
from fastroute._core.candidates import Candidates
from fastroute._core.selection import SmoothWeightedRoundRobin
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo, Result


class WeightedRoundRobin(BaseStrategy):
    """Exact within one worker and pool. A failure lowers an endpoint's share until picks have brought it back."""

    name = "weighted_round_robin"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self.cycle = SmoothWeightedRoundRobin([int(weight) for weight in info.weights])

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self.cycle.pick(candidates)

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Note a failure, as nginx does."""
        if result.verdict == FAILED:
            self.cycle.failed(position)

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over the weights of the endpoints that are still there."""
        current, effective = previous.cycle.current, previous.cycle.effective
        for new, old in enumerate(positions):
            if old >= 0:
                self.cycle.restore(new, current[old], effective[old])
