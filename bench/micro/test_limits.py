"""What it costs to let a request in by its ceilings and to settle it: both halves, the table as `serve` makes it.

Target, compiled: < 1 us for key, tenant and model together; < 1 us for the header fields.
"""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastroute._core._limits_file import DAY_NS, MAX_LIMIT, Moment, Subject
from tests.unit.core.twins import twins

NOW = 5_000_000_000_000
WALL = 20_000 * DAY_NS
#: As many subjects as there may be keys.
CROWD = 100_000


@pytest.fixture(params=twins("limits"))
def limits(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def table(limits: ModuleType, tmp_path: Path) -> Iterator[Any]:
    made = limits.Table.create(str(tmp_path / "limits"), 4, Moment(bytes(16), NOW, WALL))
    yield made
    made.close()


def subject(name: str) -> Subject:
    return Subject(name, MAX_LIMIT, MAX_LIMIT, 1_000_000, MAX_LIMIT, MAX_LIMIT)


@pytest.mark.parametrize("dimensions", [1, 5])
def test_admit_and_settle(benchmark: Any, limits: ModuleType, table: Any, dimensions: int) -> None:
    def some(name: str) -> Subject:
        return subject(name) if dimensions == 5 else Subject(name, MAX_LIMIT)

    caller = limits.Ceilings(table, [some("key:a"), some("tenant:t")])
    model = limits.Ceilings(table, [some("model:m")])
    limiter = limits.Limiter(table, 1)

    def once() -> None:
        limiter.admit(caller, model, 900, 1000, NOW, WALL).settle(700)

    benchmark(once)
    assert table.held(table.find("key:a")) == 0


def test_refuse(benchmark: Any, limits: ModuleType, table: Any) -> None:
    caller = limits.Ceilings(table, [Subject("key:a", rpm=1)])
    limiter = limits.Limiter(table, 1)
    assert limiter.admit(caller, None, 0, 0, NOW, WALL)
    assert benchmark(limiter.admit, caller, None, 0, 0, NOW, WALL) is None


def test_fields(benchmark: Any, limits: ModuleType, table: Any) -> None:
    caller = limits.Ceilings(table, [Subject("key:a", 600, 200_000), Subject("tenant:t", 2000)])
    limiter = limits.Limiter(table, 1)
    limiter.admit(caller, None, 0, 1000, NOW, WALL)
    theirs = [(b"content-type", b"application/json"), (b"date", b"x"), (b"x-ratelimit-limit-requests", b"5")] * 4
    assert len(benchmark(limiter.instead, theirs, caller, NOW, WALL)) == 8 + 6


def test_among_100_000(benchmark: Any, limits: ModuleType, table: Any) -> None:
    """As many keys in turn, each with a line of memory of its own."""
    for number in range(CROWD):
        table.find(f"key:{number}")
    some = [limits.Ceilings(table, [subject(f"key:{number}")]) for number in range(0, CROWD, 7)]
    limiter = limits.Limiter(table, 1)
    turn = iter(range(10**12))

    def once() -> None:
        limiter.admit(some[next(turn) % len(some)], None, 900, 1000, NOW, WALL).settle(700)

    benchmark(once)
    assert table.lost == 0
