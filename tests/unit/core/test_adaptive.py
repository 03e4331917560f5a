"""What `adaptive` learns, over both halves: vectors, the state machine, quotas, and the gate."""

from pathlib import Path
from typing import Any

import pytest

from fastroute._core import _adaptive_rules as rules
from fastroute._core import _candidates_gates as gates
from fastroute._core import counters as cells
from fastroute._core._adaptive_rules import AIMD, COOLDOWN, GRADIENT2, LEARNING, LOW, ROOMY, STABLE, USED_UP, Setting
from fastroute._core._attempts_rules import FAILED, NEUTRAL, OK, RATE_LIMITED, Policy
from fastroute.interfaces import Allowance
from tests.unit.core.halves import WORKERS, Half, need_of, pool_of, segment_at

ENDPOINTS = 3
ROW = 1
NOW = 10_000_000
#: With which no breaker opens.
CALM = Policy(failure_threshold=60_000, min_requests=1_000_000)
PLAIN = Setting()
SELF_HOSTED = Setting(GRADIENT2, initial=20)


class Stand:
    """One endpoint whose requests begin and end at the time that is set."""

    def __init__(self, half: Half, segment: Any, setting: Setting) -> None:
        self.half = half
        self.segment = segment
        self.adaptive = half.adaptive.Adaptive(segment, {ROW: setting})
        self.attempts = half.attempts.Attempts(segment, CALM, self.adaptive)
        self.now_ms = NOW

    def enter(self, count: int = 1, worker: int = 0) -> list[tuple[int, int]]:
        return [(worker, self.attempts.enter(worker, ROW, 1000, self.now_ms)) for _ in range(count)]

    def leave(self, held: list[tuple[int, int]], verdict: int, cost_ms: float = -1.0, hint_ms: int = 0) -> None:
        for worker, ticket in held:
            self.attempts.leave(worker, ROW, ticket, verdict, cost_ms, self.now_ms, 0, hint_ms, 1000)

    def round(self, count: int, verdict: int = OK, **how: Any) -> None:
        """Let that many requests be under way together and end alike."""
        self.leave(self.enter(count), verdict, **how)

    def refuse(self, count: int, hint_ms: int = 1000) -> None:
        """Let an answer be followed by refusals of so many that are under way together."""
        self.round(1, cost_ms=100.0)
        self.round(count, RATE_LIMITED, hint_ms=hint_ms)

    def allow(self, **fields: int) -> None:
        """Let an answer to the request that was sent last say so."""
        [(_, ticket)] = held = self.enter()
        self.adaptive.learn(ROW, ticket >> 16, Allowance(**fields), self.now_ms)
        self.leave(held, NEUTRAL)

    @property
    def view(self) -> Any:
        return self.adaptive.view(ROW, self.now_ms)

    @property
    def headroom(self) -> int:
        assert self.view.headroom == self.adaptive.headroom(ROW, self.now_ms)
        return self.view.headroom

    @property
    def full(self) -> bool:
        return self.adaptive.full(ROW, self.now_ms)


@pytest.fixture
def stand(half: Half, segment: Any) -> Stand:
    return Stand(half, segment, PLAIN)


# ---- formulas ----


@pytest.mark.parametrize(
    ("short_ms", "in_flight", "limit"),
    [(100.0, 80, 100.8), (200.0, 80, 90.8), (400.0, 80, 90.8), (100.0, 50, 100.8), (400.0, 49, 100.0)],
)
def test_gradient2(short_ms: float, in_flight: int, limit: float) -> None:
    """The last one has less than half of its limit in use, which says nothing."""
    assert rules.gradient2(100.0, 100.0, short_ms, in_flight) == pytest.approx(limit)


def test_the_long_average() -> None:
    assert rules.long_average(0.0, 50.0, 0) == 50.0
    assert rules.long_average(50.0, 100.0, 1) == 75.0  # a plain mean while there are few samples
    assert rules.long_average(100.0, 701.0, 10) == pytest.approx(102.0)
    assert rules.long_average(100.0, 10.0, 10) == pytest.approx((100.0 - 180.0 / 601.0) * 0.9)


