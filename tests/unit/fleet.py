"""Endpoints over a segment of their own, for tests of strategies: loads are set, not simulated; bits have a seed."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fastroute._core.attempts import OK
from fastroute._core.counters import IN_FLIGHT
from fastroute.config.schema import StrategyOptions
from fastroute.interfaces import Ask, KeyPool, PoolInfo, Result
from tests.unit.core.halves import RUNNING, WORKERS, half_of, need_of, pool_of

Prices = tuple[int, int, int] | None


class Fleet:
    """Endpoints 0..n-1 in rows 0..n-1, all of them candidates until `only` or `tried` says otherwise.

    weights: of the endpoints, or how many there are. half: a module of the half of the core to be used; the one that
    runs if None. key_rows, key_pools: of endpoints that use keys. options: of strategies. info: what a strategy is made
    for.
    """

    def __init__(
        self,
        folder: Path,
        weights: Sequence[float] | int,
        prices: Sequence[Prices] | None = None,
        *,
        half: ModuleType | None = None,
        ids: Sequence[str] | None = None,
        workers: int = WORKERS,
        seed: int = 1,
        key_rows: Sequence[int] = (),
        key_pools: Sequence[KeyPool] = (),
        **options: Any,
    ) -> None:
        core = half_of(half) if half is not None else RUNNING
        self.weights = tuple(float(weight) for weight in ([1.0] * weights if isinstance(weights, int) else weights))
        self.n = n = len(self.weights)
        self.ids = tuple(ids or (f"endpoint-{i}" for i in range(n)))
        self.segment: Any = core.counters.Segment.create(
            str(folder / f"counters-{id(self)}"), workers, max(n, 1) + len(key_rows)
        )
        self.candidates: Any = pool_of(core, self.segment, self.weights, providers=range(n), key_rows=key_rows)
        self.need: Any = need_of(core)
        bits = random.Random(seed)
        self.info = PoolInfo(
            self.segment,
            tuple(range(n)),
            self.weights,
            self.ids,
            tuple(prices) if prices is not None else (None,) * n,
            lambda: bits.getrandbits(64),
            StrategyOptions(**options),
            key_pools=tuple(key_pools),
        )

    def with_bits(self, bits: int) -> PoolInfo:
        """Return `info` for a strategy that always draws the same bits."""
        return self.info._replace(random_bits=lambda: bits)

    def only(self, positions: Sequence[int]) -> Any:
        """Let every gate pass these positions only; return the candidates."""
        self.need.order = bytes(1 if position in set(positions) else 0 for position in range(self.n))
        self.candidates.gate(self.need)
        return self.candidates

    def tried(self, *positions: int) -> None:
        """Let all but these through the gates."""
        self.need.tried = list(positions)
        self.candidates.gate(self.need)

    def set_loads(self, loads: Sequence[int]) -> None:
        """Put so many requests in flight to each endpoint, shared out over the workers."""
        for position, load in enumerate(loads):
            for worker in range(self.segment.workers):
                share = load // self.segment.workers + (worker < load % self.segment.workers)
                self.segment.set(worker, position, IN_FLIGHT, share)


def ask_for(prompt: bytes = b"", *, now_ms: int = 1000, **fields: Any) -> Ask:
    """Return a request for a stream whose conversation is the whole prompt, of no size but for what is given."""
    made = Ask()
    made.now_ms = now_ms
    made.stream = True
    made.prompt = prompt
    made.prompt_end = len(prompt)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def shares(strategy: Any, fleet: Fleet, n: int, now_ms: int = 1000, **fields: Any) -> Counter[int]:
    """Return how often each position is picked in n picks that nobody learns from."""
    return Counter(strategy.pick(fleet.candidates, ask_for(now_ms=now_ms, **fields)) for _ in range(n))


def run(
    strategy: Any,
    fleet: Fleet,
    n: int,
    outcome: Callable[[int], Result],
    start_ms: int = 1000,
    step_ms: int = 10,
    **fields: Any,
) -> Counter[int]:
    """Send n requests one after the other, `step_ms` apart, and let the strategy learn how each one went."""
    counts: Counter[int] = Counter()
    for at in range(n):
        request = ask_for(now_ms=start_ms + at * step_ms, **fields)
        position = strategy.pick(fleet.candidates, request)
        counts[position] += 1
        strategy.observe(position, request, outcome(position))
    return counts


def ok(ttft_ms: float) -> Result:
    """Return how an attempt ended that went well."""
    return Result(OK, ttft_ms=ttft_ms, total_ms=ttft_ms)
