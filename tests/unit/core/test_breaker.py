"""The circuit breaker of `attempts`, over both halves."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastroute._core import _attempts_py as pure
from fastroute._core import _counters_py as pure_counters
from fastroute._core import counters as cells
from fastroute._core._attempts_rules import (
    CLOSED,
    FAILED,
    HALF_OPEN,
    JITTER,
    KEY_REJECTED,
    MAX_TRIPS,
    NEUTRAL,
    OK,
    OPEN,
    PROBE_LOST_MS,
    RATE_LIMITED,
    Policy,
)
from tests.unit.core.halves import Half, segment_at

POLICY = Policy(
    failure_threshold=3,
    success_threshold=2,
    timeout_ms=1_000,
    half_open_max_calls=1,
    failure_rate=0.5,
    min_requests=10,
    window_ms=10_000,
    max_timeout_ms=8_000,
)
#: The longest jitter there is, and none.
MOST, LEAST = 0xFFFFFFFF, 0
ROW = 1


class Breaker:
    """One endpoint's breaker: attempts begin and end here."""

    def __init__(self, attempts: ModuleType, segment: Any, policy: Policy) -> None:
        self.attempts = attempts.Attempts(segment, policy)
        self.segment = segment

    def enter(self, now_ms: int, worker: int = 0) -> int:
        return self.attempts.enter(worker, ROW, 1000, now_ms)

    def leave(self, ticket: int, verdict: int, now_ms: int, bits: int = LEAST, hint_ms: int = 0) -> None:
        self.attempts.leave(0, ROW, ticket, verdict, -1.0, now_ms, bits, hint_ms, 1000)

    def run(self, verdicts: list[int], now_ms: int) -> None:
        for verdict in verdicts:
            ticket = self.enter(now_ms)
            assert ticket >= 0
            self.leave(ticket, verdict, now_ms)

    def trip(self, now_ms: int, bits: int = LEAST) -> int:
        """Fail until it opens; return how long for."""
        for _ in range(self.attempts.policy.failure_threshold):
            ticket = self.enter(now_ms)
            self.leave(ticket, FAILED, now_ms, bits)
        assert self.state == OPEN
        return self.until_ms - now_ms

    def recover(self, now_ms: int) -> None:
        """Probe until it closes."""
        self.run([OK] * self.attempts.policy.success_threshold, now_ms)
        assert self.state == CLOSED

    @property
    def state(self) -> int:
        return self.attempts.state(ROW, 0)[0]

    @property
    def generation(self) -> int:
        return self.attempts.state(ROW, 0)[1]

    @property
    def probes(self) -> int:
        return self.attempts.state(ROW, 0)[2]

    @property
    def until_ms(self) -> int:
        return self.attempts.state(ROW, 0)[3]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Failures in a row, probes that went well, trips in a row."""
        word = self.segment.cell(ROW, cells.BREAKER_COUNTS)
        return word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32 & 0xFFFF


Make = Callable[..., Breaker]


@pytest.fixture
def make(half: Half, tmp_path: Path) -> Iterator[Make]:
    """Make breakers, of POLICY but for what is given."""
    segment = segment_at(half, tmp_path, 3)
    yield lambda **changes: Breaker(half.attempts, segment, POLICY._replace(**changes))
    segment.close()


# ---- closed ----


def test_a_new_breaker_is_closed(make: Make) -> None:
    breaker = make()
    assert breaker.attempts.state(ROW, 0) == (CLOSED, 0, 0, 0)
    assert breaker.enter(5) == 0


def test_failures_in_a_row_open_it(make: Make) -> None:
    breaker = make()
    breaker.run([FAILED] * 2, 100)
    assert breaker.state == CLOSED
    breaker.run([FAILED], 200)
    assert breaker.attempts.state(ROW, 0) == (OPEN, 1, 0, 1_200)
    assert breaker.enter(200) == breaker.enter(1_199) == -1


def test_a_success_between_them_begins_the_row_anew(make: Make) -> None:
    breaker = make(min_requests=100)
    breaker.run([FAILED, FAILED, OK] * 5, 100)
    assert (breaker.state, breaker.counts) == (CLOSED, (0, 0, 0))


@pytest.mark.parametrize("verdict", [RATE_LIMITED, NEUTRAL, KEY_REJECTED])
def test_what_is_not_the_endpoints_fault_opens_nothing(make: Make, verdict: int) -> None:
    breaker = make()
    breaker.run([verdict] * 50, 100)
    assert (breaker.state, breaker.counts) == (CLOSED, (0, 0, 0))
    assert breaker.attempts.health(ROW, 100) == (0, 0)
    # Nor does it end a row of failures.
    breaker.run([FAILED, verdict, FAILED, verdict, FAILED], 100)
    assert breaker.state == OPEN


def test_failures_at_the_same_time_count_each(make: Make) -> None:
    breaker = make()
    tickets = [breaker.enter(100) for _ in range(5)]
    for ticket in tickets:
        breaker.leave(ticket, FAILED, 150)
    assert breaker.attempts.state(ROW, 0) == (OPEN, 1, 0, 1_150)
    assert breaker.counts == (0, 0, 1)


def test_one_endpoints_breaker_is_no_other_ones(make: Make) -> None:
    breaker = make()
    breaker.trip(100)
    assert [breaker.attempts.state(row, 0)[0] for row in range(3)] == [CLOSED, OPEN, CLOSED]
    assert breaker.attempts.enter(0, 0, 1, 100) == 0


# ---- the rate ----


def test_a_rate_of_failures_opens_it_from_the_minimum_volume_on(make: Make) -> None:
    breaker = make(failure_threshold=100)
    breaker.run([OK, FAILED] * 4 + [OK], 100)
    assert breaker.state == CLOSED
    breaker.run([FAILED], 100)
    assert breaker.state == OPEN


def test_a_rate_below_the_limit_leaves_it_closed(make: Make) -> None:
    breaker = make(failure_threshold=100)
    breaker.run([OK, OK, FAILED] * 300, 100)
    assert breaker.state == CLOSED


def test_only_failures_of_the_window_count_for_the_rate(make: Make) -> None:
    breaker = make(failure_threshold=100)
    for step in range(50):  # 9 failures in any window of 10 s
        breaker.run([FAILED], 1_000 + step * 1_112)
    assert breaker.state == CLOSED
    breaker = make(failure_threshold=100)
    for step in range(10):
        assert breaker.state == CLOSED
        breaker.run([FAILED], 200_000 + step * 1_000)
    assert breaker.state == OPEN


def test_a_rate_of_one_needs_every_attempt_to_fail(make: Make) -> None:
    breaker = make(failure_threshold=1_000, failure_rate=1.0)
    breaker.run([OK] + [FAILED] * 100, 100)
    assert breaker.state == CLOSED


RATES = pytest.mark.parametrize(("rate", "total", "failures"), [(0.5, 20, 10), (0.07, 100, 7), (0.035, 200, 7)])


@RATES
def test_exactly_the_rate_is_enough(rate: float, total: int, failures: int, make: Make) -> None:
    """As Envoy's outlier detection and resilience4j have it; binary fractions do not make it one failure more."""
    breaker = make(failure_threshold=1_000, failure_rate=rate, min_requests=total)
    breaker.run([OK] * (total - failures) + [FAILED] * (failures - 1), 100)
    assert breaker.state == CLOSED
    breaker.run([FAILED], 100)
    assert breaker.state == OPEN


