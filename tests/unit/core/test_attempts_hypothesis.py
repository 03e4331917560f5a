"""The two halves of `attempts` do the same to a segment, to the last bit, and answer alike."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._adaptive_rules import AIMD, GRADIENT2, Setting
from fastroute._core._attempts_rules import MARK_SHIFT, MAX_HINT_MS, Policy
from fastroute.interfaces import Allowance
from tests.unit.core.halves import WORKERS, halves, segment_at

PURE, COMPILED = (param.values[0] for param in halves())
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

ENDPOINTS = 2

policies = st.builds(
    Policy,
    failure_threshold=st.integers(1, 4),
    success_threshold=st.integers(1, 3),
    timeout_ms=st.integers(1, 3_000) | st.integers(60_000, 100_000),
    half_open_max_calls=st.integers(1, 3) | st.just(255),
    failure_rate=st.sampled_from([0.001, 0.3, 0.5, 1.0]),
    min_requests=st.integers(1, 8),
    window_ms=st.integers(10, 20_000),
    max_timeout_ms=st.integers(100_000, 200_000),
    decay_ms=st.integers(1, 20_000),
    penalty_ms=st.integers(0, 9_000),
    slow_start_ms=st.just(10_000),
)
kinds = st.sampled_from([AIMD, GRADIENT2])
settings = (
    st.none()
    | st.builds(
        Setting,
        kind=kinds,
        minimum=st.integers(1, 3),
        maximum=st.sampled_from([0, 6, 40]),
        initial=st.integers(3, 6),
        headroom_percent=st.integers(0, 100),
        forget_ms=st.integers(1, 200_000),
    )
    | st.builds(lambda **fields: Setting(**fields), maximum=st.sampled_from([0, 0, 5]), forget_ms=st.integers(1, 10**6))
)
left = st.just(-1) | st.integers(0, 200) | st.integers(0, 10**12)
allowances = st.builds(
    lambda **fields: Allowance(**fields),
    requests_limit=left,
    requests_remaining=left,
    requests_reset_ms=left,
    tokens_limit=left,
    tokens_remaining=left,
    tokens_reset_ms=left,
    output_tokens_limit=left,
    output_tokens_remaining=left,
    day_requests_remaining=left,
    month_limit=left,
    month_remaining=left,
    month_reset_ms=left,
)
row = st.integers(0, ENDPOINTS - 1)
worker = st.integers(0, WORKERS - 1)
work = st.integers(0, 20_000)
cost_ms = st.just(-1.0) | st.floats(0, 1e6) | st.floats(width=64)
hint_ms = st.just(0) | st.integers(0, 10_000) | st.integers(0, 10**9)
bits = st.integers(0, 2**64 - 1) | st.integers(-(2**70), 2**70)
pause_ms = st.integers(0, 30) | st.integers(0, 4_000) | st.integers(0, 200_000) | st.just(2**31)
step = st.one_of(
    st.tuples(st.just("enter"), worker, row, work),
    st.tuples(st.just("enter"), worker, row, work),
    st.tuples(st.just("enter_anyway"), worker, row, work),
    # The first number says whose end it is: one of those inside.
    st.tuples(st.just("first_token"), st.integers(0, 99), st.floats(0, 1), cost_ms),
    st.tuples(st.just("leave"), st.integers(0, 99), st.sampled_from([0, 1, 1, 1, 2, 3, 4]), cost_ms, bits, hint_ms),
    st.tuples(st.just("leave"), st.integers(0, 99), st.sampled_from([0, 0, 0, 1]), cost_ms, bits, hint_ms),
    st.tuples(st.just("allow"), st.integers(0, 99), allowances),
    st.tuples(st.just("excuse"), row),
    # A worker dies, with all it had in flight.
    st.tuples(st.just("die"), worker),
    st.tuples(st.just("look"), row),
)


class Life:
    """One half's segment; every step goes to it with the same arguments as to the other one."""

    def __init__(self, half: Any, folder: Path, policy: Policy, setting: Setting | None) -> None:
        self.path = folder / f"counters.{half.name}"
        self.segment = segment_at(half, folder, ENDPOINTS)
        self.adaptive = half.adaptive.Adaptive(self.segment, {0: setting}) if setting is not None else None
        self.attempts = half.attempts.Attempts(self.segment, policy, self.adaptive)
        self.inside: list[list[int]] = []

    def take(self, step: tuple[Any, ...], now_ms: int) -> Any:
        name, *arguments = step
        return getattr(self, name)(*arguments, now_ms)

    def enter(self, worker: int, row: int, work: int, now_ms: int) -> int:
        ticket: int = self.attempts.enter(worker, row, work, now_ms)
        if ticket >= 0:
            self.inside.append([worker, row, ticket, work])
        return ticket

    def enter_anyway(self, worker: int, row: int, work: int, now_ms: int) -> int:
        ticket: int = self.attempts.enter_anyway(worker, row, work, now_ms)
        self.inside.append([worker, row, ticket, work])
        return ticket

    def first_token(self, which: int, share: float, cost_ms: float, now_ms: int) -> None:
        if self.inside:
            one = self.inside[which % len(self.inside)]
            prefill = int(one[3] * share)
            one[3] -= prefill
            self.attempts.first_token(one[0], one[1], prefill, cost_ms, now_ms)

    def leave(self, which: int, verdict: int, cost_ms: float, bits: int, hint_ms: int, now_ms: int) -> None:
        if self.inside:
            worker, row, ticket, work = self.inside.pop(which % len(self.inside))
            self.attempts.leave(worker, row, ticket, verdict, cost_ms, now_ms, bits, hint_ms, work)

    def allow(self, which: int, allowance: Allowance, now_ms: int) -> None:
        if self.inside and self.adaptive is not None:
            _, row, ticket, _ = self.inside[which % len(self.inside)]
            self.adaptive.learn(row, ticket >> MARK_SHIFT, allowance, now_ms)

    def excuse(self, row: int, now_ms: int) -> None:
        if self.adaptive is not None:
            self.adaptive.excuse(row)

    def die(self, worker: int, now_ms: int) -> None:
        self.inside = [one for one in self.inside if one[0] != worker]
        self.segment.clear_worker(worker)

    def look(self, row: int, now_ms: int) -> tuple[Any, ...]:
        attempts = self.attempts
        return (
            attempts.state(row, now_ms),
            attempts.cost(row, now_ms),
            attempts.load(row, now_ms),
            attempts.health(row, now_ms),
            self.adaptive and self.adaptive.view(row, now_ms),
            self.adaptive and self.adaptive.full(row, now_ms),
        )

    def in_flight(self) -> list[int]:
        return [sum(1 for one in self.inside if one[1] == row) for row in range(ENDPOINTS)]


