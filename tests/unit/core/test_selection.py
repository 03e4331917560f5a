"""Choosing among candidates, over both halves."""

import importlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import inf, nan
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.core.twins import twins

Chooser = Callable[[Sequence[float], Sequence[float], Sequence[int], int], int]


@pytest.fixture(params=twins("selection"))
def selection(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def segment(selection: ModuleType, tmp_path: Path) -> Iterator[Any]:
    counters = importlib.import_module(selection.__name__.replace("selection", "counters"))
    made = counters.Segment.create(str(tmp_path / "counters"), 2, 8)
    yield made
    made.close()


@pytest.fixture(params=["least_load", "p2c"])
def choose(selection: ModuleType, request: pytest.FixtureRequest) -> Chooser:
    return getattr(selection, request.param)


def picks(balancer: Any, candidates: Sequence[int], count: int) -> list[int]:
    return [balancer.pick(candidates) for _ in range(count)]


def chi_square(counts: Counter[Any], cells: int) -> float:
    expected = counts.total() / cells
    return sum((counts[cell] - expected) ** 2 for cell in counts) / expected + (cells - len(counts)) * expected


def chi_square_bound(cells: int) -> float:
    """Return a value that a uniform sample exceeds once in 100,000 times or less (4.3 sigma)."""
    degrees = cells - 1
    return degrees + 4.3 * (2 * degrees) ** 0.5 + 10


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
    for weights in ([1, -1], [1_000_001], [1] * 65537):
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


def test_smooth_with_many_candidates(selection: ModuleType) -> None:
    balancer = selection.SmoothWeightedRoundRobin([1] * 2000)
    assert picks(balancer, list(range(2000)), 2000) == list(range(2000))


# ---- least_load and p2c ----


def test_no_candidate(choose: Chooser) -> None:
    assert choose([1.0], [1.0], [], 7) == -1
    assert choose([], [], (), 7) == -1


def test_one_candidate(choose: Chooser) -> None:
    assert choose([5.0, 1.0], [1.0, 1.0], [0], 2**64 - 1) == 0
    assert choose([5.0, 1.0], [0.0, 1.0], (0,), 0) == 0


def test_the_lower_cost_wins(choose: Chooser) -> None:
    rng = random.Random(1)
    for _ in range(200):
        bits = rng.getrandbits(64)
        assert choose([3, 2], [1, 1], [0, 1], bits) == 1
        # (3 + 1) / 3 < (1 + 1) / 1; a load of 0 still counts as one request to come.
        assert choose([3, 1], [3.0, 1.0], [0, 1], bits) == 0
        assert choose([0, 0], [2, 1], [1, 0], bits) == 0


def test_a_weight_that_is_not_positive_is_an_infinite_load(choose: Chooser) -> None:
    rng = random.Random(2)
    for weight in (0, 0.0, -1, -inf, nan):
        for _ in range(50):
            assert choose([0.0, 1e290], [weight, 1e-9], [0, 1], rng.getrandbits(64)) == 1
    assert {choose([0, 0], [0, 0], [0, 1], rng.getrandbits(64)) for _ in range(100)} == {0, 1}


def test_a_load_that_is_not_a_number_is_infinite(choose: Chooser) -> None:
    rng = random.Random(3)
    assert {choose([nan, 10.0], [1, 1], [0, 1], rng.getrandbits(64)) for _ in range(50)} == {1}


def test_positions_out_of_range(choose: Chooser) -> None:
    for wrong in (2, -1, 10**30, -(10**30)):
        with pytest.raises(IndexError):
            choose([1.0, 1.0], [1.0, 1.0], [wrong, wrong], 1)
        with pytest.raises(IndexError):
            choose([1.0, 1.0], [1.0, 1.0], [wrong], 1)
    with pytest.raises(IndexError):
        choose([1.0], [1.0, 1.0], [1, 1], 1)
    with pytest.raises(IndexError):
        choose([1.0, 1.0], [1.0], [1, 1], 1)
    with pytest.raises(TypeError):
        choose(["1", "2"], [1.0, 1.0], [0, 1], 1)  # type: ignore[list-item]
    with pytest.raises(OverflowError):
        choose([10**400, 1], [1.0, 1.0], [0, 1], 1)


def test_only_the_low_64_bits_count(choose: Chooser) -> None:
    rng = random.Random(4)
    loads, weights, candidates = [0.0] * 9, [1.0] * 9, list(range(9))
    for _ in range(100):
        bits = rng.getrandbits(64)
        expected = choose(loads, weights, candidates, bits)
        assert choose(loads, weights, candidates, bits + (7 << 64)) == expected
        assert choose(loads, weights, candidates, bits - (1 << 64)) == expected


@pytest.mark.parametrize("n", [2, 3, 10, 600])
def test_equals_are_chosen_uniformly(choose: Chooser, n: int) -> None:
    rng = random.Random(n)
    loads, weights = [4.0] * n, [2.0] * n
    candidates = rng.sample(range(n), n)
    counts = Counter(choose(loads, weights, candidates, rng.getrandbits(64)) for _ in range(20_000))
    assert chi_square(counts, n) < chi_square_bound(n)


def test_least_load_ties_among_the_least_only(selection: ModuleType) -> None:
    rng = random.Random(11)
    loads, weights = [1, 5, 1, 0.5, 3, 1], [1, 3, 1, 0.75, 2, 1]
    counts = Counter(selection.least_load(loads, weights, range(6), rng.getrandbits(64)) for _ in range(20_000))
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    loads[5] = 2
    counts = Counter(selection.least_load(loads, weights, range(6), rng.getrandbits(64)) for _ in range(20_000))
    assert set(counts) == {0, 1, 2, 3, 4}
    assert chi_square(counts, 5) < chi_square_bound(5)


def test_least_load_scans_everybody(selection: ModuleType) -> None:
    loads = [float(i ^ 0x2A5) for i in range(1024)]
    assert selection.least_load(loads, [1.0] * 1024, list(range(1024)), 99) == 0x2A5


def test_p2c_draws_ordered_pairs_uniformly(selection: ModuleType) -> None:
    # Exactly one candidate is better than the other, so the pair {i, j} shows as the pick of the better one.
    rng = random.Random(12)
    n, draws = 6, 60_000
    loads = [float(i) for i in range(n)]
    counts = Counter(selection.p2c(loads, [1.0] * n, list(range(n)), rng.getrandbits(64)) for _ in range(draws))
    pairs = n * (n - 1) / 2
    # The candidate i wins against the n - 1 - i worse ones; the worst is never picked: the two are distinct.
    for i in range(n):
        expected = draws * (n - 1 - i) / pairs
        assert abs(counts[i] - expected) <= 4.5 * expected**0.5


def test_p2c_balances_far_better_than_chance(selection: ModuleType) -> None:
    rng = random.Random(13)
    n = 100
    loads, by_chance = [0.0] * n, [0] * n
    for _ in range(50 * n):
        loads[selection.p2c(loads, [1.0] * n, list(range(n)), rng.getrandbits(64))] += 1
        by_chance[rng.randrange(n)] += 1
    assert max(loads) <= 55 < max(by_chance)


def test_a_list_that_shrinks_while_it_is_read(selection: ModuleType) -> None:
    loads: list[Any] = []

    class Shrinking:
        def __float__(self) -> float:
            loads.clear()
            return 1.0

        def __add__(self, other: float) -> float:
            return float(self) + other

    loads.extend([Shrinking(), 1.0, 1.0])
    with pytest.raises(IndexError):
        selection.least_load(loads, [1.0] * 3, [0, 1, 2], 0)


# ---- the same over a segment ----


def test_segment_loads_are_the_in_flight_sums(selection: ModuleType, segment: Any) -> None:
    segment.add(0, 3, 0, 2)
    segment.add(1, 3, 0, 3)
    segment.add(1, 6, 0, 4)
    endpoints = [3, 6, 7]
    for bits in (0, 2**64 - 1):
        assert selection.least_load_segment(segment, endpoints, [1, 1, 1], [0, 1], bits) == 1
        assert selection.p2c_segment(segment, endpoints, [1, 1, 1], [0, 1], bits) == 1
        assert selection.p2c_segment(segment, endpoints, [2, 1, 1], [0, 1], bits) == 0
        assert selection.least_load_segment(segment, endpoints, [1, 1, 1], (0, 1, 2), bits) == 2


def test_segment_choices_equal_those_over_a_list(selection: ModuleType, segment: Any) -> None:
    rng = random.Random(14)
    endpoints = [5, 0, 2, 7, 1]
    for _ in range(300):
        for endpoint in range(8):
            segment.set(rng.randrange(2), endpoint, 0, rng.randrange(4))
        loads = [segment.in_flight(endpoint) for endpoint in endpoints]
        weights = [rng.randrange(3) for _ in endpoints]
        candidates = rng.sample(range(5), rng.randrange(6))
        bits = rng.getrandbits(64)
        for name in ("least_load", "p2c"):
            over_list = getattr(selection, name)(loads, weights, candidates, bits)
            assert getattr(selection, f"{name}_segment")(segment, endpoints, weights, candidates, bits) == over_list


@pytest.mark.parametrize("name", ["least_load_segment", "p2c_segment"])
def test_segment_refuses(selection: ModuleType, segment: Any, name: str) -> None:
    choose = getattr(selection, name)
    assert choose(segment, [], [], [], 0) == -1
    for wrong in (8, -1, 10**30):
        with pytest.raises(IndexError):
            choose(segment, [wrong, wrong], [1, 1], [0, 1], 0)
    with pytest.raises(IndexError):
        choose(segment, [0], [1, 1], [1, 1], 0)
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        choose(segment, [0, 1], [1, 1], [0, 1], 0)
