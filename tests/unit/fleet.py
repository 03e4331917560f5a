"""A pool of endpoints over a segment, for tests of strategies: loads are set, not simulated."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fastroute.config.schema import StrategyOptions
from fastroute.interfaces import Ask, PoolInfo

IN_FLIGHT = 0
SLOW_START_MS = 6


def twin(module: ModuleType, name: str) -> ModuleType:
    """Return another core module of the same half as `module`."""
    half = module.__name__.rpartition("_")[2]
    return importlib.import_module(f"fastroute._core._{name}_{half}")


class Fleet:
    """`n` endpoints in rows 0..n-1 of a segment of their own, all of them candidates until `only` says otherwise."""

    def __init__(
        self,
        folder: Path,
        n: int,
        *,
        half: ModuleType | None = None,
        weights: Sequence[float] | None = None,
        ids: Sequence[str] | None = None,
        workers: int = 2,
    ) -> None:
        counters = twin(half, "counters") if half else importlib.import_module("fastroute._core.counters")
        core = twin(half, "candidates") if half else importlib.import_module("fastroute._core.candidates")
        self.n = n
        self.ids = tuple(ids or (f"endpoint-{i}" for i in range(n)))
        self.weights = tuple(float(weight) for weight in weights or [1.0] * n)
        self.segment: Any = counters.Segment.create(str(folder / f"counters-{id(self)}"), workers, max(n, 1))
        plain = [0] * n
        self.candidates: Any = core.Candidates(
            self.segment, list(range(n)), self.weights, ranks=plain, providers=list(range(n)), regions=plain,
            capabilities=plain, context_windows=plain, max_outputs=plain, input_prices=plain, output_prices=plain,
        )  # fmt: skip
        self.need: Any = core.Need()
        self.candidates.gate(self.need)

    def only(self, positions: Sequence[int]) -> Any:
        """Let every gate pass these positions only; return the candidates."""
        self.need.order = bytes(1 if position in set(positions) else 0 for position in range(self.n))
        self.candidates.gate(self.need)
        return self.candidates

    def set_loads(self, loads: Sequence[int]) -> None:
        """Put so many requests in flight to each endpoint, shared out over the workers."""
        for position, load in enumerate(loads):
            for worker in range(self.segment.workers):
                share = load // self.segment.workers + (worker < load % self.segment.workers)
                self.segment.set(worker, position, IN_FLIGHT, share)

    def info(self, options: StrategyOptions | None = None, bits: int = 0) -> PoolInfo:
        """Return what a strategy is made for."""
        return PoolInfo(
            self.segment,
            tuple(range(self.n)),
            self.weights,
            self.ids,
            (None,) * self.n,
            lambda: bits,
            options or StrategyOptions(),
        )


def ask_for(prompt: bytes = b"", *, session: bytes = b"", tenant: str = "", now_ms: int = 1000) -> Ask:
    """Return an Ask whose conversation is the whole prompt."""
    ask = Ask()
    ask.now_ms = now_ms
    ask.session = session
    ask.tenant = tenant
    ask.prompt = prompt
    ask.prompt_end = len(prompt)
    return ask
