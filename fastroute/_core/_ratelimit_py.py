"""Pure half of `ratelimit`: the readable reference.

Field names, by provider:

    x-ratelimit-limit-requests, -remaining-requests, -reset-requests; the same of tokens      OpenAI, Azure, Groq, xAI
    x-ratelimit-limit-requests-day, -tokens-minute, ...                                       Cerebras, SambaNova
    x-ratelimit-limit-req-minute, -tokens-minute, -tokens-month, (x-)ratelimitbysize-limit    Mistral
    x-ratelimit-limit-tokens-prompt, -tokens-generated                                        Fireworks
    x-ratelimit-limit, x-tokenlimit-limit; ratelimit-limit (IETF draft)                       Together, OpenRouter
    anthropic-ratelimit-requests-limit; tokens, input-tokens, output-tokens                   Anthropic
    x-trial-endpoint-call-limit, x-endpoint-monthly-call-limit                                Cohere

A limit or what is left of it is a decimal number of up to 15 digits before the point, of which the fraction is dropped;
anything else, the -1 that Azure sends included, counts as not said. A time is one of

    1ms, 17.399999999s, 2m59.56s, 6m0s, 1h0m0s     a duration, by unit
    2026-03-10T22:26:48Z                           a date of RFC 3339
    33, 0.5                                        seconds
    1786000000, 1786000000000                      Unix time, in seconds (from 10**9) or milliseconds (from 10**12)

A time that has passed is 0; one of more than `MAX_RESET_MS` is taken for that.
"""

import re
from functools import lru_cache
from math import ceil
from typing import Final

from fastroute._core._ratelimit_rules import (
    DAILY_MS,
    EPOCH_MS,
    EPOCH_S,
    KINDS,
    LONG_MS,
    MAX_DIGITS,
    MAX_RESET_MS,
    MONTHLY_MS,
    SLACK_MS,
    UNITS_MS,
    WHATS,
)
from fastroute.interfaces import (
    DAY_REQUESTS_LEFT,
    DAY_TOKENS_LEFT,
    DIMENSIONS,
    MONTH_LEFT,
    REQUESTS_LEFT,
    TOKENS_LEFT,
    Allowance,
    Header,
)

