"""What `attempts` counts and measures, over both halves; the breaker has a file of its own."""

import math
import random
import time
from typing import Any

import pytest

from fastroute._core import _attempts_rules as rules
from fastroute._core import counters as cells
from fastroute._core._attempts_rules import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED, Policy
from tests.unit.core.halves import WORKERS, Half

ENDPOINTS = 3
ROW = 1
#: A time, in the middle of a bucket of the window.
NOW = 1_000_500
VERDICTS = (OK, FAILED, RATE_LIMITED, NEUTRAL, KEY_REJECTED)
#: With which no breaker opens.
CALM = Policy(failure_threshold=60_000, min_requests=1_000_000, window_ms=10_000, decay_ms=10_000, penalty_ms=5_000)


@pytest.fixture
def attempts(half: Half, segment: Any) -> Any:
    return half.attempts.Attempts(segment, CALM)


def end(attempts: Any, verdict: int, now_ms: int, cost_ms: float = -1.0, hint_ms: int = 0, row: int = ROW) -> None:
    """Let an attempt begin and end at once."""
    ticket = attempts.enter(0, row, 1000, now_ms)
    assert ticket >= 0
    attempts.leave(0, row, ticket, verdict, cost_ms, now_ms, 0, hint_ms, 1000)


def close_to(value: float) -> Any:
    """Cells hold costs as 32-bit floats: 24 bits."""
    return pytest.approx(value, rel=2e-7)


# ---- what is counted ----


def test_an_attempt_in_and_out(attempts: Any, segment: Any) -> None:
    ticket = attempts.enter(1, ROW, 1700, NOW)
    assert segment.get(1, ROW, cells.IN_FLIGHT) == 1
    assert segment.get(1, ROW, cells.WORK) == 1700
    attempts.leave(1, ROW, ticket, OK, -1.0, NOW + 5, 0, 0, 1700)
    counted = [segment.get(1, ROW, column) for column in range(cells.COLUMNS)]
    assert counted == [0, 1, 0, 0, 0, 0, 0, 0]
    assert segment.totals(cells.REQUESTS) == [0, 1, 0]


def test_the_first_token_gives_back_the_prompts_part(attempts: Any, segment: Any) -> None:
    ticket = attempts.enter(0, ROW, 1700, NOW)
    attempts.first_token(0, ROW, 700, 80.0, NOW + 80)
    assert (segment.in_flight(ROW), segment.total(ROW, cells.WORK)) == (1, 1000)
    assert attempts.cost(ROW, NOW + 80) == 80.0
    attempts.first_token(0, ROW, 0, -1.0, NOW + 90)
    assert attempts.cost(ROW, NOW + 80) == 80.0
    attempts.leave(0, ROW, ticket, OK, -1.0, NOW + 100, 0, 0, 1000)
    assert (segment.in_flight(ROW), segment.total(ROW, cells.WORK)) == (0, 0)


