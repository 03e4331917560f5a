"""Round robin: each endpoint in turn, whatever its weight. Every worker starts at a place of its own."""

from collections.abc import Sequence
from typing import Any

from fastroute._core.candidates import Candidates
from fastroute._core.selection import RoundRobin
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo


class RoundRobinStrategy(BaseStrategy):
    """Exactly fair within one worker and pool."""

    name = "round_robin"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        count = max(1, len(info.rows))
        self.cycle = RoundRobin(count, info.random_bits() % count)

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self.cycle.pick(candidates)

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Go on at the first endpoint at or after the old cursor that is still there."""
        before = [(old, new) for new, old in enumerate(positions) if old >= 0]
        if before:
            cursor = previous.cycle.cursor
            self.cycle.cursor = min(before, key=lambda pair: (pair[0] < cursor, pair[0]))[1]
