"""A pool for tests of strategies: the half of the core that runs, a segment of its own, bits from a seed."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastroute._core.attempts import OK
from fastroute._core.candidates import Candidates, Need
from fastroute._core.counters import Segment
from fastroute.config.schema import StrategyOptions
from fastroute.interfaces import Ask, PoolInfo, Result

Prices = tuple[int, int, int] | None


class Pool:
    """Endpoints 0..n-1 in rows 0..n-1, all of them through the gates."""

    def __init__(
        self,
        folder: Path,
        weights: Sequence[float],
        prices: Sequence[Prices] | None = None,
        seed: int = 1,
        **options: Any,
    ) -> None:
        n = len(weights)
        self.segment = Segment.create(str(folder / "counters"), 2, max(1, n))
        self.candidates = Candidates(
            self.segment,
            range(n),
            weights,
            ranks=[0] * n,
            providers=[0] * n,
            regions=[0] * n,
            capabilities=[0] * n,
            context_windows=[0] * n,
            max_outputs=[0] * n,
            input_prices=[-1] * n,
            output_prices=[-1] * n,
        )
        bits = random.Random(seed)
        self.info = PoolInfo(
            self.segment,
            tuple(range(n)),
            tuple(map(float, weights)),
            tuple(f"endpoint-{at}" for at in range(n)),
            tuple(prices) if prices is not None else (None,) * n,
            lambda: bits.getrandbits(64),
            StrategyOptions(**options),
        )
        self.candidates.gate(Need())

    def tried(self, *positions: int) -> None:
        """Let all but these through the gates."""
        need = Need()
        need.tried = list(positions)
        self.candidates.gate(need)


def ask(now_ms: int = 1000, **fields: Any) -> Ask:
    """Return a request of no size at all, but for what is given."""
    made = Ask()
    made.now_ms = now_ms
    made.stream = True
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def shares(strategy: Any, pool: Pool, n: int, now_ms: int = 1000, **fields: Any) -> Counter[int]:
    """Return how often each position is picked in n picks that nobody learns from."""
    return Counter(strategy.pick(pool.candidates, ask(now_ms, **fields)) for _ in range(n))


def run(
    strategy: Any,
    pool: Pool,
    n: int,
    outcome: Callable[[int], Result],
    start_ms: int = 1000,
    step_ms: int = 10,
    **fields: Any,
) -> Counter[int]:
    """Send n requests one after the other, `step_ms` apart, and let the strategy learn how each one went."""
    counts: Counter[int] = Counter()
    for at in range(n):
        request = ask(start_ms + at * step_ms, **fields)
        position = strategy.pick(pool.candidates, request)
        counts[position] += 1
        strategy.observe(position, request, outcome(position))
    return counts


def ok(ttft_ms: float) -> Result:
    """Return how an attempt ended that went well."""
    return Result(OK, ttft_ms=ttft_ms, total_ms=ttft_ms)
