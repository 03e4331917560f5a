"""Words, settings and checks that both halves of `adaptive` use, and the layout of an endpoint's cells.

    ADAPTIVE              state:2  kind:2  seen:4   mark:24  limit:32 (a float)   (from the lowest bit)
    PACE                  requests sent:32  aimd: what was too much, gradient2: the long average:32 (a float)
    QUOTA_REQUESTS        remaining:32  limit:32      QUOTA_TOKENS        the same, in tokens
    QUOTA_REQUESTS_TIMES  span:24 ms  full at:40 ms   QUOTA_TOKENS_TIMES  the same

`seen`: of gradient2 the samples taken, up to WARM_UP; of aimd REFUSED once something was, and ANSWERED if something was
since. `mark`: the requests sent
up to the last decrease, modulo 2**24. What `remaining` says held `span` before `full at`.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fastroute.interfaces import (
    DAY_REQUESTS_LEFT,
    DAY_TOKENS_LEFT,
    INPUT_TOKENS_LEFT,
    MONTH_LEFT,
    OUTPUT_TOKENS_LEFT,
    REQUESTS_LEFT,
    TOKENS_LEFT,
)

# States.
LEARNING: Final = 0  # finding out what the endpoint allows
STABLE: Final = 1  # going by what is known
COOLDOWN: Final = 2  # left alone, because it refused
STATES: Final = ("learning", "stable", "cooldown")

# Kinds.
OFF: Final = 0
AIMD: Final = 1
GRADIENT2: Final = 2
KINDS: Final = ("off", "aimd", "gradient2")

# Headroom, as candidates are ordered by it.
ROOMY: Final = 0
LOW: Final = 1
USED_UP: Final = 2
HEADROOM: Final = ("roomy", "low", "used_up")

# Bits of `seen`, with aimd.
REFUSED: Final = 1
ANSWERED: Final = 2

MARKS: Final = 1 << 24
MAX_LIMIT: Final = 1_000_000
#: A quota of more than this is taken for one of this.
MAX_QUOTA: Final = (1 << 31) - 1
MAX_SPAN_MS: Final = (1 << 24) - 1
#: A provider that does not say when a quota is full again means the coming minute.
DEFAULT_RESET_MS: Final = 60_000
#: A quota of longer is taken for one of a month.
MAX_RESET_MS: Final = 31 * 86_400_000
#: Which dimensions of an Allowance the two quotas stand for.
REQUEST_DIMENSIONS: Final = (REQUESTS_LEFT, DAY_REQUESTS_LEFT)
TOKEN_DIMENSIONS: Final = (TOKENS_LEFT, INPUT_TOKENS_LEFT, OUTPUT_TOKENS_LEFT, DAY_TOKENS_LEFT, MONTH_LEFT)
#: After a refusal, the limit is this part of what was too much.
DECREASE: Final = 0.5
#: Grown back to this part of what was too much, the limit is taken to be known.
KNOWN_SHARE: Final = 0.9
#: A known limit grows by 1 in this many rounds. (A round: as many answers as the limit.)
STABLE_ROUNDS: Final = 8.0
#: The least it grows by, relative to itself: what a 32-bit float can just hold.
LEAST_GROWTH: Final = 2.4e-7
#: A request is answered within this time: afterwards no answer is to one that was sent before the last decrease.
STALE_MS: Final = 600_000
#: So long after the last refusal, what was too much then is no measure any more.
QUIET_MS: Final = 60_000
#: Requests of which fewer are left than this are few, whatever the limit.
FEW_REQUESTS: Final = 2

# Gradient2 (Netflix concurrency-limits, Gradient2Limit).
WARM_UP: Final = 10
LONG_WINDOW: Final = 600
SMOOTHING: Final = 0.2
QUEUE: Final = 4.0
#: Where the long average is more than twice the sample, it is reduced to this part of itself.
LONG_DECAY: Final = 0.9
#: A sample of more is taken for this.
MAX_SAMPLE_MS: Final = 1e9

#: While an endpoint has as many requests in flight as it takes, this is when it may be asked for again.
FULL_WAIT_MS: Final = 1_000


class Setting(NamedTuple):
    """How one endpoint's limit is found. initial, maximum: 0 for none. headroom_percent: of a quota, below which
    others are preferred. forget_ms: a limit of aimd that long after the last refusal is forgotten.
    """

    kind: int = AIMD
    minimum: int = 1
    maximum: int = 0
    initial: int = 0
    headroom_percent: int = 10
    forget_ms: int = 600_000


class Word(NamedTuple):
    """What an ADAPTIVE cell holds. limit: 0 for none."""

    state: int
    kind: int
    seen: int
    mark: int
    limit: float


class Quota(NamedTuple):
    """What a provider's header fields say of one quota, brought up to now. limit: 0 where nothing is known."""

    limit: int = 0
    remaining: int = 0
    full_in_ms: int = 0


