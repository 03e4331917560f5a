"""Power of two choices: of two endpoints drawn by weight, the one with the lower expected load.

Nearly as good as looking at all of them, and free of the herd that follows a stale minimum (Mitzenmacher 2001). The
load is peak EWMA of the normalised time to first token x (in-flight work + 1), over all workers.
"""

from fastroute._core.candidates import Candidates
from fastroute._core.selection import p2c
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo


class PowerOfTwoChoices(BaseStrategy):
    """The default."""

    name = "p2c"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._decay_ms: int = info.options.ewma_decay_ms

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return p2c(candidates, self._bits(), ask.now_ms, self._decay_ms)
