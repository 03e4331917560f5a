"""The gates of a pool, over both halves."""

from typing import Any

import pytest

from fastroute._core import _candidates_gates as gates
from fastroute._core import _channel_rules as channel
from fastroute._core import counters as cells
from fastroute._core._adaptive_rules import Setting
from fastroute._core._attempts_rules import CLOSED, HALF_OPEN, OK, OPEN
from tests.unit.core.halves import Half, need_of, pool_of

ENDPOINTS = 16
NOW = 1_000_000
DAY_MS = 24 * 3_600_000


def set_breaker(segment: Any, row: int, state: int, until_ms: int, probes: int = 0) -> None:
    segment.set_cell(row, cells.BREAKER, state | probes << 2 | 7 << 10 | until_ms << 24)


def set_key(segment: Any, row: int, until_ms: int) -> None:
    word = channel.unpack_state(segment.cell(row, cells.KEY_STATE))
    kind = channel.REJECTED if until_ms else channel.BALANCE_OK
    segment.set_cell(row, cells.KEY_STATE, channel.pack_state(word._replace(kind=kind, mark=511, until_ms=until_ms)))


def set_model(segment: Any, row: int, status: int, until_ms: int) -> None:
    state = channel.State(status, cause=31, strikes=31, mark=511, until_ms=until_ms)
    segment.set_cell(row, cells.MODEL_STATE, channel.pack_state(state))
    segment.set_cell(row, cells.KEY_STATE, segment.cell(row, cells.KEY_STATE) | channel.LOOK)


def open_all(segment: Any, rows: Any, until_ms: int = NOW + 1_000) -> None:
    for row in rows:
        set_breaker(segment, row, OPEN, until_ms)


# ---- a sequence of positions ----


def test_with_nothing_against_them_all_are_candidates(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 2.5, 3])
    assert (pool.size, len(pool), list(pool), pool.positions) == (3, 3, [0, 1, 2], [0, 1, 2])
    assert (pool[0], pool[2], pool[-1]) == (0, 2, 2)
    assert (pool.rows, pool.weights, pool.max_weight) == ([0, 1, 2], [1.0, 2.5, 3.0], 3.0)
    assert (pool.segment, pool.panicking, pool.retry_at_ms) == (segment, False, 0)
    assert pool.removed == (0,) * len(gates.GATE_NAMES)
    assert pool.emptied_by == gates.PASSED
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            pool[wrong]


def test_an_empty_pool(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [])
    assert (pool.gate(need_of(half)), list(pool), pool.size, pool.max_weight) == (0, [], 0, 0.0)


def test_before_the_first_gate_nobody_is_a_candidate(half: Half, segment: Any) -> None:
    columns = {name: [0] for name in ("ranks", "providers", "regions", "capabilities", "context_windows")}
    columns |= {name: [0] for name in ("max_outputs", "input_prices", "output_prices")}
    assert len(half.candidates.Candidates(segment, [0], [1.0], **columns)) == 0


def test_what_a_pool_is_not_made_of(half: Half, segment: Any) -> None:
    for wrong in (ENDPOINTS, -1):
        with pytest.raises(IndexError):
            pool_of(half, segment, [1.0], rows=[wrong])
    for name in ("rows", "ranks", "providers", "regions", "capabilities", "context_windows", "max_outputs"):
        with pytest.raises(ValueError, match="of one length"):
            pool_of(half, segment, [1.0, 1.0], **{name: [0]})
    for region in (64, 69, -1):  # 69 must not pass for 5
        with pytest.raises(ValueError, match="region must be"):
            pool_of(half, segment, [1.0], regions=[region])
    with pytest.raises(ValueError, match="at most 65536"):
        pool_of(half, segment, [1.0] * 65_537, rows=[0] * 65_537)


# ---- each gate ----


def fate(half: Half, pool: Any, position: int, **wants: Any) -> int:
    """Return the gate that removes the endpoint; `gate` must be of the same opinion as `why`."""
    need = need_of(half, now_ms=NOW, **wants)
    pool.gate(need)
    gate = pool.why(position, need)
    assert (position in pool) == (gate == gates.PASSED)
    return gate


