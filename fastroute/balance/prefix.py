"""Prefix: a prompt goes to the endpoint that has most of it in its prompt cache, as far as we know.

What we know is what we sent: the leading blocks of earlier prompts, salted by tenant, tools and system prompt, in a
table of each worker. See ``docs/affinity.md`` for what that is worth and where it ends.
"""

from collections.abc import Sequence
from typing import Any

from fastroute._core.affinity import PrefixTable
from fastroute._core.attempts import FAILED
from fastroute._core.candidates import Candidates
from fastroute._core.selection import least_connections
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo, Result


class Prefix(BaseStrategy):
    """For self-hosted replicas and for providers with prompt caches."""

    name = "prefix"
    reads_prompt = True

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._balance: float = info.options.hash_balance
        self.table = PrefixTable(info.ids, info.options.prefix_table, info.options.prefix_block_bytes)

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates.

        The prompt is noted at once, not when the answer comes: requests that arrive together stay together.
        """
        if ask.prompt_end <= ask.prompt_start:
            return least_connections(candidates, self._bits(), ask.now_ms)
        return self.table.pick(
            candidates,
            ask.prompt,
            ask.prompt_start,
            ask.prompt_end,
            salt(ask),
            ask.now_ms,
            self._balance,
        )

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Take back what `pick` noted if the attempt failed: an endpoint that broke down may have lost its cache."""
        if result.verdict == FAILED:
            self.table.forget(position, ask.prompt, ask.prompt_start, ask.prompt_end, salt(ask))

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over the table, for the endpoints that are still there."""
        self.table.adopt(previous.table, positions)


def salt(ask: Ask) -> bytes:
    """Return what has to be the same for two prompts to have anything in common."""
    tenant = ask.tenant.encode()
    if not ask.preamble:
        return tenant
    return b"\0".join((tenant, *(ask.prompt[start:end] for start, end in ask.preamble)))
