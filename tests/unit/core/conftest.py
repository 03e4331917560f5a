"""The half of the core that a test runs over, and a segment of that half."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.halves import Half, halves, segment_at


@pytest.fixture(params=halves())
def half(request: pytest.FixtureRequest) -> Half:
    found: Half = request.param
    return found


@pytest.fixture
def segment(request: pytest.FixtureRequest, half: Half, tmp_path: Path) -> Iterator[Any]:
    """A zeroed segment with as many endpoints as the test's file says in ENDPOINTS."""
    made = segment_at(half, tmp_path, request.module.ENDPOINTS)
    yield made
    made.close()