def test_tried(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1])
    assert [fate(half, pool, i, tried=[2, 0, 2]) for i in range(3)] == [gates.TRIED, gates.PASSED, gates.TRIED]
    assert pool.removed[gates.TRIED] == 2


def test_no_more_than_64_are_remembered_as_tried(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 70, rows=[0] * 70)
    pool.gate(need_of(half, tried=list(range(70))))
    assert list(pool) == list(range(64, 70))


def test_not_allowed(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1], providers=[2, 0, 1])
    order, stages = bytes([1, 0, 0]), bytes([9, gates.TENANT, gates.RULE])
    assert [fate(half, pool, i, order=order) for i in range(3)] == [gates.REQUEST, gates.PASSED, gates.REQUEST]
    assert [fate(half, pool, i, order=order, stages=stages) for i in (0, 2)] == [gates.RULE, gates.TENANT]


def test_weight_zero_is_never_a_candidate(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [0, 1, 0.0, -1])
    assert [fate(half, pool, i) for i in range(4)] == [gates.DRAINED, gates.PASSED, gates.DRAINED, gates.DRAINED]
    # Not even in a panic.
    set_breaker(segment, 1, OPEN, NOW + 1)
    assert fate(half, pool, 0, panic_percent=100) == gates.DRAINED
    assert (list(pool), pool.panicking) == ([1], True)


def test_capability(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1], capabilities=[0b011, 0b111, 0])
    assert [fate(half, pool, i, capabilities=0b101) for i in range(3)] == [gates.CAPABILITY, 0, gates.CAPABILITY]
    assert [fate(half, pool, i) for i in range(3)] == [0, 0, 0]


def test_context_window(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1], context_windows=[1_000, 999, 0])
    wants = {"prompt_tokens": 700, "output_tokens": 300}
    assert [fate(half, pool, i, **wants) for i in range(3)] == [0, gates.CONTEXT, 0]


def test_output_tokens(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1], max_outputs=[300, 299, 0])
    assert [fate(half, pool, i, output_tokens=300) for i in range(3)] == [0, gates.OUTPUT, 0]


def test_region(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1, 1], regions=[0, 1, 5, 63])
    wants = {"regions": 1 << 1 | 1 << 63}
    assert [fate(half, pool, i, **wants) for i in range(4)] == [gates.REGION, 0, gates.REGION, 0]
    assert [fate(half, pool, i) for i in range(4)] == [0, 0, 0, 0]


def test_cost(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 5, input_prices=[3, 4, -1, 0, 0], output_prices=[10, 10, 0, -1, 0])
    wants = {"prompt_tokens": 100, "output_tokens": 20, "max_cost_pico": 500}
    assert [fate(half, pool, i, **wants) for i in range(5)] == [0, gates.COST, gates.COST, gates.COST, 0]
    # Nothing is too dear without a ceiling, and only what is free under one of 0.
    wants["max_cost_pico"] = -1
    assert [fate(half, pool, i, **wants) for i in range(5)] == [0] * 5
    wants["max_cost_pico"] = 0
    assert [fate(half, pool, i, **wants) for i in range(5)] == [gates.COST] * 4 + [0]


@pytest.mark.parametrize(
    ("state", "probes", "until_ms", "passes"),
    [
        (CLOSED, 0, 0, True),
        (OPEN, 0, NOW + 1, False),
        (OPEN, 0, NOW, True),  # whoever comes is the first probe
        (HALF_OPEN, 0, NOW + 1, True),
        (HALF_OPEN, 1, NOW + 1, True),
        (HALF_OPEN, 2, NOW + 1, False),
        (HALF_OPEN, 200, NOW + 1, False),
        (HALF_OPEN, 200, NOW, True),  # those probes are lost
    ],
)
def test_breaker(half: Half, segment: Any, state: int, probes: int, until_ms: int, passes: bool) -> None:
    pool = pool_of(half, segment, [1], half_open_max_calls=2)
    set_breaker(segment, 0, state, until_ms, probes)
    assert fate(half, pool, 0) == (gates.PASSED if passes else gates.BREAKER)


