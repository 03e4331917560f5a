"""Quantiles over rotating windows, and the choice of the least, over both halves."""

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

from fastroute._core import _quantile_bins as bins
from fastroute._core._quantile_py import bin_of
from tests.unit.core.halves import WORKERS, fixtures, half_of, pool_of, regate, segment_at
from tests.unit.core.twins import twins

IN_FLIGHT = 0


quantile, segment = fixtures("quantile", 12)


def fed(quantile: ModuleType, values: dict[int, list[float]], now_ms: int = 0, n: int = 12) -> Any:
    made = quantile.Quantiles(n)
    for position, of_position in values.items():
        for value in of_position:
            made.observe(position, value, now_ms)
    return made


def picks(quantiles: Any, candidates: Any, q: float, *, now_ms: int = 1000, target: float = 0.0, n: int = 400) -> Any:
    rng = random.Random(7)
    return Counter(quantiles.pick(candidates, q, rng.getrandbits(64), now_ms, target) for _ in range(n))


# ---- bins ----


def test_the_vector_of_ddsketch() -> None:
    assert bin_of(1000.0) == 173
    assert bins.ESTIMATES[173] == pytest.approx(992.99, abs=0.005)
    assert pytest.approx(0.0070, abs=0.0001) == 1 - bins.ESTIMATES[173] / 1000


def test_bins_end_where_they_should() -> None:
    assert [bin_of(value) for value in (-1.0, 0.0, 0.5, 1.0, math.nan, -math.inf)] == [0] * 6
    assert bin_of(1.0001) == 1
    assert bin_of(1e300) == bin_of(math.inf) == bins.BINS - 1
    assert bins.ESTIMATES[-1] > 3_600_000


@given(st.lists(st.floats(1.0, 3_600_000.0), min_size=1, max_size=300), st.floats(0.0, 0.999))
def test_every_quantile_is_within_two_percent(values: list[float], q: float) -> None:
    true = sorted(values)[int(q * (len(values) - 1))]
    for param in twins("quantile"):
        if param.values[0] is None:
            continue
        estimate, seen = fed(param.values[0], {0: values}).estimate(0, q, 0)
        assert seen == len(values)
        assert abs(estimate - true) <= 0.02000001 * true


# ---- windows and the cache ----


def test_nothing_seen(quantile: ModuleType) -> None:
    assert quantile.Quantiles(2).estimate(1, 0.5, 0) == (-1.0, 0)


def test_an_estimate_stands_for_a_quarter_of_a_second(quantile: ModuleType) -> None:
    quantiles = fed(quantile, {0: [100.0]}, 10_000)
    first = quantiles.estimate(0, 0.5, 10_000)
    quantiles.observe(0, 9_000.0, 10_001)
    quantiles.observe(0, 9_000.0, 10_001)
    assert quantiles.estimate(0, 0.5, 10_249) == first == (pytest.approx(100.0, rel=0.02), 1)
    assert quantiles.estimate(0, 0.5, 10_250) == (pytest.approx(9_000.0, rel=0.02), 3)
    # Another quantile is not answered with the one that was asked for before.
    assert quantiles.estimate(0, 0.0, 10_251) == (first[0], 3)


def test_caches_of_many_positions_expire_one_after_the_other() -> None:
    phases = Counter(bins.phase_ms(position) for position in range(1000))
    assert set(phases) == set(range(bins.CACHE_MS))
    assert set(phases.values()) == {4}


def test_a_minute_is_forgotten_window_by_window(quantile: ModuleType) -> None:
    quantiles = quantile.Quantiles(1)
    for window in range(8):
        quantiles.observe(0, 100.0 * (window + 1), window * 10_000)
    # The six windows up to now: values 300 to 800.
    assert quantiles.estimate(0, 0.0, 79_999) == (pytest.approx(300.0, rel=0.02), 6)
    assert quantiles.estimate(0, 0.0, 80_000) == (pytest.approx(400.0, rel=0.02), 5)
    assert quantiles.estimate(0, 0.0, 129_999) == (pytest.approx(800.0, rel=0.02), 1)
    assert quantiles.estimate(0, 0.0, 130_000) == (-1.0, 0)


def test_after_a_long_silence_nothing_is_left(quantile: ModuleType) -> None:
    quantiles = fed(quantile, {0: [5.0] * 9})
    assert quantiles.estimate(0, 0.5, 86_400_000) == (-1.0, 0)
    quantiles.observe(0, 7.0, 86_400_001)
    assert quantiles.estimate(0, 0.5, 86_400_400) == (pytest.approx(7.0, rel=0.02), 1)


def test_time_that_goes_back_stands_still(quantile: ModuleType) -> None:
    quantiles = fed(quantile, {0: [5.0]}, 100_000)
    quantiles.observe(0, 5.0, 20_000)
    quantiles.observe(0, 5.0, -5)
    assert quantiles.estimate(0, 0.5, 159_999)[1] == 3
    assert quantiles.estimate(0, 0.5, 160_000)[1] == 0


