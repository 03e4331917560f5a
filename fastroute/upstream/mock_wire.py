"""Strict parsing (RFC 9112) of the requests that reach the scripted upstream: any doubt is an error."""

import asyncio
import re
from dataclasses import dataclass, field, replace
from typing import Final

#: Request line and header fields together; more is a protocol error.
MAX_HEAD_BYTES: Final = 64 * 1024
#: One request's body; more is a protocol error.
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
#: Bytes read ahead of the parser on one connection; the client is not read from while more than this wait.
MAX_READ_AHEAD_BYTES: Final = 256 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.1")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_LENGTH = re.compile(rb"[0-9]{1,15}")


class ProtocolError(Exception):
    """What the client sent is not one well-framed HTTP/1.1 request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in. `connection` counts accepted connections from 1; `raw` is every byte of it.

    Header names keep the case they were sent in. `body` is without chunked framing.
    """

    connection: int
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    raw: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the only field called `name` (any case), or None; two are a ValueError."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        if len(values) > 1:
            raise ValueError(f"{len(values)} fields named {name.decode('latin-1')}")
        return values[0] if values else None


class RequestReader:
    """Bytes in, requests out. `head_only`: a head was handed out whose body has not been asked for yet."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._eof = False
        self._changed = asyncio.Event()
        self._head: Request | None = None
        self._raw = bytearray()

    @property
    def head_only(self) -> bool:
        return self._head is not None

    async def feed(self, data: bytes) -> None:
        """Take `data` in, and return once the parser is at most `MAX_READ_AHEAD_BYTES` behind."""
        self._buffer += data
        self._changed.set()
        while len(self._buffer) > MAX_READ_AHEAD_BYTES:
            await self._wait()

    def feed_eof(self) -> None:
        self._eof = True
        self._changed.set()

    async def has_data(self) -> bool:
        """Wait for the first byte of a request; False if the client left instead."""
        while not self._buffer and not self._eof:
            await self._wait()
        return bool(self._buffer)

    async def head(self) -> Request:
        """Read one head. Raises ProtocolError."""
        self._raw = bytearray()
        block = await self._until(b"\r\n\r\n", MAX_HEAD_BYTES)
        line, *fields = block[:-4].split(b"\r\n")
        parts = _REQUEST_LINE.fullmatch(line)
        if parts is None:
            raise ProtocolError(f"bad request line {line[:200]!r}")
        headers = [_parse_field(item) for item in fields]
        if sum(name.lower() == b"host" for name, _ in headers) != 1:
            raise ProtocolError("not exactly one Host field")
        method, target = parts[1].decode("ascii"), parts[2].decode("ascii")
        self._head = Request(self._connection, method, target, headers, b"", block)
        return self._head

    async def request(self) -> Request:
        """Read one request whole, or the rest of the one whose head was read last. Raises ProtocolError."""
        head = self._head or await self.head()
        body, trailers = await self._body(head.headers)
        self._head = None
        return replace(head, body=body, raw=head.raw + bytes(self._raw), trailers=trailers)

    async def _body(self, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
        self._raw = bytearray()
        if codings:
            if codings != [b"chunked"] or lengths:
                raise ProtocolError(f"transfer-encoding {codings} with content-length {lengths}")
            return await self._chunked()
        if not lengths:
            return b"", []
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) > MAX_BODY_BYTES:
            raise ProtocolError(f"bad content-length {lengths}")
        return await self._exactly(int(lengths[0])), []

    async def _chunked(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        body = bytearray()
        while True:
            line = (await self._until(b"\r\n", 32))[:-2]
            if not _CHUNK_SIZE.fullmatch(line):
                raise ProtocolError(f"bad chunk size {line!r}")
            size = int(line, 16)
            if size == 0:
                return bytes(body), await self._trailers()
            if len(body) + size > MAX_BODY_BYTES:
                raise ProtocolError(f"body over {MAX_BODY_BYTES} bytes")
            body += await self._exactly(size)
            if await self._exactly(2) != b"\r\n":
                raise ProtocolError("chunk data not followed by CRLF")

    async def _trailers(self) -> list[tuple[bytes, bytes]]:
        trailers: list[tuple[bytes, bytes]] = []
        while len(trailers) <= 100:
            line = (await self._until(b"\r\n", 8192))[:-2]
            if not line:
                return trailers
            trailers.append(_parse_field(line))
        raise ProtocolError("over 100 trailer fields")

    async def _until(self, mark: bytes, limit: int) -> bytes:
        seen = 0
        while (at := self._buffer.find(mark, seen)) < 0:
            seen = max(0, len(self._buffer) - len(mark) + 1)
            if len(self._buffer) > limit:
                break
            await self._more()
        if at < 0 or at + len(mark) > limit:
            raise ProtocolError(f"no {mark!r} within {limit} bytes")
        return self._take(at + len(mark))

    async def _exactly(self, size: int) -> bytes:
        pieces = []
        while size > len(self._buffer):
            size -= len(self._buffer)
            pieces.append(self._take(len(self._buffer)))
            await self._more()
        return b"".join([*pieces, self._take(size)])

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._raw += data
        self._changed.set()
        return data

    async def _more(self) -> None:
        have = len(self._buffer)
        while len(self._buffer) == have:
            if self._eof:
                raise ProtocolError("the client left inside a request")
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise ProtocolError(f"bad header field {line[:200]!r}")
    return match[1], match[2]
