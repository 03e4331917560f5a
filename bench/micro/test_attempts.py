"""What it costs to let an attempt in and to record its end: both halves, 2 workers x 1000 endpoints.

Target, compiled: < 0.5 us for both together.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._attempts_rules import FAILED, OK, Policy
from tests.unit.core.halves import Half, halves, segment_at

NOW = 1_000_000
BITS = 0x9E3779B97F4A7C15
ROW = 500


@pytest.fixture(params=halves())
def half(request: pytest.FixtureRequest) -> Half:
    return request.param


@pytest.fixture
def attempts(half: Half, tmp_path: Path) -> Iterator[Any]:
    """Attempts of which no number of failures opens a breaker: it is to take the same way every time."""
    segment = segment_at(half, tmp_path, 1000)
    yield half.attempts.Attempts(segment, Policy(failure_threshold=65_535, min_requests=10**9))
    segment.close()


@pytest.mark.parametrize("verdict", [OK, FAILED], ids=["ok", "failed"])
def test_in_and_out(benchmark: Any, attempts: Any, verdict: int) -> None:
    def once() -> None:
        ticket = attempts.enter(1, ROW, 1000, NOW)
        attempts.leave(1, ROW, ticket, verdict, 80.0, NOW, BITS, 0, 1000)

    benchmark(once)
    assert attempts.load(ROW, NOW) > 0


def test_load(benchmark: Any, attempts: Any) -> None:
    attempts.enter(0, ROW, 1000, NOW)
    assert benchmark(attempts.load, ROW, NOW) == 2_000.0
