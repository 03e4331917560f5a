"""What health is worth in weight, and who keeps an endpoint's breaker open."""

from types import SimpleNamespace

import pytest

from fastroute._core._attempts_rules import FAILED, OK, OPEN
from fastroute._core.attempts import Attempts
from fastroute._core.counters import Segment
from fastroute.health.probe import end_open_time, open_breaker
from fastroute.health.weighing import LEAST, Weighing, weight_factor
from tests.unit.core.halves import RUNNING, pool_of


@pytest.mark.parametrize(
    ("good", "failed", "expected"),
    [(0, 0, 1.0), (1000, 0, 1.0), (0, 5, 0.25), (95, 5, (100 / 105) ** 2), (0, 1000, LEAST)],
)
def test_the_factor(good: int, failed: int, expected: float) -> None:
    assert weight_factor(good, failed) == pytest.approx(expected)


def test_more_failures_never_weigh_more() -> None:
    factors = [weight_factor(50, failed) for failed in range(200)]
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("by_health", [True, False])
def test_weights_follow_health_where_that_is_wanted(by_health: bool, segment: Segment) -> None:
    candidates = pool_of(RUNNING, segment, [8.0, 8.0])
    attempts = Attempts(segment)
    for verdict in (OK, FAILED, FAILED):
        attempts.leave(0, 0, attempts.enter(0, 0, 1, 1000), verdict, -1.0, 1000, 0, 0, 1)
    pools = {"m": SimpleNamespace(candidates=candidates, info=SimpleNamespace(rows=(0, 1)))}
    routes = SimpleNamespace(pools=pools)
    snapshot = SimpleNamespace(routes=routes, attempts=attempts, health_weights=by_health)
    weighing = Weighing(SimpleNamespace(call_later=lambda *_: None), lambda: snapshot, lambda: 1_000_000_000)  # type: ignore[arg-type]
    weighing._tick()
    assert [candidates.weight(position, 1000) for position in (0, 1)] == [4.5 if by_health else 8.0, 8.0]


@pytest.fixture
def segment(tmp_path: object) -> Segment:
    return Segment.create(f"{tmp_path}/segment", 1, 2)


def test_an_opened_breaker_refuses_until_its_time_is_over(segment: Segment) -> None:
    attempts = Attempts(segment)
    open_breaker(segment, 0, 5000)
    assert attempts.state(0, 1000)[0] == OPEN
    assert attempts.enter(0, 0, 1, 1000) == -1
    assert attempts.enter(0, 1, 1, 1000) >= 0
    open_breaker(segment, 0, 3000)  # never shorter
    assert attempts.enter(0, 0, 1, 4000) == -1
    assert attempts.enter(0, 0, 1, 5000) >= 0


def test_the_open_time_ends_early(segment: Segment) -> None:
    attempts = Attempts(segment)
    open_breaker(segment, 0, 50_000)
    end_open_time(segment, 0, 2000)
    assert attempts.enter(0, 0, 1, 2000) >= 0
    end_open_time(segment, 1, 2000)
    assert attempts.state(1, 2000)[0] == 0


def test_a_result_from_before_does_not_move_it(segment: Segment) -> None:
    attempts = Attempts(segment)
    ticket = attempts.enter(0, 0, 1, 0)
    open_breaker(segment, 0, 50_000)
    before = attempts.state(0, 10)
    attempts.leave(0, 0, ticket, FAILED, -1.0, 10, 0, 0, 1)
    assert attempts.state(0, 10) == before
