"""The cheapest success, over both halves."""

import importlib
import math
import random
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._attempts_rules import FAILED, OK, Policy
from fastroute._core._counters_file import WINDOW_0, WINDOW_BUCKETS
from tests.unit.core.halves import fixtures, half_of, pool_of, regate, segment_at
from tests.unit.core.twins import twins

IN_FLIGHT = 0
WINDOW_MS = 30_000
NOW_MS = 100_000


cheapest, segment = fixtures("cheapest", 8)


def went(half: ModuleType, segment: Any, row: int, good: int, failed: int, now_ms: int = NOW_MS) -> None:
    """Let attempts at an endpoint end, through the code that counts them."""
    attempts = half_of(half).attempts.Attempts(segment, Policy(failure_threshold=60_000, min_requests=10**9))
    for verdict, times in ((OK, good), (FAILED, failed)):
        for _ in range(times):
            ticket = attempts.enter(0, row, 0, now_ms)
            attempts.leave(0, row, ticket, verdict, -1.0, now_ms, 0, 0, 0)


def picks(
    chooser: Any, candidates: Any, n: int = 300, tokens: tuple[int, int] = (1000, 100), band: float = 0.05
) -> Counter[int]:
    rng = random.Random(6)
    return Counter(chooser.pick(candidates, rng.getrandbits(64), NOW_MS, *tokens, band) for _ in range(n))


def flat(*prices: int | None) -> list[tuple[int, int, int] | None]:
    """Return prices that are the same in and out, in pico-USD."""
    return [None if price is None else (price, 0, price) for price in prices]


# ---- what is expected ----