@RATES
def test_one_success_more_than_the_rate_is_not_enough(rate: float, total: int, failures: int, make: Make) -> None:
    breaker = make(failure_threshold=1_000, failure_rate=rate, min_requests=total)
    breaker.run([OK] * (total - failures + 1) + [FAILED] * failures, 100)
    assert breaker.state == CLOSED


# ---- open ----


def test_nothing_is_counted_where_nobody_is_let_in(make: Make) -> None:
    breaker = make()
    breaker.trip(100)
    assert breaker.enter(150) == -1
    assert breaker.segment.in_flight(ROW) == breaker.segment.total(ROW, cells.WORK) == 0


def test_late_failures_do_not_keep_it_open(make: Make) -> None:
    breaker = make()
    late = [breaker.enter(0) for _ in range(20)]
    breaker.trip(100)
    before = breaker.attempts.state(ROW, 0)
    for ticket in late:
        breaker.leave(ticket, FAILED, 900, MOST)
    assert breaker.attempts.state(ROW, 0) == before
    assert breaker.counts == (0, 0, 1)


def test_the_open_time_is_lengthened_at_random(make: Make) -> None:
    breaker = make()
    times = []
    for bits in (LEAST, 0x40000000, 0x80000000, MOST, MOST | 0xABC << 40, -1):
        breaker.segment.clear_endpoint(ROW)
        times.append(breaker.trip(0, bits))
    assert times == [1_000, 1_025, 1_050, 1_099, 1_099, 1_099]