@pytest.mark.parametrize(
    ("verdict", "failures", "health"),
    [(OK, 0, (1, 0)), (FAILED, 1, (0, 1)), (RATE_LIMITED, 0, (0, 0)), (NEUTRAL, 0, (0, 0)), (KEY_REJECTED, 1, (0, 0))],
)
def test_what_each_verdict_counts_as(
    attempts: Any, segment: Any, verdict: int, failures: int, health: tuple[int, int]
) -> None:
    end(attempts, verdict, NOW)
    assert segment.total(ROW, cells.REQUESTS) == 1
    assert segment.total(ROW, cells.FAILURES) == failures
    assert attempts.health(ROW, NOW) == health


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_in_flight_once_everybody_has_left(half: Half, segment: Any, seed: int) -> None:
    rng = random.Random(seed)
    attempts = half.attempts.Attempts(segment, Policy(failure_threshold=2, success_threshold=1, timeout_ms=50))
    inside: list[list[int]] = []
    now_ms = NOW
    for _ in range(3_000):
        now_ms += rng.randrange(10)
        if inside and rng.random() < 0.5:
            worker, row, ticket, work = inside.pop(rng.randrange(len(inside)))
            attempts.leave(worker, row, ticket, rng.choice(VERDICTS), -1.0, now_ms, rng.getrandbits(64), 0, work)
            continue
        worker, row, work = rng.randrange(WORKERS), rng.randrange(ENDPOINTS), rng.randrange(5_000)
        enter = attempts.enter if rng.random() < 0.9 else attempts.enter_anyway
        ticket = enter(worker, row, work, now_ms)
        if ticket >= 0:
            prefill = rng.randrange(work + 1)
            if rng.random() < 0.5:
                attempts.first_token(worker, row, prefill, 10.0, now_ms)
                work -= prefill
            inside.append([worker, row, ticket, work])
        expected = [sum(1 for one in inside if one[1] == row) for row in range(ENDPOINTS)]
        assert segment.totals(cells.IN_FLIGHT) == expected
    for worker, row, ticket, work in inside:
        attempts.leave(worker, row, ticket, NEUTRAL, -1.0, now_ms, 0, 0, work)
    for worker in range(WORKERS):
        for row in range(ENDPOINTS):
            assert (segment.get(worker, row, cells.IN_FLIGHT), segment.get(worker, row, cells.WORK)) == (0, 0)


# ---- cost: peak EWMA ----


def test_an_endpoint_nobody_has_measured_costs_nothing(attempts: Any) -> None:
    assert (attempts.cost(ROW, NOW), attempts.load(ROW, NOW)) == (0.0, 0.0)


def test_but_only_until_its_first_request_is_under_way(attempts: Any) -> None:
    attempts.enter(0, ROW, 1000, NOW)
    assert attempts.load(ROW, NOW) == 2_000.0
    attempts.enter(1, ROW, 500, NOW)
    assert attempts.load(ROW, NOW) == 2_500.0