def test_the_breaker_gate_lets_through_whom_the_breaker_admits(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1])
    attempts = half.attempts.Attempts(segment)
    for state, probes, until_ms in ((OPEN, 0, NOW + 1), (OPEN, 0, NOW), (HALF_OPEN, 1, NOW + 1), (HALF_OPEN, 1, NOW)):
        set_breaker(segment, 0, state, until_ms, probes)
        passes = fate(half, pool, 0) == gates.PASSED
        assert passes == (attempts.enter(0, 0, 1, NOW) >= 0)


def test_cooldown(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1])
    segment.set_cell(0, cells.COOLDOWN_UNTIL_MS, NOW + 1)
    segment.set_cell(1, cells.COOLDOWN_UNTIL_MS, NOW)
    assert [fate(half, pool, i) for i in range(2)] == [gates.COOLDOWN, gates.PASSED]


# ---- keys and their models ----


def test_a_key_that_is_out(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1, 1])
    for row, until_ms in enumerate((NOW + 1, NOW, NOW - 1, 0)):
        set_key(segment, row, until_ms)
    assert [fate(half, pool, i) for i in range(4)] == [gates.KEY, gates.PASSED, gates.PASSED, gates.PASSED]


def test_what_is_known_of_a_key_that_is_in_keeps_nobody_away(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1])
    for balance in range(4):
        state = channel.State(balance, cause=31, strikes=31, trial=1, mark=511)
        segment.set_cell(0, cells.KEY_STATE, channel.pack_state(state))
        assert fate(half, pool, 0) == gates.PASSED


@pytest.mark.parametrize(
    ("status", "gate"),
    [
        (channel.AVAILABLE, gates.PASSED),
        (channel.RATE_LIMITED, gates.PASSED),
        (channel.QUOTA_EXHAUSTED, gates.QUOTA),
        (channel.MODEL_NOT_FOUND, gates.MODEL),
        (channel.TEMPORARILY_DOWN, gates.PASSED),
    ],
)
def test_how_a_model_is(half: Half, segment: Any, status: int, gate: int) -> None:
    pool = pool_of(half, segment, [1, 1])
    set_model(segment, 0, status, NOW + 1)
    set_model(segment, 1, status, NOW)
    assert [fate(half, pool, i) for i in range(2)] == [gate, gates.PASSED]
    # Without the hint in the key's word nobody looks.
    segment.set_cell(0, cells.KEY_STATE, 0)
    assert fate(half, pool, 0) == gates.PASSED


def test_the_key_comes_before_its_model(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1])
    set_model(segment, 0, channel.MODEL_NOT_FOUND, NOW + 9)
    set_key(segment, 0, NOW + 5)
    assert fate(half, pool, 0) == gates.KEY
    set_key(segment, 0, NOW)
    assert fate(half, pool, 0) == gates.MODEL


def test_somebody_is_on_trial(half: Half, segment: Any) -> None:
    """Only where somebody is let through whose time is over, and it is said anew at every gating."""
    pool = pool_of(half, segment, [1, 1, 1])
    need = need_of(half, now_ms=NOW)
    assert (pool.gate(need), pool.on_trial) == (3, False)
    set_key(segment, 0, NOW + 1)
    assert (pool.gate(need), pool.on_trial) == (2, False)
    set_key(segment, 0, NOW)
    assert (pool.gate(need), pool.on_trial) == (3, True)
    set_key(segment, 0, 0)
    assert (pool.gate(need), pool.on_trial) == (3, False)
    set_model(segment, 1, channel.QUOTA_EXHAUSTED, NOW)
    assert (pool.gate(need), pool.on_trial) == (3, True)
    set_model(segment, 1, channel.RATE_LIMITED, NOW)
    assert (pool.gate(need), pool.on_trial) == (3, False)


def test_when_the_first_of_those_who_are_out_may_be_back(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 1])
    set_key(segment, 0, NOW + 30)
    set_model(segment, 1, channel.QUOTA_EXHAUSTED, NOW + 20)
    set_model(segment, 2, channel.MODEL_NOT_FOUND, NOW + 40)
    assert pool.gate(need_of(half, now_ms=NOW)) == 0
    assert (pool.retry_at_ms, pool.emptied_by) == (NOW + 20, gates.QUOTA)
    assert pool.gate(need_of(half, now_ms=NOW + 20)) == 1
    assert pool.retry_at_ms == NOW + 30