def test_the_open_time_doubles_with_every_trip_in_a_row_up_to_the_most(make: Make) -> None:
    breaker = make()
    now_ms = 0
    times = [breaker.trip(now_ms)]
    for _ in range(MAX_TRIPS + 5):
        now_ms = breaker.until_ms
        breaker.run([FAILED], now_ms)  # one probe
        times.append(breaker.until_ms - now_ms)
    assert times == [1_000, 2_000, 4_000] + [8_000] * (MAX_TRIPS + 3)
    assert breaker.counts == (0, 0, MAX_TRIPS)


@pytest.mark.parametrize("bits", [MOST, 0x12345678])
def test_the_most_is_lengthened_at_random_too(make: Make, bits: int) -> None:
    breaker = make()
    breaker.trip(0)
    for _ in range(6):
        now_ms = breaker.until_ms
        breaker.leave(breaker.enter(now_ms), FAILED, now_ms, bits)
    assert breaker.until_ms - now_ms == int(8_000 * (1.0 + JITTER * bits / 2**32))


# ---- half open ----


@pytest.mark.parametrize("calls", [1, 3, 255])
def test_half_open_lets_in_exactly_so_many(make: Make, calls: int) -> None:
    breaker = make(half_open_max_calls=calls)
    breaker.trip(100)
    assert breaker.enter(1_099) == -1
    tickets = [breaker.enter(1_100, worker % 2) for worker in range(calls + 50)]
    assert [ticket >= 0 for ticket in tickets] == [True] * calls + [False] * 50
    assert {ticket & 3 for ticket in tickets if ticket >= 0} == {1}
    assert (breaker.state, breaker.probes) == (HALF_OPEN, calls)
    assert breaker.segment.in_flight(ROW) == calls


def test_probes_that_go_well_close_it(make: Make) -> None:
    breaker = make(success_threshold=3)
    breaker.trip(100)
    breaker.run([OK, OK], 1_100)
    assert (breaker.state, breaker.probes, breaker.counts) == (HALF_OPEN, 0, (0, 2, 1))
    breaker.run([OK], 1_200)
    assert (breaker.state, breaker.counts) == (CLOSED, (0, 0, 1))


def test_when_it_closes_the_window_is_empty_and_a_slow_start_begins(make: Make) -> None:
    breaker = make()
    breaker.trip(100)
    assert breaker.segment.cell(ROW, cells.SLOW_START_MS) == 0
    breaker.run([OK], 1_100)
    assert breaker.segment.cell(ROW, cells.SLOW_START_MS) == 0
    breaker.run([OK], 1_234)
    assert breaker.state == CLOSED
    assert breaker.segment.cell(ROW, cells.SLOW_START_MS) == 1_234
    assert breaker.segment.cell(ROW, cells.CLOSED_AT_MS) == 1_234
    assert breaker.attempts.health(ROW, 1_234) == (0, 0)


def test_a_failed_probe_opens_it_for_longer(make: Make) -> None:
    breaker = make(success_threshold=3)
    breaker.trip(100)
    breaker.run([OK, OK], 1_100)
    ticket = breaker.enter(1_200)
    breaker.leave(ticket, FAILED, 1_300, MOST)
    assert (breaker.state, breaker.probes, breaker.counts) == (OPEN, 0, (0, 0, 2))
    assert breaker.until_ms == 1_300 + 2_199
    # Successes of the last time do not count.
    breaker.run([OK, OK], 4_000)
    assert breaker.state == HALF_OPEN


def test_a_rate_limited_probe_has_failed(make: Make) -> None:
    breaker = make()
    breaker.trip(100)
    breaker.run([RATE_LIMITED], 1_100)
    assert (breaker.state, breaker.until_ms) == (OPEN, 3_100)


