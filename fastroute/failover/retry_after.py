"""When a provider wants to be asked again, in all the forms that is said in. Milliseconds.

`retry-after-ms` (OpenAI, Azure; `x-ms-retry-after-ms` there, too), `retry-after` in seconds or as a date (RFC 9110
section 10.2.3), the `retryDelay` of Google's error details, and sentences for people: "Please try again in 2m59.56s".
Anything that is not a finite time from now on counts as not said.
"""

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from fastroute.interfaces import Header

_RETRY_DELAY: Final = re.compile(rb'"retryDelay"\s*:\s*"([0-9]{1,9}(?:\.[0-9]{1,9})?)s"')
#: OpenAI, Groq: "try again in 174ms"; Azure: "retry after 33 seconds"; Gemini: "retry in 48.9s".
_SENTENCE: Final = re.compile(
    rb"\b(?:try again|retry) (?:in|after) "
    rb"((?:[0-9]{1,9}(?:\.[0-9]{1,12})? ?(?:ms|milliseconds?|hours?|h|minutes?|m|seconds?|s)(?![a-z]) ?|"
    rb"[0-9]{1,9}(?:\.[0-9]{1,12})?[hms](?=[0-9])){1,4})",
    re.IGNORECASE,
)
_PART: Final = re.compile(rb"([0-9.]+) ?(ms|mil|h|m|s)", re.IGNORECASE)
_UNITS_MS: Final = {b"ms": 1.0, b"mil": 1.0, b"h": 3_600_000.0, b"m": 60_000.0, b"s": 1000.0}
_NUMBER: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,15})?")


def retry_after_ms(headers: list[Header], body: bytes, wall_ns: int) -> int | None:
    """Return how long the provider wants to be left alone, None if it did not say. wall_ns: Unix time now."""
    fields = dict(headers)
    milliseconds = _number(fields.get(b"retry-after-ms", fields.get(b"x-ms-retry-after-ms")))
    # Azure has been seen to send 0 there, and the time in the other one.
    if milliseconds or (milliseconds is not None and b"retry-after" not in fields):
        return math.ceil(milliseconds)
    value = fields.get(b"retry-after")
    if value is not None:
        seconds = _number(value)
        wait_ms = math.ceil(seconds * 1000) if seconds is not None else _date_ms(value, wall_ns)
        if wait_ms is not None:
            return wait_ms
    if milliseconds is not None:
        return 0
    return _told_ms(body)


def _told_ms(body: bytes) -> int | None:
    """Return the time that a body speaks of. Google cuts off in one place what it says in full in the other."""
    delay = _RETRY_DELAY.search(body)
    sentence = _SENTENCE.search(body)
    times = [float(delay[1]) * 1000] if delay is not None else []
    if sentence is not None:
        parts = _PART.findall(sentence[1])
        times.append(sum(float(number) * _UNITS_MS[unit.lower()] for number, unit in parts))
    # The numbers have been through floats; what is a millionth of a millisecond too much is none.
    return math.ceil(max(times) - 1e-6) if times else None


def should_retry(headers: list[Header]) -> bool | None:
    """Return what the provider's `x-should-retry` says, None if it says nothing."""
    value = dict(headers).get(b"x-should-retry")
    return {b"true": True, b"false": False}.get(value.lower()) if value is not None else None


def _number(value: bytes | None) -> float | None:
    if value is None or not _NUMBER.fullmatch(value.strip()):
        return None
    return float(value)


def _date_ms(value: bytes, wall_ns: int) -> int | None:
    """Return the time until an HTTP date, 0 for one that has passed, None for what is no date."""
    try:
        at = parsedate_to_datetime(value.decode("ascii"))
    except (ValueError, TypeError, OverflowError):
        return None
    if at.tzinfo is None:
        # The asctime form has no zone; RFC 9110 section 5.6.7 has every date in GMT.
        at = at.replace(tzinfo=UTC)
    return max(0, math.ceil(at.timestamp() * 1000 - wall_ns / 1e6))
