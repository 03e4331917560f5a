"""Reading a request: sizes, framing, headers that concern us, and one scan of the body that stays bytes."""

import asyncio
from collections.abc import Awaitable
from typing import Final

import msgspec

from fastroute._core.jsonscan import (
    KIND_ABSENT,
    KIND_ARRAY,
    KIND_FALSE,
    KIND_NULL,
    KIND_NUMBER,
    KIND_OBJECT,
    KIND_STRING,
    KIND_STRING_ESCAPED,
    KIND_TRUE,
    MAX_DEPTH,
    ScanError,
    Scanner,
    unescape,
)
from fastroute.context import READ_BODY, Context
from fastroute.downstream.lane import Downstream
from fastroute.errors import GatewayError
from fastroute.interfaces import Asked

#: Bodies larger than this are scanned in a thread, so that they stall nobody.
SCAN_IN_THREAD_BYTES: Final = 1 << 18

# The fields the gateway reads, in scan order; the offsets below are into the scan's flat tuple.
FIELDS: Final = (
    "model",
    "stream",
    "stream_options",
    "messages",
    "input",
    "contents",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "top_logprobs",
    "tools",
    "user",
    "system",
    "instructions",
    "systemInstruction",
    "system_instruction",
    "api_base",
    "base_url",
    "api_key",
    "custom_host",
    "extra_headers",
    "proxies",
    "model_list",
)
MODEL: Final = 0
STREAM: Final = 3
STREAM_OPTIONS: Final = 6
OPEN: Final = 3 * len(FIELDS)
_CONVERSATIONS: Final = (9, 12, 15)
MAX_TOKENS: Final = (18, 21, 24)
COUNT: Final = 27
_TOOLS: Final = 36
_USER: Final = 39
#: What providers put before the conversation, in the order in which most of them do.
_PREAMBLE: Final = (_TOOLS, 42, 45, 48, 51)
#: A user name longer than this is not used to keep requests together.
_MAX_USER_BYTES: Final = 256

_ANY_OBJECT: Final = (KIND_ABSENT, KIND_NULL, KIND_OBJECT)
_NUMBER: Final = (KIND_ABSENT, KIND_NULL, KIND_NUMBER)
_ARRAY: Final = (KIND_ABSENT, KIND_ARRAY)

# field -> (offset, kinds allowed, what to say). `input` may be a string or an array, so it is not here.
_CHECKS: Final = (
    ("stream_options", 6, _ANY_OBJECT, "an object"),
    ("messages", 9, _ARRAY, "an array"),
    ("contents", 15, (*_ARRAY, KIND_OBJECT, KIND_STRING, KIND_STRING_ESCAPED), "an array"),
    ("max_tokens", 18, _NUMBER, "a number"),
    ("max_completion_tokens", 21, _NUMBER, "a number"),
    ("max_output_tokens", 24, _NUMBER, "a number"),
    ("n", 27, _NUMBER, "a number"),
    ("best_of", 30, _NUMBER, "a number"),
    ("top_logprobs", 33, _NUMBER, "a number"),
)

# How often one request may ask for its answer: a huge count freezes a self-hosted replica.
_MAX_COUNT: Final = 128
_COUNTS: Final = (("n", 27), ("best_of", 30), ("top_logprobs", 33))

# What `stream_options` may hold: as much as the body. That is not deeper than it may be, which has been checked.
_OPTIONS: Final = Scanner((), MAX_DEPTH)

# Combinations of field types that have passed the checks are remembered, up to this many.
_MAX_KNOWN_KINDS: Final = 1024

# Fields by which clients of other gateways choose the destination or its credential. Here the configuration does.
_STEERING: Final = tuple((FIELDS[i], 3 * i) for i in range(FIELDS.index("api_base"), len(FIELDS)))

_SCAN_CODES: Final = {
    "duplicate_key": "the request body names a field twice",
    "too_many": "the request body has too many fields",
    "too_deep": "the request body is nested too deeply",
    "not_object": "the request body must be a JSON object",
    "empty": "the request body is empty",
    "invalid_utf8": "the request body is not valid UTF-8",
    "number_out_of_range": "a number in the request body is out of range",
}


class Limits(msgspec.Struct, frozen=True):
    """What a request may use. Bytes, milliseconds, counts."""

    max_body_bytes: int
    max_json_depth: int
    max_uri_bytes: int
    body_timeout_ns: int