def test_what_a_reload_keeps_is_shared(quantile: ModuleType) -> None:
    before = fed(quantile, {2: [40.0] * 20})
    after = quantile.Quantiles(3)
    after.restore(0, before, 2)
    after.restore(1, before, 5)
    assert after.estimate(0, 0.5, 0) == (pytest.approx(40.0, rel=0.02), 20)
    assert after.estimate(1, 0.5, 0) == (-1.0, 0)
    # An answer to a request of the old snapshot still counts.
    before.observe(2, 40.0, 1)
    assert after.estimate(0, 0.5, 300)[1] == 21


def test_what_is_refused(quantile: ModuleType) -> None:
    quantiles = quantile.Quantiles(2)
    for wrong in (-1, 2):
        for call in (
            lambda at: quantiles.observe(at, 1.0, 0),
            lambda at: quantiles.estimate(at, 0.5, 0),
            lambda at: quantiles.restore(at, quantiles, 0),
            lambda at: quantiles.restore(0, quantiles, at),
        ):
            with pytest.raises(IndexError):
                call(wrong)
    for q in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="q must be"):
            quantiles.estimate(0, q, 0)
    for n in (-1, 65_537):
        with pytest.raises(ValueError, match="n must be"):
            quantile.Quantiles(n)


# ---- the choice ----


def test_nobody_and_one(quantile: ModuleType, segment: Any) -> None:
    quantiles = quantile.Quantiles(12)
    assert quantiles.pick(pool_of(half_of(quantile), segment, []), 0.5, 1, 0, 0.0) == -1
    candidates = pool_of(half_of(quantile), segment, [0.0, 1.0])
    assert quantiles.pick(candidates, 0.5, 1, 0, 0.0) == 1
    with pytest.raises(IndexError):
        quantile.Quantiles(1).pick(candidates, 0.5, 1, 0, 0.0)
    with pytest.raises(ValueError, match="q must be"):
        quantiles.pick(candidates, 1.0, 1, 0, 0.0)


def test_the_least_wins(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [300.0] * 20, 1: [100.0] * 20, 2: [200.0] * 20})
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 1, 1]), 0.5) == {1: 400}


def test_median_and_tail_choose_differently(quantile: ModuleType, segment: Any) -> None:
    steady, erratic = [200.0] * 200, [100.0] * 180 + [5000.0] * 20
    candidates = pool_of(half_of(quantile), segment, [1, 1])
    assert picks(fed(quantile, {0: steady, 1: erratic}), candidates, 0.5) == {1: 400}
    assert picks(fed(quantile, {0: steady, 1: erratic}), candidates, 0.95) == {0: 400}


def test_load_and_weight_count(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [250.0] * 20})
    segment.set(0, 0, IN_FLIGHT, 1)
    segment.set(1, 0, IN_FLIGHT, 1)
    # 100 x 3 against 250 x 1; with weight 3 it is 100 against 250.
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 1]), 0.5) == {1: 400}
    assert picks(quantiles, pool_of(half_of(quantile), segment, [3, 1]), 0.5) == {0: 400}


def test_equals_are_drawn_by_weight(quantile: ModuleType, segment: Any) -> None:
    counts = picks(quantile.Quantiles(12), pool_of(half_of(quantile), segment, [1, 1, 1]), 0.5, n=9000)
    assert all(abs(counts[at] - 3000) < 4.5 * 2000**0.5 for at in range(3))


def test_a_weight_without_worth_comes_last(quantile: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(quantile), segment, [1, 1])
    candidates.set_factor(0, 1e-9)
    quantiles = fed(quantile, {0: [1.0] * 20, 1: [9000.0] * 20})
    assert picks(quantiles, candidates, 0.5) == {1: 400}


def test_who_is_unknown_is_taken_for_the_mean_and_tried_a_little(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [900.0] * 20})
    counts = picks(quantiles, pool_of(half_of(quantile), segment, [1, 1, 1]), 0.5, n=10_000)
    # One pick in twenty goes to the newcomer, the slow one gets none.
    assert set(counts) == {0, 2}
    assert 500 - 4.5 * 475**0.5 < counts[2] < 500 + 4.5 * 475**0.5


def test_no_more_are_sent_to_the_unknown_than_have_come_back(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [100.0] * 20})
    segment.set(0, 1, IN_FLIGHT, 1)
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 1]), 0.5) == {0: 400}


def test_an_idle_standby_is_tried_again_after_a_day(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [9000.0] * 20})
    now_ms = 86_400_000
    for _ in range(20):
        quantiles.observe(0, 100.0, now_ms)
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 1]), 0.5, now_ms=now_ms)[1] > 0