@pytest.mark.parametrize(("hint_ms", "open_ms"), [(1, 2_000), (5_000, 5_000), (50_000, 50_000), (10**9, 86_400_000)])
def test_a_provider_that_names_a_time_is_left_alone_that_long(make: Make, hint_ms: int, open_ms: int) -> None:
    breaker = make()
    breaker.trip(100)
    breaker.leave(breaker.enter(1_100), RATE_LIMITED, 1_100, LEAST, hint_ms)
    assert breaker.until_ms == 1_100 + open_ms


@pytest.mark.parametrize("verdict", [NEUTRAL, KEY_REJECTED])
def test_a_probe_that_tells_nothing_gives_its_place_back(make: Make, verdict: int) -> None:
    breaker = make()
    breaker.trip(100)
    ticket = breaker.enter(1_100)
    assert breaker.enter(1_100) == -1
    breaker.leave(ticket, verdict, 1_200)
    assert (breaker.state, breaker.probes, breaker.counts) == (HALF_OPEN, 0, (0, 0, 1))
    breaker.recover(1_300)


def test_more_probes_at_once(make: Make) -> None:
    breaker = make(half_open_max_calls=3, success_threshold=2)
    breaker.trip(100)
    first, second, third = (breaker.enter(1_100) for _ in range(3))
    breaker.leave(first, OK, 1_200)
    assert (breaker.state, breaker.probes) == (HALF_OPEN, 2)
    breaker.leave(second, OK, 1_300)
    assert breaker.state == CLOSED
    # The third comes back to a closed breaker, of a later generation.
    before = breaker.attempts.state(ROW, 0)
    breaker.leave(third, FAILED, 1_400)
    assert breaker.attempts.state(ROW, 0) == before
    assert breaker.counts == (0, 0, 1)


# ---- results that come too late ----


@pytest.mark.parametrize("verdict", [OK, FAILED, RATE_LIMITED, NEUTRAL])
def test_a_result_from_before_the_trip_moves_nothing(make: Make, verdict: int) -> None:
    breaker = make(success_threshold=1)
    late = [breaker.enter(50) for _ in range(3)]
    breaker.trip(100)
    before = breaker.attempts.state(ROW, 0)
    breaker.leave(late[0], verdict, 500)
    assert (breaker.attempts.state(ROW, 0), breaker.counts) == (before, (0, 0, 1))
    probe = breaker.enter(1_100)
    before = breaker.attempts.state(ROW, 0)
    breaker.leave(late[1], verdict, 1_200)
    assert (breaker.attempts.state(ROW, 0), breaker.counts) == (before, (0, 0, 1))
    breaker.leave(probe, OK, 1_300)
    before = breaker.attempts.state(ROW, 0)
    breaker.leave(late[2], verdict, 1_400)
    assert (breaker.attempts.state(ROW, 0), breaker.counts) == (before, (0, 0, 1))


def test_a_probe_of_an_earlier_trip_moves_nothing(make: Make) -> None:
    breaker = make(half_open_max_calls=3, success_threshold=1)
    breaker.trip(100)
    late = [breaker.enter(1_100) for _ in range(3)]
    breaker.leave(late[0], FAILED, 1_200)
    assert breaker.state == OPEN
    breaker.leave(late[1], OK, 1_300)
    assert breaker.state == OPEN
    breaker.enter(3_200)
    before = breaker.attempts.state(ROW, 0)
    assert before[0] == HALF_OPEN
    breaker.leave(late[2], OK, 3_300)
    assert breaker.attempts.state(ROW, 0) == before


def test_generations_go_round(make: Make) -> None:
    breaker = make()
    breaker.segment.set_cell(ROW, cells.BREAKER, 0x3FFE << 10)
    late = breaker.enter(0)
    breaker.trip(100)
    assert breaker.generation == 0x3FFF
    probe = breaker.enter(1_100)
    assert (breaker.generation, probe) == (0, 1)
    breaker.leave(late, OK, 1_150)
    assert breaker.counts == (0, 0, 1)
    breaker.leave(probe, OK, 1_200)
    breaker.run([OK], 1_300)
    assert (breaker.state, breaker.generation) == (CLOSED, 1)


# ---- probes that do not come back ----


