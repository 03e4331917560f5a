"""Key pools: the route's strategy chooses the provider, the provider's own one its key."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.attempts import FAILED
from fastroute._core.counters import LAST_USED_MS
from fastroute.balance.keyed import KeyPools, LearningKeyPools, OneKeyPool, keyed
from fastroute.balance.registry import BUILT_IN, find_strategy
from fastroute.interfaces import KeyPool, Result
from tests.unit.fleet import Fleet, ask_for, shares

KEY_STRATEGIES = ("round_robin", "time_window", "weighted")


def of_one_provider(folder: Path, strategy: str, weights: list[float], **more: Any) -> Fleet:
    n = len(weights)
    pools = [KeyPool("p", 0, n, strategy)]
    return Fleet(folder, weights, key_rows=range(n, 2 * n), key_pools=pools, **more)


def made(fleet: Fleet, route: str = "p2c") -> Any:
    return keyed(find_strategy(route)(fleet.info), fleet.info)


def test_without_key_pools_a_strategy_stays_as_it_is(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, [1.0, 1.0])
    route = find_strategy("p2c")(fleet.info)
    assert keyed(route, fleet.info) is route


@pytest.mark.parametrize("name", KEY_STRATEGIES)
def test_one_provider_goes_by_its_key_strategy_whatever_the_route_has(tmp_path: Path, name: str) -> None:
    strategy = made(of_one_provider(tmp_path, name, [1.0] * 3))
    assert isinstance(strategy, OneKeyPool)
    assert (strategy.name, strategy.label, strategy.reads_prompt) == (name, name, False)
    # Nobody learns: the caller is spared the call.
    assert getattr(type(strategy).observe, "does_nothing", False)


def test_round_robin_is_exact(tmp_path: Path) -> None:
    fleet = of_one_provider(tmp_path, "round_robin", [1.0, 9.0, 1.0])
    picked = [made(fleet).pick(fleet.candidates, ask_for()) for _ in range(1)]
    strategy = made(fleet)
    picked = [strategy.pick(fleet.candidates, ask_for()) for _ in range(300)]
    assert all(set(picked[at : at + 3]) == {0, 1, 2} for at in range(0, 300, 3))


def test_weighted_is_exact_and_a_failure_changes_nothing(tmp_path: Path) -> None:
    fleet = of_one_provider(tmp_path, "weighted", [1.0, 3.0, 2.0])
    strategy = made(fleet)
    counts: Counter[int] = Counter()
    for _ in range(600):
        position = strategy.pick(fleet.candidates, ask_for())
        strategy.observe(position, ask_for(), Result(FAILED))
        counts[position] += 1
    assert counts == {0: 100, 1: 300, 2: 200}


def test_time_window_takes_the_one_that_was_unused_for_the_longest(tmp_path: Path) -> None:
    """Also when the windows of several have passed, and over all workers."""
    fleet = of_one_provider(tmp_path, "time_window", [1.0, 50.0, 7.0], time_window_ms=10)
    workers = [made(fleet), made(fleet)]
    turn = [workers[0].pick(fleet.candidates, ask_for(now_ms=1_000 + at)) for at in range(3)]
    assert sorted(turn) == [0, 1, 2]
    for round_ in range(1, 20):
        again = [
            workers[at % 2].pick(fleet.candidates, ask_for(now_ms=1_000 + 700_000 * round_ + at)) for at in range(3)
        ]
        assert again == turn
    # It is keys that are claimed.
    assert [fleet.segment.cell(row, LAST_USED_MS) for row in range(3)] == [0, 0, 0]


def test_who_cannot_be_had_is_left_out(tmp_path: Path) -> None:
    for name in KEY_STRATEGIES:
        folder = tmp_path / name
        folder.mkdir()
        fleet = of_one_provider(folder, name, [1.0] * 4)
        strategy = made(fleet)
        fleet.tried(1, 2)
        assert set(shares(strategy, fleet, 40)) == {0, 3}
        fleet.tried(0, 1, 2, 3)
        assert strategy.pick(fleet.candidates, ask_for()) == -1


# --- several providers


def of_three_providers(folder: Path, first: str = "round_robin", second: str = "weighted") -> Fleet:
    """Return a fleet of two keys of `a`, a provider without a key strategy, and three keys of `c`."""
    pools = [KeyPool("a", 0, 2, first), KeyPool("c", 3, 6, second)]
    return Fleet(folder, [10.0, 10.0, 10.0, 10.0, 10.0, 20.0], key_rows=[6, 7, -1, 8, 9, 10], key_pools=pools)


@pytest.mark.parametrize("route", sorted(BUILT_IN))
def test_every_strategy_can_choose_the_provider(tmp_path: Path, route: str) -> None:
    fleet = of_three_providers(tmp_path)
    strategy = made(fleet, route)
    assert isinstance(strategy, KeyPools)
    assert strategy.name == route
    assert not hasattr(strategy, "label")
    plain = find_strategy(route)(fleet.info)
    learns = not getattr(type(plain).observe, "does_nothing", False)
    assert isinstance(strategy, LearningKeyPools) is learns
    assert strategy.reads_prompt == getattr(plain, "reads_prompt", True)
    for at in range(60):
        position = strategy.pick(fleet.candidates, ask_for(now_ms=1_000 + at))
        assert 0 <= position < 6
        strategy.observe(position, ask_for(), Result(FAILED))
        fleet.tried()
    fleet.tried(*range(6))
    assert strategy.pick(fleet.candidates, ask_for()) == -1


def test_the_providers_keep_their_shares_and_the_keys_have_theirs(tmp_path: Path) -> None:
    fleet = of_three_providers(tmp_path)
    strategy = made(fleet, "round_robin")
    counts: Counter[int] = Counter()
    for _ in range(600):
        fleet.tried()
        counts[strategy.pick(fleet.candidates, ask_for())] += 1
    assert counts == {0: 100, 1: 100, 2: 100, 3: 75, 4: 75, 5: 150}


def test_a_provider_that_is_left_with_one_key_uses_it(tmp_path: Path) -> None:
    fleet = of_three_providers(tmp_path)
    strategy = made(fleet, "round_robin")
    for _ in range(30):
        fleet.tried(3, 5)
        assert strategy.pick(fleet.candidates, ask_for()) in (0, 1, 2, 4)


@pytest.mark.parametrize("keys", KEY_STRATEGIES)
def test_a_route_by_time_window_claims_what_is_used(tmp_path: Path, keys: str) -> None:
    fleet = of_three_providers(tmp_path, keys, keys)
    strategy = made(fleet, "time_window")
    turns = []
    for at in range(60):
        fleet.tried()
        turns.append(strategy.pick(fleet.candidates, ask_for(now_ms=1_000 + at)))
        assert fleet.segment.cell([6, 7, 2, 8, 9, 10][turns[-1]], LAST_USED_MS) >> 20 == 1_000 + at
    assert keys == "weighted" or Counter(turns) == dict.fromkeys(range(6), 10)
    assert {2, 5} < set(turns)


def test_peeking_claims_nothing(tmp_path: Path) -> None:
    for first, route in ((("time_window", "time_window"), "time_window"), (("time_window", "time_window"), "p2c")):
        folder = tmp_path / route
        folder.mkdir()
        fleet = of_three_providers(folder, *first)
        strategy = made(fleet, route)
        fleet.tried()
        position = strategy.peek(fleet.candidates, ask_for(now_ms=5_000))
        assert 0 <= position < 6
        assert {fleet.segment.cell(row, LAST_USED_MS) for row in range(fleet.segment.endpoints)} == {0}
    single = of_one_provider(tmp_path, "time_window", [1.0, 1.0])
    assert made(single).peek(single.candidates, ask_for(now_ms=5_000)) in (0, 1)
    assert [single.segment.cell(row, LAST_USED_MS) for row in range(4)] == [0] * 4


# --- reload


def test_turns_go_on_over_a_reload(tmp_path: Path) -> None:
    fleet = of_one_provider(tmp_path, "round_robin", [1.0] * 3)
    old = made(fleet)
    first = old.pick(fleet.candidates, ask_for())
    new = made(fleet)
    new.adopt(old, [0, 1, 2])
    assert new.pick(fleet.candidates, ask_for()) == (first + 1) % 3


def test_what_another_strategy_had_is_left_alone(tmp_path: Path) -> None:
    fleet = of_one_provider(tmp_path, "round_robin", [1.0] * 3)
    weighted = of_one_provider(tmp_path, "weighted", [1.0] * 3)
    new = made(fleet)
    cursor = new.keys[0].cycle.cursor
    new.adopt(made(weighted), [0, 1, 2])
    new.adopt(find_strategy("round_robin")(fleet.info), [0, 1, 2])
    assert new.keys[0].cycle.cursor == cursor


def test_a_route_that_learns_is_taken_over_from_within_and_without(tmp_path: Path) -> None:
    fleet = of_three_providers(tmp_path)
    plain = find_strategy("round_robin")(fleet.info)
    plain.cycle.cursor = 4  # type: ignore[attr-defined]
    first = made(fleet, "round_robin")
    first.adopt(plain, range(6))
    assert first.route.cycle.cursor == 4
    second = made(fleet, "round_robin")
    second.adopt(first, range(6))
    assert second.route.cycle.cursor == 4


# --- whatever becomes of the keys


@given(
    st.sampled_from(KEY_STRATEGIES),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    # A claim comes after every one it has seen: of one millisecond, it has seen those of the candidates only.
    st.lists(st.tuples(st.sets(st.integers(0, 4)), st.integers(1, 400_000)), min_size=1, max_size=40),
)
def test_the_chosen_one_is_a_candidate_and_turns_are_kept(
    tmp_path_factory: pytest.TempPathFactory, name: str, weights: list[int], steps: list[tuple[set[int], int]]
) -> None:
    fleet = of_one_provider(tmp_path_factory.mktemp("fleet"), name, [float(weight) for weight in weights])
    workers = [made(fleet), made(fleet)]
    used_at = dict.fromkeys(range(len(weights)), -1)
    now_ms = 1
    for number, (down, wait_ms) in enumerate(steps):
        now_ms += wait_ms
        fleet.tried(*down)
        left = set(range(len(weights))) - down
        position = workers[number % 2].pick(fleet.candidates, ask_for(now_ms=now_ms))
        assert position in left if left else position == -1
        if name == "time_window" and left:
            assert used_at[position] == min(used_at[one] for one in left)
        if left:
            used_at[position] = number
    fleet.segment.close()
