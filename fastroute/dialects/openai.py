"""The OpenAI dialect: chat completions, completions, embeddings, Responses, and the many look-alikes.

Sources: https://platform.openai.com/docs/api-reference (usage objects, streaming events) and
https://platform.openai.com/docs/guides/error-codes. The other dialects are modules with the same names.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from fastroute._core.jsonscan import Scanner
from fastroute.dialects._body import (
    MAX_TOKENS,
    count,
    encode,
    find_object,
    find_slice,
    header_value,
    load_object,
    table,
)
from fastroute.dialects.refusals import error_kind as error_kind
from fastroute.interfaces import DialectName, Usage

NAME: Final[DialectName] = "openai"
#: The last usage of a stream is the whole usage (Perplexity repeats a running total).
KEEP_ALL: Final = False
DEFAULT_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = ()
REQUEST_ID: Final = b"x-request-id"

_SCANNER: Final = Scanner(("usage",))
_CACHE_READ: Final = ("cached_tokens", "cache_read_input_tokens")
_CACHE_WRITE: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")

#: By status; every other 4xx is `invalid_request_error` (401 and 404 too, as OpenAI itself does).
_TYPES: Final = {
    402: "insufficient_quota",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class _InputDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    cached_tokens: Count = 0
    audio_tokens: Count = 0


class _OutputDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    reasoning_tokens: Count = 0
    audio_tokens: Count = 0
    accepted_prediction_tokens: Count = 0
    rejected_prediction_tokens: Count = 0


class _ChatUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The usage object exactly as OpenAI documents it for chat completions; anything else takes the careful way."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: _InputDetails = _InputDetails()
    completion_tokens_details: _OutputDetails = _OutputDetails()


class _ChatAnswer(msgspec.Struct, frozen=True, gc=False):
    usage: _ChatUsage


_NO_INPUT_DETAILS: Final = _InputDetails()
_NO_OUTPUT_DETAILS: Final = _OutputDetails()
_CHAT_USAGE: Final = msgspec.json.Decoder(_ChatUsage)
_CHAT_ANSWER: Final = msgspec.json.Decoder(_ChatAnswer)
#: The usage of a longer answer is found by the scanner first, which passes over long strings several times faster.
_SHORT_BYTES: Final = 8192


def usage_from_json(body: bytes) -> Usage | None:
    """Return the usage of a whole response body; None if the provider reported none."""
    found = find_slice(_SCANNER, body) if len(body) > _SHORT_BYTES else None
    try:
        plain = _CHAT_ANSWER.decode(body).usage if found is None else _CHAT_USAGE.decode(found)
        usage = _plain_usage(plain)
    except (msgspec.DecodeError, RecursionError):
        usage = None
    if usage is not None:
        return usage
    return _usage(find_object(_SCANNER, "usage", body) if found is None else load_object(found))


def _plain_usage(usage: _ChatUsage) -> Usage | None:
    """Return the usage, None if its counts do not add up in the ordinary way."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if usage.total_tokens != prompt + completion:
        return None
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    if inputs == _NO_INPUT_DETAILS and outputs == _NO_OUTPUT_DETAILS:
        return Usage(prompt, 0, 0, 0, 0, completion)
    return _disjoint(
        prompt,
        inputs.cached_tokens,
        0,
        inputs.audio_tokens,
        completion,
        outputs.reasoning_tokens,
        outputs.audio_tokens,
    )


def usage_from_events(payloads: Sequence[bytes]) -> Usage | None:
    """Return the usage of a stream: the last one reported, at the top, in `x_groq` or in a Responses `response`."""
    for payload in reversed(payloads):
        event = load_object(payload)
        for holder in (event, table(event, "response"), table(event, "x_groq")):
            usage = _usage(table(holder, "usage"))
            if usage is not None:
                return usage
    return None


def _usage(raw: dict[str, Any]) -> Usage | None:
    """Sort a usage object into disjoint buckets.

    prompt_tokens includes cached, cache-written and audio tokens, completion_tokens includes reasoning and audio.
    Two providers count otherwise, which shows in total_tokens: xAI leaves reasoning out of completion_tokens,
    Mistral leaves audio out of prompt_tokens. A sub-count larger than its total (Grok on Azure reports more cached
    than prompt tokens) is clipped, in the order cache read, cache write, audio; reasoning, audio.
    """
    prompt = count(raw, "prompt_tokens", "input_tokens")
    completion = count(raw, "completion_tokens", "output_tokens")
    total = count(raw, "total_tokens")
    if prompt is None and completion is None:
        if total is None:
            return None
        prompt = total  # embeddings of some providers give nothing else
    prompt, completion = prompt or 0, completion or 0
    inputs = table(raw, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    outputs = table(raw, "completion_tokens_details", "output_tokens_details", "output_token_details")
    reasoning = count(outputs, "reasoning_tokens") or count(raw, "reasoning_tokens") or 0
    audio_in = count(inputs, "audio_tokens") or 0
    if total is not None:
        gap = total - prompt - completion
        if reasoning and gap in (reasoning, reasoning + audio_in):
            completion += reasoning
            gap -= reasoning
        if audio_in and gap == audio_in:
            prompt += audio_in
    cached = max(
        count(inputs, *_CACHE_READ) or 0,
        count(raw, *_CACHE_READ, "prompt_cache_hit_tokens", "num_cached_tokens") or 0,
    )
    written = max(count(inputs, *_CACHE_WRITE) or 0, count(raw, *_CACHE_WRITE) or 0)
    return _disjoint(prompt, cached, written, audio_in, completion, reasoning, count(outputs, "audio_tokens") or 0)


def _disjoint(
    prompt: int, cached: int, written: int, audio_in: int, completion: int, reasoning: int, audio_out: int
) -> Usage:
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    audio_in = min(audio_in, prompt - cached - written)
    reasoning = min(reasoning, completion)
    audio_out = min(audio_out, completion - reasoning)
    return Usage(
        input_tokens=prompt - cached - written - audio_in,
        cache_read_tokens=cached,
        cache_write_5m_tokens=written,
        input_audio_tokens=audio_in,
        output_tokens=completion - reasoning - audio_out,
        reasoning_tokens=reasoning,
        output_audio_tokens=audio_out,
    )


def _error(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}


def error_body(status: int, code: str, message: str, param: str | None = None, request_id: str = "") -> bytes:
    """Return the JSON body of an error answer; `code` is our own word."""
    return encode({"error": _error(status, code, message, param)})


def error_event(status: int, code: str, message: str, request_id: str = "") -> bytes:
    """Return the events that end a broken chat or completions stream.

    The SDKs raise APIError on an event with a true `error` (openai-python, `_streaming.Stream.__stream__`).
    """
    return b"data: " + error_body(status, code, message) + b"\n\ndata: [DONE]\n\n"


def error_event_responses(status: int, code: str, message: str) -> bytes:
    """Return the event that ends a broken Responses stream.

    It has the fields of the documented `error` event, and `error` besides: on that alone the SDKs raise. The
    sequence number is 0, as the numbers of a relayed stream are not followed.
    """
    event = {
        "type": "error",
        "code": code,
        "message": message,
        "param": None,
        "sequence_number": 0,
        "error": _error(status, code, message, None),
    }
    return b"event: error\ndata: " + encode(event) + b"\n\n"


def auth_headers(key: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that carry the provider key upstream."""
    return [(b"authorization", b"Bearer " + header_value(key))]
