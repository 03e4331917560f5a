"""Least latency: what is learnt of a result, whom it prefers, and what a reload keeps."""

from pathlib import Path

import pytest

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED
from fastroute.balance.latency import normalised_ms, observed_ms
from fastroute.balance.least_latency import LeastLatency
from fastroute.balance.registry import find_strategy
from fastroute.interfaces import Result
from tests.unit.fleet import Fleet, ask_for, ok, run, shares


def test_it_is_registered(tmp_path: Path) -> None:
    strategy = find_strategy("least_latency")(Fleet(tmp_path, [1.0]).info)
    assert isinstance(strategy, LeastLatency)
    assert strategy.name == "least_latency"


# ---- what a result says ----


def test_the_time_is_taken_by_the_size_of_the_prompt() -> None:
    assert normalised_ms(ask_for(prompt_tokens=0), Result(OK, 300.0, 9000.0)) == 300.0
    assert normalised_ms(ask_for(prompt_tokens=4000), Result(OK, 300.0, 9000.0)) == 150.0
    # The length of a streamed answer is nothing to its first token; one in a piece has to be complete.
    assert normalised_ms(ask_for(prompt_tokens=4000), Result(OK, 300.0, 9000.0, output_tokens=500)) == 150.0
    assert normalised_ms(ask_for(stream=False), Result(OK, 2100.0, 2100.0, output_tokens=500)) == 100.0


def test_the_total_stands_in_for_the_first_token() -> None:
    assert normalised_ms(ask_for(), Result(OK, -1.0, 700.0)) == 700.0
    assert normalised_ms(ask_for(), Result(OK)) == -1.0


@pytest.mark.parametrize("verdict", [FAILED, RATE_LIMITED, KEY_REJECTED])
def test_a_failure_is_never_fast(verdict: int) -> None:
    assert normalised_ms(ask_for(prompt_tokens=4000), Result(verdict, 3.0, 3.0)) == 5000.0
    # A deadline that passed says that it takes at least that long.
    assert normalised_ms(ask_for(prompt_tokens=4000), Result(verdict, -1.0, 60_000.0)) == 60_000.0


def test_a_refused_request_says_nothing() -> None:
    assert normalised_ms(ask_for(), Result(NEUTRAL, 3.0, 3.0)) == -1.0


def test_the_end_of_an_attempt_is_reckoned_from_its_beginning() -> None:
    assert observed_ms(ask_for(now_ms=1000), Result(OK, 1.0, 250.7)) == 1250
    assert observed_ms(ask_for(now_ms=1000), Result(OK)) == 1000


# ---- whom it prefers ----


def test_the_fast_one_gets_nearly_all(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 4)
    counts = run(LeastLatency(pool.info), pool, 2000, lambda at: ok(100.0 if at == 2 else 1000.0))
    assert counts[2] > 1950


def test_who_fails_fast_does_not_look_fast(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0])
    counts = run(LeastLatency(pool.info), pool, 2000, lambda at: Result(FAILED, 1.0, 1.0) if at == 0 else ok(800.0))
    assert counts[0] < 20


def test_a_provider_of_ten_seconds_stays_in_when_it_is_all_there_is(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0])
    strategy = LeastLatency(pool.info)
    run(strategy, pool, 100, lambda at: ok(10_000.0))
    pool.tried(1)
    assert shares(strategy, pool, 10, latency_target_ms=200) == {0: 10}


def test_a_change_is_followed_within_a_minute(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0])
    strategy = LeastLatency(pool.info)
    run(strategy, pool, 3000, lambda at: ok(100.0 if at == 0 else 400.0))
    after = run(strategy, pool, 6000, lambda at: ok(2000.0 if at == 0 else 400.0), start_ms=31_000)
    assert after[1] > 2000
    later = run(strategy, pool, 3000, lambda at: ok(2000.0 if at == 0 else 400.0), start_ms=91_000)
    assert later[1] > 2950


def test_the_quantile_is_that_of_the_options(tmp_path: Path) -> None:
    (tmp_path / "tail").mkdir()
    for folder, options, best in ((tmp_path, {}, 1), (tmp_path / "tail", {"least_latency_quantile": 0.95}, 0)):
        pool = Fleet(folder, [1.0, 1.0], **options)
        strategy = LeastLatency(pool.info)
        for at in range(400):
            strategy.observe(0, ask_for(), ok(200.0))
            strategy.observe(1, ask_for(), ok(100.0 if at % 10 else 5000.0))
        assert shares(strategy, pool, 100) == {best: 100}


def test_a_target_is_for_the_request_as_it_is(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0, 1.0])
    strategy = LeastLatency(pool.info)
    for _ in range(20):
        strategy.observe(0, ask_for(), ok(100.0))
        strategy.observe(1, ask_for(), ok(300.0))
    pool.segment.set(0, 0, 0, 5)
    assert shares(strategy, pool, 50) == {1: 50}
    assert shares(strategy, pool, 50, latency_target_ms=400) == {1: 50}
    # Of twice the size, the second one takes 600 ms.
    assert shares(strategy, pool, 50, latency_target_ms=400, prompt_tokens=4000) == {0: 50}


# ---- a reload ----


def test_a_reload_keeps_what_is_known_of_who_stays(tmp_path: Path) -> None:
    (tmp_path / "after").mkdir()
    before, after = Fleet(tmp_path, [1.0] * 3), Fleet(tmp_path / "after", [1.0] * 3)
    old, new = LeastLatency(before.info), LeastLatency(after.info)
    for _ in range(20):
        for at, ms in enumerate((500.0, 100.0, 300.0)):
            old.observe(at, ask_for(), ok(ms))
    new.adopt(old, [-1, 2, 1])
    assert shares(new, after, 1000)[2] > 900
    assert new.quantiles.estimate(1, 0.5, 1000) == (pytest.approx(300.0, rel=0.02), 20)
    assert new.quantiles.estimate(0, 0.5, 1000) == (-1.0, 0)
