"""What holds of a learnt limit whatever happens, over both halves and a clock of our own."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core import counters as cells
from fastroute._core._adaptive_rules import AIMD, COOLDOWN, DECREASE, GRADIENT2, MAX_LIMIT, Setting
from fastroute._core._attempts_rules import NEUTRAL, OK, RATE_LIMITED, Policy
from fastroute.interfaces import Allowance
from tests.unit.core.halves import Half, halves, segment_at

CALM = Policy(failure_threshold=60_000, min_requests=1_000_000)
#: What a 32-bit float loses.
FLOAT = 1e-6

settings = st.builds(
    lambda **fields: Setting(**fields),
    kind=st.sampled_from([AIMD, GRADIENT2]),
    minimum=st.integers(1, 4),
    maximum=st.sampled_from([0, 9, 50]),
    initial=st.integers(4, 9),
) | st.builds(lambda **fields: Setting(**fields), maximum=st.sampled_from([0, 0, 12]))
#: Requests that begin, one that ends, or time that passes.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(1, 12)),
        st.tuples(st.just("leave"), st.integers(0, 99), st.sampled_from([OK, OK, OK, RATE_LIMITED, NEUTRAL])),
        st.tuples(st.just("wait"), st.integers(0, 3_000)),
    ),
    max_size=80,
)


@pytest.fixture(params=halves(), scope="module")
def half(request: pytest.FixtureRequest) -> Half:
    return request.param


@given(settings, steps, st.integers(0, 5_000), st.floats(0, 10_000))
def test_a_limit_keeps_its_bounds_and_moves_in_bounded_steps(
    half: Half, setting: Setting, taken: list[tuple[Any, ...]], hint_ms: int, cost_ms: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segment = segment_at(half, folder, 1)
        adaptive = half.adaptive.Adaptive(segment, {0: setting})
        attempts = half.attempts.Attempts(segment, CALM, adaptive)
        now_ms, cool_ms, held = 1_000_000, 0, []
        top = float(setting.maximum or MAX_LIMIT)
        for what, *rest in taken:
            before = adaptive.view(0, now_ms)
            if what == "enter":
                held += [attempts.enter(0, 0, 1, now_ms) for _ in range(rest[0])]
            elif what == "wait":
                now_ms += rest[0]
            elif held:
                ticket = held.pop(rest[0] % len(held))
                attempts.leave(0, 0, ticket, rest[1], cost_ms, now_ms, 0, hint_ms, 1)
                if rest[1] == RATE_LIMITED:
                    cool_ms = max(cool_ms, now_ms + hint_ms)
            after = adaptive.view(0, now_ms)
            assert after.in_flight == len(held)
            # The provider's word, to the millisecond.
            assert after.cooldown_ms == max(0, cool_ms - now_ms)
            assert (after.state == COOLDOWN) == (after.cooldown_ms > 0)
            assert after.limit == 0.0 or setting.minimum <= after.limit <= top
            # An endpoint that has nothing to do takes one more.
            assert held or not adaptive.full(0, now_ms)
            assert adaptive.full(0, now_ms) == (after.limit > 0.0 and len(held) >= int(after.limit))
            if before.limit and after.limit:
                assert after.limit <= before.limit + max(1.0, 0.2 * 4.0) + FLOAT
                floor = min(DECREASE, 0.9) * int(before.limit)
                assert after.limit >= min(floor, top) - FLOAT
                if what == "leave" and rest[1] == RATE_LIMITED:
                    assert after.limit <= max(before.limit, setting.minimum)
            if rest and rest[-1] != RATE_LIMITED and not before.limit:
                assert not after.limit, "only a refusal sets a limit where there was none"
        segment.close()


@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(0, 10**8),
    st.integers(0, 40),
    st.lists(st.integers(0, 10**7), max_size=10),
)
def test_a_quota_only_comes_back(
    half: Half, limit: int, remaining: int, reset_ms: int, sent: int, pauses: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segment = segment_at(half, folder, 1)
        adaptive = half.adaptive.Adaptive(segment, {0: Setting()})
        now_ms = 5_000_000
        mark = adaptive.enter(0, now_ms)
        for _ in range(sent):
            adaptive.enter(0, now_ms)
        answer = Allowance(requests_limit=limit, requests_remaining=remaining, requests_reset_ms=reset_ms)
        adaptive.learn(0, mark, answer, now_ms)
        quota = adaptive.view(0, now_ms).requests
        assert quota.limit == limit
        if reset_ms and limit:
            assert quota.remaining == max(0, min(limit, remaining) - sent)
        for pause in pauses:
            now_ms += pause
            later = adaptive.view(0, now_ms).requests
            assert quota.remaining <= later.remaining <= limit
            assert later.full_in_ms == max(0, quota.full_in_ms - pause)
            if not later.full_in_ms:
                assert later.remaining == limit
            quota = later
        segment.close()


def test_the_segment_has_room_for_a_row(half: Half, tmp_path: Path) -> None:
    """The last of the cells, of the last row, is a cell of its own."""
    segment = segment_at(half, tmp_path, 2)
    half.adaptive.Adaptive(segment, {1: Setting(initial=3)}).enter(1, 0)
    assert segment.cell(1, cells.PACE) == 1
    assert segment.cell(0, cells.PACE) == 0
    segment.close()
