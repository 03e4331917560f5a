"""Least connections: the endpoint with the least in flight for its weight; equals are drawn by weight."""

from fastroute._core.candidates import Candidates
from fastroute._core.selection import least_connections
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask


class LeastConnections(BaseStrategy):
    """In-flight counts are those of all workers."""

    name = "least_connections"

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return least_connections(candidates, self._bits(), ask.now_ms)
