"""Find and check the top-level fields of a JSON object in its bytes, without decoding it: the reference half.

The whole body is checked against RFC 8259, in reading order; the first fault is the one reported. Beyond the
grammar: the top level is an object; containers nest at most `max_depth` deep (the top-level object is depth
1); top-level keys are unique once unescaped, and at most 1,024 ("too_many"); a
number has at most 512 bytes and fits a double; strings are UTF-8, without lone surrogates, escaped or not.
Keys of nested objects may repeat.

`Scanner.scan` first tries `_accepted`: orjson says whether the body is JSON, and patterns that trust it find
the members. Where that gives no answer (a fault, deep nesting, anything unusual), `_Walk` reads the body
token by token and has the last word; it alone knows every rule and every offset.
"""

import re
from collections.abc import Sequence
from itertools import islice
from math import isinf
from operator import itemgetter
from typing import Final

import orjson

from fastroute._core._jsonscan_errors import (
    KIND_ABSENT,
    KIND_ARRAY,
    KIND_FALSE,
    KIND_NULL,
    KIND_NUMBER,
    KIND_OBJECT,
    KIND_STRING,
    KIND_STRING_ESCAPED,
    KIND_TRUE,
    MAX_MEMBERS,
    MAX_NUMBER_BYTES,
    Reason,
    ScanError,
    checked_fields,
    scan_error,
)

__all__ = ["Scanner", "unescape"]

# ---- patterns that check (for `_Walk`)

