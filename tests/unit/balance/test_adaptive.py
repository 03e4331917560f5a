"""Adaptive: the reward, and that the traffic goes where it is highest, also after a change."""

import math
import random
from pathlib import Path

import pytest

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED
from fastroute._core.bandit import posterior
from fastroute.balance.adaptive import Adaptive
from fastroute.balance.registry import find_strategy
from fastroute.interfaces import Result
from tests.unit.fleet import Fleet, ask_for, ok, run, shares

TAU_MS = 300_000


def learnt(pool: Fleet, row: int, now_ms: int = 1000) -> tuple[float, float]:
    return posterior(pool.segment, row, now_ms, TAU_MS)


def test_it_is_registered(tmp_path: Path) -> None:
    strategy = find_strategy("adaptive")(Fleet(tmp_path, [1.0]).info)
    assert isinstance(strategy, Adaptive)
    assert strategy.name == "adaptive"


# ---- the reward ----


def rewarded(pool: Fleet, strategy: Adaptive, position: int, result: Result, **fields: object) -> float:
    """Return what one result adds to the successes of an endpoint; all it adds is 1."""
    request = ask_for(now_ms=1000, **fields)
    now_ms = 1000 + max(0, int(result.total_ms))
    before = learnt(pool, position, now_ms)
    strategy.observe(position, request, result)
    after = learnt(pool, position, now_ms)
    assert sum(after) - sum(before) == pytest.approx(1.0, abs=1e-4)
    return after[0] - before[0]


def test_latency_alone_where_no_price_is_known(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0])
    strategy = Adaptive(pool.info)
    for _ in range(100):
        strategy.observe(0, ask_for(), ok(400.0))
    for ms, expected in ((400.0, 0.5), (200.0, 2**-0.5), (1200.0, 0.125)):
        assert rewarded(pool, strategy, 0, ok(ms)) == pytest.approx(expected, abs=0.03)


def test_the_size_of_the_prompt_is_taken_out(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0])
    strategy = Adaptive(pool.info)
    for _ in range(100):
        strategy.observe(0, ask_for(), ok(400.0))
    assert rewarded(pool, strategy, 0, ok(800.0), prompt_tokens=4000) == pytest.approx(0.5, abs=1e-3)


def test_cost_and_latency_are_weighed(tmp_path: Path) -> None:
    prices = [(1000, 100, 4000), (250, 25, 1000), (0, 0, 0), None, (9000, 900, 36_000)]
    pool = Fleet(tmp_path, [1.0] * 5, prices, adaptive_latency_weight=0.6, adaptive_cap=100_000)
    strategy = Adaptive(pool.info)
    fields = {"prompt_tokens": 1000, "output_tokens": 250}
    for _ in range(100):
        strategy.observe(0, ask_for(**fields), ok(400.0))
    # 0.6 x 1/2 for the median latency, and 0.4 x (1 - cost / twice the median cost).
    for position, thrift in ((0, 0.5), (1, 0.875), (2, 1.0), (3, 0.0), (4, 0.0)):
        reward = rewarded(pool, strategy, position, ok(400.0), **fields)
        assert reward == pytest.approx(0.3 + 0.4 * thrift, abs=0.02)
    # What the ledger says goes before the estimate.
    dear = Result(OK, 400.0, 400.0, cost_nano_usd=10**9, output_tokens=250)
    assert rewarded(pool, strategy, 1, dear, **fields) == pytest.approx(0.3, abs=0.02)


def test_large_requests_are_not_dear(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0], [(1000, 100, 4000)], adaptive_latency_weight=0.0)
    strategy = Adaptive(pool.info)
    for _ in range(50):
        strategy.observe(0, ask_for(prompt_tokens=100, output_tokens=100), ok(400.0))
    reward = rewarded(pool, strategy, 0, ok(400.0), prompt_tokens=100_000, output_tokens=9000)
    assert reward == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("verdict", [FAILED, RATE_LIMITED, KEY_REJECTED])
def test_a_failure_earns_nothing(tmp_path: Path, verdict: int) -> None:
    pool = Fleet(tmp_path, [1.0], [(1, 1, 1)])
    assert rewarded(pool, Adaptive(pool.info), 0, Result(verdict, 5.0, 5.0)) == 0.0


