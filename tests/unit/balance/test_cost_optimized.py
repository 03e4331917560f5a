"""Cost optimised: prices, options and window of the pool come into the choice."""

from pathlib import Path

from fastroute._core.attempts import FAILED, OK, Attempts, Policy
from fastroute.balance.cost_optimized import CostOptimized
from fastroute.balance.registry import find_strategy
from tests.unit.fleet import Fleet, shares

GPT = (2_500_000, 1_250_000, 10_000_000)
MINI = (150_000, 75_000, 600_000)
SIZE = {"prompt_tokens": 1000, "output_tokens": 300}


def test_it_is_registered(tmp_path: Path) -> None:
    strategy = find_strategy("cost_optimized")(Fleet(tmp_path, [1.0]).info)
    assert isinstance(strategy, CostOptimized)
    assert strategy.name == "cost_optimized"


def test_the_cheapest_gets_all(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [9.0, 1.0, 9.0], [GPT, MINI, None])
    assert shares(CostOptimized(pool.info), pool, 100, **SIZE) == {1: 100}


def test_the_size_of_the_request_counts(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0], [(100, 0, 900), (300, 0, 300)])
    strategy = CostOptimized(pool.info)
    assert shares(strategy, pool, 50, prompt_tokens=10_000, output_tokens=10) == {0: 50}
    assert shares(strategy, pool, 50, prompt_tokens=10, output_tokens=10_000) == {1: 50}


def test_the_band_is_that_of_the_options(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    prices = [(100, 0, 100), (120, 0, 120)]
    narrow, wide = Fleet(tmp_path, [1.0] * 2, prices), Fleet(tmp_path / "wide", [1.0] * 2, prices, cost_band=0.5)
    for pool, chosen in ((narrow, 0), (wide, 1)):
        pool.segment.set(0, 0, 0, 3)
        assert shares(CostOptimized(pool.info), pool, 50, **SIZE) == {chosen: 50}


def test_the_window_is_that_of_the_breaker(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 2, [(100, 0, 100), (150, 0, 150)])
    policy = Policy(failure_threshold=1000, min_requests=1000, window_ms=600_000)
    attempts = Attempts(pool.segment, policy)
    for at in range(100):
        attempts.leave(0, 0, attempts.enter(0, 0, 0, 1000), OK if at % 2 else FAILED, -1.0, 1000, 0, 0, 0)
    remembering = CostOptimized(pool.info._replace(window_ms=600_000))
    assert shares(remembering, pool, 50, now_ms=400_000, **SIZE) == {1: 50}
    assert shares(remembering, pool, 50, now_ms=700_000, **SIZE) == {0: 50}
    # A bucket of this window would be another one's: what it finds there is of another time.
    assert shares(CostOptimized(pool.info), pool, 50, now_ms=400_000, **SIZE) == {0: 50}


def test_without_any_price_it_balances(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 3.0])
    counts = shares(CostOptimized(pool.info), pool, 100, **SIZE)
    # Idle, (0 + 1) / 3 is the lesser load.
    assert counts == {1: 100}
    pool.segment.set(0, 1, 0, 3)
    assert shares(CostOptimized(pool.info), pool, 100, **SIZE) == {0: 100}
