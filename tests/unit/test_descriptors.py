import resource

import pytest

from fastroute.descriptors import allow_for, room_for

FREE = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stand in for those of this process; the last ones are in force."""
    kept: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: kept[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: kept.append(pair))
    return kept


@pytest.mark.parametrize(
    ("before", "connections", "after", "room"),
    [
        ((1024, 524288), 16384, (32832, 524288), 16384),
        ((1024, 4096), 16384, (4096, 4096), 2016),
        ((1024, FREE), 16384, (32832, FREE), 16384),
        ((FREE, FREE), 16384, (FREE, FREE), 16384),
        ((65536, 524288), 16384, (65536, 524288), 16384),
        ((1024, 524288), 100, (1024, 524288), 100),
        ((20, 20), 16384, (20, 20), 1),
    ],
)
def test_files_that_may_be_open(
    before: tuple[int, int], connections: int, after: tuple[int, int], room: int, limits: list[tuple[int, int]]
) -> None:
    limits.append(before)
    allow_for(connections)
    assert limits[-1] == after
    assert room_for(connections) == room
