"""What one choice costs: both halves, over 10, 100 and 1000 candidates that have passed the gates.

Targets, compiled, over 1000 candidates: p2c and weighted_random < 0.3 us, the round robins < 3 us, least_connections
< 10 us.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core import counters as cells
from tests.unit.core.halves import Half, halves, pool_of, segment_at

BITS = 0x9E3779B97F4A7C15
NOW = 1_000_000
DECAY_MS = 10_000


@pytest.fixture(params=halves())
def half(request: pytest.FixtureRequest) -> Half:
    return request.param


@pytest.fixture(params=[10, 100, 1000])
def n(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def pool(half: Half, n: int, tmp_path: Path) -> Iterator[Any]:
    """A pool with work in flight everywhere; all of it weighs the same."""
    segment = segment_at(half, tmp_path, n)
    rng = random.Random(n)
    for row in range(n):
        in_flight = rng.randrange(20)
        segment.set(rng.randrange(2), row, cells.IN_FLIGHT, in_flight)
        segment.set(rng.randrange(2), row, cells.WORK, 1_000 * in_flight)
    yield pool_of(half, segment, [1.0] * n)
    segment.close()


def test_round_robin(benchmark: Any, half: Half, pool: Any, n: int) -> None:
    assert benchmark(half.selection.RoundRobin(n).pick, pool) >= 0


def test_smooth_weighted_round_robin(benchmark: Any, half: Half, pool: Any, n: int) -> None:
    balancer = half.selection.SmoothWeightedRoundRobin([1 + i % 7 for i in range(n)])
    assert benchmark(balancer.pick, pool) >= 0


def test_least_connections(benchmark: Any, half: Half, pool: Any) -> None:
    assert benchmark(half.selection.least_connections, pool, BITS, NOW) >= 0


def test_p2c(benchmark: Any, half: Half, pool: Any) -> None:
    assert benchmark(half.selection.p2c, pool, BITS, NOW, DECAY_MS) >= 0


def test_weighted_random(benchmark: Any, half: Half, pool: Any) -> None:
    assert benchmark(half.selection.weighted_random, pool, BITS, NOW) >= 0
