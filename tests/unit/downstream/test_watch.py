"""The watch when the worker itself stood still: whoever waited for it is not blamed for that."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fastroute.context import READ_BODY, STREAM, TOTAL, Context
from fastroute.downstream.watch import TICK_S, Watch

TICK_NS = round(TICK_S * 1e9)
SECOND_NS = 1_000_000_000


class Timers:
    """A loop of which only the timers are of interest, and its clock. The last timer is called by `go`."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.last: Callable[[], None] | None = None

    def call_later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        assert delay_s == TICK_S
        self.last = call
        return None  # type: ignore[return-value]

    def go(self, by_ns: int = TICK_NS) -> None:
        """Let the time pass, and the timer come then."""
        self.now_ns += by_ns
        assert self.last is not None
        self.last()


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def watch(timers: Timers) -> Watch:
    async def departed(ctx: Context) -> None:
        raise AssertionError("nobody waits so long here")

    return Watch(timers, lambda: timers.now_ns, departed)  # type: ignore[arg-type]


def request(watch: Watch, phase: str, limit_ns: int, deadline_ns: int = 0) -> Context:
    snapshot: Any = None
    ctx = Context(snapshot, None, 1, "fr-1", 0, 0, None)
    ctx.phase, ctx.limit_ns, ctx.deadline_ns = phase, limit_ns, deadline_ns
    watch.enter(ctx)
    return ctx


@pytest.mark.parametrize("phase", [READ_BODY, STREAM])
def test_a_pause_is_over_after_its_limit(watch: Watch, timers: Timers, phase: str) -> None:
    ctx = request(watch, phase, SECOND_NS)
    ctx.departure = object()  # type: ignore[assignment]
    timers.go()
    for _ in range(19):
        timers.go()
    assert ctx.interrupted is None
    timers.go()
    assert ctx.interrupted == phase


def test_a_worker_that_stood_still_blames_nobody(watch: Watch, timers: Timers) -> None:
    ctx = request(watch, READ_BODY, SECOND_NS)
    timers.go()
    timers.go(5 * SECOND_NS)
    assert ctx.interrupted is None
    # Nothing has come while it could be read, either.
    for _ in range(18):
        timers.go()
    assert ctx.interrupted is None
    timers.go()
    assert ctx.interrupted == READ_BODY


def test_what_came_while_it_stood_still_is_read_before_the_deadline_is_looked_at(watch: Watch, timers: Timers) -> None:
    ctx = request(watch, READ_BODY, SECOND_NS, deadline_ns=2 * SECOND_NS)
    timers.go()
    timers.go(5 * SECOND_NS)
    assert ctx.interrupted is None
    timers.go()
    assert ctx.interrupted == TOTAL


def test_a_worker_that_is_always_late_still_looks_at_deadlines(watch: Watch, timers: Timers) -> None:
    ctx = request(watch, READ_BODY, SECOND_NS, deadline_ns=2 * SECOND_NS)
    for _ in range(6):
        timers.go(SECOND_NS // 2)
    assert ctx.interrupted == TOTAL