def test_growth_of_aimd() -> None:
    assert rules.grown(LEARNING, 4.5, 9.0, 0) == (LEARNING, 5.5, 9.0)
    assert rules.grown(LEARNING, 7.5, 9.0, 0) == (STABLE, pytest.approx(8.1), 9.0)
    assert rules.grown(STABLE, 8.0, 9.0, 0) == (STABLE, 8.0 + 1 / 64, 9.0)
    assert rules.grown(STABLE, 9.99, 9.0, 0) == (LEARNING, pytest.approx(10.0025, abs=1e-3), 0.0)
    assert rules.grown(LEARNING, 12.0, 0.0, 0) == (LEARNING, 13.0, 0.0)
    assert rules.grown(LEARNING, 12.5, 0.0, 13) == (STABLE, 13.0, 0.0)


def test_a_large_limit_still_grows() -> None:
    limit = 900_000.0
    for _ in range(100):
        limit = rules.unpack_word(rules.pack_word(rules.Word(STABLE, AIMD, 1, 0, limit))).limit
        _, grown, _ = rules.grown(STABLE, limit, 0.0, 0)
        limit = grown
    assert limit > 900_010.0


# ---- aimd ----


def test_nothing_is_limited_before_the_first_refusal(stand: Stand) -> None:
    held = stand.enter(500)
    assert not stand.full
    assert (stand.view.state, stand.view.limit, stand.view.in_flight) == (LEARNING, 0.0, 500)
    stand.leave(held, OK)
    assert rules.unpack_word(stand.segment.cell(ROW, cells.ADAPTIVE)) == (LEARNING, AIMD, rules.ANSWERED, 0, 0.0)
    assert stand.view.limit == 0.0


def test_a_refusal_halves_what_was_under_way(stand: Stand) -> None:
    stand.refuse(8)
    assert (stand.view.state, stand.view.limit, stand.view.too_much) == (COOLDOWN, 4.0, 8.0)
    assert stand.view.cooldown_ms == 1000
    assert rules.describe(stand.view)["concurrency"] == {"limit": 4, "in_flight": 0, "too_much": 8}


def test_one_overload_is_one_refusal(stand: Stand) -> None:
    held = stand.enter(17)
    stand.leave([held.pop()], OK)
    stand.leave(held[:10], RATE_LIMITED, hint_ms=1000)
    stand.now_ms += 2000
    # These were sent before the limit was halved; it says nothing of the half.
    stand.leave(held[10:], RATE_LIMITED, hint_ms=1000)
    assert stand.view.limit == 8.0
    assert stand.view.cooldown_ms == 1000  # but the endpoint has asked for it


def test_two_overloads_are_two(stand: Stand) -> None:
    stand.refuse(16)
    stand.now_ms += 1000
    stand.refuse(8)
    assert (stand.view.limit, stand.view.too_much) == (4.0, 8.0)


def test_a_request_alone_was_not_one_too_many(stand: Stand) -> None:
    """However often it is refused, and whatever has been learnt before: that is about something else."""
    stand.refuse(16)
    for _ in range(10):
        stand.now_ms += 1000
        stand.refuse(1)
    assert (stand.view.limit, stand.view.too_much) == (8.0, 16.0)
    assert stand.view.state == COOLDOWN


def test_long_after_the_last_refusal_it_is_looked_what_more_there_is(stand: Stand) -> None:
    """A limit that is close to what was too much grows slowly, but not for as long as nobody is refused."""
    stand.refuse(16)
    stand.now_ms += 1000
    while stand.view.state == LEARNING:
        stand.round(int(stand.view.limit), cost_ms=100.0)
    assert (stand.view.state, int(stand.view.limit)) == (STABLE, 14)
    until_ms = stand.segment.cell(ROW, cells.COOLDOWN_UNTIL_MS)
    stand.now_ms = until_ms + rules.QUIET_MS - 1
    stand.round(14, cost_ms=100.0)
    assert (stand.view.state, int(stand.view.limit), stand.view.too_much) == (STABLE, 14, 16.0)
    # As many more as there are answers, in a round of which half of the limit is in use.
    stand.now_ms += 1
    before = stand.view.limit
    stand.round(14, cost_ms=100.0)
    assert (stand.view.state, stand.view.too_much) == (LEARNING, 0.0)
    assert stand.view.limit == pytest.approx(before + 5)
    # What is refused then, is what is known from then on.
    stand.round(int(stand.view.limit), RATE_LIMITED, hint_ms=1000)
    assert stand.view.too_much == 19.0


