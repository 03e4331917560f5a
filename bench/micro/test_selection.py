"""What one choice costs: both halves, over 10, 100 and 1000 candidates.

Targets, compiled, over 1000 candidates: p2c < 0.3 us, the round robins and least_load < 5 us.
"""

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.twins import twins

BITS = 0x9E3779B97F4A7C15


@pytest.fixture(params=twins("selection"))
def half(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[10, 100, 1000])
def n(request: pytest.FixtureRequest) -> int:
    return request.param


def test_round_robin(benchmark: Any, half: Any, n: int) -> None:
    assert benchmark(half.RoundRobin(n).pick, list(range(n))) >= 0


def test_smooth_weighted_round_robin(benchmark: Any, half: Any, n: int) -> None:
    balancer = half.SmoothWeightedRoundRobin([1 + i % 7 for i in range(n)])
    assert benchmark(balancer.pick, list(range(n))) >= 0


@pytest.mark.parametrize("name", ["least_load", "p2c"])
@pytest.mark.parametrize("idle", [True, False], ids=["all-equal", "mixed"])
def test_by_load(benchmark: Any, half: Any, n: int, name: str, idle: bool) -> None:
    rng = random.Random(n)
    loads = [0.0 if idle else rng.random() * 20 for _ in range(n)]
    assert benchmark(getattr(half, name), loads, [1.0] * n, list(range(n)), BITS) >= 0


@pytest.mark.parametrize("name", ["least_load_segment", "p2c_segment"])
def test_by_load_in_a_segment(benchmark: Any, half: Any, n: int, name: str, tmp_path: Path) -> None:
    counters = importlib.import_module(half.__name__.replace("selection", "counters"))
    segment = counters.Segment.create(str(tmp_path / "counters"), 4, n)
    rng = random.Random(n)
    for endpoint in range(n):
        segment.set(rng.randrange(4), endpoint, 0, rng.randrange(20))
    assert benchmark(getattr(half, name), segment, list(range(n)), [1.0] * n, list(range(n)), BITS) >= 0
    segment.close()
