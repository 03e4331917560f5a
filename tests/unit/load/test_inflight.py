"""Permits: counted in once, counted out once, on whichever way an attempt ends."""

import random
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._attempts_rules import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED, Policy
from fastroute._core._counters_file import IN_FLIGHT, REQUESTS, WORK
from fastroute.load.inflight import Permit
from tests.unit.core.twins import twins

VERDICTS = (OK, FAILED, RATE_LIMITED, NEUTRAL, KEY_REJECTED)


class Stand:
    """Two workers and three endpoints. module: one half of `attempts`."""

    def __init__(self, module: Any, path: Path) -> None:
        counters = "_counters_c" if module.__name__.endswith("_c") else "_counters_py"
        segments = __import__(f"fastroute._core.{counters}", fromlist=["Segment"])
        self.segment = segments.Segment.create(str(path / "segment"), 2, 3)
        self.attempts = module.Attempts(self.segment, Policy())

    def permit(self, worker: int = 0, row: int = 0, work: int = 1000, now_ms: int = 1000) -> Permit:
        ticket = self.attempts.enter(worker, row, work, now_ms)
        assert ticket >= 0
        return Permit(self.attempts, worker, row, ticket, work)

    def left(self) -> list[tuple[int, int, int]]:
        """Return (in flight, work, requests) of each endpoint."""
        return [tuple(self.segment.total(row, what) for what in (IN_FLIGHT, WORK, REQUESTS)) for row in range(3)]  # type: ignore[misc]


@pytest.fixture(params=twins("attempts"))
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return Stand(request.param, tmp_path)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_it_is_counted_in_and_out_whatever_the_verdict(stand: Stand, verdict: int) -> None:
    permit = stand.permit(row=1)
    assert stand.left() == [(0, 0, 0), (1, 1000, 0), (0, 0, 0)]
    permit.release(verdict, -1.0, 1001, 7, 0)
    assert stand.left() == [(0, 0, 0), (0, 0, 1), (0, 0, 0)]


def test_only_the_first_release_counts(stand: Stand) -> None:
    """Nothing underflows, and a breaker is told once: five releases of one failure are one failure."""
    permit = stand.permit()
    for _ in range(5):
        permit.release(FAILED, -1.0, 1001, 7, 0)
    assert stand.left()[0] == (0, 0, 1)
    assert stand.attempts.health(0, 1001) == (0, 1)
    assert stand.attempts.state(0, 1001)[0] == 0


def test_the_first_token_gives_back_the_prompts_share(stand: Stand) -> None:
    permit = stand.permit(work=1000)
    permit.first_token(300, 50.0, 1001)
    assert stand.left()[0] == (1, 700, 0)
    assert stand.attempts.cost(0, 1001) == pytest.approx(50.0)
    permit.release(OK, -1.0, 1002, 7, 0)
    assert stand.left()[0] == (0, 0, 1)


@pytest.mark.parametrize("prefill", [-1, 1000, 1001, 10**9])
def test_a_share_that_is_none_is_left_alone(stand: Stand, prefill: int) -> None:
    permit = stand.permit(work=1000)
    permit.first_token(prefill, 50.0, 1001)
    assert stand.left()[0] == (1, 1000, 0)
    permit.release(OK, -1.0, 1002, 7, 0)
    assert stand.left()[0] == (0, 0, 1)


def test_a_first_token_after_the_end_changes_nothing(stand: Stand) -> None:
    permit = stand.permit()
    permit.release(NEUTRAL, -1.0, 1001, 7, 0)
    permit.first_token(300, 50.0, 1002)
    assert stand.left()[0] == (0, 0, 1)
    assert stand.attempts.cost(0, 1002) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_left_after_any_order_of_events(stand: Stand, seed: int) -> None:
    """Cancelled before, during and after its answer, released twice: at rest nothing is in flight."""
    rng = random.Random(seed)
    held: list[Permit] = []
    admitted = 0
    for now_ms in range(1000, 3000):
        worker, row, work = rng.randrange(2), rng.randrange(3), rng.randrange(1, 5000)
        ticket = stand.attempts.enter(worker, row, work, now_ms)
        if ticket >= 0:
            admitted += 1
            held.append(Permit(stand.attempts, worker, row, ticket, work))
        for permit in rng.sample(held, min(len(held), rng.randrange(3))):
            if rng.random() < 0.5:
                permit.first_token(rng.randrange(-5, 3000), rng.uniform(-1, 100), now_ms)
            else:
                permit.release(rng.choice(VERDICTS), rng.uniform(-1, 100), now_ms, rng.getrandbits(64), 0)
    for permit in held:
        permit.release(NEUTRAL, -1.0, 4000, 0, 0)
    assert [(flying, work) for flying, work, _ in stand.left()] == [(0, 0)] * 3
    assert sum(requests for _, _, requests in stand.left()) == admitted
