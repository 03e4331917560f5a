"""The strategy `consistent_hash`."""

from collections import Counter
from pathlib import Path

import pytest

from fastroute._core.counters import SLOW_START_MS
from fastroute.balance.consistent_hash import ConsistentHash
from fastroute.balance.registry import find_strategy
from fastroute.config.schema import StrategyOptions
from tests.unit.fleet import Fleet, ask_for

SESSIONS = [b"session-%d" % i for i in range(400)]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, 6)


def picks(strategy: ConsistentHash, fleet: Fleet) -> list[int]:
    return [strategy.pick(fleet.candidates, ask_for(session=session)) for session in SESSIONS]


def test_it_is_registered() -> None:
    assert find_strategy("consistent_hash") is ConsistentHash
    assert ConsistentHash.name == "consistent_hash"


def test_a_session_stays(fleet: Fleet) -> None:
    strategy = ConsistentHash(fleet.info)
    first = picks(strategy, fleet)
    assert picks(strategy, fleet) == first
    assert set(first) == set(range(6))


def test_every_worker_agrees_and_so_does_the_next_snapshot(fleet: Fleet) -> None:
    one, two = ConsistentHash(fleet.with_bits(1)), ConsistentHash(fleet.with_bits(2))
    assert picks(one, fleet) == picks(two, fleet)
    two.adopt(one, range(6))
    assert picks(one, fleet) == picks(two, fleet)


def test_endpoints_are_known_by_their_ids(fleet: Fleet, tmp_path: Path) -> None:
    """A reload that puts endpoints elsewhere and removes one moves that one's sessions only."""
    before = [fleet.ids[i] for i in picks(ConsistentHash(fleet.info), fleet)]
    left = Fleet(tmp_path, 5, ids=[fleet.ids[i] for i in (4, 0, 5, 2, 1)])
    after = [left.ids[i] for i in picks(ConsistentHash(left.info), left)]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "endpoint-3")
    assert before.count("endpoint-3") > 30


def test_a_gate_moves_the_sessions_of_those_it_removes_and_they_return(fleet: Fleet) -> None:
    strategy = ConsistentHash(fleet.info)
    before = picks(strategy, fleet)
    fleet.only([0, 2, 3, 5])
    during = picks(strategy, fleet)
    assert all(new == old for old, new in zip(before, during, strict=True) if old in (0, 2, 3, 5))
    # Those of the others are spread over all that are left.
    moved = Counter(new for old, new in zip(before, during, strict=True) if old not in (0, 2, 3, 5))
    assert set(moved) == {0, 2, 3, 5}
    fleet.only(range(6))
    assert picks(strategy, fleet) == before


def test_a_full_endpoint_is_passed_over(fleet: Fleet) -> None:
    strategy = ConsistentHash(fleet.info)
    before = picks(strategy, fleet)
    fleet.set_loads([0, 0, 50, 0, 0, 0])
    during = picks(strategy, fleet)
    assert 2 not in during
    assert all(new == old for old, new in zip(before, during, strict=True) if old != 2)


def test_the_bound_is_an_option(fleet: Fleet) -> None:
    loads = [4, 4, 8, 4, 4, 4]
    fleet.set_loads(loads)
    # (28 + 1) / 6 = 4.83, times 1.25 is 6.04, times 2 is 9.67.
    assert 2 not in picks(ConsistentHash(fleet.info), fleet)
    assert 2 in picks(ConsistentHash(fleet.info._replace(options=StrategyOptions(hash_balance=2.0))), fleet)


def test_without_a_session_the_least_loaded(fleet: Fleet) -> None:
    fleet.set_loads([3, 2, 3, 1, 2, 3])
    for bits in (0, 7, 2**64 - 1):
        assert ConsistentHash(fleet.with_bits(bits)).pick(fleet.candidates, ask_for()) == 3
    fleet.set_loads([1] * 6)
    drawn = {ConsistentHash(fleet.with_bits(bits)).pick(fleet.candidates, ask_for()) for bits in range(50)}
    assert drawn == set(range(6))


def test_a_slow_start_takes_effect(fleet: Fleet) -> None:
    strategy = ConsistentHash(fleet.info)
    before = picks(strategy, fleet)
    fleet.segment.set_cell(1, SLOW_START_MS, 1000)
    fleet.need.slow_start_ms = 60_000
    fleet.candidates.gate(fleet.need)
    assert picks(strategy, fleet).count(1) < before.count(1) / 3


def test_no_candidates(fleet: Fleet) -> None:
    strategy = ConsistentHash(fleet.info)
    fleet.only([])
    assert strategy.pick(fleet.candidates, ask_for(session=b"one")) == -1
    assert strategy.pick(fleet.candidates, ask_for()) == -1
