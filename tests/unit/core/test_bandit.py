"""Thompson sampling over both halves: the sampler against the true distributions, what is learnt, and the choice."""

import importlib
import math
import multiprocessing
import random
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core import _bandit_rules as rules
from fastroute._core._counters_file import BANDIT, BANDIT_TIME_MS, CELLS
from tests.unit.core.halves import fixtures, half_of, pool_of, regate, segment_at
from tests.unit.core.twins import twins

TAU_MS = 300_000
CAP = 200.0


bandit, segment = fixtures("bandit", 20)


# ---- the sampler ----


def distance(draws: list[float], cdf: Callable[[float], float]) -> float:
    """Return the Kolmogorov-Smirnov statistic of a sample."""
    n = len(draws)
    return max(max((at + 1) / n - cdf(x), cdf(x) - at / n) for at, x in enumerate(sorted(draws)))


def bound(n: int) -> float:
    """Return a distance that a true sample exceeds once in 1000 times."""
    return 1.95 / math.sqrt(n)


def drawn(bandit: ModuleType, a: float, b: float, n: int) -> list[float]:
    rng = random.Random(f"{a} {b}")
    return [bandit.beta(a, b, rng.getrandbits(64)) for _ in range(n)]


def whole_beta_cdf(a: int, b: int, x: float) -> float:
    """Return the regularised incomplete beta function of whole a and b: the binomial tail it is equal to."""
    n = a + b - 1
    return sum(math.comb(n, j) * x**j * (1.0 - x) ** (n - j) for j in range(a, n + 1))


def test_beta_9_3(bandit: ModuleType) -> None:
    draws = drawn(bandit, 9.0, 3.0, 100_000)
    # Five standard errors of the mean and of the variance.
    assert statistics.fmean(draws) == pytest.approx(0.75, abs=5 * math.sqrt(0.01442 / 100_000))
    assert statistics.pvariance(draws) == pytest.approx(0.01442, abs=5 * 0.01442 * math.sqrt(2 / 100_000))
    assert distance(draws, lambda x: whole_beta_cdf(9, 3, x)) < bound(100_000)


