"""Choosing among candidates, over both halves."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from fastroute._core import counters as cells
from fastroute._core._attempts_rules import OK
from tests.unit.core.halves import Half, need_of, pool_of

ENDPOINTS = 1_200
NOW = 1_000_000
DECAY_MS = 10_000
DAY_MS = 24 * 3_600_000
#: A choice by load or weight, brought to one signature: (pool, bits, now_ms).
Chooser = Callable[..., int]


@pytest.fixture
def selection(half: Half) -> ModuleType:
    return half.selection


def chooser(half: Half, name: str) -> Chooser:
    choose = getattr(half.selection, name)
    if name == "p2c":
        return lambda pool, bits, now_ms=NOW: choose(pool, bits, now_ms, DECAY_MS)
    return lambda pool, bits, now_ms=NOW: choose(pool, bits, now_ms)


@pytest.fixture(params=["least_connections", "p2c", "weighted_random"])
def choose(half: Half, request: pytest.FixtureRequest) -> Chooser:
    return chooser(half, request.param)


def shares(choose: Chooser, pool: Any, count: int, seed: int, now_ms: int = NOW) -> Counter[int]:
    rng = random.Random(seed)
    return Counter(choose(pool, rng.getrandbits(64), now_ms) for _ in range(count))


def set_cost(half: Half, segment: Any, row: int, cost_ms: float, now_ms: int = NOW) -> None:
    """Let the endpoint be measured: it has now cost `cost_ms`."""
    segment.set_cell(row, cells.COST, 0)
    attempts = half.attempts.Attempts(segment)
    attempts.leave(0, row, attempts.enter(0, row, 0, now_ms), OK, cost_ms, now_ms, 0, 0, 0)
    assert attempts.cost(row, now_ms) == pytest.approx(cost_ms, rel=1e-6)


def picks(balancer: Any, candidates: Sequence[int], count: int) -> list[int]:
    return [balancer.pick(candidates) for _ in range(count)]


def assert_shares(counts: Counter[int], expected: Sequence[float]) -> None:
    """Chi-square against shares by position; a true sample fails once in 100,000 times or less (4.3 sigma)."""
    total, weight = counts.total(), sum(expected)
    assert set(counts) <= {i for i, share in enumerate(expected) if share > 0}
    wanted = [(counts[i], total * share / weight) for i, share in enumerate(expected) if share > 0]
    statistic = sum((count - want) ** 2 / want for count, want in wanted)
    degrees = len(wanted) - 1
    assert statistic < degrees + 4.3 * (2 * degrees) ** 0.5 + 10


# ---- RoundRobin ----


def test_round_robin_serves_in_turn(selection: ModuleType) -> None:
    assert picks(selection.RoundRobin(4), [0, 1, 2, 3], 9) == [0, 1, 2, 3, 0, 1, 2, 3, 0]


@pytest.mark.parametrize(("start", "first"), [(2, 2), (4, 0), (-1, 3), (10**30 + 1, 1)])
def test_round_robin_starts_modulo_n(selection: ModuleType, start: int, first: int) -> None:
    assert selection.RoundRobin(4, start).pick((0, 1, 2, 3)) == first


def test_round_robin_follows_positions_not_the_order_given(selection: ModuleType) -> None:
    assert picks(selection.RoundRobin(9), [7, 1, 4], 6) == [1, 4, 7, 1, 4, 7]


def test_round_robin_walks_past_who_is_missing(selection: ModuleType) -> None:
    balancer = selection.RoundRobin(5)
    assert balancer.pick([0, 1, 2, 3, 4]) == 0
    assert balancer.pick([0, 2, 3, 4]) == 2
    assert balancer.pick([0, 1, 2]) == 0
    assert balancer.pick([4]) == 4
    assert balancer.pick([]) == -1
    assert balancer.pick([3, 1]) == 1


def test_round_robin_is_exactly_fair(selection: ModuleType) -> None:
    balancer = selection.RoundRobin(100, 37)
    counts = Counter(picks(balancer, list(range(0, 100, 3)), 34 * 7))
    assert set(counts.values()) == {7}


def test_round_robin_refuses(selection: ModuleType) -> None:
    for n in (-1, 65537):
        with pytest.raises(ValueError, match="n must be"):
            selection.RoundRobin(n)
    balancer = selection.RoundRobin(3)
    for wrong in (3, -1, 10**30):
        with pytest.raises(IndexError):
            balancer.pick([1, wrong])
    with pytest.raises(TypeError):
        balancer.pick([0.0])
    assert balancer.pick([0, 1, 2]) == 0
    assert selection.RoundRobin(0, 5).pick([]) == -1
    with pytest.raises(IndexError):
        selection.RoundRobin(0).pick([0])


def test_round_robin_over_a_pool(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 4, ranks=[0, 0, 1, 0])
    balancer = half.selection.RoundRobin(4, 2)
    assert picks(balancer, pool, 5) == [3, 0, 1, 3, 0]
    pool.gate(need_of(half, tried=[0, 1, 3]))
    assert picks(balancer, pool, 2) == [2, 2]
    pool.gate(need_of(half, tried=[0, 1, 2, 3]))
    assert balancer.pick(pool) == -1


def test_round_robin_is_fair_after_every_pick(selection: ModuleType) -> None:
    balancer = selection.RoundRobin(7, 3)
    counts = Counter(dict.fromkeys(range(7), 0))
    for _ in range(100):
        counts[balancer.pick(range(7))] += 1
        assert max(counts.values()) - min(counts.values()) <= 1


def test_pools_that_take_turns_do_not_couple(selection: ModuleType) -> None:
    # With one counter for both, each would keep to one endpoint.
    first, second = selection.RoundRobin(2), selection.RoundRobin(2)
    pairs = Counter((first.pick([0, 1]), second.pick([0, 1])) for _ in range(100))
    assert pairs == {(0, 0): 50, (1, 1): 50}
    heavy, light = selection.SmoothWeightedRoundRobin([5, 1, 1]), selection.SmoothWeightedRoundRobin([1, 5, 1])
    served = [(heavy.pick([0, 1, 2]), light.pick([0, 1, 2])) for _ in range(7)]
    assert "".join("abc"[one] for one, _ in served) == "aabacaa"
    assert "".join("abc"[one] for _, one in served) == "bbabcbb"


def test_round_robin_cursor(selection: ModuleType) -> None:
    balancer = selection.RoundRobin(4, 1)
    assert balancer.cursor == 1
    balancer.pick([2])
    assert balancer.cursor == 3
    balancer.pick([3])
    assert balancer.cursor == 0
    balancer.cursor = 2
    assert balancer.pick([0, 1, 2, 3]) == 2
    for wrong in (4, -1):
        with pytest.raises(IndexError):
            balancer.cursor = wrong
    assert balancer.cursor == 3


# ---- SmoothWeightedRoundRobin ----


def test_smooth_sequence_of_nginx(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([5, 1, 1])
    sequence = "".join("abc"[i] for i in picks(balancer, [0, 1, 2], 14))
    assert sequence == "aabacaa" * 2
    assert balancer.current == [0, 0, 0]


def test_smooth_currents_step_by_step(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([5, 1, 1])
    expected = [[-2, 1, 1], [-4, 2, 2], [1, -4, 3], [-1, -3, 4], [4, -2, -2], [2, -1, -1], [0, 0, 0]]
    for current in expected:
        balancer.pick([0, 1, 2])
        assert balancer.current == current


def test_smooth_invariants(selection: ModuleType) -> None:
    rng = random.Random(5)
    for _ in range(30):
        weights = [rng.randrange(0, 12) for _ in range(rng.randrange(1, 9))]
        weights[0] += 1
        candidates = rng.sample(range(len(weights)), len(weights))
        balancer = selection.SmoothWeightedRoundRobin(weights)
        counts: Counter[int] = Counter()
        for _ in range(sum(weights)):
            counts[balancer.pick(candidates)] += 1
            assert sum(balancer.current) == 0
        assert [counts[i] for i in range(len(weights))] == weights
        assert balancer.current == [0] * len(weights)


def test_smooth_ties_go_to_the_first_given(selection: ModuleType) -> None:
    assert picks(selection.SmoothWeightedRoundRobin([1, 1, 1]), [2, 0, 1], 3) == [2, 0, 1]


def test_smooth_weight_zero_is_never_picked(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([0, 3, 0])
    assert set(picks(balancer, [0, 1, 2], 20)) == {1}
    assert balancer.pick([0, 2]) == -1
    assert balancer.pick([]) == -1
    assert balancer.current == [0, 0, 0]


def test_smooth_leaves_others_alone(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([2, 3, 4])
    balancer.pick([0, 1, 2])
    before = balancer.current
    picks(balancer, [0, 1], 5)
    assert balancer.current[2] == before[2]
    assert sum(balancer.current) == 0


def test_smooth_failure_and_recovery(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([5, 5])
    balancer.failed(0, 3)  # 5 // 3 = 1
    assert balancer.effective == [4, 5]
    balancer.succeeded(0)
    assert balancer.effective == [4, 5]
    assert balancer.pick([0, 1]) == 1
    assert balancer.current == [4, -4]
    assert balancer.effective == [5, 5]
    balancer.failed(1)
    assert balancer.effective == [5, 0]
    balancer.failed(1)
    assert balancer.effective == [5, 0]
    balancer.pick([0])
    assert balancer.effective == [5, 0]
    for step in range(1, 6):
        balancer.pick([0, 1])
        assert balancer.effective == [5, step]
    balancer.pick([0, 1])
    assert balancer.effective == [5, 5]


def test_smooth_failure_of_the_vector(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([5])
    balancer.failed(0, 3)
    assert balancer.effective == [4]
    for effective in (5, 5):
        assert balancer.pick([0]) == 0
        assert balancer.effective == [effective]
    for lowered in (4, 3, 2, 1, 0, 0):
        balancer.failed(0, 3)
        assert balancer.effective == [lowered]
    for effective in (1, 2, 3, 4, 5, 5):
        balancer.pick([0])
        assert balancer.effective == [effective]


def test_smooth_over_a_pool(half: Half, segment: Any) -> None:
    weights = [5, 0, 1, 1]
    pool = pool_of(half, segment, weights)
    balancer = half.selection.SmoothWeightedRoundRobin(weights)
    assert "".join("a-bc"[i] for i in picks(balancer, pool, 14)) == "aabacaa" * 2
    pool.gate(need_of(half, tried=[0]))
    assert picks(balancer, pool, 4) == [2, 3, 2, 3]


def test_smooth_restores_what_another_cycle_had(selection: ModuleType) -> None:
    old = selection.SmoothWeightedRoundRobin([5, 1, 1])
    picks(old, [0, 1, 2], 2)
    old.failed(0, 5)
    new = selection.SmoothWeightedRoundRobin([1, 9, 5])
    for at, was in ((2, 0), (0, 1)):
        new.restore(at, old.current[was], old.effective[was])
    assert new.current == [2, 0, -4]
    assert new.effective == [1, 9, 4]
    new.restore(1, 0, 50)
    assert new.effective == [1, 9, 4]
    new.restore(1, 0, -3)
    assert new.effective == [1, 0, 4]
    for wrong in (3, -1, 10**30):
        with pytest.raises(IndexError):
            new.restore(wrong, 0, 0)


def test_smooth_without_max_fails_nothing_is_lowered(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([5])
    balancer.failed(0, 0)
    balancer.failed(0, 10)
    assert balancer.effective == [5]


def test_smooth_a_lone_failed_candidate_is_still_picked(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([5, 5])
    balancer.failed(0)
    assert balancer.pick([0]) == 0
    assert balancer.current == [0, 0]


def test_smooth_attributes_are_copies(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([1])
    balancer.current.append(1)
    balancer.effective[0] = 9
    assert (balancer.current, balancer.effective) == ([0], [1])


def test_smooth_refuses(selection: ModuleType) -> None:
    for weights in ([1, -1], [1_000_000_001], [1] * 65537):
        with pytest.raises(ValueError, match="must be 0 to"):
            selection.SmoothWeightedRoundRobin(weights)
    with pytest.raises(TypeError):
        selection.SmoothWeightedRoundRobin([1.5])
    balancer = selection.SmoothWeightedRoundRobin([1, 2])
    for wrong in (2, -1, -(10**30)):
        for call in (
            lambda i=wrong: balancer.pick([0, 1, i]),
            lambda i=wrong: balancer.failed(i),
            lambda i=wrong: balancer.succeeded(i),
        ):
            with pytest.raises(IndexError):
                call()
    with pytest.raises(ValueError, match="max_fails"):
        balancer.failed(0, -1)
    assert (balancer.current, balancer.effective) == ([0, 0], [1, 2])


def test_smooth_with_the_widest_weights(selection: ModuleType) -> None:
    n = 65_536
    balancer = selection.SmoothWeightedRoundRobin([1_000_000_000] * n)
    assert picks(balancer, range(n), 3) == [0, 1, 2]
    assert balancer.current[:4] == [3_000_000_000 - n * 1_000_000_000] * 3 + [3_000_000_000]


def test_smooth_with_many_candidates(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([1] * 2000)
    assert picks(balancer, list(range(2000)), 2000) == list(range(2000))


def test_a_list_that_shrinks_while_it_is_read(half: Half) -> None:
    if half.name == "py":
        pytest.skip("only the compiled half could read past its end")
    selection = half.selection
    for balancer in (selection.RoundRobin(1_000), selection.SmoothWeightedRoundRobin([1] * 1_000)):
        candidates: list[Any] = []

        class Shrinking:
            def __index__(self, candidates: list[Any] = candidates) -> int:
                candidates.clear()
                return 0

        candidates.extend([1, Shrinking(), *range(998)])
        with pytest.raises(IndexError):
            balancer.pick(candidates)
        assert balancer.pick([0, 1]) == 0


# ---- by load and by weight: what they have in common ----


def test_no_candidate(half: Half, segment: Any, choose: Chooser) -> None:
    assert choose(pool_of(half, segment, []), 7) == -1
    pool = pool_of(half, segment, [1, 1])
    pool.gate(need_of(half, tried=[0, 1]))
    assert choose(pool, 7) == -1


def test_one_candidate(half: Half, segment: Any, choose: Chooser) -> None:
    pool = pool_of(half, segment, [1, 1, 1], ranks=[2, 0, 1])
    segment.set(0, 1, cells.IN_FLIGHT, 10_000)
    set_cost(half, segment, 1, 1e30)
    for bits in (0, 7, 2**64 - 1):
        assert choose(pool, bits) == 1


def test_weight_zero_is_never_chosen(half: Half, segment: Any, choose: Chooser) -> None:
    pool = pool_of(half, segment, [0, 3, 0, 1, 0])
    for row in (1, 3):
        segment.set(0, row, cells.IN_FLIGHT, 10_000)
        segment.set(0, row, cells.WORK, 10_000_000)
        set_cost(half, segment, row, 1e30)
    assert set(shares(choose, pool, 2_000, seed=1)) <= {1, 3}


def test_only_the_low_64_bits_count(half: Half, segment: Any, choose: Chooser) -> None:
    pool = pool_of(half, segment, [1.0] * 9)
    rng = random.Random(4)
    for _ in range(100):
        bits = rng.getrandbits(64)
        expected = choose(pool, bits)
        assert choose(pool, bits + (7 << 64)) == expected
        assert choose(pool, bits - (1 << 64)) == expected


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_equals_are_chosen_uniformly(half: Half, segment: Any, choose: Chooser, n: int) -> None:
    pool = pool_of(half, segment, [2.0] * n)
    assert_shares(shares(choose, pool, 4_000, seed=n), [1] * n)


@pytest.mark.parametrize(
    "weights",
    [[5, 1, 1], [1, 2], [100, 1], [0.5, 0.25, 3.0, 0], [1] * 9 + [9], [200] + [1] * 199, [10**9, 10**6, 3 * 10**6]],
    ids=["5-1-1", "1-2", "100-1", "fractions", "one-in-ten", "one-in-two-hundred", "thousandfold"],
)
def test_weights_hold_when_nothing_else_tells_candidates_apart(
    half: Half, segment: Any, choose: Chooser, weights: list[float]
) -> None:
    pool = pool_of(half, segment, weights)
    assert_shares(shares(choose, pool, 4_000, seed=21), weights)


def test_weights_hold_beside_a_far_heavier_tier(half: Half, segment: Any, choose: Chooser) -> None:
    pool = pool_of(half, segment, [1_000_000, 3, 1], ranks=[1, 0, 0])
    assert_shares(shares(choose, pool, 8_000, seed=22), [0, 3, 1])


def test_a_slow_start_and_a_factor_count(half: Half, segment: Any, choose: Chooser) -> None:
    pool = pool_of(half, segment, [1, 1, 1])
    segment.set_cell(0, cells.SLOW_START_MS, NOW - 5_000)
    pool.set_factor(1, 0.25)
    pool.gate(need_of(half, now_ms=NOW, slow_start_ms=10_000))
    assert_shares(shares(choose, pool, 8_000, seed=23), [0.5, 0.25, 1])


def test_a_standby_idle_for_a_day_is_chosen_like_any_other(half: Half, segment: Any, choose: Chooser) -> None:
    pool = pool_of(half, segment, [1, 1, 1], ranks=[0, 1, 1])
    set_cost(half, segment, 1, 9_000.0)  # its last answer was slow
    pool.gate(need_of(half, now_ms=NOW + DAY_MS, tried=[0]))
    assert_shares(shares(choose, pool, 8_000, seed=24, now_ms=NOW + DAY_MS), [0, 1, 1])


@pytest.mark.parametrize("name", ["least_connections", "p2c", "weighted_random"])
def test_a_closed_segment(half: Half, segment: Any, name: str) -> None:
    pool = pool_of(half, segment, [1, 1])
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        chooser(half, name)(pool, 0)


# ---- least_connections ----


def test_the_least_in_flight_over_all_workers(half: Half, segment: Any) -> None:
    choose = chooser(half, "least_connections")
    pool = pool_of(half, segment, [1, 1, 1], rows=[3, 6, 7])
    segment.add(0, 3, cells.IN_FLIGHT, 2)
    segment.add(1, 3, cells.IN_FLIGHT, 3)
    segment.add(1, 6, cells.IN_FLIGHT, 4)
    segment.add(0, 7, cells.IN_FLIGHT, 6)
    assert set(shares(choose, pool, 100, seed=1)) == {1}
    segment.add(0, 7, cells.IN_FLIGHT, -6)
    assert set(shares(choose, pool, 100, seed=1)) == {2}


def test_in_flight_counts_for_its_weight(half: Half, segment: Any) -> None:
    choose = chooser(half, "least_connections")
    pool = pool_of(half, segment, [3.0, 1.0])
    segment.set(0, 0, cells.IN_FLIGHT, 5)
    segment.set(0, 1, cells.IN_FLIGHT, 2)
    assert set(shares(choose, pool, 100, seed=2)) == {0}
    segment.set(0, 0, cells.IN_FLIGHT, 7)
    assert set(shares(choose, pool, 100, seed=2)) == {1}
    segment.set(0, 0, cells.IN_FLIGHT, 6)
    assert_shares(shares(choose, pool, 8_000, seed=2), [3, 1])


def test_everybody_is_looked_at(half: Half, segment: Any) -> None:
    choose = chooser(half, "least_connections")
    pool = pool_of(half, segment, [1.0] * 1_024)
    for row in range(1_024):
        segment.set(row % 2, row, cells.IN_FLIGHT, row ^ 0x2A5)
    assert choose(pool, 99) == 0x2A5


def test_a_count_below_zero_is_none(half: Half, segment: Any) -> None:
    # What a worker that died leaves behind may be cleared while its last requests are counted out.
    choose = chooser(half, "least_connections")
    pool = pool_of(half, segment, [1, 1])
    segment.set(0, 0, cells.IN_FLIGHT, -3)
    assert_shares(shares(choose, pool, 2_000, seed=3), [1, 1])


def test_filling_up_follows_the_weights(half: Half, segment: Any) -> None:
    choose = chooser(half, "least_connections")
    weights = [1, 2, 5]
    pool = pool_of(half, segment, weights)
    rng = random.Random(5)
    for _ in range(800):
        segment.add(rng.randrange(2), choose(pool, rng.getrandbits(64)), cells.IN_FLIGHT, 1)
    assert [abs(segment.in_flight(row) - 100 * weight) <= 1 for row, weight in enumerate(weights)] == [True] * 3


# ---- p2c ----


def test_of_two_the_one_with_the_lower_load(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    pool = pool_of(half, segment, [1, 1])
    set_cost(half, segment, 0, 100.0)
    set_cost(half, segment, 1, 151.0)
    assert set(shares(choose, pool, 200, seed=1)) == {0}
    # 100 x (1 + 1) against 151: the work in flight counts, of all workers.
    segment.set(1, 0, cells.WORK, 1_500)
    assert set(shares(choose, pool, 200, seed=1)) == {1}


def test_loads_that_differ_by_less_than_half_are_alike(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    pool = pool_of(half, segment, [1, 3])
    set_cost(half, segment, 0, 100.0)
    set_cost(half, segment, 1, 149.0)
    assert_shares(shares(choose, pool, 8_000, seed=2), [1, 3])


def test_work_counts_for_the_weight(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    pool = pool_of(half, segment, [3, 1])
    for row in (0, 1):
        set_cost(half, segment, row, 100.0)
    segment.set(0, 0, cells.WORK, 30_000)
    segment.set(0, 1, cells.WORK, 10_000)
    assert_shares(shares(choose, pool, 8_000, seed=3), [3, 1])
    segment.set(0, 1, cells.WORK, 30_000)
    assert set(shares(choose, pool, 200, seed=3)) == {0}


def test_who_is_unmeasured_and_idle_is_tried(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    pool = pool_of(half, segment, [1, 1])
    set_cost(half, segment, 0, 1.0)
    assert set(shares(choose, pool, 200, seed=4)) == {1}
    # And not by everybody at once.
    segment.set(0, 1, cells.WORK, 1_000)
    assert set(shares(choose, pool, 200, seed=4)) == {0}


def test_an_endpoint_that_has_failed_is_tried_again_when_that_is_forgotten(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    pool = pool_of(half, segment, [1, 1])
    set_cost(half, segment, 0, 5_000.0)
    now_ms = NOW
    while True:
        set_cost(half, segment, 1, 100.0, now_ms)
        if 0 in shares(choose, pool, 50, seed=5, now_ms=now_ms):
            break
        now_ms += 1_000
    # exp(-t / 10 s) of 5000 is alike 100 from 150 on.
    assert now_ms - NOW == 36_000


def test_a_slow_provider_without_errors_has_its_share_when_the_quick_one_is_busy(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    pool = pool_of(half, segment, [1, 1])
    set_cost(half, segment, 0, 200.0)
    set_cost(half, segment, 1, 10_000.0)
    for _ in range(100):
        segment.add(0, choose(pool, 0x5EED), cells.WORK, 1_000)
    # Loads are equal at 50 to 1; up to half more is alike.
    assert 0 < segment.total(1, cells.WORK) <= 3_000


def test_pairs_are_drawn_uniformly(half: Half, segment: Any) -> None:
    # Exactly one candidate is better than the other, so the pair {i, j} shows as the pick of the better one.
    choose = chooser(half, "p2c")
    n, draws = 6, 20_000
    pool = pool_of(half, segment, [1.0] * n)
    for row in range(n):
        set_cost(half, segment, row, 2.0**row)
    # The candidate i wins against the n - 1 - i worse ones; the worst is never picked: the two are distinct.
    assert_shares(shares(choose, pool, draws, seed=12), [n - 1 - i for i in range(n)])


def test_p2c_balances_far_better_than_chance(half: Half, segment: Any) -> None:
    choose = chooser(half, "p2c")
    rng = random.Random(13)
    n, each = 100, 10
    pool = pool_of(half, segment, [1.0] * n)
    by_chance = [0] * n
    for row in range(n):
        set_cost(half, segment, row, 100.0)
    for _ in range(each * n):
        segment.add(0, choose(pool, rng.getrandbits(64)), cells.WORK, 1_000)
        by_chance[rng.randrange(n)] += 1
    work = [segment.total(row, cells.WORK) // 1_000 for row in range(n)]
    assert sum(work) == each * n
    # Loads of which one is half again the other are no longer alike.
    assert max(work) <= 1.5 * each < max(by_chance)
