"""A provider's key: out when more than half fail, probed back in by one, counted exactly."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED, Attempts, Policy
from fastroute._core.counters import REQUESTS, Segment
from fastroute.health.provider_key import KeyCounts, ProviderKeyState, key_policy, restore_counts

POLICY = Policy(min_requests=10, window_ms=30_000, timeout_ms=60_000, max_timeout_ms=600_000, half_open_max_calls=3)
WALL_NS = 1_700_000_000_000_000_000
ROW = 3


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    return Segment.create(str(tmp_path / "segment"), 2, 4)


@pytest.fixture
def key(segment: Segment) -> ProviderKeyState:
    return key_of(segment)


def key_of(segment: Segment, policy: Policy = POLICY) -> ProviderKeyState:
    return ProviderKeyState(segment, Attempts(segment, key_policy(policy)), ROW)


def one(key: ProviderKeyState, verdict: int, now_ms: int = 1_000, worker: int = 0, **how: bool) -> bool:
    """Make one attempt, if the key admits it; return whether it did."""
    ticket = key.enter(worker, now_ms, WALL_NS)
    if ticket >= 0:
        key.leave(worker, ticket, verdict, now_ms, **how)  # type: ignore[arg-type]
    return ticket >= 0


def test_exactly_half_is_not_more_than_half(key: ProviderKeyState) -> None:
    for _ in range(200):
        one(key, OK)
        one(key, FAILED)
    assert not key.out
    one(key, FAILED)
    assert key.out


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_the_rate_itself_is_not_reached_below_all_of_them(segment: Segment, rate: float) -> None:
    key = key_of(segment, POLICY._replace(failure_rate=rate))
    for at in range(400):
        one(key, FAILED if rate < 1 and at % 20 >= 20 - 20 * rate else OK)
    assert not key.out


def test_before_the_minimum_sample_it_stays(key: ProviderKeyState) -> None:
    for _ in range(9):
        one(key, FAILED)
    assert not key.out
    one(key, FAILED)
    assert key.out


def test_many_in_a_row_are_few_of_all(key: ProviderKeyState) -> None:
    for _ in range(100):
        one(key, OK)
    for _ in range(90):
        one(key, FAILED)
    assert not key.out


def test_one_request_brings_it_back(key: ProviderKeyState, segment: Segment) -> None:
    for _ in range(10):
        one(key, FAILED)
    assert not one(key, OK, 1_000)
    later = 1_000 + 66_001
    probe = key.enter(0, later, WALL_NS)
    assert probe >= 0
    # Whichever worker asks, and however many probes its endpoints would have.
    assert [key_of(segment).enter(worker, later, WALL_NS) for worker in (0, 1)] == [-1, -1]
    key.leave(0, probe, OK, later)
    assert not key.out
    assert one(key, OK, later)


def test_a_probe_that_fails_keeps_it_out_for_longer(key: ProviderKeyState) -> None:
    for _ in range(10):
        one(key, FAILED)
    assert one(key, FAILED, 70_000)
    assert key.out
    assert not one(key, OK, 70_000 + 119_000)
    assert one(key, OK, 70_000 + 133_000)
    assert not key.out


def test_a_refused_credential_fails(key: ProviderKeyState) -> None:
    for _ in range(10):
        one(key, KEY_REJECTED)
    assert key.out


@pytest.mark.parametrize("verdict", [NEUTRAL, RATE_LIMITED])
def test_what_is_no_fault_of_the_key_leaves_it_in(key: ProviderKeyState, verdict: int) -> None:
    for _ in range(100):
        one(key, verdict)
    assert not key.out


def test_one_broken_model_has_no_say_once_its_own_breaker_has_opened(key: ProviderKeyState) -> None:
    for _ in range(100):
        one(key, FAILED, excused=True)
    assert not key.out
    assert key.counts() == (100, 100, WALL_NS // 1_000_000)


def test_what_may_have_been_refused_for_what_was_asked_takes_nobody_out(key: ProviderKeyState) -> None:
    """It is counted, and that is all; a probe that ends so leaves its place to the next."""
    for _ in range(100):
        one(key, KEY_REJECTED, excused=True)
    assert not key.out
    assert key.counts() == (100, 100, WALL_NS // 1_000_000)
    for _ in range(101):
        one(key, KEY_REJECTED)
    assert key.out
    later = 1_000 + 66_001
    assert one(key, KEY_REJECTED, later, excused=True)
    assert one(key, OK, later)
    assert not key.out


def test_withdrawing_leaves_no_trace(segment: Segment, key: ProviderKeyState) -> None:
    endpoints = Attempts(segment, POLICY)
    for _ in range(20):
        one(key, FAILED)
    counts = key.counts()
    ticket = endpoints.enter(1, 0, 700, 1_000)
    assert key.enter(1, 1_000, WALL_NS) == -1
    key.withdraw(endpoints, 1, 0, ticket, 700, 1_000)
    assert (segment.total(0, REQUESTS), segment.in_flight(0), segment.in_flight(ROW)) == (0, 0, 0)
    assert key.counts() == counts


def test_counts_are_of_all_workers_and_start_anew(key: ProviderKeyState) -> None:
    for verdict in (OK, FAILED, RATE_LIMITED, KEY_REJECTED, NEUTRAL):
        one(key, verdict, worker=verdict % 2)
    assert key.counts() == KeyCounts(5, 3, WALL_NS // 1_000_000)
    key.reset()
    assert key.counts() == KeyCounts(0, 0, 0)
    one(key, FAILED, worker=1)
    assert key.counts() == KeyCounts(1, 1, WALL_NS // 1_000_000)


def test_a_restart_goes_on_from_what_was_kept(segment: Segment, key: ProviderKeyState) -> None:
    one(key, FAILED)
    restore_counts(segment, ROW, KeyCounts(150, 5, 77))
    assert key.counts() == KeyCounts(150, 5, 77)
    one(key, OK)
    assert key.counts() == KeyCounts(151, 5, WALL_NS // 1_000_000)


def test_resetting_touches_no_breaker(key: ProviderKeyState) -> None:
    for _ in range(10):
        one(key, FAILED)
    key.reset()
    assert key.out


@given(
    st.lists(st.tuples(st.sampled_from([OK, FAILED, NEUTRAL, RATE_LIMITED, KEY_REJECTED]), st.booleans()), max_size=60),
    st.integers(1, 15),
)
def test_out_exactly_when_more_than_half_of_the_sample_failed(
    tmp_path_factory: pytest.TempPathFactory, ends: list[tuple[int, bool]], sample: int
) -> None:
    segment = Segment.create(str(tmp_path_factory.mktemp("key") / "segment"), 2, 4)
    key = key_of(segment, POLICY._replace(min_requests=sample))
    judged: list[bool] = []
    out = False
    counted = failures = 0
    for at, (verdict, excused) in enumerate(ends):
        assert key.out is out
        if not one(key, verdict, 1_000 + at, excused=excused):
            assert out
            continue
        counted += 1
        failures += verdict in (FAILED, RATE_LIMITED, KEY_REJECTED)
        if verdict == OK or (verdict in (FAILED, KEY_REJECTED) and not excused):
            judged.append(verdict != OK)
            # It is looked at when something fails.
            out = judged[-1] and len(judged) >= sample and sum(judged) * 2 > len(judged)
    assert key.counts()[:2] == (counted, failures)
    segment.close()
