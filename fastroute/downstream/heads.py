"""What a request's header fields say, worked out once for each distinct set of fields.

An SDK sends the same fields with every request. They are checked, authenticated and turned into the lines that go
upstream the first time; after that the whole set is recognised by one dictionary lookup, exactly, byte for byte. Only
sets that were let in are remembered, for the life of one snapshot, up to `MAX_KNOWN_HEADS`; and none of them once a
virtual key was made or revoked.
"""

import re
from typing import Final

import msgspec

from fastroute._core.heads import head_key, request_head
from fastroute.downstream.lane import Downstream
from fastroute.errors import GatewayError
from fastroute.interfaces import Authenticator, Header, Principal

MAX_KNOWN_HEADS: Final = 1024
#: A lane does not recognise longer heads: each of theirs is another one, and would be kept for nothing.
MAX_SEEN_BYTES: Final = 4096

Fields = dict[bytes, bytes]

#: Fields that frame or authenticate a request: two of them mean two readings of it.
_SINGLE: Final = (b"content-length", b"host", b"transfer-encoding", b"content-type")
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"x-goog-api-key")

# RFC 3986 host without percent escapes, or a bracketed IPv6 address; RFC 9110 section 7.2.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class Head(msgspec.Struct, frozen=True):
    """What a set of header fields comes to.

    lines: the fields that go upstream. ours: the fields addressed to us, or naming more that must not go on; such a
    head is not remembered.
    """

    principal: Principal
    fields: Fields
    lines: bytes
    ours: bool


class HeadReader:
    """Reads heads for one snapshot. drop: fields that do not go upstream. ours: fields that concern us."""

    def __init__(
        self,
        keys: Authenticator,
        drop: frozenset[bytes],
        ours: frozenset[bytes],
        max_headers: int,
        max_header_bytes: int,
    ) -> None:
        self._keys = keys
        self._drop = drop
        self._ours = ours
        self._max_headers = max_headers
        self._max_header_bytes = max_header_bytes
        self._known: dict[bytes, Head] = {}
        # The same ones, by what a lane knows them by.
        self._seen: dict[object, Head] = {}
        # Of callers whose key expires: these are asked for every time.
        self._passing: dict[bytes, Head] = {}

    def read(self, downstream: Downstream) -> tuple[Head, int]:
        """Return (head, declared length or -1) of a request. Raises GatewayError 400, 401, 415, 417 or 431."""
        head = self._seen.get(downstream.head)
        if head is not None:
            return head, downstream.length
        return self.read_fields(downstream.headers, downstream.query, downstream.head)

    def read_fields(self, headers: list[Header], query: bytes, seen: object = None) -> tuple[Head, int]:
        """Do what `read` does. seen: what the lane knows the head by, see `Downstream`."""
        key, length = head_key(headers)
        cacheable = b"key=" not in query
        head = self._known.get(key) if cacheable else None
        if head is None:
            head = self._unknown(headers, query, key, cacheable)
        if length < 0:
            self._check_length(length, head.fields)
        elif b"transfer-encoding" in head.fields:
            raise _ambiguous()
        if seen is not None and cacheable and len(key) <= MAX_SEEN_BYTES and key in self._known:
            if len(self._seen) >= MAX_KNOWN_HEADS:
                self._seen.clear()
            self._seen[seen] = head
        return head, length

    def forget(self) -> None:
        """Read every head anew, because a key may have been revoked."""
        self._known.clear()
        self._seen.clear()
        self._passing.clear()
        self._keys.forget()

    def _unknown(self, headers: list[Header], query: bytes, key: bytes, cacheable: bool) -> Head:
        head = self._passing.get(key) if cacheable else None
        if head is not None and not self._keys.expired(head.principal):
            return head
        head = self._read(headers, query, len(key))
        if cacheable and not head.ours:
            self._remember(key, head)
        return head

    def _read(self, headers: list[Header], query: bytes, size: int) -> Head:
        if len(headers) > self._max_headers or size > self._max_header_bytes:
            raise GatewayError(431, "headers_too_large", "the request head is too large", close=True)
        fields = dict(headers)
        if len(fields) != len(headers):
            _check_repeated(headers, fields)
        _check_fields(fields)
        principal = self._keys.identify(fields, query)
        ours = not self._ours.isdisjoint(fields) or any(name.startswith(b"x-fastroute-") for name in fields)
        return Head(principal, fields, request_head(headers, self._drop), ours)

    def _remember(self, key: bytes, head: Head) -> None:
        known = self._passing if head.principal.until_ns else self._known
        if len(known) >= MAX_KNOWN_HEADS:
            # Clients that vary their fields gain nothing from this; those that do not are soon known again.
            known.clear()
        known[key] = head

    def _check_length(self, length: int, fields: Fields) -> None:
        coding = fields.get(b"transfer-encoding")
        if length == -2 or (coding is not None and coding.lower() != b"chunked"):
            raise _ambiguous()


def _check_fields(fields: Fields) -> None:
    """Refuse what no body could make right."""
    if not _HOST.fullmatch(fields.get(b"host", b"")):
        raise GatewayError(400, "invalid_request_error", "missing or malformed host field", close=True)
    content_type = fields.get(b"content-type", b"application/json")
    if not _is_json(content_type):
        raise GatewayError(415, "unsupported_media_type", "content-type must be application/json")
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise GatewayError(
            415, "unsupported_media_type", "content-encoding is not supported; send the body uncompressed"
        )
    if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise GatewayError(417, "expectation_failed", "unknown expectation", close=True)


def _check_repeated(headers: list[Header], fields: Fields) -> None:
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise GatewayError(400, "invalid_request_error", f"more than one {name.decode()} field", close=True)
    if names.count(b"content-encoding") > 1:
        fields[b"content-encoding"] = b"several"
    for name in _CREDENTIALS:
        if names.count(name) > 1:
            # Not to be guessed which is meant; an impossible credential makes it an ordinary 401.
            fields[name] = b"\x00"
    for name in set(names):
        if name.startswith(b"x-fastroute-") and names.count(name) > 1:
            # RFC 9110, section 5.3: several lines are one list. What takes no list is refused when it is read.
            fields[name] = b",".join(value for key, value in headers if key == name)


def _is_json(content_type: bytes) -> bool:
    media, _, parameters = content_type.partition(b";")
    charset = parameters.strip().lower().replace(b'"', b"")
    return media.strip().lower() == b"application/json" and charset in (b"", b"charset=utf-8", b"charset=utf8")


def _ambiguous() -> GatewayError:
    return GatewayError(400, "invalid_request_error", "ambiguous request framing", close=True)