def test_cost_decays_while_there_is_no_traffic(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    assert attempts.cost(ROW, NOW) == 100.0
    assert attempts.cost(ROW, NOW + 10_000) == close_to(100.0 * math.exp(-1.0))
    assert attempts.cost(ROW, NOW + 10_000) == pytest.approx(36.788, abs=5e-4)
    # Looking changes nothing.
    assert attempts.cost(ROW, NOW) == 100.0


def test_a_quicker_answer_moves_cost_by_the_time_gone(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    end(attempts, OK, NOW + 5_000, 40.0)
    assert attempts.cost(ROW, NOW + 5_000) == pytest.approx(76.392, abs=5e-4)


@pytest.mark.parametrize("gone_ms", [0, 1, 5_000, 10**7])
def test_a_slower_answer_is_taken_as_it_is(attempts: Any, gone_ms: int) -> None:
    end(attempts, OK, NOW, 100.0)
    end(attempts, OK, NOW + gone_ms, 150.0)
    assert attempts.cost(ROW, NOW + gone_ms) == 150.0


def test_load_is_cost_times_the_work_in_flight_and_one(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    assert attempts.load(ROW, NOW) == 100.0
    for worker in (0, 1, 1):
        attempts.enter(worker, ROW, 1000, NOW)
    assert attempts.load(ROW, NOW) == 400.0


def test_the_decay_is_a_parameter(half: Half, segment: Any) -> None:
    attempts = half.attempts.Attempts(segment, CALM._replace(decay_ms=2_000))
    end(attempts, OK, NOW, 100.0)
    assert attempts.cost(ROW, NOW + 2_000) == pytest.approx(36.788, abs=5e-4)


def test_a_cost_long_past_is_forgotten(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    for idle_ms in (24 * 3_600_000, 30 * 24 * 3_600_000, 49 * 24 * 3_600_000):
        assert attempts.cost(ROW, NOW + idle_ms) < rules.FORGOTTEN_MS
        assert attempts.load(ROW, NOW + idle_ms) == 0.0


@pytest.mark.parametrize("now_ms", [2**32 - 5_000, 2**31 - 5_000, 7 * 2**32 - 1])
def test_time_goes_round_in_a_cell(attempts: Any, now_ms: int) -> None:
    end(attempts, OK, now_ms, 100.0)
    assert attempts.cost(ROW, now_ms + 10_000) == pytest.approx(36.788, abs=5e-4)


def test_another_workers_clock_may_be_read_later(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    assert attempts.cost(ROW, NOW - 3) == 100.0
    end(attempts, OK, NOW - 3, 50.0)
    assert attempts.cost(ROW, NOW - 3) == 100.0


def test_costs_beyond_what_a_cell_holds(attempts: Any) -> None:
    end(attempts, OK, NOW, math.inf)
    assert attempts.cost(ROW, NOW) == close_to(3e38)
    end(attempts, OK, NOW, math.nan)
    assert attempts.cost(ROW, NOW) == close_to(3e38)
    end(attempts, OK, NOW, 0.0, row=2)
    assert attempts.cost(2, NOW) == 0.0


# ---- a failure counts as a long time ----


@pytest.mark.parametrize("verdict", [FAILED, RATE_LIMITED, KEY_REJECTED])
def test_a_failure_costs_the_penalty_however_fast_it_was(attempts: Any, verdict: int) -> None:
    end(attempts, OK, NOW, 100.0)
    end(attempts, verdict, NOW, 3.0)
    assert attempts.cost(ROW, NOW) == 5_000.0


@pytest.mark.parametrize(
    ("hint_ms", "cost_ms"), [(1, 5_000.0), (20_000, 20_000.0), (86_400_000, 86_400_000.0), (10**12, 86_400_000.0)]
)
def test_or_what_the_provider_says_if_that_is_longer(attempts: Any, hint_ms: int, cost_ms: float) -> None:
    end(attempts, RATE_LIMITED, NOW, hint_ms=hint_ms)
    assert attempts.cost(ROW, NOW) == cost_ms


def test_a_failure_never_improves_the_opinion(attempts: Any) -> None:
    end(attempts, OK, NOW, 9_000.0)
    end(attempts, FAILED, NOW)
    assert attempts.cost(ROW, NOW) == 9_000.0


def test_an_endpoint_that_fails_fast_does_not_look_idle(attempts: Any) -> None:
    for step in range(100):
        now_ms = NOW + step * 100
        end(attempts, FAILED, now_ms, 1.0, row=0)
        end(attempts, OK, now_ms, 900.0, row=1)
    assert attempts.load(0, now_ms) > 5 * attempts.load(1, now_ms)


def test_a_neutral_end_is_noted_only_where_it_took_longer(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    end(attempts, NEUTRAL, NOW, 40.0)
    assert attempts.cost(ROW, NOW) == 100.0
    end(attempts, NEUTRAL, NOW)
    assert attempts.cost(ROW, NOW) == 100.0
    end(attempts, NEUTRAL, NOW, 130.0)
    assert attempts.cost(ROW, NOW) == 130.0


def test_a_success_without_a_time_leaves_the_cost(attempts: Any) -> None:
    end(attempts, OK, NOW, 100.0)
    end(attempts, OK, NOW + 1)
    assert attempts.cost(ROW, NOW) == 100.0


# ---- cooldown ----


def test_a_rate_limit_with_a_time_is_a_cooldown(attempts: Any, segment: Any) -> None:
    end(attempts, RATE_LIMITED, NOW)
    assert segment.cell(ROW, cells.COOLDOWN_UNTIL_MS) == 0
    end(attempts, RATE_LIMITED, NOW, hint_ms=7_000)
    assert segment.cell(ROW, cells.COOLDOWN_UNTIL_MS) == NOW + 7_000
    end(attempts, RATE_LIMITED, NOW + 10, hint_ms=100)  # never shorter than promised before
    assert segment.cell(ROW, cells.COOLDOWN_UNTIL_MS) == NOW + 7_000
    end(attempts, RATE_LIMITED, NOW + 10, hint_ms=10**12)
    assert segment.cell(ROW, cells.COOLDOWN_UNTIL_MS) == NOW + 10 + 86_400_000


@pytest.mark.parametrize("verdict", [OK, FAILED, NEUTRAL, KEY_REJECTED])
def test_nothing_else_is(attempts: Any, segment: Any, verdict: int) -> None:
    end(attempts, verdict, NOW, hint_ms=7_000)
    assert segment.cell(ROW, cells.COOLDOWN_UNTIL_MS) == 0


# ---- the health window ----


def test_health_is_of_the_window(attempts: Any) -> None:
    for step in range(10):  # one of each in every bucket
        end(attempts, OK, NOW + step * 1_000)
        end(attempts, FAILED, NOW + step * 1_000)
    last_ms = NOW + 9_000
    assert attempts.health(ROW, last_ms) == (10, 10)
    for gone in range(12):
        assert attempts.health(ROW, last_ms + gone * 1_000) == (max(0, 10 - gone),) * 2


def test_a_bucket_starts_anew_when_its_turn_comes_again(attempts: Any) -> None:
    for _ in range(7):
        end(attempts, OK, NOW)
    end(attempts, FAILED, NOW + 10_000)
    assert attempts.health(ROW, NOW + 10_000) == (0, 1)


def test_a_bucket_of_a_time_to_come_does_not_count_yet(attempts: Any) -> None:
    end(attempts, OK, NOW + 1_000)
    assert attempts.health(ROW, NOW) == (0, 0)
    assert attempts.health(ROW, NOW + 1_000) == (1, 0)


@pytest.mark.parametrize(("verdict", "unit"), [(OK, 1 << 20), (FAILED, 1)])
def test_a_full_bucket_stays_full(attempts: Any, segment: Any, verdict: int, unit: int) -> None:
    end(attempts, verdict, NOW)
    bucket = cells.WINDOW_0 + NOW // 1_000 % 10
    full = segment.cell(ROW, bucket) + unit * ((1 << 20) - 2)
    segment.set_cell(ROW, bucket, full)
    end(attempts, verdict, NOW)
    assert segment.cell(ROW, bucket) == full
    assert sum(attempts.health(ROW, NOW)) == (1 << 20) - 1


@pytest.mark.parametrize("window_ms", [10, 19, 100, 30_000, 3_600_000])
def test_windows_of_any_length_have_ten_buckets(half: Half, segment: Any, window_ms: int) -> None:
    attempts = half.attempts.Attempts(segment, CALM._replace(window_ms=window_ms))
    bucket_ms = window_ms // 10
    begin_ms = 1_000_000 * bucket_ms
    end(attempts, OK, begin_ms)
    assert attempts.health(ROW, begin_ms + 10 * bucket_ms - 1) == (1, 0)
    assert attempts.health(ROW, begin_ms + 10 * bucket_ms) == (0, 0)


# ---- clocks ----


def _life(half: Half, segment: Any, began_ms: int) -> list[Any]:
    """Run a seeded life of an endpoint that begins at a time; return what could be seen of it, relative to that."""
    rng = random.Random(9)
    segment.clear_endpoint(ROW)
    policy = Policy(success_threshold=2, timeout_ms=300, max_timeout_ms=1_000, window_ms=10_000)
    attempts = half.attempts.Attempts(segment, policy)
    seen: list[Any] = []
    now_ms = began_ms
    for _ in range(600):
        now_ms += rng.randrange(150)
        ticket = attempts.enter(0, ROW, 1000, now_ms)
        if ticket >= 0:
            verdict = rng.choice([OK, OK, FAILED, FAILED, RATE_LIMITED])
            attempts.leave(0, ROW, ticket, verdict, rng.random() * 99, now_ms, rng.getrandbits(64), 0, 1000)
        state, generation, probes, until_ms = attempts.state(ROW, now_ms)
        until_ms -= began_ms if until_ms else 0
        seen.append((ticket, state, generation, probes, until_ms, attempts.health(ROW, now_ms)))
        seen.append(attempts.cost(ROW, now_ms))
    return seen


def test_only_differences_of_the_times_given_count(half: Half, segment: Any) -> None:
    life = _life(half, segment, 1_000_000)
    assert len({entry[1] for entry in life[::2]}) == 3  # states: it was a rich one
    assert _life(half, segment, 1_000_000 + 86_400_000) == life


def test_the_wall_clock_plays_no_part(half: Half, segment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    life = _life(half, segment, 1_000_000)

    def jumping() -> float:
        raise AssertionError("no clock is to be read here")

    with monkeypatch.context() as patch:
        for clock in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"):
            patch.setattr(time, clock, jumping)
        again = _life(half, segment, 1_000_000)
    assert again == life


# ---- what is refused ----


def test_positions_out_of_range(attempts: Any) -> None:
    for worker, row in ((-1, 0), (WORKERS, 0), (0, -1), (0, ENDPOINTS)):
        for call in (
            lambda w=worker, r=row: attempts.enter(w, r, 1, NOW),
            lambda w=worker, r=row: attempts.enter_anyway(w, r, 1, NOW),
            lambda w=worker, r=row: attempts.first_token(w, r, 1, 1.0, NOW),
            lambda w=worker, r=row: attempts.leave(w, r, 0, OK, 1.0, NOW, 0, 0, 1),
        ):
            with pytest.raises(IndexError):
                call()
    for row in (-1, ENDPOINTS):
        for look in (attempts.state, attempts.cost, attempts.load, attempts.health):
            with pytest.raises(IndexError):
                look(row, NOW)


def test_work_that_no_cell_holds_counts_nothing(attempts: Any, segment: Any) -> None:
    ticket = attempts.enter(0, ROW, 1, NOW)
    for call in (
        lambda: attempts.enter(0, ROW, 1 << 64, NOW),
        lambda: attempts.enter_anyway(0, ROW, 1 << 64, NOW),
        lambda: attempts.first_token(0, ROW, 1 << 64, -1.0, NOW),
        lambda: attempts.leave(0, ROW, ticket, OK, -1.0, NOW, 0, 0, 1 << 64),
    ):
        with pytest.raises(OverflowError):
            call()
    assert [segment.total(ROW, column) for column in (cells.IN_FLIGHT, cells.WORK, cells.REQUESTS)] == [1, 1, 0]


def test_a_closed_segment(attempts: Any, segment: Any) -> None:
    segment.close()
    for call in (
        lambda: attempts.enter(0, ROW, 1, NOW),
        lambda: attempts.enter_anyway(0, ROW, 1, NOW),
        lambda: attempts.first_token(0, ROW, 1, 1.0, NOW),
        lambda: attempts.leave(0, ROW, 0, OK, 1.0, NOW, 0, 0, 1),
        lambda: attempts.state(ROW, NOW),
        lambda: attempts.cost(ROW, NOW),
        lambda: attempts.load(ROW, NOW),
        lambda: attempts.health(ROW, NOW),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_the_policy_can_be_read_and_has_defaults(half: Half, segment: Any) -> None:
    assert half.attempts.Attempts(segment, CALM).policy == CALM
    assert half.attempts.Attempts(segment).policy == Policy()


def test_only_the_low_64_bits_of_the_random_ones_count(half: Half, segment: Any) -> None:
    until = set()
    for bits in (0x80000000, 0x80000000 + (5 << 64), 0x80000000 - (1 << 64)):
        segment.clear_endpoint(ROW)
        attempts = half.attempts.Attempts(segment, Policy(failure_threshold=1))
        attempts.leave(0, ROW, attempts.enter(0, ROW, 1, NOW), FAILED, -1.0, NOW, bits, 0, 1)
        until.add(attempts.state(ROW, NOW)[3])
    assert until == {NOW + 63_000}
