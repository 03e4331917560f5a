"""What it costs to look a model name up in a request body: both halves, with and without the filter.

A round looks 1000 names up, so that no table sits in the first-level cache by accident; divide by 1000.
Target: compiled <= 100 ns for a hit among 10,000 names.
"""

import random
from typing import Any

import pytest

from tests.unit.core.twins import twins

LOOKUPS = 1000


@pytest.fixture(params=twins("modeltable"))
def half(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("count", [100, 10_000])
@pytest.mark.parametrize("bloom", [True, False], ids=["bloom", "exact"])
@pytest.mark.parametrize("kind", ["hit", "miss"])
def test_lookup(benchmark: Any, half: Any, count: int, bloom: bool, kind: str) -> None:
    names = [b"provider-%d/model-name-%d" % (i % 17, i) for i in range(count)]
    table = half.ModelTable(names, bloom)
    rng = random.Random(count)
    asked = [rng.choice(names) if kind == "hit" else b"provider-3/model-nome-%d" % i for i in range(LOOKUPS)]
    bodies = [(b'{"model":"' + name + b'","stream":true}', 10, 10 + len(name)) for name in asked]
    lookup = table.lookup

    def run() -> int:
        found = 0
        for body, start, end in bodies:
            if lookup(body, start, end) >= 0:
                found += 1
        return found

    assert benchmark(run) == (LOOKUPS if kind == "hit" else 0)


def test_may_contain(benchmark: Any, half: Any) -> None:
    table = half.ModelTable([b"model-%d" % i for i in range(10_000)])
    assert benchmark(table.may_contain, b'{"model":"model-77"}', 10, 18) is True
