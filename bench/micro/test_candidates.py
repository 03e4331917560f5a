"""What the gates cost: both halves, over 10, 100 and 1000 endpoints.

Target, compiled: < 10 us over 1000 endpoints.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.halves import Half, halves, need_of, pool_of, segment_at

NOW = 1_000_000


@pytest.fixture(params=halves())
def half(request: pytest.FixtureRequest) -> Half:
    return request.param


@pytest.fixture(params=[10, 100, 1000])
def pool(half: Half, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    n = request.param
    segment = segment_at(half, tmp_path, n)
    yield pool_of(half, segment, [1.0] * n, capabilities=3, context_windows=100_000, max_outputs=4_000)
    segment.close()


def test_all_pass(benchmark: Any, half: Half, pool: Any) -> None:
    assert benchmark(pool.gate, need_of(half, now_ms=NOW, panic_percent=50)) == pool.size


def test_all_pass_a_demanding_request(benchmark: Any, half: Half, pool: Any) -> None:
    wants = {"capabilities": 1, "prompt_tokens": 900, "output_tokens": 300, "max_cost_pico": 10**9, "tried": [0, 1]}
    assert benchmark(pool.gate, need_of(half, now_ms=NOW, panic_percent=50, **wants)) == pool.size - 2
