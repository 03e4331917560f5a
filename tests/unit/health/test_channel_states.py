"""The state machines of keys and of models, event by event, and whatever comes in whatever order."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._channel_rules import (
    AVAILABLE,
    BALANCE_EXHAUSTED,
    BALANCE_LOW,
    BALANCE_OK,
    BALANCE_UNKNOWN,
    BALANCES,
    MARKS,
    MAX_STRIKES,
    MODEL_NOT_FOUND,
    NEVER_MS,
    QUOTA_EXHAUSTED,
    RATE_LIMITED,
    REJECTED,
    STATUSES,
    TEMPORARILY_DOWN,
    State,
    pack_state,
    unpack_state,
)
from fastroute.health.channel_states import (
    LONGEST_MS,
    LONGEST_QUOTA_MS,
    TRIAL_LOST_MS,
    Event,
    KeyEventName,
    ModelEventName,
    is_model_out,
    is_out,
    key_after,
    model_after,
    out_ms,
)
from fastroute.interfaces import CAUSES, Cause

NOW = 1_000_000
MARK = 77
KEY_EVENTS: tuple[KeyEventName, ...] = get_args(KeyEventName)
MODEL_EVENTS: tuple[ModelEventName, ...] = get_args(ModelEventName)
CAUSE = {cause: number for number, cause in enumerate(CAUSES)}
KEY_CAUSES: dict[str, Cause] = {"rejected": "invalid_key", "broke": "out_of_money", "poor": "low_balance"}
MODEL_CAUSES: dict[str, Cause] = {
    "limited": "requests", "down": "overloaded", "used_up": "day_quota", "gone": "model_not_found",
}  # fmt: skip


def key(name: KeyEventName, state: State, now_ms: int = NOW, on_trial: bool = False, mark: int = MARK) -> State | None:
    return key_after(state, name, Event(now_ms, KEY_CAUSES.get(name, ""), on_trial, mark))


def model(
    name: ModelEventName, state: State, now_ms: int = NOW, on_trial: bool = False, mark: int = MARK, until_ms: int = 0
) -> State | None:
    return model_after(state, name, Event(now_ms, MODEL_CAUSES.get(name, ""), on_trial, mark, until_ms))


UNKNOWN = State(BALANCE_UNKNOWN)
FINE = State(BALANCE_OK, mark=MARK)
LOW = State(BALANCE_LOW, CAUSE["low_balance"], mark=MARK)
REFUSED = State(BALANCE_OK | REJECTED, CAUSE["invalid_key"], 1, mark=MARK, until_ms=NOW + 300_000)
BROKE = State(BALANCE_EXHAUSTED, CAUSE["out_of_money"], 1, mark=MARK, until_ms=NOW + 300_000)
OFF = State(BALANCE_OK | REJECTED, CAUSE["switched_off"], mark=MARK, until_ms=NEVER_MS)


def due(state: State) -> State:
    return state._replace(until_ms=NOW)


def trial(state: State) -> State:
    return state._replace(trial=1, until_ms=NOW + TRIAL_LOST_MS)


def longer(state: State) -> State:
    return state._replace(strikes=2, trial=0, until_ms=NOW + 600_000)


#: (state, event, whether it is of the trial, what follows; None for nothing).
KEY_TABLE: list[tuple[State, KeyEventName, bool, State | None]] = [
    (UNKNOWN, "answered", False, FINE),
    (UNKNOWN, "rejected", False, REFUSED._replace(kind=REJECTED)),
    (UNKNOWN, "broke", False, BROKE),
    (UNKNOWN, "poor", False, LOW),
    (UNKNOWN, "rich", False, FINE),
    (UNKNOWN, "switched_off", False, OFF._replace(kind=REJECTED)),
    (FINE, "answered", False, None),
    (FINE, "rejected", False, REFUSED),
    (FINE, "broke", False, BROKE),
    (FINE, "poor", False, LOW),
    (FINE, "rich", False, None),
    (FINE, "claimed", False, None),
    (FINE, "returned", True, None),
    (FINE, "switched_off", False, OFF),
    (LOW, "answered", False, None),
    (LOW, "rejected", False, REFUSED._replace(kind=BALANCE_LOW | REJECTED)),
    (LOW, "broke", False, BROKE),
    (LOW, "poor", False, None),
    (LOW, "rich", False, FINE),
    # Out: what was under way says nothing new.
    *((state, name, False, None) for state in (REFUSED, BROKE) for name in KEY_EVENTS if "switched" not in name),
    (due(REFUSED), "claimed", False, trial(REFUSED)),
    (due(BROKE), "claimed", False, trial(BROKE)),
    # One is under way: there is no other until it is lost.
    (trial(REFUSED), "claimed", False, None),
    (trial(REFUSED), "answered", False, None),
    (trial(REFUSED), "answered", True, FINE),
    (trial(REFUSED), "rejected", True, longer(REFUSED)),
    (trial(REFUSED), "broke", True, longer(BROKE)),
    (trial(REFUSED), "poor", True, LOW),
    (trial(REFUSED), "returned", True, due(REFUSED)),
    (trial(BROKE), "answered", True, FINE),
    (trial(BROKE), "broke", True, longer(BROKE)),
    (trial(BROKE), "rejected", True, longer(REFUSED)._replace(kind=BALANCE_EXHAUSTED | REJECTED)),
    (trial(BROKE), "poor", True, LOW),
    # By hand, whatever else happens.
    *((OFF, name, tried, None) for name in KEY_EVENTS if not name.startswith("switched") for tried in (False, True)),
    *((state, "switched_on", False, State(mark=MARK)) for state in (UNKNOWN, FINE, LOW, REFUSED, BROKE, OFF)),
    *((state, "switched_off", False, OFF) for state in (REFUSED, trial(REFUSED), OFF)),
]  # fmt: skip


@pytest.mark.parametrize(("before", "name", "on_trial", "after"), KEY_TABLE)
def test_keys(before: State, name: KeyEventName, on_trial: bool, after: State | None) -> None:
    assert key(name, before, on_trial=on_trial) == after


def test_every_event_of_a_key_is_in_the_table() -> None:
    assert {name for _, name, _, _ in KEY_TABLE} == set(KEY_EVENTS)


THERE = State(AVAILABLE, mark=MARK)
LIMITED = State(RATE_LIMITED, CAUSE["requests"], mark=MARK, until_ms=NOW + 5000)
DOWN = State(TEMPORARILY_DOWN, CAUSE["overloaded"], mark=MARK, until_ms=NOW + 5000)
USED_UP = State(QUOTA_EXHAUSTED, CAUSE["day_quota"], 1, mark=MARK, until_ms=NOW + 60_000)
GONE = State(MODEL_NOT_FOUND, CAUSE["model_not_found"], 1, mark=MARK, until_ms=NOW + 60_000)

#: As above; a limit and an outage are over at NOW + 5000.
MODEL_TABLE: list[tuple[State, ModelEventName, bool, State | None]] = [
    (THERE, "answered", False, None),
    (THERE, "limited", False, LIMITED),
    (THERE, "down", False, DOWN),
    (THERE, "used_up", False, USED_UP),
    (THERE, "gone", False, GONE),
    (THERE, "claimed", False, None),
    (THERE, "returned", True, None),
    (LIMITED, "answered", False, None),
    (LIMITED, "limited", False, None),
    (LIMITED._replace(until_ms=NOW + 4999), "limited", False, LIMITED),
    (LIMITED._replace(until_ms=NOW - 1), "limited", False, LIMITED),
    (LIMITED._replace(until_ms=NOW + 5001), "down", False, None),
    (LIMITED._replace(until_ms=NOW + 4999), "down", False, DOWN),
    (LIMITED, "used_up", False, USED_UP),
    (LIMITED, "gone", False, GONE),
    (DOWN._replace(until_ms=NOW + 1), "limited", False, LIMITED),
    (DOWN, "gone", False, GONE),
    *((GONE, name, False, None) for name in MODEL_EVENTS if name != "switched_on"),
    *((USED_UP, name, False, None) for name in MODEL_EVENTS if name != "switched_on"),
    (due(GONE), "claimed", False, trial(GONE)),
    (trial(GONE), "claimed", False, None),
    (trial(GONE), "answered", True, THERE),
    (trial(GONE), "answered", False, None),
    (trial(GONE), "gone", True, GONE._replace(strikes=2, until_ms=NOW + 120_000)),
    (trial(GONE), "used_up", True, USED_UP),
    (trial(GONE), "limited", True, LIMITED),
    (trial(GONE), "down", True, None),
    (trial(GONE), "returned", True, due(GONE)),
    (trial(USED_UP), "used_up", True, USED_UP._replace(strikes=2, until_ms=NOW + 120_000)),
    (trial(USED_UP), "answered", True, THERE),
    *((state, "switched_on", False, THERE) for state in (THERE, LIMITED, DOWN, USED_UP, GONE, trial(GONE))),
]


@pytest.mark.parametrize(("before", "name", "on_trial", "after"), MODEL_TABLE)
def test_models(before: State, name: ModelEventName, on_trial: bool, after: State | None) -> None:
    until_ms = NOW + 5000 if name in ("limited", "down") else 0
    assert model(name, before, on_trial=on_trial, until_ms=until_ms) == after


def test_every_event_of_a_model_is_in_the_table() -> None:
    assert {name for _, name, _, _ in MODEL_TABLE} == set(MODEL_EVENTS)
    assert {state.kind for state, *_ in MODEL_TABLE} == set(range(len(STATUSES)))


def test_each_time_in_a_row_takes_twice_as_long() -> None:
    assert [out_ms("invalid_key", n) // 60_000 for n in range(1, 7)] == [5, 10, 20, 40, 60, 60]
    assert [out_ms("out_of_money", n) // 60_000 for n in range(1, 4)] == [5, 10, 20]
    assert [out_ms("model_not_found", n) // 60_000 for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert out_ms("invalid_key", MAX_STRIKES) == LONGEST_MS
    # Who may have been refused for what was asked is not out for long.
    assert [out_ms("no_permission", n) // 1000 for n in range(1, 8)] == [10, 20, 40, 80, 160, 300, 300]


def test_a_quota_is_renewed_when_the_provider_says() -> None:
    day = 86_400_000
    for said_ms, out in ((1, 1), (13_262_000, 13_262_000), (day, day), (day + 1, LONGEST_QUOTA_MS), (10**12, day)):
        after = model("used_up", THERE, until_ms=NOW + said_ms)
        assert after is not None
        assert after.until_ms == NOW + out
    # Who has spoken of a time that is over is asked again at once, but by one request.
    after = model("used_up", THERE, until_ms=NOW - 5)
    assert after is not None
    assert after.until_ms == NOW + 1


@pytest.mark.parametrize("name", KEY_EVENTS)
def test_events_about_a_credential_that_has_been_replaced_count_no_more(name: KeyEventName) -> None:
    for state in (FINE, LOW, REFUSED, trial(REFUSED)):
        for on_trial in (False, True):
            after = key(name, state, on_trial=on_trial, mark=MARK + 1)
            assert after == (State(mark=MARK + 1) if name == "switched_on" else None)


states = st.builds(
    State, st.integers(0, 7), st.integers(0, 31), st.integers(0, 31), st.integers(0, 1), st.integers(0, MARKS - 1),
    st.integers(0, 1), st.integers(0, NEVER_MS),
)  # fmt: skip


@given(states)
def test_a_word_holds_a_state(state: State) -> None:
    word = pack_state(state)
    assert 0 <= word < 1 << 63
    assert unpack_state(word) == state


def test_a_word_holds_no_time_that_is_too_late() -> None:
    assert unpack_state(pack_state(State(until_ms=1 << 50))).until_ms == NEVER_MS


key_steps = st.lists(
    st.tuples(st.sampled_from(KEY_EVENTS), st.booleans(), st.integers(0, 1_000_000), st.sampled_from([MARK, MARK, 5]))
)


@given(key_steps)
def test_whatever_happens_to_a_key(steps: list[tuple[KeyEventName, bool, int, int]]) -> None:
    """It is out only for a reason and never for ever but by hand; only a trial, or somebody by hand, brings it back."""
    now_ms, state = NOW, UNKNOWN
    for name, on_trial, pause_ms, mark in steps:
        now_ms += pause_ms
        after = key(name, state, now_ms, on_trial, mark)
        if after is None:
            continue
        assert unpack_state(pack_state(after)) == after
        assert is_out(after) == (after.kind == BALANCE_EXHAUSTED or bool(after.kind & REJECTED))
        assert (after.kind & 3) < len(BALANCES)
        if is_out(after):
            assert CAUSES[after.cause] in ("invalid_key", "out_of_money", "switched_off")
            if after.cause != CAUSE["switched_off"]:
                assert after.until_ms <= now_ms + LONGEST_MS
        else:
            assert after.strikes == 0
            assert CAUSES[after.cause] in ("", "low_balance")
            assert not is_out(state) or on_trial or name == "switched_on"
        if name == "claimed":
            assert state.until_ms <= now_ms < after.until_ms == now_ms + TRIAL_LOST_MS
            # Nobody else has it now.
            assert key("claimed", after, now_ms) is None
        state = after


model_steps = st.lists(
    st.tuples(st.sampled_from(MODEL_EVENTS), st.booleans(), st.integers(0, 1_000_000), st.integers(-5000, 10**9))
)


@given(model_steps)
def test_whatever_happens_to_a_model(steps: list[tuple[ModelEventName, bool, int, int]]) -> None:
    now_ms, state = NOW, State()
    for name, on_trial, pause_ms, said_ms in steps:
        now_ms += pause_ms
        said = said_ms if name in ("limited", "down", "used_up") else 0
        after = model(name, state, now_ms, on_trial, until_ms=now_ms + said if said else 0)
        if after is None:
            continue
        assert unpack_state(pack_state(after)) == after
        assert after.kind < len(STATUSES)
        if is_model_out(after):
            assert now_ms <= after.until_ms <= now_ms + LONGEST_QUOTA_MS
            assert CAUSES[after.cause] in ("day_quota", "model_not_found")
        elif is_model_out(state):
            assert on_trial or name == "switched_on"
        if name == "claimed":
            assert state.until_ms <= now_ms
            assert model("claimed", after, now_ms) is None
        state = after
