"""The Anthropic dialect: messages.

Sources: https://docs.anthropic.com/en/api/messages (usage), /en/docs/build-with-claude/streaming (events),
/en/docs/build-with-claude/compaction (iterations), /en/api/errors (error types).
"""

from collections.abc import Sequence
from typing import Any, Final

from fastroute._core.jsonscan import Scanner
from fastroute.dialects._body import count, encode, find_object, header_value, load_object, table
from fastroute.dialects.refusals import error_kind as error_kind
from fastroute.interfaces import DialectName, Usage

NAME: Final[DialectName] = "anthropic"
#: message_start has the input counts; each message_delta overlays what it repeats.
KEEP_ALL: Final = True
#: To add where the client sent none of that name.
DEFAULT_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = ((b"anthropic-version", b"2023-06-01"),)
REQUEST_ID: Final = b"request-id"

_SCANNER: Final = Scanner(("usage",))

_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def usage_from_json(body: bytes, *, billed: bool = True) -> Usage | None:
    """Return the usage of a whole response body; None if the provider reported none.

    billed: sum `usage.iterations`. With compaction or an advisor one request samples several times, and the top
    level covers only part of that (the last sample, or those of the main model), while every one is charged. An
    advisor's tokens have the price of another model; the buckets cannot tell them apart. False: the top level.
    """
    return _usage(find_object(_SCANNER, "usage", body), billed)


def usage_from_events(payloads: Sequence[bytes], *, billed: bool = True) -> Usage | None:
    """Return the usage of a stream: message_start overlaid, field by field, by every message_delta in order."""
    merged: dict[str, Any] = {}
    for payload in payloads:
        event = load_object(payload)
        for holder in (table(event, "message"), event):
            merged.update((name, value) for name, value in table(holder, "usage").items() if value is not None)
    return _usage(merged, billed)


def _usage(raw: dict[str, Any], billed: bool) -> Usage | None:
    """Sort a usage object into disjoint buckets.

    input_tokens excludes both cache counts; output_tokens includes thinking. The lifetime split of cache writes may
    be older than the sum (a message_delta repeats only the sum), so the 5 minute bucket is what is left of the sum.
    """
    samples = _samples(raw) if billed else []
    counts = [
        _at_least(_summed(samples, name), count(raw, name))
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")
    ]
    read_in, output, cache_read = counts
    if read_in is None and output is None:
        return None
    written, written_1h = _cache_writes(samples, raw)
    output = output or 0
    thinking = min(count(table(raw, "output_tokens_details"), "thinking_tokens", "reasoning_tokens") or 0, output)
    return Usage(
        input_tokens=read_in or 0,
        cache_read_tokens=cache_read or 0,
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        output_tokens=output - thinking,
        reasoning_tokens=thinking,
    )


def _samples(raw: dict[str, Any]) -> list[dict[str, Any]]:
    iterations = raw.get("iterations")
    return [item for item in iterations if isinstance(item, dict)] if isinstance(iterations, list) else []


def _summed(samples: list[dict[str, Any]], name: str) -> int | None:
    counts = [value for sample in samples if (value := count(sample, name)) is not None]
    return sum(counts) if counts else None


def _at_least(summed: int | None, top: int | None) -> int | None:
    # A sum below the top level is one with gaps; no token that was reported is lost.
    if summed is None or top is None:
        return top if summed is None else summed
    return max(summed, top)


def _cache_writes(samples: list[dict[str, Any]], raw: dict[str, Any]) -> tuple[int, int]:
    """Return all cache-written tokens, and how many of them live an hour."""
    splits = [table(sample, "cache_creation") for sample in samples]
    top = table(raw, "cache_creation")
    hour = _at_least(_summed(splits, "ephemeral_1h_input_tokens"), count(top, "ephemeral_1h_input_tokens")) or 0
    brief = _at_least(_summed(splits, "ephemeral_5m_input_tokens"), count(top, "ephemeral_5m_input_tokens")) or 0
    name = "cache_creation_input_tokens"
    written = _at_least(_summed(samples, name), count(raw, name))
    if written is None:
        return hour + brief, hour
    return written, min(hour, written)


def _error(status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    # `type` and `message` are Anthropic's; `code` is an extra field, which its SDKs pass on.
    error: dict[str, Any] = {"type": kind, "message": f"{param}: {message}" if param else message, "code": code}
    return encode({"type": "error", "error": error, "request_id": request_id or None})


def error_body(status: int, code: str, message: str, param: str | None = None, request_id: str = "") -> bytes:
    """Return the JSON body of an error answer; the field at fault leads the message, as Anthropic writes it."""
    return _error(status, code, message, param, request_id)


def error_event(status: int, code: str, message: str, request_id: str = "") -> bytes:
    """Return the event that ends a broken stream; on its name the SDKs raise APIStatusError.

    Anthropic's has the id of the request where the body of an error has it.
    """
    return b"event: error\ndata: " + _error(status, code, message, None, request_id) + b"\n\n"


def auth_headers(key: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that carry the provider key upstream."""
    return [(b"x-api-key", header_value(key))]
