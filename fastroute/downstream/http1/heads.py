"""Request heads, read strictly, and each distinct one only once (RFC 9112, sections 2, 3, 5 and 6).

An SDK sends the same head with every request, but for the length of its body. A head that was understood is recognised
by its bytes, the length cut out of them.
"""

import re
from typing import Final

import msgspec

from fastroute._core._heads_flags import MAX_LENGTH_DIGITS
from fastroute._core.heads import find_head
from fastroute.interfaces import Header

# How the body of a request is framed.
NO_BODY: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
#: In two ways at once, or in none that is known: nothing that follows on the connection means anything.
BROKEN: Final = 3

MAX_KNOWN: Final = 1024
#: Longer ones, and those of more fields, are read anew each time, so that the table stays small whoever fills it.
MAX_KNOWN_BYTES: Final = 4096
MAX_KNOWN_FIELDS: Final = 64

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
# What may yet become one.
_LINE_BEGUN: Final = re.compile(rb"\r|" + _TOKEN + rb"{1,32}(?: (?:[\x21-\x7e]+(?: [HTP/1.0]{0,8}\r?)?)?)?")
# Field values hold VCHAR, obs-text, SP and HTAB: no other control, no line folding.
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
_FIELDS: Final = re.compile(rb"(?:" + _TOKEN + rb"{1,256}+:" + _VALUE + rb"\r\n)*+\r\n")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"{1,256}+):[ \t]*+(" + _VALUE + rb")\r\n")
# What can be read of a start line that is no good, or not all here: method, and path up to its query.
_METHOD_AND_PATH: Final = re.compile(
    rb"(" + _TOKEN + rb"{1,32}) (?:[A-Za-z][A-Za-z0-9+.\-]*://[^/?#\s]+)?(/[^\x00-\x20?#\x7f-\xff]*)"
)
_SCHEME_AND_HOST: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]+")


class BadHeadError(Exception):
    """Bytes that are no head of a request; `status` is what to answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class RequestHead(msgspec.Struct, frozen=True, eq=False):
    """A head as it was read; compared by what it is, not by what is in it.

    length_at: which of the headers is content-length. http10: its version is 1.0. persistent: the client will use the
    connection again. expects: it waits to be told to go on. plain: its answer is framed in the ordinary way, and the
    connection goes on.
    """

    method: str
    path: bytes
    query: bytes
    headers: list[Header]
    length_at: int
    framing: int
    http10: bool
    persistent: bool
    expects: bool
    plain: bool


class HeadTable:
    """Reads the heads of one worker's connections."""

    def __init__(self) -> None:
        #: By all their bytes; and those with a length by all but its digits, which is why they stand apart: a head
        #: without digits there is another head.
        self._known: dict[bytes, RequestHead] = {}
        self._known_but_length: dict[bytes, RequestHead] = {}

    def read(self, data: bytes) -> tuple[int, RequestHead, bytes] | None:
        """Return (end, head, digits) of the head that `data` begins with, None if all of it has not come.

        end: the offset behind its blank line. digits: of its content-length, where the framing is LENGTH; those of
        `head` may be another request's. Raises BadHeadError.
        """
        end, key, digits = find_head(data)
        if end < 0:
            return None
        known = self._known_but_length if digits else self._known
        head = known.get(key)
        if head is None:
            head = parse_head(data[:end])
            small = end <= MAX_KNOWN_BYTES and len(head.headers) <= MAX_KNOWN_FIELDS
            if small and (head.framing == LENGTH) == bool(digits):
                _remember(known, key, head)
        if head.framing == LENGTH:
            return end, head, digits or head.headers[head.length_at][1]
        return end, head, b""


def _remember(known: dict[bytes, RequestHead], key: bytes, head: RequestHead) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[key] = head


def _is_length(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= MAX_LENGTH_DIGITS


def parse_head(data: bytes) -> RequestHead:
    """Return the head that `data` is, blank line included. Raises BadHeadError."""
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise BadHeadError(400)
    if not _FIELDS.fullmatch(data, line.end()):
        raise BadHeadError(400)
    headers = [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD.findall(data, line.end())]
    path, _, query = _target(line[2]).partition(b"?")
    http10 = line[3] == b"0"
    framing, length_at = _framing(headers, http10)
    connection = {
        token.strip() for name, value in headers if name == b"connection" for token in value.lower().split(b",")
    }
    persistent = b"close" not in connection and (not http10 or b"keep-alive" in connection)
    expects = not http10 and any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
    method = line[1].decode()
    plain = persistent and not http10 and method != "HEAD"
    return RequestHead(method, path, query, headers, length_at, framing, http10, persistent, expects, plain)


def read_begun(data: bytes) -> tuple[str, bytes]:
    """Return the method and path that bytes begin with which are no head; "" and b"" where none can be read."""
    begun = _METHOD_AND_PATH.match(data)
    return (begun[1].decode(), begun[2]) if begun is not None else ("", b"")


def check_begun(data: bytes, checked: int = 0) -> None:
    """Refuse bytes that cannot become a head any more, however they go on. Raises BadHeadError.

    checked: how many of them have passed before; a head that comes in many pieces is not read anew with each.
    """
    if data.find(b"\n", 0, checked) < 0:
        begun = _REQUEST_LINE.match(data) if b"\n" in data else _LINE_BEGUN.fullmatch(data)
        if begun is None:
            raise BadHeadError(400)
    if data.count(b"\n", checked) != data.count(b"\r\n", max(checked - 1, 0)):
        raise BadHeadError(400)


def _target(target: bytes) -> bytes:
    """Return the path and query of a request target, in origin or absolute form."""
    if not target.startswith(b"/"):
        absolute = _SCHEME_AND_HOST.match(target)
        if absolute is None:
            raise BadHeadError(400)
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise BadHeadError(400)
    return target


def _framing(headers: list[Header], http10: bool) -> tuple[int, int]:
    """Return (framing, which of the headers is content-length, -1 if none is)."""
    lengths = [at for at, (name, _) in enumerate(headers) if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        return (CHUNKED if codings == [b"chunked"] and not lengths and not http10 else BROKEN), -1
    if not lengths:
        return NO_BODY, -1
    if len(lengths) > 1 or not _is_length(headers[lengths[0]][1]):
        return BROKEN, -1
    return LENGTH, lengths[0]
