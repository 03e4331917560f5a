"""What it costs to count a request and to read a load: both halves, 4 workers x 1000 endpoints.

Target: compiled < 0.1 us for one cell and for one total. `totals` over all endpoints is for scrapes only.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.twins import twins

ENDPOINTS = 1000


@pytest.fixture(params=twins("counters"))
def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    half = importlib.import_module(request.param.__name__)
    made = half.Segment.create(str(tmp_path / "counters"), 4, ENDPOINTS)
    yield made
    made.close()


def test_add(benchmark: Any, segment: Any) -> None:
    benchmark(segment.add, 1, 500, 0, 1)
    assert segment.in_flight(500) > 0


def test_add_word(benchmark: Any, segment: Any) -> None:
    assert benchmark(segment.add_word, 3, 1) > 0


def test_cas_word(benchmark: Any, segment: Any) -> None:
    assert benchmark(segment.cas_word, 3, 0, 0) is True


def test_cell(benchmark: Any, segment: Any) -> None:
    assert benchmark(segment.cell, 500, 3) == 0


def test_cas_cell(benchmark: Any, segment: Any) -> None:
    assert benchmark(segment.cas_cell, 500, 3, 0, 0) is True


def test_in_flight(benchmark: Any, segment: Any) -> None:
    assert benchmark(segment.in_flight, 500) == 0


def test_totals(benchmark: Any, segment: Any) -> None:
    assert len(benchmark(segment.totals, 1)) == ENDPOINTS
