"""Pure half of ``heads``, and the place where its parts are explained. Names of fields are in lower case."""

import re
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Final

from fastroute._core._heads_flags import (
    ENCODED,
    EVENT_STREAM,
    EVENTS,
    IDENTIFIED,
    LENGTH_FIELDS,
    LIMITS,
    MAX_LENGTH_DIGITS,
    TYPED,
)

Header = tuple[bytes, bytes]

_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_FIELD: Final = b": ".join
_FLAGS: Final = {b"content-type": TYPED, b"x-request-id": IDENTIFIED, b"content-encoding": ENCODED}


def find_head(data: bytes) -> tuple[int, bytes, bytes]:
    """Return (end, key, digits) of the request head that `data` begins with.

    end: the offset behind its blank line, -1 if that has not come. key: all of its bytes but the digits of its first
    content-length, which stand beside it; two heads of the same key mean the same but for that length, whatever else is
    in them. Where these are no 1 to 15 digits behind one blank, there are none, and the key is the whole head.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return -1, b"", b""
    upper, lower = data.find(LENGTH_FIELDS[0], 0, end), data.find(LENGTH_FIELDS[1], 0, end)
    start = upper if lower < 0 or 0 <= upper < lower else lower
    if start >= 0:
        start += len(LENGTH_FIELDS[0])
        stop = data.find(b"\r\n", start)
        digits = data[start:stop]
        if digits.isdigit() and len(digits) <= MAX_LENGTH_DIGITS:
            return end, data[:start] + data[stop:end], digits
    return end, data[:end], b""


def head_key(headers: Iterable[Header]) -> tuple[bytes, int]:
    """Return (key, content-length) of a request's header fields.

    Two requests have the same key if and only if they have the same fields in the same order, whatever their
    content-length. content-length: -1 if there is none, -2 if there are several or it is no number of 1 to 18 digits.
    """
    parts: list[bytes] = []
    length = -1
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if length == -1 and _DIGITS.fullmatch(value) else -2
        else:
            parts += (name, b":", value, b"\n")
    return b"".join(parts), length


def request_head(headers: Iterable[Header], drop: Container[bytes]) -> bytes:
    """Return the lines of the fields of `headers` not in `drop`, each with its line end.

    Field values come from a parsed request and are trusted.
    """
    parts: list[bytes] = []
    for name, value in headers:
        if name not in drop:
            parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def answer_head(line: bytes, headers: list[Header], date_line: bytes) -> tuple[bytes, int, bool]:
    """Return (status line and fields, content-length, whether it says `connection: close`) of an answer.

    content-length: -1 if there is none. `date_line` is added where there is no date.
    """
    lines, length, connections = _answer_lines(line, headers, date_line)
    return lines, length, b"close" in connections


def whole_answer(line: bytes, headers: list[Header], date_line: bytes, body: bytes) -> bytes:
    """Return head and body of an answer; b"" if it has not the body's length, or a connection field.

    What that is, `answer_head` says.
    """
    lines, length, connections = _answer_lines(line, headers, date_line)
    return b"" if connections or length != len(body) else lines + b"\r\n" + body


def _answer_lines(line: bytes, headers: list[Header], date_line: bytes) -> tuple[bytes, int, list[bytes]]:
    """Return (status line and fields, content-length, what its connection fields say) of an answer."""
    # A field is a name and a value: made a line, and looked for by its name, without a step of Python's for each.
    last = dict(headers)
    lines = line + b"\r\n".join((*map(_FIELD, headers), b"" if b"date" in last else date_line))
    connections = [value for name, value in headers if name == b"connection"] if b"connection" in last else []
    return lines, int(last.get(b"content-length", -1)), connections


def answer_flags(headers: Iterable[Header]) -> int:
    """Return what the fields of an answer say, as a sum of `_heads_flags`."""
    flags = 0
    for name, value in headers:
        about = _about(name)
        if not about:
            continue
        if about == TYPED:
            flags = flags & ~EVENTS | TYPED
            if value[: len(EVENT_STREAM)].lower() == EVENT_STREAM:
                flags |= EVENTS
        elif about != ENCODED or value.lower() != b"identity":
            flags |= about
    return flags


@lru_cache(maxsize=1024)
def _about(name: bytes) -> int:
    """Return the one of the flags that a field of this name may set, 0 for any other field."""
    if name[:1] in (b"x", b"r", b"a") and b"limit" in name:
        return LIMITS
    return _FLAGS.get(name, 0)
