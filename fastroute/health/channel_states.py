"""How the state of a key, and of a model of a key, follows from what happens: a state and an event in, a state out.

    key      event        unknown, ok, low         out (rejected, exhausted)      out, its trial
             answered     ok (low stays)           -                              ok
             rejected     out, rejected            -                              out for longer
             broke        out, exhausted           -                              out for longer
             poor         low                      -                              low
             rich         ok                       -                              -
             claimed      -                        when its time is over: trial   when it is lost: another trial
             returned     -                        -                              out, but may be tried at once
             switched_off out for good             out for good                   out for good
             switched_on  unknown                  unknown                        unknown

    model    event        available, limited, down out (not found, no quota)      out, its trial
             answered     -                        -                              available
             limited      rate limited             -                              rate limited
             down         temporarily down         -                              -
             used_up      out, quota exhausted     -                              out for longer
             gone         out, model not found     -                              out for longer
             claimed, returned, switched_on: as above; switched_on makes it available

`-` changes nothing: what comes of an attempt that was under way when its key went out says nothing new.
"""

from typing import Final, Literal, NamedTuple

from fastroute._core._channel_rules import (
    AVAILABLE,
    BALANCE_EXHAUSTED,
    BALANCE_LOW,
    BALANCE_OK,
    BALANCE_UNKNOWN,
    GATED,
    MAX_STRIKES,
    MODEL_NOT_FOUND,
    NEVER_MS,
    QUOTA_EXHAUSTED,
    RATE_LIMITED,
    REJECTED,
    TEMPORARILY_DOWN,
    State,
)
from fastroute.interfaces import CAUSES, Cause

KeyEventName = Literal[
    "answered", "rejected", "broke", "poor", "rich", "claimed", "returned", "switched_off", "switched_on"
]
ModelEventName = Literal["answered", "limited", "down", "used_up", "gone", "claimed", "returned", "switched_on"]

#: A trial that has not come back after this long died with its worker.
TRIAL_LOST_MS: Final = 60_000
#: The first time that something is out, by its cause; each further time in a row takes twice as long.
FIRST_MS: Final[dict[Cause, int]] = {"invalid_key": 300_000, "out_of_money": 300_000}
FIRST_OTHER_MS: Final = 60_000
LONGEST_MS: Final = 3_600_000
#: A refusal that does not say what is wrong may be about what was asked: not for long, so that others can tell.
DOUBTFUL_MS: Final = 10_000
LONGEST_DOUBTFUL_MS: Final = 300_000
#: A provider's word on when a quota is renewed is believed up to this long.
LONGEST_QUOTA_MS: Final = 86_400_000

_NUMBERS: Final = {cause: number for number, cause in enumerate(CAUSES)}
_SWITCHED_OFF: Final = _NUMBERS["switched_off"]


class Event(NamedTuple):
    """What has happened. on_trial: to the one attempt that was let through to see. mark: of the credential it was made
    with. until_ms: when it is over, if the provider has said so, else 0.
    """

    now_ms: int
    cause: Cause = ""
    on_trial: bool = False
    mark: int = 0
    until_ms: int = 0


def is_out(state: State) -> bool:
    """Whether a key may be used by a trial at most."""
    return state.until_ms > 0


def is_model_out(state: State) -> bool:
    """Whether a model may be used by a trial at most."""
    return state.kind in GATED


def out_ms(cause: Cause, strikes: int) -> int:
    """Return how long something is out, the n-th time in a row."""
    if cause == "no_permission":
        return int(min(LONGEST_DOUBTFUL_MS, DOUBTFUL_MS << max(0, strikes - 1)))
    return int(min(LONGEST_MS, FIRST_MS.get(cause, FIRST_OTHER_MS) << max(0, strikes - 1)))