@pytest.mark.parametrize(
    ("a", "b", "cdf"),
    [
        (1.0, 1.0, lambda x: x),
        (2.5, 1.0, lambda x: x**2.5),
        (1.0, 7.0, lambda x: 1.0 - (1.0 - x) ** 7),
        (0.5, 0.5, lambda x: 2.0 / math.pi * math.asin(math.sqrt(x))),
        (0.05, 1.0, lambda x: x**0.05),
        (150, 50, lambda x: whole_beta_cdf(150, 50, x)),
        (2, 38, lambda x: whole_beta_cdf(2, 38, x)),
    ],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_other_shapes(bandit: ModuleType, a: float, b: float, cdf: Callable[[float], float]) -> None:
    n = 10_000
    assert distance(drawn(bandit, a, b, n), cdf) < bound(n)


def test_a_wrong_sampler_would_be_seen(bandit: ModuleType) -> None:
    """The statistic tells Beta(9, 3) from its neighbours, and from its mean."""
    draws = drawn(bandit, 9.0, 3.2, 100_000)
    assert distance(draws, lambda x: whole_beta_cdf(9, 3, x)) > 2 * bound(100_000)
    assert distance([0.75] * 1000, lambda x: whole_beta_cdf(9, 3, x)) > 0.5


def test_draws_stay_within_bounds(bandit: ModuleType) -> None:
    for a, b in ((1e-9, 1e-9), (1e-300, 1e-300), (1e9, 1.0), (1.0, 1e9), (1e-5, 1e5)):
        draws = drawn(bandit, a, b, 500)
        assert all(0.0 <= x <= 1.0 for x in draws)
    assert 150 < sum(drawn(bandit, 1e-300, 1e-300, 500)) < 350


@pytest.mark.parametrize("shape", [(0.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_shapes_that_there_are_not(bandit: ModuleType, shape: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        bandit.beta(*shape, 1)


def test_the_ziggurat_closes() -> None:
    area = rules.EDGES[0] * math.exp(-0.5 * rules.TAIL**2)
    top = rules.EDGES[rules.LAYERS - 1]
    assert area / top + math.exp(-0.5 * top * top) == pytest.approx(1.0, abs=1e-12)
    assert list(rules.EDGES) == sorted(rules.EDGES, reverse=True)
    assert len(rules.EDGES) == rules.LAYERS + 1


def test_normal_variates() -> None:
    """The pure half's, bit for bit those of the other one (see below): the whole of it, and the tail."""
    pure = importlib.import_module("fastroute._core._bandit_py")
    source = importlib.import_module("fastroute._core._selection_py")._Random(20)
    draws = [pure._normal(source) for _ in range(100_000)]
    assert distance(draws, lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0))) < bound(100_000)
    beyond = [pure._tail(source) for _ in range(10_000)]
    whole = math.erfc(rules.TAIL / math.sqrt(2.0))
    assert distance(beyond, lambda x: 1.0 - math.erfc(x / math.sqrt(2.0)) / whole) < bound(10_000)


def test_what_is_accepted_at_once_would_have_been_accepted() -> None:
    for shape in (1.0, 1.01, 1.5, 3.0, 20.0, 200.0, 1e5):
        d = shape - 1.0 / 3.0
        c = 1.0 / math.sqrt(9.0 * d)
        for step in range(1, 5000):
            x = -1.0 / c + step * (1.0 / c + 12.0) / 5000
            v = (1.0 + c * x) ** 3
            exact = math.exp(0.5 * x * x + d * (1.0 - v + math.log(v)))
            assert 1.0 - rules.SQUEEZE * c * c * x**4 <= exact + 1e-12


# ---- what is learnt ----


def test_a_reward_is_split(bandit: ModuleType, segment: Any) -> None:
    assert bandit.posterior(segment, 3, 1000, TAU_MS) == (0.0, 0.0)
    bandit.record(segment, 3, 0.75, 1000, TAU_MS, CAP)
    assert bandit.posterior(segment, 3, 1000, TAU_MS) == (0.75, 0.25)
    bandit.record(segment, 3, 0.25, 1000, TAU_MS, CAP)
    assert bandit.posterior(segment, 3, 1000, TAU_MS) == (1.0, 1.0)
    assert bandit.posterior(segment, 2, 1000, TAU_MS) == bandit.posterior(segment, 4, 1000, TAU_MS) == (0.0, 0.0)


def test_it_fades_with_time(bandit: ModuleType, segment: Any) -> None:
    bandit.record(segment, 0, 0.75, 1000, TAU_MS, CAP)
    assert bandit.posterior(segment, 0, 1000 + TAU_MS, TAU_MS) == (
        pytest.approx(0.75 / math.e),
        pytest.approx(0.25 / math.e),
    )
    bandit.record(segment, 0, 1.0, 1000 + TAU_MS, TAU_MS, CAP)
    assert bandit.posterior(segment, 0, 1000 + TAU_MS, TAU_MS) == (
        pytest.approx(0.75 / math.e + 1.0),
        pytest.approx(0.25 / math.e),
    )
    # The whole of it is as good as unknown after a day.
    assert sum(bandit.posterior(segment, 0, 86_400_000, TAU_MS)) < 1e-90


def test_time_that_goes_back_fades_nothing(bandit: ModuleType, segment: Any) -> None:
    bandit.record(segment, 0, 1.0, 5000, TAU_MS, CAP)
    bandit.record(segment, 0, 0.0, 2000, TAU_MS, CAP)
    assert bandit.posterior(segment, 0, 100, TAU_MS) == (1.0, 1.0)
    assert segment.cell(0, BANDIT_TIME_MS) == 5000


def test_no_more_is_known_than_the_cap(bandit: ModuleType, segment: Any) -> None:
    for _ in range(1000):
        bandit.record(segment, 0, 0.75, 1000, TAU_MS, 40.0)
    successes, failures = bandit.posterior(segment, 0, 1000, TAU_MS)
    assert successes + failures == pytest.approx(40.0, abs=1e-5)
    assert successes == pytest.approx(30.0, abs=1e-3)
    # After a change, the cap's number of requests have the last word.
    for _ in range(40):
        bandit.record(segment, 0, 0.0, 1000, TAU_MS, 40.0)
    assert bandit.posterior(segment, 0, 1000, TAU_MS)[0] < 12.0


@pytest.mark.parametrize(
    ("reward", "expected"), [(7.0, 1.0), (-3.0, 0.0), (math.nan, 0.0), (math.inf, 1.0), (-math.inf, 0.0)]
)
def test_a_reward_out_of_bounds(bandit: ModuleType, segment: Any, reward: float, expected: float) -> None:
    bandit.record(segment, 0, reward, 1000, TAU_MS, CAP)
    assert bandit.posterior(segment, 0, 1000, TAU_MS) == (expected, 1.0 - expected)


def test_the_cell_is_two_floats(bandit: ModuleType, segment: Any) -> None:
    bandit.record(segment, 0, 0.75, 1000, TAU_MS, CAP)
    assert segment.cell(0, BANDIT) == 0x3F400000_3E800000


def test_rows_that_there_are_not(bandit: ModuleType, segment: Any) -> None:
    for wrong in (-1, 20):
        with pytest.raises(IndexError):
            bandit.record(segment, wrong, 1.0, 0, TAU_MS, CAP)
        with pytest.raises(IndexError):
            bandit.posterior(segment, wrong, 0, TAU_MS)
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        bandit.record(segment, 0, 1.0, 0, TAU_MS, CAP)


def _learn(path: str, name: str) -> None:
    half = importlib.import_module(name)
    segment = half_of(half).counters.Segment.open(path)
    for _ in range(5000):
        half.record(segment, 1, 1.0, 1000, TAU_MS, 1e6)


def test_workers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """Only the compiled half can promise that; whole numbers below 2^24 are exact in a 32-bit float."""
    half = twins("bandit")[1].values[0]
    if half is None:
        pytest.skip("the compiled half is not built")
    segment = segment_at(half_of(half), tmp_path, 2)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_learn, args=(segment.path, half.__name__)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert half.posterior(segment, 1, 1000, TAU_MS) == (15_000.0, 0.0)
    segment.close()


# ---- the choice ----


def teach(bandit: ModuleType, segment: Any, row: int, successes: int, failures: int, now_ms: int = 1000) -> None:
    for reward, times in ((1.0, successes), (0.0, failures)):
        for _ in range(times):
            bandit.record(segment, row, reward, now_ms, TAU_MS, CAP)


def picks(bandit: ModuleType, candidates: Any, n: int = 4000, now_ms: int = 1000) -> Counter[int]:
    rng = random.Random(3)
    return Counter(bandit.thompson(candidates, rng.getrandbits(64), now_ms, TAU_MS) for _ in range(n))


def near(count: int, share: float, n: int) -> bool:
    return abs(count - n * share) < 4.5 * math.sqrt(n * share * (1.0 - share)) + 1


def test_nobody_and_one(bandit: ModuleType, segment: Any) -> None:
    assert bandit.thompson(pool_of(half_of(bandit), segment, []), 1, 0, TAU_MS) == -1
    assert bandit.thompson(pool_of(half_of(bandit), segment, [0.0, 1.0]), 1, 0, TAU_MS) == 1


def test_strangers_are_alike(bandit: ModuleType, segment: Any) -> None:
    counts = picks(bandit, pool_of(half_of(bandit), segment, [1] * 5), 10_000)
    assert all(near(counts[at], 0.2, 10_000) for at in range(5))


def test_the_share_is_the_probability_of_being_best(bandit: ModuleType, segment: Any) -> None:
    """P(Beta(9, 3) > Beta(5, 5)), by numeric integration, on all but the floor."""
    teach(bandit, segment, 0, 8, 2)
    teach(bandit, segment, 1, 4, 4)
    steps = 2000
    at = [(i + 0.5) / steps for i in range(steps)]
    density = math.gamma(12) / math.gamma(9) / math.gamma(3)
    better = sum(density * x**8 * (1 - x) ** 2 * whole_beta_cdf(5, 5, x) for x in at) / steps
    counts = picks(bandit, pool_of(half_of(bandit), segment, [1, 1]), 40_000)
    assert near(counts[0], 0.98 * better + 0.02 * 0.5, 40_000)


def test_everybody_has_a_floor(bandit: ModuleType, segment: Any) -> None:
    teach(bandit, segment, 0, 150, 0)
    for row in (1, 2):
        teach(bandit, segment, row, 0, 150)
    counts = picks(bandit, pool_of(half_of(bandit), segment, [1] * 3), 40_000)
    assert near(counts[1], 0.01, 40_000)
    assert near(counts[2], 0.01, 40_000)


def test_the_floors_of_many_stay_within_bounds(bandit: ModuleType, tmp_path: Path) -> None:
    segment = segment_at(half_of(bandit), tmp_path, 40)
    teach(bandit, segment, 7, 150, 0)
    for row in range(40):
        if row != 7:
            teach(bandit, segment, row, 0, 150)
    counts = picks(bandit, pool_of(half_of(bandit), segment, [1] * 40), 10_000)
    assert near(counts[7], 0.8 + 0.2 / 40, 10_000)
    segment.close()


def test_a_winner_of_long_ago_is_no_better_than_a_stranger(bandit: ModuleType, segment: Any) -> None:
    teach(bandit, segment, 0, 0, 150)
    counts = picks(bandit, pool_of(half_of(bandit), segment, [1, 1]), 10_000, now_ms=86_400_000)
    assert near(counts[0], 0.5, 10_000)


def test_weights_are_how_often_one_takes_part(bandit: ModuleType, segment: Any) -> None:
    teach(bandit, segment, 0, 150, 0)
    teach(bandit, segment, 1, 0, 150)
    counts = picks(bandit, pool_of(half_of(bandit), segment, [1, 4]), 20_000)
    assert near(counts[0], 0.98 * 0.25 + 0.02 * 0.2, 20_000)


def test_a_slow_start_is_slow(bandit: ModuleType, segment: Any) -> None:
    teach(bandit, segment, 0, 150, 0)
    teach(bandit, segment, 1, 0, 150)
    segment.set_cell(0, 6, 500)
    candidates = pool_of(half_of(bandit), segment, [1, 1])
    regate(half_of(bandit), candidates, slow_start_ms=1000)
    counts = picks(bandit, candidates, 20_000, now_ms=700)
    assert near(counts[0], 0.98 * 0.2 + 0.02 * 0.2 / 1.2, 20_000)


def test_only_candidates_are_picked(bandit: ModuleType, segment: Any) -> None:
    teach(bandit, segment, 2, 150, 0)
    candidates = pool_of(half_of(bandit), segment, [1] * 4, rows=[0, 2, 1, 3])
    assert picks(bandit, candidates, 200).most_common(1)[0][0] == 1
    regate(half_of(bandit), candidates, tried=[1])
    assert set(picks(bandit, candidates, 200)) == {0, 2, 3}


def test_a_closed_segment_is_refused(bandit: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(bandit), segment, [1, 1])
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        bandit.thompson(candidates, 1, 0, TAU_MS)


# ---- the two halves ----

PURE, COMPILED = (param.values[0] for param in twins("bandit"))
both = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")


@both
@given(st.floats(1e-9, 1e6), st.floats(1e-9, 1e6), st.integers(-(2**70), 2**70))
def test_same_draws(a: float, b: float, bits: int) -> None:
    assert PURE.beta(a, b, bits) == COMPILED.beta(a, b, bits)


@both
def test_same_draws_where_they_are_rare() -> None:
    """Enough of them to pass through the tail and the second looks of the ziggurat and of the gamma variates."""
    rng = random.Random(5)
    for _ in range(30_000):
        a, b, bits = rng.uniform(1, 3), rng.uniform(1, 3), rng.getrandbits(64)
        assert PURE.beta(a, b, bits) == COMPILED.beta(a, b, bits)


step = st.one_of(
    st.tuples(
        st.just("record"),
        st.integers(0, 3),
        st.floats(-0.5, 1.5) | st.just(math.nan),
        st.sampled_from([1.0, 50.0, 200.0]),
    ),
    st.tuples(st.just("wait"), st.integers(-2000, 500_000)),
    st.tuples(st.just("thompson"), st.integers(0, 2**64 - 1)),
)


@both
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=4, max_size=4), st.lists(step, max_size=40))
def test_same_choices(tmp_path_factory: Any, weights: list[float], steps: list[tuple[Any, ...]]) -> None:
    folder = tmp_path_factory.mktemp("twins")
    worlds = []
    for half in (PURE, COMPILED):
        (folder / half.__name__).mkdir()
        segment = segment_at(half_of(half), folder / half.__name__, 4)
        worlds.append((half, segment, pool_of(half_of(half), segment, weights)))
    now_ms = 10_000
    for name, *arguments in steps:
        if name == "wait":
            now_ms += arguments[0]
            continue
        answers = []
        for half, segment, candidates in worlds:
            if name == "record":
                row, reward, cap = arguments
                half.record(segment, row, reward, now_ms, TAU_MS, cap)
                cells = segment.cell(row, BANDIT), segment.cell(row, BANDIT_TIME_MS)
                answers.append((cells, half.posterior(segment, row, now_ms + 77, TAU_MS)))
            else:
                answers.append(half.thompson(candidates, arguments[0], now_ms, TAU_MS))
        assert answers[0] == answers[1]
    for _, segment, _ in worlds:
        segment.close()


def test_the_numbers_of_both_halves_are_the_same() -> None:
    source = Path(importlib.import_module("fastroute._core").__file__ or "").parent / "_bandit_c.pyx"
    text = source.read_text()
    for name, value in (("LAYERS", rules.LAYERS), ("BANDIT", BANDIT), ("BANDIT_TIME_MS", BANDIT_TIME_MS)):
        assert f"    {name} = {value}\n" in text
    assert f"    CELLS = {CELLS}\n" in text