def test_one_slow_answer_is_believed_enough(quantile: ModuleType, segment: Any) -> None:
    """A newcomer that has shown itself slow is not explored further: half its time is more than the best one's."""
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [1000.0]})
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 1]), 0.5) == {0: 400}


def test_a_good_newcomer_is_explored_until_it_is_known(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [900.0] * 20, 2: [50.0]})
    candidates = pool_of(half_of(quantile), segment, [1, 1, 1])
    assert 0 < picks(quantiles, candidates, 0.5)[2] < 60
    for _ in range(9):
        quantiles.observe(2, 50.0, 1000)
    assert picks(quantiles, candidates, 0.5, now_ms=2000) == {2: 400}


def test_few_observations_are_blended_with_the_mean(quantile: ModuleType, segment: Any) -> None:
    # Five of the ten needed: (5 x 60 + 5 x 80) / 10 = 70; with the load it is 140 against 100.
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [60.0] * 5})
    segment.set(0, 1, IN_FLIGHT, 6)
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 4.6]), 0.5) == {0: 400}
    assert picks(quantiles, pool_of(half_of(quantile), segment, [1, 5.2]), 0.5) == {1: 400}


def test_the_target_is_a_wish(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {0: [100.0] * 20, 1: [400.0] * 20, 2: [900.0] * 20})
    segment.set(0, 0, IN_FLIGHT, 9)
    candidates = pool_of(half_of(quantile), segment, [1, 1, 1])
    # Without it the busy one gives way; with it, it is the only one that can do it in time.
    assert picks(quantiles, candidates, 0.5) == {1: 400}
    assert picks(quantiles, candidates, 0.5, target=200.0) == {0: 400}
    # Nobody is within it: as if it were not there.
    assert picks(quantiles, candidates, 0.5, target=50.0) == {1: 400}


def test_only_candidates_are_picked(quantile: ModuleType, segment: Any) -> None:
    quantiles = fed(quantile, {at: [10.0 * (at + 1)] * 20 for at in range(4)})
    candidates = pool_of(half_of(quantile), segment, [1] * 4)
    regate(half_of(quantile), candidates, tried=[0, 2])
    assert picks(quantiles, candidates, 0.5) == {1: 400}


def test_a_closed_segment_is_refused(quantile: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(quantile), segment, [1, 1])
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        quantile.Quantiles(12).pick(candidates, 0.5, 1, 0, 0.0)


# ---- the two halves ----

PURE, COMPILED = (param.values[0] for param in twins("quantile"))
step = st.one_of(
    st.tuples(
        st.just("observe"), st.integers(0, 3), st.floats(0.1, 1e6) | st.sampled_from([1.0, math.inf, math.nan, -3.0])
    ),
    st.tuples(st.just("wait"), st.integers(-300, 20_000)),
    st.tuples(st.just("estimate"), st.integers(0, 3), st.sampled_from([0.5, 0.95])),
    st.tuples(st.just("in_flight"), st.integers(0, 3), st.integers(-2, 9)),
    st.tuples(
        st.just("pick"), st.integers(0, 2**64 - 1), st.sampled_from([0.5, 0.95]), st.sampled_from([0.0, 50.0, 1e3])
    ),
)


@pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=4, max_size=4), st.lists(step, max_size=60))
def test_same_choices(tmp_path_factory: Any, weights: list[float], steps: list[tuple[Any, ...]]) -> None:
    folder = tmp_path_factory.mktemp("twins")
    worlds = []
    for half in (PURE, COMPILED):
        (folder / half.__name__).mkdir()
        segment = segment_at(half_of(half), folder / half.__name__, 4)
        worlds.append((segment, pool_of(half_of(half), segment, weights), half.Quantiles(4)))
    now_ms = 50_000
    for name, *arguments in steps:
        if name == "wait":
            now_ms += arguments[0]
            continue
        answers = []
        for segment, candidates, quantiles in worlds:
            if name == "observe":
                answers.append(quantiles.observe(*arguments, now_ms))
            elif name == "estimate":
                answers.append(quantiles.estimate(*arguments, now_ms))
            elif name == "in_flight":
                answers.append(segment.set(WORKERS - 1, arguments[0], IN_FLIGHT, arguments[1]))
            else:
                bits, q, target = arguments
                answers.append(quantiles.pick(candidates, q, bits, now_ms, target))
        assert answers[0] == answers[1]
    for segment, _, _ in worlds:
        segment.close()


@pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")
def test_the_numbers_of_both_halves_are_the_same() -> None:
    source = Path(importlib.import_module("fastroute._core").__file__ or "").parent / "_quantile_c.pyx"
    text = source.read_text()
    for name in ("BINS", "WINDOWS", "WINDOW_MS", "CACHE_MS"):
        assert f"    {name} = {getattr(bins, name)}\n" in text
    assert f"    PHASES = {bins.WINDOW_MS // bins.CACHE_MS}\n" in text