def test_no_panic_over_keys(half: Half, segment: Any) -> None:
    """A key that is refused would be refused again, however few are left."""
    pool = pool_of(half, segment, [1] * 10)
    for row in range(9):
        set_key(segment, row, NOW + 5)
    open_all(segment, range(9))
    assert pool.gate(need_of(half, now_ms=NOW, panic_percent=100, panic_min=1)) == 1
    assert not pool.panicking


def test_the_first_gate_in_order_is_the_one_that_removes(half: Half, segment: Any) -> None:
    # Position i has failed at the gates from i + 1 on; one more has failed at none.
    names = gates.GATE_NAMES
    order = [gates.TRIED, gates.REQUEST, gates.DRAINED, gates.CAPABILITY, gates.CONTEXT, gates.OUTPUT, gates.REGION]
    order += [gates.COST, gates.KEY, gates.MODEL, gates.BREAKER, gates.COOLDOWN, gates.FULL]
    assert [names[gate] for gate in order] == [
        "tried", "request", "drained", "capability", "context_window", "max_output_tokens", "region", "cost",
        "key", "model", "breaker", "cooldown", "concurrency",
    ]  # fmt: skip
    n = len(order) + 1

    def column(gate: int, bad: Any, good: Any) -> list[Any]:
        return [bad if i <= order.index(gate) else good for i in range(n)]

    pool = pool_of(
        half,
        segment,
        column(gates.DRAINED, 0, 1),
        providers=column(gates.REQUEST, 1, 0),
        capabilities=column(gates.CAPABILITY, 0, 1),
        context_windows=column(gates.CONTEXT, 10, 0),
        max_outputs=column(gates.OUTPUT, 10, 0),
        regions=column(gates.REGION, 1, 2),
        input_prices=column(gates.COST, 9, 0),
        adaptive=half.adaptive.Adaptive(segment, {row: Setting(maximum=1) for row in range(n)}),
    )
    for row, bad in enumerate(column(gates.MODEL, True, False)):
        set_model(segment, row, channel.MODEL_NOT_FOUND if bad else channel.AVAILABLE, NOW + 5)
    for row, bad in enumerate(column(gates.KEY, True, False)):
        set_key(segment, row, NOW + 5 if bad else 0)
    for row, bad in enumerate(column(gates.FULL, 1, 0)):
        segment.set(0, row, cells.IN_FLIGHT, bad)
    for row, bad in enumerate(column(gates.BREAKER, True, False)):
        set_breaker(segment, row, OPEN if bad else CLOSED, NOW + 5)
    for row, bad in enumerate(column(gates.COOLDOWN, True, False)):
        segment.set_cell(row, cells.COOLDOWN_UNTIL_MS, NOW + 5 if bad else 0)
    need = need_of(
        half,
        now_ms=NOW,
        tried=[0],
        order=b"\1\0",
        capabilities=1,
        prompt_tokens=5,
        output_tokens=11,
        regions=1 << 2,
        max_cost_pico=5,
    )
    assert pool.gate(need) == 1
    assert [pool.why(i, need) for i in range(n)] == [*order, gates.PASSED]
    assert list(pool) == [n - 1]
    assert pool.removed == tuple(int(gate in order) for gate in range(len(names)))
    assert pool.emptied_by == gates.FULL


def test_the_last_gate_that_took_anyone_is_named(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 0], capabilities=[0, 1, 1])
    need = need_of(half, now_ms=NOW, capabilities=2)
    assert pool.gate(need) == 0
    assert (pool.emptied_by, pool.removed[gates.DRAINED], pool.removed[gates.CAPABILITY]) == (gates.CAPABILITY, 1, 2)


# ---- orders and tiers ----


def test_only_the_first_tier_that_has_anyone(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 5, ranks=[1, 0, 2, 0, 1])
    assert pool.gate(need_of(half, now_ms=NOW)) == 2
    assert list(pool) == [1, 3]
    open_all(segment, [1])
    pool.gate(need_of(half, now_ms=NOW))
    assert list(pool) == [3]
    pool.gate(need_of(half, now_ms=NOW, tried=[3]))
    assert list(pool) == [0, 4]
    pool.gate(need_of(half, now_ms=NOW, tried=[0, 3, 4]))
    assert list(pool) == [2]