_NUMBER: Final = re.compile(rb"([0-9]{1,%d})(?:\.([0-9]{1,32}))?" % MAX_DIGITS)
_PART: Final = re.compile(_NUMBER.pattern + rb"(ms|us|ns|h|m|s|\xc2\xb5s)")
_DATE: Final = re.compile(
    rb"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]{1,32})?"
    rb"([Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
#: Of so many fields at most, so that what is remembered of them has a bound.
_PLACED_FIELDS: Final = 64
_WHATS: Final = {what: place for place, what in enumerate(WHATS)}
_LIMIT, _REMAINING, _RESET = 0, 1, 2
#: Where the fields that do not say what they are about are kept until all have been read.
_BARE: Final = DIMENSIONS


def read_allowance(headers: list[Header], wall_ms: int) -> Allowance | None:
    """Return what the fields say, None if there are none. wall_ms: Unix time now. Names are in lower case.

    Of several fields for one thing the first counts; one that does not name its dimension is about requests, where
    no other is. Requests and tokens whose renewal would take hours or weeks are those of a day or a month.
    """
    if len(headers) == 0:
        return None
    names, values = zip(*headers, strict=True)
    # Nearly all answers of an endpoint have the same fields; what their names say is remembered.
    find = _places if len(names) <= _PLACED_FIELDS else _places.__wrapped__
    placed = find(names)
    if not placed:
        return None
    found = [-1] * (3 * (DIMENSIONS + 1))
    in_units = [False] * (DIMENSIONS + 1)
    known = False
    for at, place in placed:
        if found[place] >= 0:
            continue
        value = values[at]
        if place % 3 == _RESET:
            found[place], in_units[place // 3] = _time(value.strip(b" \t"), wall_ms)
        else:
            found[place] = _count(value.strip(b" \t"))
        known = known or found[place] >= 0
    if not known:
        return None
    if found[_LIMIT] < 0 and found[_REMAINING] < 0 and found[_RESET] < 0:
        found[:3] = found[3 * _BARE :]
    if in_units[REQUESTS_LEFT]:
        _move(found, REQUESTS_LEFT, DAY_REQUESTS_LEFT)
    if in_units[TOKENS_LEFT] and found[3 * TOKENS_LEFT + _RESET] > LONG_MS:
        _move(found, TOKENS_LEFT, DAY_TOKENS_LEFT)
    return Allowance(*found[: 3 * DIMENSIONS])


@lru_cache(maxsize=256)
def _places(names: tuple[bytes, ...]) -> tuple[tuple[int, int], ...]:
    """Return which of the fields count, and where the value of each belongs."""
    return tuple((at, place) for at, name in enumerate(names) if (place := _place(name)) >= 0)


def _place(name: bytes) -> int:
    """Return where a field's value belongs, -1 for one that is about something else."""
    if name.startswith(b"x-ratelimit"):
        return _kind_last(name[11:])
    if name.startswith(b"anthropic-ratelimit-"):
        kind, _, what = name[20:].rpartition(b"-")
        # The names of limits that run beside these (priority, unified) have more before or after the dimension.
        if what in _WHATS and kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens"):
            return 3 * KINDS[kind] + _WHATS[what]
        return -1
    if name.startswith(b"ratelimit"):
        return _kind_last(name[9:])
    if name.startswith(b"x-tokenlimit-"):
        what = name[13:]
        return 3 * TOKENS_LEFT + _WHATS[what] if what in _WHATS else -1
    if name.startswith(b"x-trial-endpoint-call-"):
        what = name[22:]
        return 3 * REQUESTS_LEFT + _WHATS[what] if what in _WHATS else -1
    return 3 * MONTH_LEFT + _LIMIT if name == b"x-endpoint-monthly-call-limit" else -1


def _kind_last(tail: bytes) -> int:
    """Return the place of a field by what follows `ratelimit`: `-limit-requests`, `bysize-limit`, `-reset`, ..."""
    by_size = tail.startswith(b"bysize")
    if by_size:
        tail = tail[6:]
    if not tail.startswith(b"-"):
        return -1
    what, _, kind = tail[1:].partition(b"-")
    if what not in _WHATS:
        return -1
    if by_size:
        dimension = {b"": TOKENS_LEFT, b"minute": TOKENS_LEFT, b"month": MONTH_LEFT}.get(kind, -1)
    else:
        dimension = KINDS.get(kind, -1) if kind else _BARE
    return 3 * dimension + _WHATS[what] if dimension >= 0 else -1


def _count(value: bytes) -> int:
    if value.isdigit() and len(value) <= MAX_DIGITS:
        return int(value)
    match = _NUMBER.fullmatch(value)
    return int(match[1]) if match is not None else -1


def _time(value: bytes, wall_ms: int) -> tuple[int, bool]:
    """Return (milliseconds from now, -1 if there are none; whether they were written with a unit)."""
    match = _NUMBER.fullmatch(value)
    if match is not None:
        number = _number(match)
        if number >= EPOCH_MS:
            return _bounded(number - wall_ms), False
        if number >= EPOCH_S:
            return _bounded(number * 1000.0 - wall_ms), False
        return _bounded(number * 1000.0), False
    match = _DATE.fullmatch(value)
    if match is not None:
        return _date(match, wall_ms), False
    total, at = 0.0, 0
    while at < len(value):
        match = _PART.match(value, at)
        if match is None:
            return -1, False
        total += _number(match) * UNITS_MS[match[3]]
        at = match.end()
    return (_bounded(total), True) if value else (-1, False)


def _number(match: re.Match[bytes]) -> float:
    """Return a decimal number by its first digits, as many as are exact."""
    fraction = (match[2] or b"")[: MAX_DIGITS - len(match[1])]
    return int(match[1] + fraction) / 10.0 ** len(fraction)


def _bounded(milliseconds: float) -> int:
    if milliseconds >= MAX_RESET_MS:
        return MAX_RESET_MS
    return ceil(milliseconds - SLACK_MS) if milliseconds > SLACK_MS else 0


def _date(match: re.Match[bytes], wall_ms: int) -> int:
    """Return the milliseconds until a date; its fraction of a second is dropped."""
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    if not 1 <= month <= 12 or not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
        return -1
    # Days since 1970-01-01 of the proleptic Gregorian calendar, with years that begin in March.
    year -= month <= 2
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    if match[8] is not None:
        offset = int(match[9]) * 3600 + int(match[10]) * 60
        seconds += -offset if match[8] == b"+" else offset
    return _bounded(float(seconds * 1000 - wall_ms))


def _move(found: list[int], dimension: int, daily: int) -> None:
    """Move what is said of a minute's limit to that of a day or a month, if that is how long its renewal takes.

    That is the time to the whole limit, over the share of it that is used. What is there already stays.
    """
    limit, remaining, reset_ms = found[3 * dimension : 3 * dimension + 3]
    used = limit - remaining
    if remaining < 0 or used <= 0:
        return
    window_ms = float(reset_ms) * float(limit) / float(used)
    to = MONTH_LEFT if window_ms >= MONTHLY_MS else daily
    if window_ms >= DAILY_MS and max(found[3 * to : 3 * to + 3]) < 0:
        found[3 * to : 3 * to + 3] = limit, remaining, reset_ms
        found[3 * dimension : 3 * dimension + 3] = -1, -1, -1