@pytest.mark.parametrize("timeout_ms", [1_000, 90_000])
def test_a_lost_probe_makes_room_for_the_next(make: Make, timeout_ms: int) -> None:
    breaker = make(timeout_ms=timeout_ms, max_timeout_ms=100_000)
    breaker.trip(100)
    sent_ms = 100 + timeout_ms
    lost_ms = sent_ms + max(PROBE_LOST_MS, timeout_ms)
    assert breaker.enter(sent_ms) >= 0
    assert breaker.enter(lost_ms - 1) == -1
    ticket = breaker.enter(lost_ms)
    assert ticket & 1
    assert breaker.probes == 1
    assert breaker.enter(lost_ms) == -1
    breaker.leave(ticket, OK, lost_ms + 10)
    breaker.run([OK], lost_ms + 20)
    assert breaker.state == CLOSED


def test_probes_that_take_longer_than_that_close_it_all_the_same(make: Make) -> None:
    # Answers of minutes, one always under way: each probe is given up for lost before it comes back.
    breaker = make(success_threshold=3)
    breaker.trip(0)
    now_ms = 1_000
    probe = breaker.enter(now_ms)
    for _ in range(3):
        assert breaker.state == HALF_OPEN
        now_ms += PROBE_LOST_MS
        another = breaker.enter(now_ms)
        breaker.leave(probe, OK, now_ms + 10_000)
        probe = another
    assert breaker.state == CLOSED


def test_a_probe_that_fails_after_it_was_given_up_opens_it(make: Make) -> None:
    # A provider that hangs until our own time limit, which is longer.
    breaker = make()
    breaker.trip(0)
    slow = breaker.enter(1_000)
    assert breaker.enter(1_000 + PROBE_LOST_MS) >= 0
    breaker.leave(slow, FAILED, 1_000 + 2 * PROBE_LOST_MS)
    assert (breaker.state, breaker.counts) == (OPEN, (0, 0, 2))


# ---- trips ----


def test_trips_are_forgotten_after_a_calm_window(make: Make) -> None:
    breaker = make()
    assert breaker.trip(0) == 1_000
    breaker.recover(1_000)
    assert breaker.trip(5_000) == 2_000
    breaker.recover(7_000)
    assert breaker.trip(17_000) == 4_000  # the window is not over yet
    breaker.recover(21_000)
    assert breaker.trip(31_001) == 1_000


def test_a_failed_probe_forgets_no_trips(make: Make) -> None:
    breaker = make()
    breaker.trip(0)
    breaker.recover(1_000)
    breaker.trip(2_000)
    breaker.run([FAILED], 900_000)
    assert breaker.until_ms - 900_000 == 4_000


# ---- attempts the breaker is not asked about ----


def test_in_a_panic_results_are_counted_but_move_nothing(make: Make) -> None:
    breaker = make()
    breaker.trip(100)
    before = breaker.attempts.state(ROW, 0)
    for verdict in [FAILED] * 20 + [OK] * 20:
        ticket = breaker.attempts.enter_anyway(1, ROW, 1000, 150)
        assert ticket == 2
        assert breaker.segment.in_flight(ROW) == 1
        breaker.attempts.leave(1, ROW, ticket, verdict, 10.0, 160, LEAST, 0, 1000)
    assert (breaker.attempts.state(ROW, 0), breaker.counts) == (before, (0, 0, 1))
    assert breaker.attempts.health(ROW, 160) == (20, 23)
    assert breaker.segment.total(ROW, cells.FAILURES) == 23
    assert breaker.segment.in_flight(ROW) == 0


# ---- what the parameters may be ----


