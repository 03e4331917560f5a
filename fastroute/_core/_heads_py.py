"""Pure half of ``heads``, and the place where its parts are explained. Names of fields are in lower case."""

import re
from collections.abc import Container, Iterable
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


def find_head(data: bytes) -> tuple[int, bytes, bytes]:
    """Return (end, key, digits) of the request head that `data` begins with.

    end: the offset behind its blank line, -1 if that has not come. key: all of its bytes but the digits of its first
    content-length, which stand beside it; two heads of the same key mean the same but for that length, whatever else is
    in them. Where these are no 1 to 15 digits behind one blank, there are none, and the key is the whole head.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return -1, b"", b""
    head = data[:end]
    starts = [head.find(field) for field in LENGTH_FIELDS]
    start = min((at for at in starts if at >= 0), default=-1)
    if start >= 0:
        start += len(LENGTH_FIELDS[0])
        stop = head.find(b"\r\n", start)
        digits = head[start:stop]
        if digits.isdigit() and len(digits) <= MAX_LENGTH_DIGITS:
            return end, head[:start] + head[stop:], digits
    return end, head, b""


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
    parts = [line]
    length = -1
    closes = dated = False
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
        if name == b"date":
            dated = True
        elif name == b"content-length":
            length = int(value)
        elif name == b"connection" and value == b"close":
            closes = True
    if not dated:
        parts.append(date_line)
    return b"".join(parts), length, closes


def whole_answer(line: bytes, headers: list[Header], date_line: bytes, body: bytes) -> bytes:
    """Return head and body of an answer; b"" if it has not the body's length, or a connection field.

    What that is, `answer_head` says.
    """
    if any(name == b"connection" for name, _ in headers):
        return b""
    lines, length, _ = answer_head(line, headers, date_line)
    return lines + b"\r\n" + body if length == len(body) else b""


def answer_flags(headers: Iterable[Header]) -> int:
    """Return what the fields of an answer say, as a sum of `_heads_flags`."""
    flags = 0
    for name, value in headers:
        if name == b"content-type":
            events = value[: len(EVENT_STREAM)].lower() == EVENT_STREAM
            flags = flags & ~EVENTS | TYPED | (EVENTS if events else 0)
        elif name == b"x-request-id":
            flags |= IDENTIFIED
        elif name == b"content-encoding":
            if value.lower() != b"identity":
                flags |= ENCODED
        elif name[:1] in (b"x", b"r", b"a") and b"limit" in name:
            flags |= LIMITS
    return flags