def test_the_cooldown_lasts_as_long_as_the_provider_says(stand: Stand) -> None:
    stand.refuse(8, hint_ms=7_000)
    stand.now_ms += 6_999
    assert stand.view.state == COOLDOWN
    stand.now_ms += 1
    assert stand.view.state == LEARNING
    stand.enter()
    word = rules.unpack_word(stand.segment.cell(ROW, cells.ADAPTIVE))
    assert word.state == LEARNING


def test_success_grows_the_limit_back_and_then_slowly(stand: Stand) -> None:
    stand.refuse(10)
    stand.now_ms += 1000
    held = stand.enter(5)
    assert stand.full
    seen = []
    for _ in range(5):
        stand.leave([held.pop()], OK)
        held += stand.enter(int(stand.view.limit) - len(held))
        seen.append((stand.view.state, stand.view.limit))
    assert seen[:3] == [(LEARNING, 6.0), (LEARNING, 7.0), (LEARNING, 8.0)]
    assert seen[3] == (STABLE, 9.0)
    assert seen[4] == (STABLE, pytest.approx(9.0 + 1 / 72))


def test_an_endpoint_that_takes_more_than_it_used_to_is_found_out(stand: Stand) -> None:
    stand.refuse(10)
    stand.now_ms += 1000
    for _ in range(2_000):
        held = stand.enter(max(1, int(stand.view.limit)))
        stand.leave(held, OK)
        if stand.view.limit > 100:
            break
    assert (stand.view.limit > 100, stand.view.state, stand.view.too_much) == (True, LEARNING, 0.0)


def test_what_is_not_in_use_does_not_grow(stand: Stand) -> None:
    stand.refuse(32)
    stand.now_ms += 1000
    for _ in range(100):
        stand.round(4)
    assert stand.view.limit == 16.0


def test_answers_to_what_was_sent_before_do_not_grow_it(stand: Stand) -> None:
    held = stand.enter(17)
    stand.leave([held.pop()], OK)
    stand.leave(held[:1], RATE_LIMITED, hint_ms=10)
    stand.now_ms += 10
    stand.enter()  # ends the cooldown
    stand.leave(held[1:], OK)
    assert stand.view.limit == 8.0
    # But they say that some are answered, so that the next overload will be one.
    stand.leave(stand.enter(), RATE_LIMITED)
    assert stand.view.limit == 4.0


def test_refusals_that_come_before_any_answer(stand: Stand) -> None:
    """The usual course of an overload: refusals are faster than answers."""
    limits = []
    for _ in range(3):
        held = stand.enter(16)
        stand.leave(held[:8], RATE_LIMITED, hint_ms=10)
        stand.leave(held[8:], OK)
        stand.now_ms += 10
        limits.append(stand.view.limit)
    assert limits == [0.0, 8.0, 4.0]


def test_a_request_alone_is_never_one_too_many(stand: Stand) -> None:
    stand.refuse(1)
    assert (stand.view.state, stand.view.limit) == (COOLDOWN, 0.0)
    stand.now_ms += 1000
    stand.enter(100)
    assert not stand.full


def test_where_nobody_is_answered_fewer_would_not_be_either(stand: Stand) -> None:
    for _ in range(10):
        stand.round(16, RATE_LIMITED, hint_ms=10)
        stand.now_ms += 10
    assert (stand.view.state, stand.view.limit) == (LEARNING, 0.0)
    stand.refuse(16, hint_ms=10)
    for _ in range(10):
        stand.now_ms += 10
        stand.round(8, RATE_LIMITED, hint_ms=10)
    assert stand.view.limit == 8.0