@pytest.mark.parametrize(
    "changes",
    [
        {"failure_threshold": 0},
        {"failure_threshold": 65_536},
        {"success_threshold": 0},
        {"success_threshold": 65_536},
        {"half_open_max_calls": 0},
        {"half_open_max_calls": 256},
        {"failure_rate": 0.0},
        {"failure_rate": 1.01},
        {"failure_rate": float("nan")},
        {"min_requests": 0},
        {"timeout_ms": 0},
        {"timeout_ms": 2_000, "max_timeout_ms": 1_999},
        {"max_timeout_ms": (1 << 36) + 1},
        {"window_ms": 9},
        {"decay_ms": 0},
        {"penalty_ms": -1},
        {"slow_start_ms": -1},
    ],
)
def test_policies_out_of_bounds(make: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make(**changes)


def test_the_widest_policy_fits_the_cells(make: Make) -> None:
    longest = 1 << 36
    breaker = make(failure_threshold=1, timeout_ms=longest, max_timeout_ms=longest, half_open_max_calls=255)
    now_ms = 1 << 38
    assert breaker.trip(now_ms, MOST) == int(longest * (1.0 + JITTER * MOST / 2**32))
    opens_ms = breaker.until_ms
    for _ in range(255):
        assert breaker.enter(opens_ms) >= 0
    assert breaker.probes == 255


# ---- other workers between two steps: with the pure half they can be put there ----


class Meddled(pure_counters.Segment):
    """A segment where somebody else acts before the next change of a breaker's word."""

    meddle: Callable[[], object] | None = None
    meddled = 0

    def swap(self, at: int, expect: int, new: int) -> bool:
        if at == self.shared_at(ROW) + cells.BREAKER and self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            self.meddled += 1
            meddle()
        return super().swap(at, expect, new)


@pytest.fixture
def meddled(tmp_path: Path) -> Iterator[Meddled]:
    segment = Meddled.create(str(tmp_path / "counters"), 2, 3)
    yield segment
    assert segment.meddled == 1
    segment.close()


def test_a_failed_probe_opens_it_whoever_enters_meanwhile(meddled: Meddled) -> None:
    breaker = Breaker(pure, meddled, POLICY._replace(half_open_max_calls=3))
    breaker.trip(0)
    probe = breaker.enter(1_000)
    meddled.meddle = lambda: breaker.enter(1_050)
    breaker.leave(probe, FAILED, 1_100)
    assert (breaker.state, breaker.counts) == (OPEN, (0, 0, 2))


def test_two_probes_that_fail_at_once_are_one_trip(meddled: Meddled) -> None:
    breaker = Breaker(pure, meddled, POLICY._replace(half_open_max_calls=2))
    breaker.trip(0)
    first, second = breaker.enter(1_000), breaker.enter(1_000)
    meddled.meddle = lambda: breaker.leave(second, FAILED, 1_100)
    breaker.leave(first, FAILED, 1_100)
    assert (breaker.state, breaker.until_ms, breaker.counts) == (OPEN, 3_100, (0, 0, 2))


def test_a_place_given_back_survives_who_enters_meanwhile(meddled: Meddled) -> None:
    breaker = Breaker(pure, meddled, POLICY._replace(half_open_max_calls=2))
    breaker.trip(0)
    probe = breaker.enter(1_000)
    meddled.meddle = lambda: breaker.enter(1_050)
    breaker.leave(probe, NEUTRAL, 1_100)
    assert (breaker.state, breaker.probes) == (HALF_OPEN, 1)


def test_the_last_success_closes_it_whoever_enters_meanwhile(meddled: Meddled) -> None:
    breaker = Breaker(pure, meddled, POLICY._replace(half_open_max_calls=2, success_threshold=1))
    breaker.trip(0)
    probe = breaker.enter(1_000)
    meddled.meddle = lambda: breaker.enter(1_050)
    breaker.leave(probe, OK, 1_100)
    assert breaker.state == CLOSED


def test_of_two_that_want_the_only_probe_one_gets_it(meddled: Meddled) -> None:
    breaker = Breaker(pure, meddled, POLICY)
    breaker.trip(0)
    got: list[int] = []
    meddled.meddle = lambda: got.append(breaker.enter(1_000))
    got.append(breaker.enter(1_000))
    assert sorted(ticket >= 0 for ticket in got) == [False, True]
    assert breaker.segment.in_flight(ROW) == breaker.probes == 1


def test_a_breaker_opened_meanwhile_is_opened_once(meddled: Meddled) -> None:
    breaker = Breaker(pure, meddled, POLICY)
    tickets = [breaker.enter(0) for _ in range(4)]
    breaker.leave(tickets[0], FAILED, 10)
    breaker.leave(tickets[1], FAILED, 10)
    meddled.meddle = lambda: breaker.leave(tickets[3], FAILED, 20)
    breaker.leave(tickets[2], FAILED, 20)
    assert (breaker.state, breaker.generation, breaker.until_ms) == (OPEN, 1, 1_020)
    assert breaker.counts[2] == 1