def test_a_preferred_provider_comes_before_any_tier(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 6, providers=[0, 0, 1, 1, 2, 2], ranks=[0, 1, 0, 1, 0, 1])
    order = bytes([3, 1, 2])
    tried: list[int] = []
    served = []
    for _ in range(6):
        assert pool.gate(need_of(half, now_ms=NOW, order=order, tried=tried)) == 1
        served.append(pool[0])
        tried.append(pool[0])
    assert served == [2, 3, 4, 5, 0, 1]
    assert pool.gate(need_of(half, now_ms=NOW, order=order, tried=tried)) == 0


def test_providers_of_one_order_are_alike(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 4, providers=[0, 1, 2, 255])
    pool.gate(need_of(half, now_ms=NOW, order=bytes([2, 1, 1]) + bytes(252) + b"\xff"))
    assert list(pool) == [1, 2]
    pool.gate(need_of(half, now_ms=NOW, order=bytes([0, 0, 0]) + bytes(252) + b"\xff"))
    assert list(pool) == [3]


def test_an_order_without_a_place_for_a_provider(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1], providers=[0, 2])
    with pytest.raises(IndexError):
        pool.gate(need_of(half, order=b"\1\1"))
    with pytest.raises(IndexError):
        pool.gate(need_of(half, order=b"\0\0\0", stages=b"\2\2"))


# ---- panic ----


@pytest.mark.parametrize(("shut", "panics"), [(0, False), (3, False), (4, False), (5, True), (8, True)])
def test_below_the_threshold_breakers_are_ignored(half: Half, segment: Any, shut: int, panics: bool) -> None:
    pool = pool_of(half, segment, [1] * 8)
    open_all(segment, range(shut))
    left = pool.gate(need_of(half, now_ms=NOW, panic_percent=50, panic_min=5))
    assert (pool.panicking, left) == (panics, 8 if panics else 8 - shut)
    assert pool.removed[gates.BREAKER] == (0 if panics else shut)


def test_small_pools_do_not_panic(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 5)
    open_all(segment, range(5))
    assert pool.gate(need_of(half, now_ms=NOW, panic_percent=50, panic_min=6)) == 0
    assert (pool.panicking, pool.emptied_by) == (False, gates.BREAKER)
    assert pool.gate(need_of(half, now_ms=NOW, panic_percent=50, panic_min=5)) == 5
    # The next request that finds fewer than that does not inherit it.
    assert pool.gate(need_of(half, now_ms=NOW, panic_percent=50, panic_min=5, tried=[0])) == 0
    assert pool.panicking is False


def test_zero_percent_never_panics(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 5)
    open_all(segment, range(5))
    assert pool.gate(need_of(half, now_ms=NOW, panic_percent=0)) == 0


def test_only_those_that_fit_the_request_count_for_a_panic(half: Half, segment: Any) -> None:
    # Four lack the capability; of the three others two are shut.
    pool = pool_of(half, segment, [1] * 7, capabilities=[0, 0, 0, 0, 1, 1, 1])
    open_all(segment, [0, 1, 4, 5])
    assert pool.gate(need_of(half, now_ms=NOW, capabilities=1, panic_percent=50, panic_min=3)) == 3
    assert (pool.panicking, list(pool)) == (True, [4, 5, 6])


def test_a_panic_opens_no_other_gate(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 6)
    open_all(segment, range(5))
    segment.set_cell(2, cells.COOLDOWN_UNTIL_MS, NOW + 9)
    need = need_of(half, now_ms=NOW, panic_percent=50, panic_min=2, tried=[1])
    pool.gate(need)
    assert (pool.panicking, list(pool)) == (True, [0, 3, 4, 5])
    assert [pool.why(i, need) for i in (0, 1, 2)] == [gates.PASSED, gates.TRIED, gates.COOLDOWN]


def test_all_tiers_count_for_a_panic(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 6, ranks=[0, 0, 0, 1, 1, 1])
    open_all(segment, [0, 1, 2])
    pool.gate(need_of(half, now_ms=NOW, panic_percent=50))
    assert (pool.panicking, list(pool)) == (False, [3, 4, 5])


