"""The strategies that look at nothing but weights, turns and what is in flight."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastroute._core.attempts import FAILED, NEUTRAL, OK, RATE_LIMITED
from fastroute._core.counters import IN_FLIGHT
from fastroute.balance import registry
from fastroute.balance.base import BaseStrategy
from fastroute.balance.guarded import Guarded
from fastroute.balance.registry import BUILT_IN, find_strategy
from fastroute.config.fields import STRATEGIES
from fastroute.interfaces import Ask, Result
from tests.unit.fleet import Fleet

PLAIN = ("p2c", "round_robin", "weighted_round_robin", "least_connections", "random")


def make(name: str, pool: Fleet) -> Any:
    return find_strategy(name)(pool.info)


def picks(strategy: Any, pool: Fleet, count: int) -> list[int]:
    return [strategy.pick(pool.candidates, Ask()) for _ in range(count)]


# --- the registry


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_strategy_is_called_what_it_is_registered_as(tmp_path: Path, name: str) -> None:
    strategy = make(name, Fleet(tmp_path, [1.0]))
    assert strategy.name == name
    assert strategy.pick(Fleet(tmp_path, [1.0]).candidates, Ask()) == 0


def test_every_name_of_the_configuration_is_registered() -> None:
    assert set(BUILT_IN) == set(STRATEGIES)


def test_a_third_party_adds_one_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(BaseStrategy):
        name = "theirs"

    class Point(NamedTuple):
        name: str
        load: Callable[[], Any]

    def points(group: str) -> list[Point]:
        assert group == "fastroute.strategies"
        return [Point("other", lambda: pytest.fail("loaded without need")), Point("theirs", lambda: Theirs)]

    monkeypatch.setattr(registry, "entry_points", points)
    made = make("theirs", Fleet(tmp_path, [1.0]))
    assert isinstance(made, Guarded)
    assert isinstance(made.inner, Theirs)
    # A built-in one cannot be taken over.
    assert find_strategy("p2c") is BUILT_IN["p2c"]
    with pytest.raises(KeyError):
        find_strategy("nobody")


@pytest.mark.parametrize("name", ["", "nobody", "P2C", "p2c ", "fastroute.balance.p2c"])
def test_a_name_nobody_registered(name: str) -> None:
    with pytest.raises(KeyError):
        find_strategy(name)


@pytest.mark.parametrize("name", PLAIN)
def test_nobody_is_picked_where_nobody_is_left(tmp_path: Path, name: str) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0])
    pool.tried(0, 1)
    assert make(name, pool).pick(pool.candidates, Ask()) == -1


@pytest.mark.parametrize("name", PLAIN)
def test_weight_zero_is_never_picked_and_everybody_else_is(tmp_path: Path, name: str) -> None:
    pool = Fleet(tmp_path, [1.0, 0.0, 2.0, 5.0])
    assert set(picks(make(name, pool), pool, 400)) == {0, 2, 3}


@pytest.mark.parametrize("name", PLAIN)
def test_who_was_tried_is_not_picked_again(tmp_path: Path, name: str) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0, 1.0])
    strategy = make(name, pool)
    pool.tried(1)
    assert set(picks(strategy, pool, 100)) == {0, 2}


# --- turns


def test_every_worker_begins_at_a_place_of_its_own(tmp_path: Path) -> None:
    first = Counter(
        picks(make("round_robin", pool), pool, 1)[0]
        for pool in (Fleet(tmp_path, [1.0] * 4, seed=at) for at in range(200))
    )
    assert set(first) == {0, 1, 2, 3}
    assert max(first.values()) < 90


def test_pools_that_take_turns_do_not_pin_each_other(tmp_path: Path) -> None:
    """Two models asked for alternately: each still goes round all of its endpoints."""
    pool = Fleet(tmp_path, [1.0, 1.0])
    one, other = make("round_robin", pool), make("round_robin", pool)
    seen: dict[int, Counter[int]] = {0: Counter(), 1: Counter()}
    for _ in range(100):
        for number, strategy in enumerate((one, other)):
            seen[number][strategy.pick(pool.candidates, Ask())] += 1
    assert seen == {0: {0: 50, 1: 50}, 1: {0: 50, 1: 50}}


def test_the_neighbour_of_one_that_is_out_gets_no_double_share(tmp_path: Path) -> None:
    """Seen over the ones that stay, turns differ by no more than those that were skipped."""
    pool = Fleet(tmp_path, [1.0] * 4)
    strategy = make("round_robin", pool)
    pool.tried(1)
    shares = Counter(picks(strategy, pool, 300))
    assert set(shares) == {0, 2, 3}
    assert max(shares.values()) - min(shares.values()) <= 1


def test_the_sequence_of_nginx(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [5.0, 1.0, 1.0])
    assert picks(make("weighted_round_robin", pool), pool, 14) == [0, 0, 1, 0, 2, 0, 0] * 2


def test_a_failure_lowers_a_share_until_picks_have_brought_it_back(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [5.0, 5.0])
    strategy = make("weighted_round_robin", pool)
    for verdict in (OK, NEUTRAL, RATE_LIMITED):
        strategy.observe(0, Ask(), Result(verdict))
    assert strategy.cycle.effective == [5, 5]
    strategy.observe(0, Ask(), Result(FAILED))
    assert strategy.cycle.effective[0] < 5
    picks(strategy, pool, 10)
    assert strategy.cycle.effective == [5, 5]


@pytest.mark.parametrize(("weights", "picked"), [((5.0, 1.0, 1.0), 14), ((3.0, 2.0), 15)])
def test_a_reload_goes_on_in_the_middle_of_a_round(tmp_path: Path, weights: tuple[float, ...], picked: int) -> None:
    pool = Fleet(tmp_path, weights)
    for name in ("round_robin", "weighted_round_robin"):
        whole, strategy = make(name, pool), make(name, pool)
        if name == "round_robin":
            whole.cycle.cursor = strategy.cycle.cursor = 0
        wanted = picks(whole, pool, picked)
        seen = []
        for _ in range(picked):
            seen += picks(strategy, pool, 1)
            after = make(name, pool)
            after.adopt(strategy, list(range(len(weights))))
            strategy = after
        assert seen == wanted


# --- loads


def test_least_connections_compares_what_is_in_flight_by_weight(tmp_path: Path) -> None:
    """Large weights and small ones, without a fraction lost: (in flight + 1) / weight."""
    pool = Fleet(tmp_path, [1000.0, 501.0, 1.0])
    strategy = make("least_connections", pool)
    flying = [0, 0, 0]
    for _ in range(1502):
        at = strategy.pick(pool.candidates, Ask())
        flying[at] += 1
        pool.segment.add(0, at, IN_FLIGHT, 1)
    assert flying == pytest.approx([1000, 501, 1], abs=1)


def test_least_connections_counts_all_workers(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0])
    pool.segment.add(1, 0, IN_FLIGHT, 1)
    assert set(picks(make("least_connections", pool), pool, 50)) == {1}


@pytest.mark.parametrize("name", ["least_connections", "p2c", "random"])
def test_an_idle_pool_is_no_queue_for_the_first_of_it(tmp_path: Path, name: str) -> None:
    pool = Fleet(tmp_path, [1.0] * 4)
    shares = Counter(picks(make(name, pool), pool, 4000))
    assert all(share == pytest.approx(1000, abs=150) for share in shares.values())
    assert len(shares) == 4


@pytest.mark.parametrize("name", ["least_connections", "random"])
def test_an_idle_pool_is_shared_by_weight(tmp_path: Path, name: str) -> None:
    pool = Fleet(tmp_path, [3.0, 1.0])
    strategy = make(name, pool)
    rng = random.Random(1)
    shares: Counter[int] = Counter()
    flying: list[int] = []
    for _ in range(8000):
        at = strategy.pick(pool.candidates, Ask())
        shares[at] += 1
        pool.segment.add(0, at, IN_FLIGHT, 1)
        flying.append(at)
        if len(flying) > 12:
            pool.segment.add(0, flying.pop(rng.randrange(len(flying))), IN_FLIGHT, -1)
    assert shares[0] / 8000 == pytest.approx(0.75, abs=0.03)