def test_the_limit_has_a_floor(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, Setting(minimum=3))
    stand.refuse(8)
    for _ in range(5):
        stand.now_ms += 1000
        stand.refuse(2)
    assert stand.view.limit == 3.0


def test_there_is_always_room_for_one(stand: Stand) -> None:
    for _ in range(5):
        stand.now_ms += 1000
        stand.refuse(2)
    assert stand.view.limit == 1.0
    assert not stand.full


def test_where_a_quota_has_run_out_concurrency_was_not_the_fault(stand: Stand) -> None:
    held = stand.enter(8)
    spent = Allowance(requests_limit=100, requests_remaining=0, requests_reset_ms=30_000)
    stand.adaptive.learn(ROW, held[0][1] >> 16, spent, stand.now_ms)
    stand.leave(held, RATE_LIMITED, hint_ms=30_000)
    assert (stand.view.state, stand.view.limit, stand.view.headroom) == (COOLDOWN, 0.0, USED_UP)


def test_where_the_provider_says_so_it_was_not_either(stand: Stand) -> None:
    stand.round(1)
    held = stand.enter(8)
    stand.adaptive.excuse(ROW)
    stand.leave(held, RATE_LIMITED, hint_ms=1000)
    assert (stand.view.state, stand.view.limit) == (COOLDOWN, 0.0)
    stand.now_ms += 1000
    stand.refuse(8)
    assert stand.view.limit == 4.0


def test_other_ends_change_nothing(stand: Stand) -> None:
    stand.refuse(8)
    stand.now_ms += 1000
    before = stand.segment.cell(ROW, cells.ADAPTIVE)
    stand.round(1, NEUTRAL)
    stand.round(1, FAILED)
    assert stand.segment.cell(ROW, cells.ADAPTIVE) == before & ~3 | LEARNING


def test_a_limit_is_forgotten(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, Setting(forget_ms=60_000))
    stand.refuse(8, hint_ms=1000)
    stand.now_ms += 1000 + 59_999
    held = stand.enter(4)
    assert stand.full
    stand.now_ms += 1
    assert not stand.full
    assert stand.view.limit == 0.0
    stand.leave(held, OK)
    # A cooldown that somebody else begins does not bring it back.
    segment.set_cell(ROW, cells.COOLDOWN_UNTIL_MS, stand.now_ms + 5)
    assert stand.view.limit == 0.0
    assert stand.view.too_much == 0.0


def test_an_initial_limit_and_a_ceiling(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, Setting(initial=2, maximum=5))
    assert (stand.view.limit, stand.full) == (2.0, False)
    held = stand.enter(2)
    assert stand.full
    stand.leave(held, OK)
    # The second was alone when it ended, which is less than half of 3.
    assert (stand.view.state, stand.view.limit) == (LEARNING, 3.0)
    for _ in range(3):
        stand.round(5)
    assert (stand.view.state, stand.view.limit) == (STABLE, 5.0)


def test_a_ceiling_alone_is_in_force_at_once(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, Setting(maximum=2))
    stand.enter(2)
    assert stand.full


def test_marks_wrap(stand: Stand) -> None:
    stand.segment.set_cell(ROW, cells.PACE, (1 << 24) - 4)
    stand.round(1)
    held = stand.enter(4)
    assert [ticket >> 16 for _, ticket in held] == [(1 << 24) - 2, (1 << 24) - 1, 0, 1]
    stand.leave(held[:1], RATE_LIMITED, hint_ms=10)
    stand.now_ms += 10
    stand.leave(held[1:], RATE_LIMITED)
    assert stand.view.limit == 2.0
    stand.refuse(2, hint_ms=0)  # an answer, which adds 1, and a refusal
    assert stand.view.limit == 1.5


def test_another_kind_begins_anew(half: Half, segment: Any) -> None:
    Stand(half, segment, PLAIN).refuse(8)
    stand = Stand(half, segment, SELF_HOSTED)
    stand.now_ms += 1000
    assert (stand.view.limit, stand.view.long_ms, stand.view.state) == (20.0, 0.0, LEARNING)
    stand.round(1, cost_ms=80.0)
    assert stand.view.long_ms == 80.0
    stand = Stand(half, segment, PLAIN)
    stand.now_ms += 1000
    assert (stand.view.limit, stand.view.too_much) == (0.0, 0.0)