# ---- when to come back ----


def test_the_earliest_time_one_of_them_is_back(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 4)
    set_breaker(segment, 0, OPEN, NOW + 2_000)
    # Its probes are given up for lost in a minute; they will be back sooner than that.
    set_breaker(segment, 1, HALF_OPEN, NOW + 60_000, probes=1)
    segment.set_cell(2, cells.COOLDOWN_UNTIL_MS, NOW + 1_500)
    need = need_of(half, now_ms=NOW, tried=[3])
    assert pool.gate(need) == 0
    assert pool.retry_at_ms == NOW + 1_000
    segment.set_cell(2, cells.COOLDOWN_UNTIL_MS, NOW + 600)
    pool.gate(need)
    assert pool.retry_at_ms == NOW + 600
    # Who could not serve the request in any case is not waited for.
    assert pool.gate(need_of(half, now_ms=NOW, tried=[1, 2, 3])) == 0
    assert pool.retry_at_ms == NOW + 2_000


def test_there_is_none_where_nobody_is_waited_for(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1])
    open_all(segment, [0])
    pool.gate(need_of(half, now_ms=NOW))
    assert pool.retry_at_ms == NOW + 1_000
    pool.gate(need_of(half, now_ms=NOW, tried=[0, 1]))
    assert pool.retry_at_ms == 0


# ---- weights in force ----


@pytest.mark.parametrize(
    ("since_s", "weight"), [(0, 10), (1, 10), (6, 10), (9, 15), (30, 50), (59.999, 99.9983), (60, 100), (3_600, 100)]
)
def test_slow_start(half: Half, segment: Any, since_s: float, weight: float) -> None:
    pool = pool_of(half, segment, [100, 100])
    segment.set_cell(0, cells.SLOW_START_MS, NOW)
    now_ms = NOW + int(since_s * 1_000)
    pool.gate(need_of(half, now_ms=now_ms, slow_start_ms=60_000))
    assert pool.weight(0, now_ms) == pytest.approx(weight, abs=1e-4)
    assert pool.weight(1, now_ms) == 100.0
    pool.gate(need_of(half, now_ms=now_ms))
    assert pool.weight(0, now_ms) == 100.0


def test_a_slow_start_that_another_worker_has_stamped_later(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [100])
    segment.set_cell(0, cells.SLOW_START_MS, NOW + 2)
    pool.gate(need_of(half, now_ms=NOW, slow_start_ms=60_000))
    assert pool.weight(0, NOW) == 10.0


def test_a_factor_multiplies_the_weight(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [8, 8])
    segment.set_cell(0, cells.SLOW_START_MS, NOW)
    pool.set_factor(0, 0.25)
    assert (pool.weight(0, NOW), pool.weight(1, NOW)) == (2.0, 8.0)
    pool.gate(need_of(half, now_ms=NOW, slow_start_ms=60_000))
    assert pool.weight(0, NOW + 30_000) == 1.0
    assert pool.weights == [8.0, 8.0]
    pool.set_factor(0, 1.0)
    assert pool.weight(0, NOW + 60_000) == 8.0


def test_what_no_factor_is(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [8])
    for wrong in (0.0, -1.0, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="factor"):
            pool.set_factor(0, wrong)
    assert pool.weight(0, NOW) == 8.0
    for position in (-1, 1):
        for call in (
            lambda i=position: pool.set_factor(i, 0.5),
            lambda i=position: pool.weight(i, NOW),
            lambda i=position: pool.why(i, need_of(half)),
        ):
            with pytest.raises(IndexError):
                call()


# ---- who has to stay eligible ----


def test_a_standby_is_a_candidate_after_a_day_without_traffic(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1], ranks=[0, 1])
    attempts = half.attempts.Attempts(segment)
    ticket = attempts.enter(0, 1, 1000, NOW)
    attempts.leave(0, 1, ticket, OK, 300.0, NOW, 0, 0, 1000)
    open_all(segment, [0], NOW + DAY_MS + 1)
    assert pool.gate(need_of(half, now_ms=NOW + DAY_MS, slow_start_ms=10_000)) == 1
    assert list(pool) == [1]
    assert pool.weight(1, NOW + DAY_MS) == 1.0


