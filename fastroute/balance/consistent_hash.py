"""Consistent hashing with bounded loads: what belongs together goes to one endpoint, unless that one is full.

What belongs together says the session: the header ``x-fastroute-session``, or the body's user. Endpoints are ranked
for it by weighted rendezvous hashing of their ids, so that every worker and every gateway ranks them alike, before a
reload and after it. Requests without a session go to the least loaded.
"""

from fastroute._core.affinity import Rendezvous
from fastroute._core.candidates import Candidates
from fastroute._core.selection import least_connections
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo


class ConsistentHash(BaseStrategy):
    """Loads are the in-flight counts of all workers. Nothing is learnt: the ranking follows from the ids alone."""

    name = "consistent_hash"
    reads_prompt = True

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._balance: float = info.options.hash_balance
        self._nodes = Rendezvous(info.ids)

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        if not ask.session:
            return least_connections(candidates, self._bits(), ask.now_ms)
        return self._nodes.pick(candidates, ask.session, ask.now_ms, self._balance)