def test_the_fault_of_the_request_is_not_counted(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0])
    Adaptive(pool.info).observe(0, ask_for(), Result(NEUTRAL, 5.0, 5.0))
    assert learnt(pool, 0) == (0.0, 0.0)


def test_a_time_that_was_not_measured_is_taken_for_the_median(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0])
    strategy = Adaptive(pool.info)
    assert rewarded(pool, strategy, 0, Result(OK)) == 0.5
    strategy.observe(0, ask_for(), ok(100.0))
    assert rewarded(pool, strategy, 0, Result(OK)) == pytest.approx(0.5, abs=1e-3)
    assert strategy.latency.value == 100.0


def test_an_answer_counts_when_it_came(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0])
    Adaptive(pool.info).observe(0, ask_for(now_ms=1000), ok(60_000.0))
    assert sum(learnt(pool, 0, 61_000)) == 1.0
    assert sum(learnt(pool, 0, 61_000 + TAU_MS)) == pytest.approx(1.0 / math.e)


# ---- where the traffic goes ----


def test_to_the_fast_one(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 4)
    strategy = Adaptive(pool.info)
    outcome = lambda at: ok(150.0 if at == 2 else 900.0)  # noqa: E731
    run(strategy, pool, 1000, outcome)
    assert run(strategy, pool, 2000, outcome, start_ms=11_000)[2] > 0.9 * 2000


def test_to_the_cheap_one_of_two_that_are_alike_and_it_stays_there(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 2, [(2500, 1250, 10_000), (150, 75, 600)])
    strategy = Adaptive(pool.info)
    size = {"prompt_tokens": 1000, "output_tokens": 200}
    run(strategy, pool, 2000, lambda at: ok(400.0), **size)
    assert run(strategy, pool, 4000, lambda at: ok(400.0), start_ms=21_000, **size)[1] > 0.85 * 4000


def test_away_from_who_fails_one_in_five(tmp_path: Path) -> None:
    rng = random.Random(8)
    pool = Fleet(tmp_path, [1.0] * 2)
    strategy = Adaptive(pool.info)

    def outcome(at: int) -> Result:
        return Result(FAILED, 5.0, 5.0) if at == 0 and rng.random() < 0.2 else ok(rng.uniform(300.0, 500.0))

    run(strategy, pool, 3000, outcome)
    assert run(strategy, pool, 3000, outcome, start_ms=31_000)[1] > 0.65 * 3000


def test_after_a_step_change_it_turns_within_the_cap(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 3)
    strategy = Adaptive(pool.info)
    run(strategy, pool, 3000, lambda at: ok(200.0 if at == 0 else 800.0))
    turned = lambda at: Result(FAILED, 5.0, 5.0) if at == 0 else ok(800.0 if at == 1 else 400.0)  # noqa: E731
    during = run(strategy, pool, 400, turned, start_ms=31_000)
    after = run(strategy, pool, 2000, turned, start_ms=35_000)
    assert during[0] < 250
    assert after[0] < 0.03 * 2000
    assert after[2] > 0.75 * 2000


def test_everybody_is_tried(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 3)
    strategy = Adaptive(pool.info)
    run(strategy, pool, 2000, lambda at: ok(100.0) if at == 0 else Result(FAILED, 1.0, 1.0))
    counts = shares(strategy, pool, 10_000, now_ms=21_000)
    assert 50 < counts[1] < 200
    assert 50 < counts[2] < 200


# ---- workers and reloads ----


def test_workers_share_what_is_known(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 2)
    first, second = Adaptive(pool.info), Adaptive(pool.info)
    run(first, pool, 1000, lambda at: ok(100.0) if at == 1 else Result(FAILED, 1.0, 1.0))
    assert shares(second, pool, 1000, now_ms=11_000)[1] > 950


def test_a_reload_keeps_the_medians(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0], [(1000, 100, 4000)])
    old, new = Adaptive(pool.info), Adaptive(pool.info)
    for _ in range(10):
        old.observe(0, ask_for(prompt_tokens=100), ok(300.0))
    new.adopt(old, [0])
    assert new.latency.value == old.latency.value == pytest.approx(300.0 / 1.025)
    assert new.cost.value == old.cost.value > 0.0