_WS = rb"[ \t\n\r]*+"
_HEX = rb"[0-9a-fA-F]"
_ESCAPE = rb"""\\["\\/bfnrt]|\\u(?:[0-9a-cA-CefEF]%b{3}|[dD][0-7]%b{2})""" % (_HEX, _HEX)
_PAIR = rb"\\u[dD][89abAB]%b{2}\\u[dD][c-fC-F]%b{2}" % (_HEX, _HEX)
# Unicode 15, table 3-7: well-formed UTF-8 byte sequences.
_UTF8 = (
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_PLAIN = rb'[^"\\\x00-\x1f\x80-\xff]*+'
_OTHER = b"|".join((_ESCAPE, _PAIR, _UTF8))
_SPACE: Final = re.compile(_WS)
_CONTENT: Final = re.compile(_PLAIN + rb"(?:(?:" + _OTHER + rb")" + _PLAIN + rb")*+")
_HEX_ESCAPE: Final = re.compile(rb"\\u" + _HEX + rb"{4}")
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+")

_QUOTE, _COLON, _COMMA, _BACKSLASH, _OPEN_OBJECT, _CLOSE_OBJECT = b'":,\\{}'
_CLOSERS: Final = {0x7B: 0x7D, 0x5B: 0x5D}  # { to } and [ to ]
_LITERALS: Final = {0x74: (b"true", KIND_TRUE), 0x66: (b"false", KIND_FALSE), 0x6E: (b"null", KIND_NULL)}
_NUMBER_STARTS: Final = frozenset(b"-0123456789")
_VALUE_STARTS: Final = frozenset(b'[{"tfn') | _NUMBER_STARTS
_END = -1  # what stands where the body has ended

# ---- patterns that trust (for `Scanner._accepted`): right only for what orjson has found to be JSON

_TRUSTED_DEPTH: Final = 32
# Control bytes are not there to be found, but with them `re` looks bytes up in a bitmap, twice as fast.
_TRUSTED_PLAIN = rb'[^"\\\x00-\x1f]*+'
_TRUSTED_STRING = _TRUSTED_PLAIN + rb"(?:\\." + _TRUSTED_PLAIN + rb")*+"
# The first quote ends a string unless there is a backslash before it. One byte alone is what `re` looks for fastest.
_TRUSTED_TO_QUOTE = rb'"[^"]*+(?<!\\)"'
_ANY_TRUSTED_STRING = _TRUSTED_TO_QUOTE + rb'|"' + _TRUSTED_STRING + rb'"'
_KEY: Final = itemgetter(1)
_OPENING: Final = re.compile(_WS + rb"\{")
# A number of 513 bytes covers at least 64 of every 8th byte of the body; lists of ordinary numbers do not.
_SAMPLING: Final = 8
_NUMERIC: Final = bytes(0x30 if byte in b"0123456789.eE+-" else 0x20 for byte in range(256))
_LONG_NUMBER_SAMPLE: Final = b"0" * (MAX_NUMBER_BYTES // _SAMPLING)


def _container_pattern(opening: bytes, depth: int) -> bytes:
    """Return a pattern of containers that start with `opening` and nest at most `depth` deep."""
    pattern = rb"(?!)"
    for level in range(depth):
        first = opening if level == depth - 1 else rb"[\[{]"
        pattern = first + rb'(?:[^"\[\]{}]++|' + _ANY_TRUSTED_STRING + rb"|" + pattern + rb")*+[\]}]"
    return pattern


def _member_pattern(depth: int) -> re.Pattern[bytes]:
    """Return a pattern of one top-level member with the comma or brace after it.

    Group 1 is the key between its quotes; group 1 + kind is the value, so that `lastindex` tells the kind; but that of
    KIND_STRING may be one with escapes.
    """
    values = (
        _TRUSTED_TO_QUOTE,  # with or without escapes
        rb'"' + _TRUSTED_STRING + rb'"',
        rb"[-0-9][^ \t\n\r,}]*+",
        rb"true",
        rb"false",
        rb"null",
        _container_pattern(rb"\{", depth),
        _container_pattern(rb"\[", depth),
    )
    value = b"|".join(b"(" + value + b")" for value in values)
    key = rb'"(' + _TRUSTED_STRING + rb')"'
    return re.compile(_WS + key + _WS + rb":" + _WS + rb"(?:" + value + rb")" + _WS + rb"[,}]")


class Scanner:
    """Finds `fields` among the top-level members of JSON objects nested at most `max_depth` deep.

    fields: at most 64 different ASCII names. max_depth: 1 to 1,024. ValueError outside of that.
    """

    __slots__ = ("_absent", "_index", "_max_depth", "_member")

    def __init__(self, fields: Sequence[str], max_depth: int = 64) -> None:
        names = checked_fields(fields, max_depth)
        self._index = {name: 3 * i for i, name in enumerate(names)}
        self._absent = [KIND_ABSENT, 0, 0] * len(names)
        self._max_depth = max_depth
        self._member = _member_pattern(min(max_depth - 1, _TRUSTED_DEPTH))

    def scan(self, body: bytes) -> tuple[int, ...]:
        """Return (kind, start, end) for each field, flat, then `open` and `members`.

        start and end are byte offsets of the value, quotes included; 0 and 0 with KIND_ABSENT. open: offset
        after the top-level '{'. members: how many members the top-level object has. ScanError at the first
        fault; TypeError unless body is bytes.
        """
        if not isinstance(body, bytes):
            raise TypeError(f"the body must be bytes, not {type(body).__name__}")
        return self._accepted(body) or _Walk(body, self._index, self._max_depth).run()

    def scan_kinds(self, body: bytes) -> tuple[bytes, tuple[int, ...]]:
        """Return (the kind of each field, one byte each; what `scan` does)."""
        found = self.scan(body)
        return bytes(found[: 3 * len(self._index) : 3]), found

    def _accepted(self, body: bytes) -> tuple[int, ...] | None:
        """Return the result for a body that is certainly acceptable; None where that takes a closer look."""
        opening = _OPENING.match(body)
        if opening is None:
            return None
        if len(body) > MAX_NUMBER_BYTES and _LONG_NUMBER_SAMPLE in body[::_SAMPLING].translate(_NUMERIC):
            return None
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return self._located(body, opening.end())

    def _located(self, body: bytes, opening: int) -> tuple[int, ...] | None:
        """Return the result for a body that is JSON, None where a member takes a closer look."""
        # Each match begins where the one before it ended; what `re.Scanner` does, without a step of Python's for each.
        step = self._member.scanner(body, opening).match  # type: ignore[attr-defined]
        members: list[re.Match[bytes]] = list(islice(iter(step, None), MAX_MEMBERS + 1))
        if not 0 < len(members) <= MAX_MEMBERS or body[members[-1].end() - 1] != _CLOSE_OBJECT:
            return None
        named = dict(zip(map(_KEY, members), members, strict=True))
        if len(named) < len(members) or b"\\" in b"".join(named):
            return None
        spans = self._absent.copy()
        get = self._index.get
        for key, member in named.items():
            place = get(key)
            if place is not None:
                kind = member.lastindex - 1
                start, end = member.span(kind + 1)
                if kind == KIND_STRING and body.find(b"\\", start, end) >= 0:
                    kind = KIND_STRING_ESCAPED
                spans[place : place + 3] = kind, start, end
        return (*spans, opening, len(members))


class _Walk:
    """One reading of one body, token by token. Methods read at an offset and return the one after."""

    __slots__ = ("_body", "_index", "_keys", "_max_depth", "_spans")

    def __init__(self, body: bytes, index: dict[bytes, int], max_depth: int) -> None:
        self._body = body
        self._index = index
        self._max_depth = max_depth
        self._spans = [KIND_ABSENT, 0, 0] * len(index)
        self._keys: set[bytes] = set()

    def run(self) -> tuple[int, ...]:
        opening = self._enter()
        at = self._space(opening)
        at = at + 1 if self._peek(at) == _CLOSE_OBJECT else self._members(at)
        at = self._space(at)
        if at < len(self._body):
            raise scan_error(Reason.UNEXPECTED, at)
        return (*self._spans, opening, len(self._keys))

    def _peek(self, at: int) -> int:
        return self._body[at] if at < len(self._body) else _END

    def _space(self, at: int) -> int:
        match = _SPACE.match(self._body, at)
        return match.end() if match else at

    def _unexpected(self, at: int) -> ScanError:
        return scan_error(Reason.TRUNCATED if at == len(self._body) else Reason.UNEXPECTED, at)

    def _enter(self) -> int:
        """Return the offset after the top-level opening brace."""
        at = self._space(0)
        first = self._peek(at)
        if first == _OPEN_OBJECT:
            return at + 1
        if first == _END:
            raise scan_error(Reason.EMPTY, at)
        if first in _VALUE_STARTS:
            raise scan_error(Reason.NOT_OBJECT, at)
        if self._body.startswith(b"\xef\xbb\xbf", at):
            raise scan_error(Reason.BYTE_ORDER_MARK, at)
        raise self._unexpected(at)

    def _members(self, at: int) -> int:
        """Read top-level members from the first key to the closing brace."""
        while True:
            if self._peek(at) != _QUOTE:
                raise self._unexpected(at)
            end = self._string(at)
            place = self._add_key(at, end)
            start = self._colon(end)
            kind, at = self._value(start)
            if place is not None:
                self._spans[place : place + 3] = kind, start, at
            at = self._space(at)
            if self._peek(at) == _CLOSE_OBJECT:
                return at + 1
            if self._peek(at) != _COMMA:
                raise self._unexpected(at)
            at = self._space(at + 1)

    def _add_key(self, start: int, end: int) -> int | None:
        """Note a top-level key; return where the field's span goes, None where it is not a wanted field."""
        if len(self._keys) == MAX_MEMBERS:
            raise scan_error(Reason.TOO_MANY, start)
        key = _content(self._body[start:end])
        if key in self._keys:
            raise scan_error(Reason.DUPLICATE, start, key)
        self._keys.add(key)
        return self._index.get(key)

    def _colon(self, at: int) -> int:
        at = self._space(at)
        if self._peek(at) != _COLON:
            raise self._unexpected(at)
        return self._space(at + 1)

    def _value(self, at: int) -> tuple[int, int]:
        """Return the kind of the value at `at`, and its end."""
        first = self._peek(at)
        if first in _CLOSERS:
            return KIND_OBJECT if first == _OPEN_OBJECT else KIND_ARRAY, self._container(at)
        return self._scalar(at)

    def _container(self, at: int) -> int:
        """Read a member's value that is a container; `closers` holds what closes each open one."""
        closers: list[int] = []
        while True:  # at a value
            first = self._peek(at)
            if first in _CLOSERS:
                if len(closers) + 2 > self._max_depth:
                    raise scan_error(Reason.TOO_DEEP, at)
                closers.append(_CLOSERS[first])
                at = self._space(at + 1)
                if self._peek(at) != closers[-1]:
                    at = self._nested_value(at, closers[-1])
                    continue
            else:
                at = self._space(self._scalar(at)[1])
            while self._peek(at) == closers[-1]:  # after a value, or at the end of an empty container
                closers.pop()
                if not closers:
                    return at + 1
                at = self._space(at + 1)
            if self._peek(at) != _COMMA:
                raise self._unexpected(at)
            at = self._nested_value(self._space(at + 1), closers[-1])

    def _nested_value(self, at: int, closer: int) -> int:
        """Return where the next value of a container is: in an object after a key and a colon."""
        if closer != _CLOSE_OBJECT:
            return at
        if self._peek(at) != _QUOTE:
            raise self._unexpected(at)
        return self._colon(self._string(at))

    def _scalar(self, at: int) -> tuple[int, int]:
        first = self._peek(at)
        if first == _QUOTE:
            end = self._string(at)
            return KIND_STRING if self._body.find(b"\\", at, end) < 0 else KIND_STRING_ESCAPED, end
        if first in _NUMBER_STARTS:
            return KIND_NUMBER, self._number(at)
        if first not in _LITERALS:
            raise self._unexpected(at)
        word, kind = _LITERALS[first]
        if not self._body.startswith(word, at):
            raise scan_error(Reason.LITERAL, at)
        return kind, at + len(word)

    def _number(self, at: int) -> int:
        """Read the longest number; what cannot follow a number is left to the caller."""
        number = _NUMBER.match(self._body, at)
        if number is None:
            raise scan_error(Reason.NUMBER, at)
        if number.end() - at > MAX_NUMBER_BYTES or isinf(float(number[0])):
            raise scan_error(Reason.RANGE, at)
        return number.end()

    def _string(self, at: int) -> int:
        content = _CONTENT.match(self._body, at + 1)
        end = content.end() if content else at + 1
        if self._peek(end) == _QUOTE:
            return end + 1
        raise self._string_fault(end)

    def _string_fault(self, at: int) -> ScanError:
        """Return the error for the first byte that a string cannot go on with."""
        byte = self._peek(at)
        if byte == _END:
            return scan_error(Reason.TRUNCATED, at)
        if byte == _BACKSLASH:
            lone = _HEX_ESCAPE.match(self._body, at)  # well-formed, so it is the surrogate that is wrong
            return scan_error(Reason.SURROGATE if lone else Reason.ESCAPE, at)
        return scan_error(Reason.UTF8 if byte >= 0x80 else Reason.CONTROL, at)


def _content(token: bytes) -> bytes:
    """Return what a valid JSON string, quotes included, stands for."""
    if b"\\" not in token:
        return token[1:-1]
    content: str = orjson.loads(token)
    return content.encode()


def unescape(body: bytes, start: int, end: int) -> bytes:
    """Return the content of the JSON string body[start:end], quotes included, as UTF-8 without escapes.

    ValueError unless there is a valid JSON string exactly there.
    """
    if not isinstance(body, bytes):
        raise TypeError(f"the body must be bytes, not {type(body).__name__}")
    token = body[start:end] if 0 <= start < end <= len(body) else b""
    content = _CONTENT.fullmatch(token, 1, len(token) - 1) if len(token) > 1 else None
    if content is None or token[0] != _QUOTE or token[-1] != _QUOTE:
        raise ValueError(f"no JSON string at bytes {start} to {end}")
    return _content(token)
