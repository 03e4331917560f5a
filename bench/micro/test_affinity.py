"""What keeping requests together costs: both halves, over 10 and 1000 candidates.

Targets, compiled: a prefix pick with a prompt of 16 KB over 10 candidates < 10 us, consistent_hash over 1000 <= 40 us.
"""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from fastroute.balance.prefix import Prefix
from tests.unit.core.twins import twins
from tests.unit.fleet import Fleet, ask_for

PROMPT_BYTES = 16_384


@pytest.fixture(params=twins("affinity"))
def half(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[10, 1000])
def fleet(half: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Fleet:
    fleet = Fleet(tmp_path, request.param, half=half, workers=4)
    rng = random.Random(request.param)
    fleet.set_loads([rng.randrange(20) for _ in range(fleet.n)])
    return fleet


def test_consistent_hash(benchmark: Any, half: Any, fleet: Fleet) -> None:
    nodes = half.Rendezvous(fleet.ids)
    sessions = itertools.cycle([b"session-%d" % i for i in range(1000)])
    assert benchmark(lambda: nodes.pick(fleet.candidates, next(sessions), 1000, 1.25)) >= 0


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_prefix(benchmark: Any, half: Any, fleet: Fleet, known: bool) -> None:
    rng = random.Random(1)
    table = half.PrefixTable(fleet.ids, 65_536, 64)
    # More new prompts than the table holds, so that blocks are given up all the time.
    prompts = itertools.cycle([rng.randbytes(PROMPT_BYTES) for _ in range(1 if known else 400)])
    pick = lambda: table.pick(fleet.candidates, next(prompts), 0, PROMPT_BYTES, b"acme", 1000, 1.25)  # noqa: E731
    assert benchmark(pick) >= 0


def test_strategy_prefix(benchmark: Any, tmp_path: Path) -> None:
    """The strategy as the gateway calls it, in the half that this process runs."""
    fleet = Fleet(tmp_path, 10, workers=4)
    ask = ask_for(random.Random(2).randbytes(PROMPT_BYTES), tenant="acme")
    assert benchmark(Prefix(fleet.info).pick, fleet.candidates, ask) >= 0