def test_a_slow_provider_without_errors_stays_eligible(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1])
    attempts = half.attempts.Attempts(segment)
    for step in range(1_000):
        now_ms = NOW + step * 100
        for row, cost_ms in ((0, 200.0), (1, 10_000.0)):
            attempts.leave(0, row, attempts.enter(0, row, 1000, now_ms), OK, cost_ms, now_ms, 0, 0, 1000)
        assert pool.gate(need_of(half, now_ms=now_ms)) == 2
    assert pool.weight(0, now_ms) == pool.weight(1, now_ms)


def test_a_closed_segment(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1])
    empty = pool_of(half, segment, [])
    segment.close()
    for call in (
        lambda: pool.gate(need_of(half)),
        lambda: pool.why(0, need_of(half)),
        lambda: pool.weight(0, NOW),
        lambda: empty.gate(need_of(half)),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


# ---- keys ----


def test_a_key_that_is_out_takes_its_endpoints_along_and_nobody_else(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 5, key_rows=[8, 8, 9, 9, -1])
    assert pool.key_rows == [8, 8, 9, 9, -1]
    open_all(segment, [8])
    assert (pool.gate(need_of(half, now_ms=NOW)), list(pool)) == (3, [2, 3, 4])
    assert pool.removed[gates.BREAKER] == 2
    assert pool.retry_at_ms == NOW + 1_000
    # Once its time is over, and while nobody probes it.
    assert pool.gate(need_of(half, now_ms=NOW + 1_000)) == 5
    set_breaker(segment, 8, HALF_OPEN, NOW + 60_000, probes=0)
    assert pool.gate(need_of(half, now_ms=NOW)) == 5
    set_breaker(segment, 8, HALF_OPEN, NOW + 60_000, probes=1)
    assert list(pool) == [0, 1, 2, 3, 4]
    assert (pool.gate(need_of(half, now_ms=NOW)), list(pool)) == (3, [2, 3, 4])
    assert pool.retry_at_ms == NOW + gates.PROBE_WAIT_MS


def test_a_key_has_one_probe_whatever_its_endpoints_have(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1], key_rows=[9], half_open_max_calls=3)
    set_breaker(segment, 0, HALF_OPEN, NOW + 60_000, probes=2)
    assert pool.gate(need_of(half, now_ms=NOW)) == 1
    set_breaker(segment, 9, HALF_OPEN, NOW + 60_000, probes=1)
    assert pool.gate(need_of(half, now_ms=NOW)) == 0


def test_who_waits_for_both_waits_for_the_later(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1], key_rows=[9])
    for own, key in ((3_000, 5_000), (5_000, 3_000)):
        open_all(segment, [0], NOW + own)
        open_all(segment, [9], NOW + key)
        assert pool.gate(need_of(half, now_ms=NOW)) == 0
        assert pool.retry_at_ms == NOW + 5_000


def test_panic_does_not_bring_back_a_key_that_is_out(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1] * 6, key_rows=[8, 8, 9, 9, -1, -1])
    open_all(segment, [8, 2, 3, 4])
    assert (pool.gate(need_of(half, now_ms=NOW, panic_percent=50)), pool.panicking) == (4, True)
    assert list(pool) == [2, 3, 4, 5]


def test_rows_of_keys_that_do_not_exist(half: Half, segment: Any) -> None:
    for wrong in (ENDPOINTS, -2):
        with pytest.raises(IndexError):
            pool_of(half, segment, [1.0], key_rows=[wrong])
    with pytest.raises(ValueError, match="of one length"):
        pool_of(half, segment, [1.0, 1.0], key_rows=[3])
    assert pool_of(half, segment, [1.0, 1.0]).key_rows == [gates.NO_KEY] * 2


def test_narrowing_keeps_what_stands_between(half: Half, segment: Any) -> None:
    pool = pool_of(half, segment, [1, 1, 0, 1, 1])
    assert (pool.narrow(1, 4), list(pool), len(pool)) == (2, [1, 3], 2)
    assert (pool.narrow(2, 9), list(pool)) == (1, [3])
    assert (pool.narrow(0, 0), list(pool)) == (0, [])
    # Until the next gate.
    assert pool.gate(need_of(half)) == 4