# ---- gradient2 ----


def test_gradient2_grows_while_latency_stays(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, SELF_HOSTED)
    held = stand.enter(20)
    for number in range(20):
        stand.leave([held.pop(0)], OK, cost_ms=100.0)
        held += stand.enter()
        assert stand.view.limit == pytest.approx(20.0 + 0.8 * (number + 1), rel=1e-6)
        assert stand.view.state == (STABLE if number >= 9 else LEARNING)


def test_gradient2_shrinks_when_latency_doubles(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, SELF_HOSTED)
    held = stand.enter(20)
    for _ in range(10):
        stand.leave([held.pop()], OK, cost_ms=100.0)
        held += stand.enter()
    top = stand.view.limit
    for _ in range(60):
        stand.leave([held.pop()], OK, cost_ms=200.0)
        held += stand.enter(max(0, int(stand.view.limit) - len(held)))
    assert stand.view.limit < top / 2
    assert stand.view.limit >= 1.0


def test_gradient2_takes_first_tokens_of_streams(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, SELF_HOSTED)
    [(worker, ticket)] = stand.enter()
    stand.attempts.first_token(worker, ROW, 500, 120.0, stand.now_ms)
    assert stand.view.long_ms == 120.0
    stand.attempts.leave(worker, ROW, ticket, OK, -1.0, stand.now_ms, 0, 0, 500)
    assert rules.unpack_word(segment.cell(ROW, cells.ADAPTIVE)).seen == 1


def test_gradient2_halves_on_a_refusal(half: Half, segment: Any) -> None:
    stand = Stand(half, segment, SELF_HOSTED)
    stand.refuse(20)
    assert (stand.view.state, stand.view.limit) == (COOLDOWN, 10.0)
    stand.now_ms += 1000
    stand.round(10, cost_ms=100.0)
    assert stand.view.state == STABLE
    assert stand.view.limit > 10.0


@pytest.mark.parametrize("cost_ms", [0.0, 1e300, float("inf")])
def test_samples_without_sense(half: Half, segment: Any, cost_ms: float) -> None:
    stand = Stand(half, segment, SELF_HOSTED)
    for _ in range(20):
        stand.round(20, cost_ms=cost_ms)
    assert 1.0 <= stand.view.limit <= rules.MAX_LIMIT
    assert 0.0 <= stand.view.long_ms <= 1e9 * 1.000001


# ---- quotas ----


def test_headroom_by_what_is_left(stand: Stand) -> None:
    assert stand.headroom == ROOMY
    for left, expected in ((100, ROOMY), (11, ROOMY), (10, ROOMY), (9, LOW), (1, LOW), (0, USED_UP)):
        stand.allow(requests_limit=100, requests_remaining=left, requests_reset_ms=60_000)
        assert stand.headroom == expected, left


@pytest.mark.parametrize("kind", ["tokens", "input_tokens", "output_tokens", "day_tokens", "month", "day_requests"])
def test_every_dimension_counts(stand: Stand, kind: str) -> None:
    plenty = {"requests_limit": 100, "requests_remaining": 99, "tokens_limit": 1000, "tokens_remaining": 999}
    stand.allow(**{**plenty, f"{kind}_limit": 1000, f"{kind}_remaining": 40, f"{kind}_reset_ms": 60_000})
    assert stand.headroom == LOW


def test_requests_sent_since_are_taken_off(stand: Stand) -> None:
    [first] = stand.enter()
    stand.enter(30)
    answer = Allowance(requests_limit=100, requests_remaining=99, requests_reset_ms=60_000)
    stand.adaptive.learn(ROW, first[1] >> 16, answer, stand.now_ms)
    assert stand.view.requests.remaining == 69
    stand.enter(65)
    assert stand.view.requests.remaining == 4
    assert stand.headroom == LOW
    stand.enter(10)
    assert (stand.view.requests.remaining, stand.headroom) == (0, USED_UP)