class RequestReader:
    """Reads and checks one request after another, by the limits of the configuration."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._scanner = Scanner(FIELDS, limits.max_json_depth)
        self._known_kinds: set[bytes] = set()

    def check_target(self, downstream: Downstream) -> None:
        """Refuse a request target that is too long."""
        if len(downstream.path) + len(downstream.query) > self._limits.max_uri_bytes:
            raise GatewayError(414, "uri_too_long", "the request target is too long", close=True)

    def at_once(self, downstream: Downstream) -> bytes | None:
        """Return the body if it need not be waited for, and is not over the limit."""
        body = downstream.whole_body
        return body if body is not None and len(body) <= self._limits.max_body_bytes else None

    def expect(self, downstream: Downstream, ctx: Context, length: int) -> Awaitable[bytes]:
        """Begin to wait for the body; return what gives it, to be awaited. Raises GatewayError 413, ClientGoneError."""
        ctx.enter(READ_BODY, self._limits.body_timeout_ns)
        return downstream.read_body(length, self._limits.max_body_bytes, ctx)

    async def take_large(self, ctx: Context, body: bytes) -> None:
        """Take a body of more than `SCAN_IN_THREAD_BYTES`, as `take_body` does, without stalling others."""
        ctx.body = body
        ctx.request_bytes = len(body)
        try:
            kinds, ctx.scan = await asyncio.to_thread(self._scanner.scan_kinds, body)
        except ScanError as error:
            raise _refusal(error) from None
        self._peek(ctx, kinds, ctx.scan)

    def take_body(self, ctx: Context, body: bytes) -> None:
        """Scan a body into `ctx.scan`, `ctx.model*` and `ctx.stream`. Raises GatewayError 400."""
        ctx.body = body
        ctx.request_bytes = len(body)
        try:
            kinds, scan = self._scanner.scan_kinds(body)
        except ScanError as error:
            raise _refusal(error) from None
        ctx.scan = scan
        self._peek(ctx, kinds, scan)

    def _peek(self, ctx: Context, kinds: bytes, scan: tuple[int, ...]) -> None:
        kind = scan[STREAM]
        if kind == KIND_TRUE:
            ctx.stream = True
        elif kind not in (KIND_ABSENT, KIND_FALSE, KIND_NULL):
            raise wrong_type("stream", "a boolean")
        if kinds not in self._known_kinds:
            _check_kinds(scan, ctx.body)
            if not _has_counts(scan) and len(self._known_kinds) < _MAX_KNOWN_KINDS:
                self._known_kinds.add(kinds)
        if ctx.stream and scan[STREAM_OPTIONS] == KIND_OBJECT and ctx.operation.include_usage:
            _check_options(ctx.body[scan[STREAM_OPTIONS + 1] : scan[STREAM_OPTIONS + 2]])
        if ctx.operation.model_in_path:
            ctx.stream = ctx.operation.streams
            return
        kind = scan[MODEL]
        if kind == KIND_STRING:
            ctx.model_start, ctx.model_end = scan[1] + 1, scan[2] - 1
        elif kind == KIND_STRING_ESCAPED:
            ctx.model = unescape(ctx.body, scan[1], scan[2]).decode()
        elif kind in (KIND_ABSENT, KIND_NULL):
            raise GatewayError(400, "invalid_request_error", "you must provide a model parameter", param="model")
        else:
            raise wrong_type("model", "a string")


def read_asked(ctx: Context) -> Asked:
    """Return what routing may ask about a request whose body has been scanned."""
    body, scan = ctx.body, ctx.scan
    span = next(((scan[at + 1], scan[at + 2]) for at in _CONVERSATIONS if scan[at]), (0, 0))
    max_tokens = 0
    for at in MAX_TOKENS:
        if scan[at] == KIND_NUMBER:
            digits = body[scan[at + 1] : scan[at + 2]]
            max_tokens = int(digits) if digits.isdigit() and len(digits) <= 9 else 0
    user = b""
    if scan[_USER] == KIND_STRING and scan[_USER + 2] - scan[_USER + 1] <= _MAX_USER_BYTES:
        user = body[scan[_USER + 1] + 1 : scan[_USER + 2] - 1]
    preamble = tuple((scan[at + 1], scan[at + 2]) for at in _PREAMBLE if scan[at])
    return Asked(max_tokens, scan[_TOOLS] == KIND_ARRAY, user, span, preamble)


def _has_counts(scan: tuple[int, ...]) -> bool:
    return any(scan[offset] == KIND_NUMBER for _, offset in _COUNTS)


def _check_kinds(scan: tuple[int, ...], body: bytes) -> None:
    """Refuse fields of the wrong type, absurd counts, and fields that would choose the destination."""
    for name, offset, kinds, wanted in _CHECKS:
        if scan[offset] not in kinds:
            raise wrong_type(name, wanted)
    for name, offset in _COUNTS:
        if scan[offset] == KIND_NUMBER:
            _check_count(name, body[scan[offset + 1] : scan[offset + 2]])
    for name, offset in _STEERING:
        if scan[offset]:
            raise GatewayError(400, "invalid_request_error", f"'{name}' is not accepted", param=name)


def _check_options(options: bytes) -> None:
    """Refuse stream options that say in two ways whether usage is wanted: they are to be edited."""
    try:
        _OPTIONS.scan(options)
    except ScanError as error:
        what = "names a field twice" if error.code == "duplicate_key" else "has too many fields"
        raise GatewayError(400, "invalid_request_error", f"'stream_options' {what}", param="stream_options") from None


def _check_count(field: str, digits: bytes) -> None:
    if not digits.isdigit() or len(digits) > 9 or int(digits) > _MAX_COUNT:
        raise GatewayError(400, "invalid_request_error", f"'{field}' must be at most {_MAX_COUNT}", param=field)


def wrong_type(field: str, wanted: str) -> GatewayError:
    """Return the refusal of a field of the wrong JSON type."""
    return GatewayError(400, "invalid_request_error", f"'{field}' must be {wanted}", param=field)


def _refusal(error: ScanError) -> GatewayError:
    message = _SCAN_CODES.get(error.code, "the request body is not valid JSON")
    return GatewayError(
        400, "invalid_request_error", f"{message} (at byte {error.offset})", param=error.key[:64] or None
    )