class View(NamedTuple):
    """What is known of one endpoint. limit: requests in flight, 0 for none. too_much: how many were refused, 0 if
    none were. long_ms: gradient2's long average of the normalised time to the first token.
    """

    state: int
    kind: int
    limit: float
    in_flight: int
    too_much: float
    long_ms: float
    cooldown_ms: int
    headroom: int
    requests: Quota
    tokens: Quota


def pack_word(word: Word) -> int:
    """Return an ADAPTIVE cell, as the signed number that the segment keeps."""
    low = word.state | word.kind << 2 | word.seen << 4 | word.mark % MARKS << 8
    return low | float_bits(word.limit) << 32


def unpack_word(cell: int) -> Word:
    """Return what an ADAPTIVE cell holds."""
    return Word(cell & 3, cell >> 2 & 3, cell >> 4 & 0xF, cell >> 8 & 0xFFFFFF, bits_float(cell >> 32 & 0xFFFFFFFF))


def float_bits(value: float) -> int:
    """Return the 32 bits of a number that is not negative."""
    bits: int = struct.unpack("=I", struct.pack("=f", value))[0]
    return bits


def bits_float(bits: int) -> float:
    """Return the number that 32 bits stand for."""
    value: float = struct.unpack("=f", struct.pack("=I", bits))[0]
    return value


def same_segment(adaptive: Any, segment: object) -> None:
    """Raise ValueError if what goes by the limits is of another segment: its rows would be others."""
    if adaptive is not None and adaptive.segment is not segment:
        raise ValueError("adaptive must be of the same segment")


def checked(settings: Mapping[int, Setting], endpoints: int) -> Mapping[int, Setting]:
    """Return the settings, or raise IndexError for a row that the segment does not have, ValueError for a setting."""
    for row, setting in settings.items():
        if not 0 <= row < endpoints:
            raise IndexError(f"endpoint {row} is not in 0..{endpoints - 1}")
        if setting.kind not in (AIMD, GRADIENT2):
            raise ValueError("kind must be aimd or gradient2; leave out the endpoints that have none")
        top = setting.maximum or MAX_LIMIT
        if not 1 <= setting.minimum <= top <= MAX_LIMIT:
            raise ValueError("limits must be 1 to 1000000, and the least not above the greatest")
        if setting.initial and not setting.minimum <= setting.initial <= top:
            raise ValueError("the initial limit must be between the least and the greatest")
        if setting.kind == GRADIENT2 and not setting.initial:
            raise ValueError("gradient2 needs an initial limit")
        if not 0 <= setting.headroom_percent <= 100 or setting.forget_ms < 1:
            raise ValueError("headroom_percent must be 0 to 100, forget_ms at least 1")
    return settings


def gradient2(limit: float, long_ms: float, short_ms: float, in_flight: int) -> float:
    """Return the next limit. Where less than half of the limit is in use, nothing is learnt."""
    if in_flight * 2 < limit:
        return limit
    gradient = 1.0 if short_ms <= long_ms else max(0.5, long_ms / short_ms)
    return limit * (1.0 - SMOOTHING) + (limit * gradient + QUEUE) * SMOOTHING


def long_average(long_ms: float, short_ms: float, count: int) -> float:
    """Return the long average with one sample more. count: those that it has in it already, up to WARM_UP."""
    if long_ms <= 0.0:
        return short_ms
    if count < WARM_UP:
        longer = (long_ms * count + short_ms) / (count + 1)
    else:
        longer = long_ms + (short_ms - long_ms) * 2.0 / (LONG_WINDOW + 1)
    return longer * LONG_DECAY if longer > 2.0 * short_ms else longer


def grown(state: int, limit: float, too_much: float, maximum: int) -> tuple[int, float, float]:
    """Return (state, limit, too_much) of aimd after an answer while at least half of the limit was in use."""
    if state == LEARNING:
        if too_much > 0.0 and limit + 1.0 >= KNOWN_SHARE * too_much:
            state, limit = STABLE, max(limit, KNOWN_SHARE * too_much)
        else:
            limit += 1.0
    else:
        limit += max(1.0 / (STABLE_ROUNDS * limit), LEAST_GROWTH * limit)
        if too_much > 0.0 and limit >= too_much + 1.0:
            # It takes more than it used to.
            state, too_much = LEARNING, 0.0
    top = maximum or MAX_LIMIT
    if limit >= top:
        state, limit = STABLE, float(top)
    return state, limit, too_much


def describe(view: View) -> dict[str, object]:
    """Return what is known of an endpoint as a document: for the admin API and explain."""
    return {
        "kind": KINDS[view.kind],
        "state": STATES[view.state],
        "concurrency": {
            "limit": int(view.limit) if view.limit else None,
            "in_flight": view.in_flight,
            "too_much": int(view.too_much) if view.too_much else None,
        },
        "cooldown_ms": view.cooldown_ms,
        "headroom": HEADROOM[view.headroom],
        "requests": _quota(view.requests),
        "tokens": _quota(view.tokens),
    }


def _quota(quota: Quota) -> dict[str, int] | None:
    return quota._asdict() if quota.limit else None