def test_a_quota_comes_back_evenly_until_it_is_full(stand: Stand) -> None:
    stand.allow(requests_limit=100, requests_remaining=0, requests_reset_ms=60_000)
    began_ms = stand.now_ms
    for after_ms, remaining in ((0, 0), (599, 0), (600, 1), (30_000, 50), (59_999, 99), (60_000, 100), (10**9, 100)):
        stand.now_ms = began_ms + after_ms
        assert stand.view.requests.remaining == remaining
    assert stand.view.requests.full_in_ms == 0
    assert stand.headroom == ROOMY


def test_a_quota_of_nothing_does_not_come_back(stand: Stand) -> None:
    """A limit of 0 is what providers say where they set none."""
    stand.allow(requests_limit=0, requests_remaining=0, requests_reset_ms=70_000)
    assert stand.view.requests == (0, 0, 0)
    assert stand.view.headroom == ROOMY


def test_a_quota_of_a_day_comes_back_only_at_its_end(stand: Stand) -> None:
    stand.allow(day_requests_limit=1000, day_requests_remaining=0, day_requests_reset_ms=86_400_000)
    stand.now_ms += 43_200_000
    assert stand.view.requests.remaining == 0
    stand.now_ms += 43_200_000
    assert stand.view.requests.remaining == 1000


def test_what_is_not_said_is_taken_as_it_was(stand: Stand) -> None:
    stand.allow(requests_limit=100, requests_remaining=50, requests_reset_ms=60_000)
    stand.allow(requests_remaining=5, requests_reset_ms=60_000)
    assert stand.view.requests[:2] == (100, 5)
    before = stand.view
    stand.allow(requests_limit=100)  # how much is left is what matters
    assert stand.view.requests.limit == before.requests.limit
    assert stand.view.tokens.limit == 0
    stand.allow(tokens_remaining=700)
    assert (stand.view.tokens.limit, stand.view.tokens.full_in_ms) == (700, rules.DEFAULT_RESET_MS)


def test_numbers_without_sense(stand: Stand) -> None:
    stand.allow(requests_limit=10**15, requests_remaining=10**15, requests_reset_ms=10**15, tokens_limit=0)
    assert stand.headroom == ROOMY
    stand.allow(requests_limit=0, requests_remaining=0, tokens_limit=5, tokens_remaining=50, tokens_reset_ms=0)
    assert stand.view.requests.limit == 0
    assert stand.view.tokens[:2] == (5, 5)
    assert stand.headroom == ROOMY


def test_of_no_more_than_one_request_one_is_enough(stand: Stand) -> None:
    stand.allow(requests_limit=1, requests_remaining=1, requests_reset_ms=0)
    assert stand.headroom == ROOMY


# ---- endpoints without a setting, and mistakes ----


def test_an_endpoint_without_a_setting_costs_nothing_and_knows_nothing(half: Half, segment: Any) -> None:
    adaptive = half.adaptive.Adaptive(segment, {ROW: PLAIN})
    attempts = half.attempts.Attempts(segment, CALM, adaptive)
    tickets = [attempts.enter(0, 0, 1000, NOW) for _ in range(8)]
    for ticket in tickets:
        attempts.leave(0, 0, ticket, RATE_LIMITED, -1.0, NOW, 0, 1000, 1000)
    adaptive.learn(0, 0, Allowance(requests_limit=1, requests_remaining=0), NOW)
    assert tickets == [0] * 8
    assert adaptive.view(0, NOW) is None
    assert (adaptive.full(0, NOW), adaptive.headroom(0, NOW)) == (False, ROOMY)
    written = (cells.PACE, cells.ADAPTIVE, cells.QUOTA_REQUESTS, cells.QUOTA_TOKENS, cells.QUOTA_REQUESTS_TIMES)
    assert [segment.cell(0, cell) for cell in (*written, cells.QUOTA_TOKENS_TIMES)] == [0] * 6


