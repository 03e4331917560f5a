"""What one choice of each strategy that looks at every candidate costs: both halves, over 10 and 1000 endpoints.

The segment is that of four workers; every endpoint has been measured, has answers in flight and a history. Target,
compiled, over 1000 endpoints: 30 us. Bits and time move on from pick to pick, as they do in the gateway.
"""

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.core.halves import half_of, pool_of
from tests.unit.core.twins import twins

WORKERS = 4
NOW_MS = 100_000
TAU_MS = 300_000
TOKENS = (1000, 300)


class Stage:
    """Endpoints with a past, and what changes from pick to pick."""

    def __init__(self, half: ModuleType, folder: Path, n: int, weights: list[float]) -> None:
        self.half = half
        self.n = n
        self.rng = random.Random(n)
        self.segment = half_of(half).counters.Segment.create(str(folder / "counters"), WORKERS, n)
        for row in range(n):
            self.segment.set(row % WORKERS, row, 0, self.rng.randrange(20))
        self.candidates = pool_of(half_of(half), self.segment, weights)
        self.bits = [self.rng.getrandbits(64) for _ in range(1024)]
        self.picks = 0

    def step(self) -> tuple[int, int]:
        """Return the bits and the time of the next pick; ten picks to a millisecond."""
        self.picks += 1
        return self.bits[self.picks % 1024], NOW_MS + self.picks // 10


@pytest.fixture(params=[10, 1000])
def n(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["even", "weighted"])
def weights(request: pytest.FixtureRequest, n: int) -> list[float]:
    return [1.0] * n if request.param == "even" else [1.0 + at % 3 for at in range(n)]


@pytest.mark.parametrize("half", twins("quantile"))
@pytest.mark.parametrize("q", [0.5, 0.95])
def test_least_latency(
    benchmark: Any, half: ModuleType, n: int, weights: list[float], q: float, tmp_path: Path
) -> None:
    stage = Stage(half, tmp_path, n, weights)
    quantiles = half.Quantiles(n)
    for position in range(n):
        for at in range(150):
            quantiles.observe(position, stage.rng.expovariate(1 / 300) + 1, NOW_MS - 60 * at)

    def pick() -> int:
        bits, now_ms = stage.step()
        picked: int = quantiles.pick(stage.candidates, q, bits, now_ms, 0.0)
        quantiles.observe(picked, 300.0, now_ms)
        return picked

    assert benchmark(pick) >= 0


@pytest.mark.parametrize("half", twins("bandit"))
@pytest.mark.parametrize("known", [True, False], ids=["known", "strangers"])
def test_adaptive(benchmark: Any, half: ModuleType, n: int, weights: list[float], known: bool, tmp_path: Path) -> None:
    stage = Stage(half, tmp_path, n, weights)
    if known:
        for row in range(n):
            for at in range(30):
                half.record(stage.segment, row, stage.rng.random(), NOW_MS - 50 * at, TAU_MS, 200.0)
    thompson: Callable[..., int] = half.thompson

    def pick() -> int:
        bits, now_ms = stage.step()
        return thompson(stage.candidates, bits, now_ms, TAU_MS)

    assert benchmark(pick) >= 0


@pytest.mark.parametrize("half", twins("cheapest"))
@pytest.mark.parametrize("alike", [True, False], ids=["one-price", "many-prices"])
def test_cost_optimized(
    benchmark: Any, half: ModuleType, n: int, weights: list[float], alike: bool, tmp_path: Path
) -> None:
    stage = Stage(half, tmp_path, n, weights)
    prices = [(2500, 1250, 10_000) if alike else (1000 + 7 * at, 0, 5000) for at in stage.rng.sample(range(n), n)]
    chooser = half.Cheapest(prices, 30_000)
    for row in range(n):
        for bucket in range(10):
            epoch = NOW_MS // 3000 - bucket
            stage.segment.set_cell(row, 12 + epoch % 10, epoch << 40 | 30 << 20 | bucket)

    def pick() -> int:
        bits, now_ms = stage.step()
        picked: int = chooser.pick(stage.candidates, bits, now_ms, *TOKENS, 0.05)
        return picked

    assert benchmark(pick) >= 0


@pytest.mark.parametrize("half", twins("time_window"))
@pytest.mark.parametrize("window_ms", [60_000, 1], ids=["in-turn", "all-free"])
def test_time_window(
    benchmark: Any, half: ModuleType, n: int, weights: list[float], window_ms: int, tmp_path: Path
) -> None:
    stage = Stage(half, tmp_path, n, weights)
    least_recently_used: Callable[..., int] = half.least_recently_used

    def pick() -> int:
        bits, now_ms = stage.step()
        return least_recently_used(stage.candidates, bits, now_ms, window_ms)

    assert benchmark(pick) >= 0


@pytest.mark.parametrize("half", twins("selection"))
def test_least_connections(benchmark: Any, half: ModuleType, n: int, weights: list[float], tmp_path: Path) -> None:
    stage = Stage(half, tmp_path, n, weights)

    def pick() -> int:
        bits, now_ms = stage.step()
        picked: int = half.least_connections(stage.candidates, bits, now_ms)
        return picked

    assert benchmark(pick) >= 0
