"""When a provider wants to be asked again, in all the forms that is said in. Milliseconds.

`retry-after-ms` (OpenAI, Azure), `retry-after` in seconds or as a date (RFC 9110 section 10.2.3), the `retryDelay` of
Google's error details. Anything that is not a finite time from now on counts as not said.
"""

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from fastroute.interfaces import Header

_RETRY_DELAY: Final = re.compile(rb'"retryDelay"\s*:\s*"([0-9]{1,9}(?:\.[0-9]{1,9})?)s"')
_NUMBER: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,15})?")


def retry_after_ms(headers: list[Header], body: bytes, wall_ns: int) -> int | None:
    """Return how long the provider wants to be left alone, None if it did not say. wall_ns: Unix time now."""
    fields = dict(headers)
    milliseconds = _number(fields.get(b"retry-after-ms"))
    if milliseconds is not None:
        return math.ceil(milliseconds)
    value = fields.get(b"retry-after")
    if value is not None:
        seconds = _number(value)
        wait_ms = math.ceil(seconds * 1000) if seconds is not None else _date_ms(value, wall_ns)
        if wait_ms is not None:
            return wait_ms
    match = _RETRY_DELAY.search(body)
    return math.ceil(float(match[1]) * 1000) if match is not None else None


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