@pytest.mark.parametrize(
    "setting",
    [
        Setting(0),
        Setting(3),
        Setting(minimum=0),
        Setting(minimum=5, maximum=4),
        Setting(maximum=1_000_001),
        Setting(minimum=5, initial=4),
        Setting(maximum=5, initial=6),
        Setting(GRADIENT2),
        Setting(headroom_percent=101),
        Setting(headroom_percent=-1),
        Setting(forget_ms=0),
    ],
)
def test_settings_out_of_bounds(half: Half, segment: Any, setting: Setting) -> None:
    with pytest.raises(ValueError, match=r"limit|kind|headroom"):
        half.adaptive.Adaptive(segment, {ROW: setting})


def test_rows_out_of_bounds(half: Half, segment: Any) -> None:
    with pytest.raises(IndexError):
        half.adaptive.Adaptive(segment, {ENDPOINTS: PLAIN})


def test_a_segment_of_another_place(half: Half, segment: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = segment_at(half, tmp_path / "other", ENDPOINTS)
    adaptive = half.adaptive.Adaptive(other, {ROW: PLAIN})
    with pytest.raises(ValueError, match="same segment"):
        half.attempts.Attempts(segment, CALM, adaptive)
    with pytest.raises(ValueError, match="same segment"):
        pool_of(half, segment, [1, 1], adaptive=adaptive)
    other.close()


# ---- the gate ----


def pool(half: Half, segment: Any, **columns: Any) -> tuple[Any, Any]:
    adaptive = half.adaptive.Adaptive(segment, {row: Setting(maximum=2) for row in range(ENDPOINTS)})
    return pool_of(half, segment, [1] * ENDPOINTS, adaptive=adaptive, **columns), adaptive


def test_a_full_endpoint_is_no_candidate(half: Half, segment: Any) -> None:
    made, _ = pool(half, segment)
    need = need_of(half, now_ms=NOW)
    segment.set(0, 0, cells.IN_FLIGHT, 1)
    segment.set(1, 0, cells.IN_FLIGHT, 1)
    assert (made.gate(need), list(made), made.why(0, need)) == (2, [1, 2], gates.FULL)
    for row in (1, 2):
        segment.set(WORKERS - 1, row, cells.IN_FLIGHT, 3)
    assert made.gate(need) == 0
    assert (made.emptied_by, made.retry_at_ms) == (gates.FULL, NOW + rules.FULL_WAIT_MS)


def test_those_with_headroom_come_first_and_the_others_when_nobody_is_left(half: Half, segment: Any) -> None:
    made, adaptive = pool(half, segment)
    for row, left in enumerate((0, 5, 50)):
        answer = Allowance(requests_limit=100, requests_remaining=left, requests_reset_ms=60_000)
        adaptive.learn(row, 0, answer, NOW)
    taken: list[list[int]] = []
    for tried in ([], [2], [1, 2], [0, 1, 2]):
        made.gate(need_of(half, now_ms=NOW, tried=tried))
        taken.append(list(made))
        assert made.removed[gates.FULL] == 0
    assert taken == [[2], [1], [0], []]


def test_tiers_come_before_headroom(half: Half, segment: Any) -> None:
    made, adaptive = pool(half, segment, ranks=[0, 0, 1])
    for row in (0, 1):
        answer = Allowance(requests_limit=100, requests_remaining=0, requests_reset_ms=60_000)
        adaptive.learn(row, 0, answer, NOW)
    made.gate(need_of(half, now_ms=NOW))
    assert list(made) == [0, 1]


def test_the_names_of_the_compiled_half_agree() -> None:
    source = "".join((Path(rules.__file__).parent / f"_adaptive_c.{end}").read_text() for end in ("pxd", "pyx"))
    for name, value in vars(rules).items():
        if name.isupper() and isinstance(value, int | float) and f"    {name} = " in source:
            assert f"    {name} = {value}\n" in source or f"    {name} = 0x{value:X}\n" in source, name
    quotas = ("QUOTA_REQUESTS", "QUOTA_TOKENS", "QUOTA_REQUESTS_TIMES", "QUOTA_TOKENS_TIMES")
    for cell in ("COOLDOWN_UNTIL_MS", "ADAPTIVE", "PACE", *quotas):
        assert f"    {cell} = {getattr(cells, cell)}\n" in source
