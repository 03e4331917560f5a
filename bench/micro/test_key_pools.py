"""What a key pool costs a request, beside what the route's strategy costs: one of five keys, and its state in and out.

Target, compiled: < 2 us together.
"""

from pathlib import Path
from typing import Any

import pytest

from fastroute._core.attempts import OK, Attempts, Policy
from fastroute.balance.keyed import keyed
from fastroute.balance.registry import find_strategy
from fastroute.health.provider_key import ProviderKeyState, key_policy
from fastroute.interfaces import KeyPool
from tests.unit.fleet import Fleet, ask_for

KEYS = 5


@pytest.mark.parametrize("strategy", ["round_robin", "time_window", "weighted"])
@pytest.mark.parametrize("others", [0, 5], ids=["one provider", "and five others"])
def test_choosing(benchmark: Any, tmp_path: Path, strategy: str, others: int) -> None:
    n = KEYS + others
    key_rows = [*range(n, n + KEYS), *[-1] * others]
    fleet = Fleet(tmp_path, n, key_rows=key_rows, key_pools=[KeyPool("p", 0, KEYS, strategy)])
    made = keyed(find_strategy("p2c")(fleet.info), fleet.info)
    ask = ask_for()

    def choose() -> int:
        fleet.candidates.gate(fleet.need)
        return made.pick(fleet.candidates, ask)

    assert 0 <= benchmark(choose) < n


def test_in_and_out(benchmark: Any, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, key_rows=[1])
    key = ProviderKeyState(fleet.segment, Attempts(fleet.segment, key_policy(Policy())), 1)

    def once() -> None:
        key.leave(0, key.enter(0, 1_000, 1), OK, 1_000)

    benchmark(once)
    assert key.counts().requests > 0
