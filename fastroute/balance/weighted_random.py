"""Weighted random: every pick drawn anew, in proportion to weight."""

from fastroute._core.candidates import Candidates
from fastroute._core.selection import weighted_random
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask


class WeightedRandom(BaseStrategy):
    """A baseline: it looks at nothing."""

    name = "random"

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return weighted_random(candidates, self._bits(), ask.now_ms)