def test_the_price_of_a_stranger(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest([(2500, 1250, 10_000), None], WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    # (2500 x 1000 + 10000 x 100) pico-USD, of four attempts in five.
    assert chooser.expected(candidates, 0, NOW_MS, 1000, 100) == 3_500_000 * 5 / 4
    assert chooser.expected(candidates, 1, NOW_MS, 1000, 100) == math.inf


def test_the_share_that_goes_well(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest(flat(1, 1, 1), WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1, 1, 1], rows=[0, 3, 5])
    went(cheapest, segment, 3, 16, 4)
    went(cheapest, segment, 5, 0, 35)
    assert chooser.expected(candidates, 1, NOW_MS, 1000, 0) == 1000 * 25 / 20
    assert chooser.expected(candidates, 2, NOW_MS, 1000, 0) == 1000 * 40 / 4


def test_the_window_passes(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest(flat(1), WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1])
    attempts = half_of(cheapest).attempts.Attempts(segment, Policy())
    for at, failed in enumerate((3, 0, 4, 2)):
        went(cheapest, segment, 0, 1, failed, NOW_MS + at * 9000)
    for now_ms in range(NOW_MS, NOW_MS + 80_000, 1700):
        good, failed = attempts.health(0, now_ms)
        assert chooser.expected(candidates, 0, now_ms, 1, 0) == (good + failed + 5) / (good + 4)
    assert chooser.expected(candidates, 0, NOW_MS + 80_000, 1, 0) == 1.25


def test_costs_are_exact_integers(cheapest: ModuleType, segment: Any) -> None:
    # 4000 USD for a request, and one pico-USD more.
    chooser = cheapest.Cheapest([(4_000_000_000_000_000, 0, 1)], 10)
    candidates = pool_of(half_of(cheapest), segment, [1])
    went(cheapest, segment, 0, 0, 3)
    now_ms = NOW_MS + 20
    assert chooser.expected(candidates, 0, now_ms, 1, 4) * 4 == 5 * 4_000_000_000_000_004


def test_tokens_below_none_are_none(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest([(7, 7, 9)], WINDOW_MS)
    assert chooser.expected(pool_of(half_of(cheapest), segment, [1]), 0, NOW_MS, -5, -1) == 0.0


# ---- the choice ----


def test_nobody_and_one(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest(flat(1, 1), WINDOW_MS)
    assert chooser.pick(pool_of(half_of(cheapest), segment, []), 1, 0, 1, 1, 0.05) == -1
    assert chooser.pick(pool_of(half_of(cheapest), segment, [0.0, 1.0]), 1, 0, 1, 1, 0.05) == 1


def test_the_cheapest_wins(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1, 1])
    assert picks(cheapest.Cheapest(flat(300, 100, 200), WINDOW_MS), candidates) == {1: 300}


def test_the_shape_of_the_request_decides(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest([(100, 0, 900), (300, 0, 300)], WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    assert picks(chooser, candidates, tokens=(10_000, 10)) == {0: 300}
    assert picks(chooser, candidates, tokens=(10, 10_000)) == {1: 300}


def test_cheap_and_failing_is_dear(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest(flat(100, 150), WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    went(cheapest, segment, 0, 50, 50)
    went(cheapest, segment, 1, 100, 0)
    assert picks(chooser, candidates) == {1: 300}


def test_an_unknown_price_is_not_a_low_one(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1, 1])
    assert picks(cheapest.Cheapest(flat(None, 900_000, None), WINDOW_MS), candidates) == {1: 300}
    # Nothing is known of anybody: by load.
    segment.set(0, 0, IN_FLIGHT, 1)
    counts = picks(cheapest.Cheapest(flat(None, None, None), WINDOW_MS), candidates, 2000)
    assert set(counts) == {1, 2}
    assert abs(counts[1] - 1000) < 4.5 * 500**0.5


def test_an_unknown_price_serves_when_nobody_else_is_left(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1, 1])
    regate(half_of(cheapest), candidates, tried=[1])
    assert set(picks(cheapest.Cheapest(flat(None, 5, None), WINDOW_MS), candidates)) == {0, 2}


def test_what_is_free_is_known(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1, 1])
    assert picks(cheapest.Cheapest(flat(1, 0, None), WINDOW_MS), candidates) == {1: 300}


def test_of_two_that_are_free_the_failing_one_is_asked_less(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    went(cheapest, segment, 0, 10, 10)
    assert picks(cheapest.Cheapest(flat(0, 0), WINDOW_MS), candidates) == {1: 300}


def test_within_the_band_the_load_decides(cheapest: ModuleType, segment: Any) -> None:
    chooser = cheapest.Cheapest(flat(104, 100, 103, 106), WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1, 1, 2, 1])
    # 104 and 103 are within 5 % of 100; of equals the heavier is drawn more often.
    assert set(picks(chooser, candidates)) == {2}
    segment.set(0, 2, IN_FLIGHT, 1)
    counts = picks(chooser, candidates, 4000)
    assert set(counts) == {0, 1, 2}
    assert abs(counts[2] - 2000) < 4.5 * 1000**0.5
    segment.set(1, 1, IN_FLIGHT, 1)
    segment.set(1, 2, IN_FLIGHT, 2)
    assert picks(chooser, candidates) == {0: 300}
    # The one that is out of it stays out of it, however busy the others are.
    segment.set(1, 0, IN_FLIGHT, 500)
    segment.set(1, 1, IN_FLIGHT, 500)
    segment.set(1, 2, IN_FLIGHT, 500)
    assert 3 not in picks(chooser, candidates)


def test_without_a_band_only_the_least_counts(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    segment.set(0, 1, IN_FLIGHT, 100)
    chooser = cheapest.Cheapest(flat(101, 100), WINDOW_MS)
    assert picks(chooser, candidates, band=0.0) == {1: 300}
    assert picks(chooser, candidates, band=1.0) == {0: 300}


def test_a_weight_without_worth_comes_last(cheapest: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    candidates.set_factor(0, 1e-9)
    assert picks(cheapest.Cheapest(flat(100, 100), WINDOW_MS), candidates) == {1: 300}


def test_what_is_refused(cheapest: ModuleType, segment: Any) -> None:
    for wrong in ((-1, 0, 1), (1, 0, -1)):
        with pytest.raises(ValueError, match="negative"):
            cheapest.Cheapest([None, wrong], WINDOW_MS)
    with pytest.raises(ValueError, match="window_ms"):
        cheapest.Cheapest([], 0)
    with pytest.raises(ValueError, match="positions"):
        cheapest.Cheapest([None] * 65_537, WINDOW_MS)
    candidates = pool_of(half_of(cheapest), segment, [1, 1])
    chooser = cheapest.Cheapest(flat(1, 1), WINDOW_MS)
    for position in (-1, 2):
        with pytest.raises(IndexError):
            chooser.expected(candidates, position, 0, 1, 1)
    with pytest.raises(IndexError):
        cheapest.Cheapest(flat(1), WINDOW_MS).pick(candidates, 1, 0, 1, 1, 0.05)
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        chooser.pick(candidates, 1, 0, 1, 1, 0.05)


# ---- the two halves ----

PURE, COMPILED = (param.values[0] for param in twins("cheapest"))
price = st.none() | st.tuples(
    st.integers(0, 10**15) | st.integers(0, 3), st.just(0), st.integers(0, 10**15) | st.integers(0, 3)
)
endpoint = st.tuples(
    price,
    st.sampled_from([0.0, 0.5, 1.0, 7.0]),
    st.integers(-1, 5),
    st.lists(st.tuples(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1) | st.integers(30 << 40, (34 << 40) - 1))),
)


@pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")
@given(
    st.lists(endpoint, max_size=6),
    st.integers(-(2**70), 2**70),
    st.tuples(st.integers(-5, 10**7), st.integers(-5, 10**7)),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.integers(0, 10**6),
)
def test_same_choices(
    tmp_path_factory: Any, endpoints: list[Any], bits: int, tokens: tuple[int, int], band: float, now_ms: int
) -> None:
    folder = tmp_path_factory.mktemp("twins")
    answers = []
    for half in (PURE, COMPILED):
        (folder / half.__name__).mkdir()
        segment = segment_at(half_of(half), folder / half.__name__, len(endpoints))
        for row, (_, _, in_flight, words) in enumerate(endpoints):
            segment.set(1, row, IN_FLIGHT, in_flight)
            for bucket, word in words:
                segment.set_cell(row, WINDOW_0 + bucket, word)
        candidates = pool_of(half_of(half), segment, [weight for _, weight, _, _ in endpoints])
        chooser = half.Cheapest([one for one, _, _, _ in endpoints], WINDOW_MS)
        expected = [chooser.expected(candidates, at, now_ms, *tokens) for at in range(len(endpoints))]
        answers.append((expected, [chooser.pick(candidates, bits + i, now_ms, *tokens, band) for i in range(5)]))
        segment.close()
    assert answers[0] == answers[1]


def test_the_numbers_of_both_halves_are_the_same() -> None:
    source = Path(importlib.import_module("fastroute._core").__file__ or "").parent / "_cheapest_c.pyx"
    text = source.read_text()
    assert f"    WINDOW_0 = {WINDOW_0}\n    WINDOW_BUCKETS = {WINDOW_BUCKETS}\n" in text