def key_after(state: State, name: KeyEventName, event: Event) -> State | None:
    """Return the state of a key after an event, None if that changes nothing."""
    if name == "switched_on":
        return State(mark=event.mark)
    if _is_stale(state, event):
        return None
    if name == "switched_off":
        return State(state.kind & 3 | REJECTED, _SWITCHED_OFF, mark=event.mark, until_ms=NEVER_MS)
    if state.cause == _SWITCHED_OFF:
        return None
    if is_out(state):
        return _out_key_after(state, name, event)
    if name in ("rejected", "broke"):
        return _thrown_out(state, name, event)
    balance = {"poor": BALANCE_LOW, "rich": BALANCE_OK}.get(name, state.kind)
    if name == "answered" and state.kind == BALANCE_UNKNOWN:
        balance = BALANCE_OK
    if balance == state.kind:
        return None
    return State(balance, _NUMBERS[event.cause] if name == "poor" else 0, mark=event.mark)


def _out_key_after(state: State, name: KeyEventName, event: Event) -> State | None:
    if name == "claimed":
        return _claimed(state, event)
    if not event.on_trial:
        return None
    if name in ("rejected", "broke"):
        return _thrown_out(state, name, event)
    if name in ("answered", "rich"):
        return State(BALANCE_OK, mark=event.mark)
    if name == "poor":
        return State(BALANCE_LOW, _NUMBERS[event.cause], mark=event.mark)
    return _returned(state, event)


def _thrown_out(state: State, name: KeyEventName, event: Event) -> State:
    kind = BALANCE_EXHAUSTED if name == "broke" else state.kind & 3 | REJECTED
    strikes = min(MAX_STRIKES, state.strikes + 1)
    until_ms = event.now_ms + out_ms(event.cause, strikes)
    return State(kind, _NUMBERS[event.cause], strikes, mark=event.mark, until_ms=until_ms)


def model_after(state: State, name: ModelEventName, event: Event) -> State | None:
    """Return the state of a model of a key after an event, None if that changes nothing."""
    if name == "switched_on":
        return State(mark=event.mark)
    if _is_stale(state, event):
        return None
    if is_model_out(state):
        if name == "claimed":
            return _claimed(state, event)
        if not event.on_trial or name == "down":
            return None
        if name == "returned":
            return _returned(state, event)
    if name in ("limited", "down"):
        return _limited(state, RATE_LIMITED if name == "limited" else TEMPORARILY_DOWN, event)
    if name in ("used_up", "gone"):
        return _model_out(state, QUOTA_EXHAUSTED if name == "used_up" else MODEL_NOT_FOUND, event)
    if name == "answered" and is_model_out(state):
        return State(AVAILABLE, mark=event.mark)
    return None


def _limited(state: State, kind: int, event: Event) -> State | None:
    """Return a state that passes by itself. The longest of several counts."""
    if state.kind == kind and event.until_ms <= state.until_ms:
        return None
    if not is_model_out(state) and state.until_ms > event.until_ms:
        return None
    return State(kind, _NUMBERS[event.cause], mark=event.mark, until_ms=event.until_ms)


def _model_out(state: State, kind: int, event: Event) -> State:
    strikes = min(MAX_STRIKES, state.strikes + 1 if state.kind == kind else 1)
    until_ms = event.now_ms + out_ms(event.cause, strikes)
    if event.until_ms:
        until_ms = min(event.until_ms, event.now_ms + LONGEST_QUOTA_MS)
    return State(kind, _NUMBERS[event.cause], strikes, mark=event.mark, until_ms=max(until_ms, event.now_ms + 1))


def _claimed(state: State, event: Event) -> State | None:
    if state.until_ms > event.now_ms:
        return None
    return state._replace(trial=1, until_ms=event.now_ms + TRIAL_LOST_MS)


def _returned(state: State, event: Event) -> State | None:
    return state._replace(trial=0, until_ms=max(1, event.now_ms)) if state.trial else None


def _is_stale(state: State, event: Event) -> bool:
    """Whether an event is about another credential than the state, which has been replaced since."""
    return state.mark not in (0, event.mark)