@given(policies, settings, st.integers(0, 2**33), st.lists(st.tuples(step, pause_ms), max_size=60))
def test_same_life(
    policy: Policy, setting: Setting | None, began_ms: int, steps: list[tuple[tuple[Any, ...], int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pure, compiled = (Life(half, Path(folder), policy, setting) for half in (PURE, COMPILED))
        now_ms = began_ms
        for taken, pause in steps:
            now_ms += pause
            assert pure.take(taken, now_ms) == compiled.take(taken, now_ms), taken
            assert pure.segment.totals(0) == compiled.segment.totals(0) == pure.in_flight()
        for at in range(ENDPOINTS):
            assert pure.look(at, now_ms) == compiled.look(at, now_ms)
        pure.segment.close()
        compiled.segment.close()
        assert pure.path.read_bytes() == compiled.path.read_bytes()


@given(policies, st.lists(st.tuples(step, pause_ms), max_size=60))
def test_no_more_probes_than_allowed(policy: Policy, steps: list[tuple[tuple[Any, ...], int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(COMPILED, Path(folder), policy, None)
        now_ms = 1_000
        for taken, pause in steps:
            now_ms += pause
            life.take(taken, now_ms)
            for at in range(ENDPOINTS):
                state, generation, probes, until_ms = life.attempts.state(at, now_ms)
                assert 0 <= probes <= policy.half_open_max_calls
                assert (state == 2) or probes == 0
                assert 0 <= generation < 1 << 14
                longest = max(int(1.1 * policy.max_timeout_ms) + 1, MAX_HINT_MS)
                assert until_ms <= now_ms + longest
        life.segment.close()
