"""The rolling median."""

import math
import random
import statistics

import pytest

from fastroute.balance.median import RollingMedian


def test_nothing_seen() -> None:
    assert RollingMedian().value == 0.0


def test_what_is_always_the_same_is_its_own_median() -> None:
    median = RollingMedian()
    for _ in range(50):
        median.add(300.0)
        assert median.value == 300.0


@pytest.mark.parametrize("spread", [0.2, 1.0, 2.0])
def test_it_comes_near_the_true_one_and_stays(spread: float) -> None:
    rng = random.Random(4)
    median = RollingMedian()
    off = []
    for at in range(4000):
        median.add(rng.lognormvariate(math.log(400.0), spread))
        if at >= 500:
            off.append(math.log(median.value / 400.0))
    # A step s keeps it within sqrt(s / 4f), where f, the density at the median, is 0.4 / spread.
    deviation = math.sqrt(0.01 / 4.0 / (0.4 / spread))
    assert abs(statistics.fmean(off)) < deviation
    assert statistics.pstdev(off) < 1.5 * deviation
    assert max(map(abs, off)) < 4.5 * deviation


def test_it_follows_a_change() -> None:
    median = RollingMedian()
    for _ in range(1000):
        median.add(100.0)
    for _ in range(240):
        median.add(1000.0)
    assert median.value == 1000.0


@pytest.mark.parametrize("odd", [0.0, -5.0, math.nan, math.inf])
def test_what_has_no_logarithm_is_passed_over(odd: float) -> None:
    median = RollingMedian()
    median.add(odd)
    assert median.value == 0.0
    median.add(7.0)
    median.add(odd)
    assert median.value == 7.0


def test_it_goes_on_where_another_is() -> None:
    before, after = RollingMedian(), RollingMedian()
    for number in (10.0, 20.0, 30.0):
        before.add(number)
    after.adopt(before)
    after.add(40.0)
    before.add(40.0)
    assert after.value == before.value
