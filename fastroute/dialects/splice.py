"""The only edits ever made to a client's body: a spliced model name, and a request for usage.

Everything else stays byte for byte as the client sent it, so no value can change its meaning on the way.
"""

from typing import Final

import orjson

from fastroute._core.jsonscan import KIND_ABSENT, KIND_TRUE, MAX_DEPTH, Scanner

Edit = tuple[int, int, bytes]

_ASK: Final = b'"include_usage":true'
_INCLUDE_USAGE: Final = Scanner(("include_usage",), MAX_DEPTH)


def splice(body: bytes, edits: list[Edit]) -> bytes:
    """Return the body with each body[start:end] replaced. Edits do not overlap."""
    if not edits:
        return body
    pieces: list[bytes] = []
    at = 0
    for start, end, replacement in sorted(edits):
        pieces += (body[at:start], replacement)
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)


def model_edit(start: int, end: int, name: bytes) -> Edit:
    """Replace the model value at body[start:end], quotes included."""
    return start, end, orjson.dumps(name.decode())


def usage_edit(body: bytes, kind: int, start: int, end: int, after_open: int) -> Edit | None:
    """Ask for usage in a streamed OpenAI request; None if the client asked already.

    kind, start, end: the `stream_options` value: null, absent, or an object that names nothing twice.
    after_open: offset after the body's `{`.
    """
    if kind == KIND_ABSENT:
        return after_open, after_open, b'"stream_options":{' + _ASK + b"},"
    value = body[start:end]
    if not value.startswith(b"{"):
        return start, end, b"{" + _ASK + b"}"
    inner_kind, inner_start, inner_end, inner_open, members = _INCLUDE_USAGE.scan(value)
    if inner_kind == KIND_TRUE:
        return None
    if inner_kind != KIND_ABSENT:
        return start + inner_start, start + inner_end, b"true"
    at = start + inner_open
    return at, at, _ASK + (b"," if members else b"")
