"""When a second attempt may be sent, and how often."""

import math
import random
from decimal import Decimal

import pytest

from fastroute.config.schema import Hedge
from fastroute.failover.hedge import MIN_SAMPLES, Hedger, Percentile


def hedger(workers: int = 1, **config: object) -> Hedger:
    return Hedger(Hedge(enabled=True, **config), workers)  # type: ignore[arg-type]


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_the_estimate_comes_near_the_percentile(spread: float) -> None:
    draws = random.Random(5)
    samples = [300.0 * draws.lognormvariate(0.0, spread) for _ in range(4000)]
    percentile = Percentile()
    for sample in samples:
        percentile.add(sample)
    above = sum(sample > percentile.value for sample in samples) / len(samples)
    assert 0.02 < above < 0.09


def test_the_estimate_follows_a_change() -> None:
    percentile = Percentile()
    for _ in range(500):
        percentile.add(100.0)
    for _ in range(500):
        percentile.add(1000.0)
    assert percentile.value == pytest.approx(1000.0, rel=0.1)


def test_what_is_no_time_is_not_counted() -> None:
    percentile = Percentile()
    percentile.add(0.0)
    percentile.add(-1.0)
    assert (percentile.count, percentile.value) == (0, 0.0)


def test_the_delay_is_unknown_until_there_are_samples() -> None:
    one = hedger()
    for _ in range(MIN_SAMPLES - 1):
        one.observe("m", 10, 200.0)
    assert one.delay_ms("m", 10) == math.inf
    one.observe("m", 10, 200.0)
    assert one.delay_ms("m", 10) == pytest.approx(200.0, rel=0.5)
    assert one.delay_ms("other", 10) == math.inf
    assert one.delay_ms("m", 50_000) == math.inf


def test_a_fixed_delay() -> None:
    assert hedger(delay_ms=75).delay_ms("m", 10) == 75.0


def test_the_share_of_requests() -> None:
    one = hedger(max_percent=2.0)
    assert not one.allow(0, 0)
    for _ in range(200):
        one.request(0)
    assert [one.allow(0, 0) for _ in range(5)] == [True] * 4 + [False]
    assert not one.allow(0, 120_000)


def test_the_money_of_an_hour_is_shared_by_the_workers() -> None:
    one = hedger(workers=2, max_percent=100, max_usd_per_hour=Decimal("0.000002"))
    for _ in range(10):
        one.request(0)
    assert one.allow(600, 0)
    assert not one.allow(600, 1)
    assert one.allow(400, 2)
    for now_ms in (3_599_000, 3_600_001):
        one.request(now_ms)
    assert not one.allow(600, 3_599_000)
    assert one.allow(600, 3_600_001)


def test_an_unknown_price_is_within_no_cap() -> None:
    one = hedger(max_percent=100)
    one.request(0)
    assert not one.allow(-1, 0)
    assert one.allow(0, 0)
