"""What both halves of jsonscan share: the kinds of value, the bounds, and the one error."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Literal

KIND_ABSENT: Final = 0
KIND_STRING: Final = 1  # without a backslash: the bytes between the quotes are the content
KIND_STRING_ESCAPED: Final = 2
KIND_NUMBER: Final = 3
KIND_TRUE: Final = 4
KIND_FALSE: Final = 5
KIND_NULL: Final = 6
KIND_OBJECT: Final = 7
KIND_ARRAY: Final = 8

MAX_FIELDS: Final = 64  # wanted fields of one scanner
MAX_DEPTH: Final = 1024  # the highest max_depth a scanner takes
MAX_MEMBERS: Final = 1024  # top-level members of one body
MAX_NUMBER_BYTES: Final = 512
MAX_KEY_SHOWN: Final = 128  # characters of a client's key that an error repeats

ScanCode = Literal[
    "empty", "malformed", "not_object", "duplicate_key", "too_many", "too_deep", "invalid_utf8", "number_out_of_range"
]


class Reason(IntEnum):
    """Why a body is refused, finer than its code. The same numbers as `enum fr_reason` in _scan.h."""

    EMPTY = 1
    NOT_OBJECT = 2
    TRUNCATED = 3
    UNEXPECTED = 4
    BYTE_ORDER_MARK = 5
    CONTROL = 6
    ESCAPE = 7
    SURROGATE = 8
    LITERAL = 9
    NUMBER = 10
    TOO_MANY = 11
    UTF8 = 12
    DUPLICATE = 13
    TOO_DEEP = 14
    RANGE = 15


_MEANING: Final[dict[int, tuple[ScanCode, str]]] = {
    Reason.EMPTY: ("empty", "the body is empty"),
    Reason.NOT_OBJECT: ("not_object", "the body is not a JSON object"),
    Reason.TRUNCATED: ("malformed", "the body ends too early"),
    Reason.UNEXPECTED: ("malformed", "unexpected byte"),
    Reason.BYTE_ORDER_MARK: ("malformed", "the body starts with a byte order mark"),
    Reason.CONTROL: ("malformed", "unescaped control byte in a string"),
    Reason.ESCAPE: ("malformed", "invalid escape in a string"),
    Reason.SURROGATE: ("malformed", "lone surrogate escape in a string"),
    Reason.LITERAL: ("malformed", "misspelt literal"),
    Reason.NUMBER: ("malformed", "invalid number"),
    Reason.TOO_MANY: ("too_many", f"too many members: more than {MAX_MEMBERS}"),
    Reason.UTF8: ("invalid_utf8", "invalid UTF-8 in a string"),
    Reason.DUPLICATE: ("duplicate_key", "duplicate key"),
    Reason.TOO_DEEP: ("too_deep", "containers nested too deeply"),
    Reason.RANGE: ("number_out_of_range", "number out of range"),
}


class ScanError(ValueError):
    """A body that is not one acceptable JSON object.

    code: a word of the closed vocabulary `ScanCode`.
    offset: of the first fault in reading order, in bytes from the start of the body (0 to its length). That
    is the byte that cannot be there, the opening quote of a repeated or surplus key, the first byte of a bad
    number, literal, escape or UTF-8 sequence, or the bracket that is too deep; the length of the body where
    it ends too early.
    key: for `duplicate_key` the key, unescaped and cut to `MAX_KEY_SHOWN` characters; else empty.
    """

    def __init__(self, code: ScanCode, message: str, offset: int, key: str = "") -> None:
        super().__init__(message)
        self.code: ScanCode = code
        self.offset = offset
        self.key = key


def scan_error(reason: int, offset: int, key: bytes = b"") -> ScanError:
    """Return the error for `reason` (a `Reason`) at `offset`; `key` is the content of a repeated key."""
    code, text = _MEANING[reason]
    # Four bytes a character at most: cut the bytes first, as a key can be as long as a body.
    shown = key[: 4 * MAX_KEY_SHOWN].decode("utf-8", "ignore")[:MAX_KEY_SHOWN]
    subject = f" {shown!r}" if reason == Reason.DUPLICATE else ""
    return ScanError(code, f"{text}{subject} at byte {offset}", offset, shown)


def checked_fields(fields: Sequence[str], max_depth: int) -> tuple[bytes, ...]:
    """Return the wanted field names as bytes; ValueError where names or `max_depth` cannot be used."""
    if not 1 <= max_depth <= MAX_DEPTH:
        raise ValueError(f"max_depth must be 1 to {MAX_DEPTH}, not {max_depth}")
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"at most {MAX_FIELDS} fields, not {len(fields)}")
    for field in fields:
        if not field.isascii():
            raise ValueError(f"field names are ASCII, not {field!r}")
    names = tuple(field.encode("ascii") for field in fields)
    if len(set(names)) != len(names):
        raise ValueError("a field is named twice")
    return names
