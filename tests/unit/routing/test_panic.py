"""Whom a plan's attempts may go to when most of its pool is down."""

from pathlib import Path

import pytest

from fastroute._core.attempts import FAILED, Attempts, Policy
from fastroute.config.schema import Config
from fastroute.interfaces import Asked
from fastroute.routing.plan import Plan, Planner
from fastroute.routing.pool import Pool
from fastroute.routing.rules import compile_rules
from fastroute.routing.table import Route, RouteTable
from tests.unit.fleet import Fleet

NOW_MS = 1_000_000
ENDPOINTS = 8


class Ground:
    """A plan over eight endpoints of which the first `down` have just tripped their breakers."""

    def __init__(self, folder: Path, down: int) -> None:
        pool = Fleet(folder, [100.0] * ENDPOINTS)
        attempts = Attempts(pool.segment, Policy(failure_threshold=1))
        for row in range(down):
            ticket = attempts.enter(0, row, 0, NOW_MS)
            attempts.leave(0, row, ticket, FAILED, -1.0, NOW_MS, 0, 0, 0)
        routing_pool = Pool(
            "m", "openai", (), pool.candidates, pool.info, lambda name, info: None, limited=False, blind=False
        )  # type: ignore[arg-type, return-value]
        routes = RouteTable({}, [])
        self.candidates = pool.candidates
        self.planner = Planner(
            routes,
            compile_rules(Config(), []),
            {},
            {},
            {},
            panic_percent=50,
            panic_min=5,
            slow_start_ms=0,
            read_asked=lambda ctx: Asked(0, False, b"", (0, 0)),
        )
        route = Route("m", "p2c", {"openai": routing_pool})
        self.plan = Plan(route=route, asked=route, pool=routing_pool)
        self.plan.prompt_tokens = 0

    def left(self) -> tuple[int, bool]:
        count = self.planner.gate(self.plan, NOW_MS)
        return count, bool(self.candidates.panicking)


@pytest.mark.parametrize(("down", "first", "retry"), [(3, (5, False), 5), (5, (8, True), 3), (8, (8, True), 0)])
def test_only_the_first_attempt_ignores_breakers(
    down: int, first: tuple[int, bool], retry: int, tmp_path: Path
) -> None:
    ground = Ground(tmp_path, down)
    assert ground.left() == first
    ground.plan.attempt = object()
    assert ground.left() == (retry, False)


def test_not_even_after_a_wait_that_forgets_who_was_tried(tmp_path: Path) -> None:
    ground = Ground(tmp_path, ENDPOINTS)
    ground.plan.attempt = object()
    ground.plan.tried = [0, 1]
    assert ground.left() == (0, False)
    ground.plan.tried.clear()
    assert ground.left() == (0, False)


def test_the_next_request_may_again(tmp_path: Path) -> None:
    """Requests share one `Need`: what a retry was denied must not outlast it."""
    ground = Ground(tmp_path, ENDPOINTS)
    ground.plan.attempt = object()
    assert ground.left() == (0, False)
    ground.plan.attempt = None
    assert ground.left() == (ENDPOINTS, True)
