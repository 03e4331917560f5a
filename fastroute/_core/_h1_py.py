"""Pure half of ``h1``, and the place where its parts are explained.

The response parser is strict on purpose: every leniency between two HTTP implementations is a way to smuggle a
response. A frame that RFC 9112 does not allow is an `UpstreamError("malformed")`, and the connection is dropped.
"""

import asyncio
import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

from fastroute._core._h1_errors import (
    HIGH_WATER,
    MAX_CHUNK_LINE,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_INTERIM,
    MAX_TRAILER_BYTES,
    UpstreamError,
)

Header = tuple[bytes, bytes]

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
_UNSEEN: Final = -3

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([0-9]{3}) ([\t\x20-\x7e\x80-\xff]*)")
# RFC 9110: field-name is a token, field-value holds VCHAR, obs-text, SP and HTAB. 128 bytes bound a name.
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
# The same of every line, the blanks behind a value left out.
_FIELDS = re.compile(
    rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}):[ \t]*+([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff]|)[ \t]*+\r\n",
    re.MULTILINE,
)
_DIGITS = re.compile(rb"[0-9]{1,18}")
# The line of a chunk without an extension, of a size that cannot be too large.
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_EXTENSION = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_KEPT_TOKENS = frozenset({b"close", b"keep-alive", b"content-length", b"content-type"})


def _malformed(message: str) -> UpstreamError:
    return UpstreamError("malformed", message)


def _head_end(data: bytes, base: int, line: int) -> tuple[int, int]:
    """Return (end, line) relative to `base`: the offset after the blank line or -1, and where to go on looking."""
    start = base + line
    blank = -1 if data.startswith(b"\r\n", start) else data.find(b"\r\n\r\n", start)
    if blank >= 0 and data.count(b"\n", start, blank) == data.count(b"\r\n", start, blank):
        return blank + 4 - base, line
    while True:
        newline = data.find(b"\n", start)
        if newline < 0:
            return -1, start - base
        if newline == start or data[newline - 1] != 13:
            raise _malformed("bare line feed in the response head")
        if newline - 1 == start:
            if start == base:
                raise _malformed("empty status line")
            return newline + 1 - base, start - base
        start = newline + 1


def _status_line(line: bytes) -> tuple[int, bool]:
    if line == b"HTTP/1.1 200 OK":
        return 200, True
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise _malformed("malformed status line")
    status = int(match[2])
    if not 100 <= status <= 599:
        raise _malformed("status code out of range")
    return status, match[1] == b"1"


def _fields(head: bytes, start: int, count: int) -> Iterable[Header]:
    """Return names and values of the `count` fields that begin at `start`; ends with an error where one is none."""
    fields: list[Header] = _FIELDS.findall(head, start, len(head) - 2)
    return fields if len(fields) == count else _field_by_field(head[start:-4].split(b"\r\n"))


def _field_by_field(lines: list[bytes]) -> Iterator[Header]:
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _malformed("malformed response header")
        yield match[1], match[2].rstrip(b" \t")


def _parse_head(head: bytes, drop: Container[bytes]) -> tuple[int, list[Header], int, bool]:
    """Parse a complete head, blank line included; return (status, headers, length, keep_alive)."""
    first = head.find(b"\r\n")
    status, keep_alive = _status_line(head[:first])
    http10 = not keep_alive
    count = head.count(b"\n") - 2
    if count > MAX_HEADERS:
        raise _malformed("too many response headers")
    headers: list[Header] = []
    chunked = False
    length = _UNSEEN
    connection: bytes | None = None
    for name, value in _fields(head, first + 2, count):
        name = name.lower()
        if name not in _FRAMING:
            if name not in drop:
                headers.append((name, value))
        elif name == b"content-length":
            if length != _UNSEEN or not _DIGITS.fullmatch(value):
                raise _malformed("malformed or repeated content-length")
            length = int(value)
            if name not in drop:
                headers.append((name, value))
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise _malformed("unsupported transfer-encoding")
            chunked = True
        else:
            connection = value.lower() if connection is None else connection + b"," + value.lower()
    length = _body_length(status, length, chunked, http10)
    if length == UNTIL_CLOSE:
        keep_alive = False
    if connection is not None and (connection != b"keep-alive" or http10):
        keep_alive, headers = _apply_connection(connection, headers, keep_alive, http10, length)
    return status, headers, length, keep_alive


def _body_length(status: int, length: int, chunked: bool, http10: bool) -> int:
    """Return the body's length by RFC 9112 section 6.3, `CHUNKED` or `UNTIL_CLOSE`."""
    if chunked:
        if length != _UNSEEN:
            raise _malformed("both content-length and transfer-encoding")
        if http10:
            raise _malformed("transfer-encoding in HTTP/1.0")
        length = CHUNKED
    elif length == _UNSEEN:
        length = UNTIL_CLOSE
    return 0 if status < 200 or status in (204, 304) else length


def _apply_connection(
    value: bytes, headers: list[Header], keep_alive: bool, http10: bool, length: int
) -> tuple[bool, list[Header]]:
    """Read the Connection field: `close`, `keep-alive`, and names of further hop-by-hop fields to drop."""
    tokens = {token.strip() for token in value.split(b",")}
    if b"close" in tokens:
        keep_alive = False
    elif http10 and b"keep-alive" in tokens and length != UNTIL_CLOSE:
        keep_alive = True
    tokens -= _KEPT_TOKENS
    return keep_alive, [pair for pair in headers if pair[0] not in tokens] if tokens else headers


def parse_response_head(
    data: bytes, drop: Container[bytes] = frozenset()
) -> tuple[int, int, list[Header], int, bool] | None:
    """Parse the response head at the start of `data` (RFC 9112 sections 4 to 6).

    Returns (bytes consumed, status, headers, length, keep_alive), or None while the head is incomplete. Names are
    lower case; fields in `drop`, the Connection field and those it names are left out. length: -1 chunked, -2 until
    the connection closes. Raises UpstreamError("malformed").
    """
    end, _ = _head_end(data, 0, 0)
    if (end if end >= 0 else len(data)) > MAX_HEAD_BYTES:
        raise _malformed("response head too large")
    if end < 0:
        return None
    return end, *_parse_head(data[:end], drop)


class ChunkedDecoder:
    """Strict decoder of the chunked transfer coding (RFC 9112 section 7.1).

    Chunk sizes are 1 to 16 hexadecimal digits, no sign, no blank, no prefix; extensions and trailers are bounded and
    thrown away. `feed` raises UpstreamError("malformed") and must not be called again after that; the body bytes of
    that feed that came before what is malformed are then in `before_fault`.
    """

    def __init__(self) -> None:
        self.done = False
        self.before_fault = b""
        self._line = b""  # the incomplete size or trailer line
        self._left = 0
        self._state = "size"
        self._trailer = 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return (body bytes, bytes consumed); fewer are consumed than given only once `done`."""
        out: list[bytes] = []
        i, n = 0, len(data)
        try:
            while i < n and not self.done:
                if self._state == "data":
                    piece = data[i : i + self._left]
                    out.append(piece)
                    self._left -= len(piece)
                    i += len(piece)
                    if self._left == 0:
                        self._state = "data-end"
                    continue
                plain = _PLAIN_SIZE.match(data, i) if self._state == "size" and not self._line else None
                if plain is None:
                    i = self._line_feed(data, i)
                    continue
                i, size = plain.end(), int(plain[1], 16)
                if size and data.startswith(b"\r\n", i + size):
                    out.append(data[i : i + size])
                    i += size + 2
                else:
                    self._begin(size)
        except UpstreamError:
            self.before_fault = b"".join(out)
            raise
        return out[0] if len(out) == 1 else b"".join(out), i

    def _line_feed(self, data: bytes, i: int) -> int:
        """Take a line, or the part of it that has come, and act on it; return the offset after it."""
        newline = data.find(b"\n", i)
        end = len(data) if newline < 0 else newline + 1
        line = self._line + data[i:end]
        self._check(line)
        if newline < 0:
            self._line = line
            return end
        self._line = b""
        self._act(line[:-2])
        return end

    def _check(self, line: bytes) -> None:
        """Refuse a (possibly incomplete) line as early as its first wrong byte."""
        content, cr, rest = line.partition(b"\r")
        if (cr and rest not in (b"", b"\n")) or (not cr and line.endswith(b"\n")):
            raise _malformed("line not ended by CRLF in a chunked body")
        if self._state == "size":
            self._check_size(content, bool(cr))
        elif self._state == "data-end":
            if content:
                raise _malformed("chunk data not followed by CRLF")
        elif content:
            name, colon, value = content.partition(b":")
            if not name or not _TOKEN.issuperset(name) or (cr and not colon) or not _EXTENSION.fullmatch(value):
                raise _malformed("malformed trailer")
            if self._trailer + len(content) + len(cr) > MAX_TRAILER_BYTES:
                raise _malformed("trailer too large")

    def _check_size(self, content: bytes, ended: bool) -> None:
        size, semicolon, extension = content.partition(b";")
        if not _CHUNK_SIZE.fullmatch(size) and (size or semicolon or ended):
            raise _malformed("malformed chunk size")
        if size and int(size, 16) > 1 << 62:
            raise _malformed("chunk size too large")
        if len(extension) > MAX_CHUNK_LINE or not _EXTENSION.fullmatch(extension):
            raise _malformed("malformed chunk extension")

    def _act(self, content: bytes) -> None:
        if self._state == "size":
            self._begin(int(content.partition(b";")[0], 16))
        elif self._state == "data-end":
            self._state = "size"
        elif content:
            self._trailer += len(content) + 1
        else:
            self.done = True

    def _begin(self, size: int) -> None:
        self._left = size
        self._state = "data" if size else "trailer"


class Connection(asyncio.BufferedProtocol):
    """One upstream connection, one exchange at a time.

    Life of an exchange: `start` sends the request; `wait` is awaited until `status` is set; then `read` and `wait` in
    turn until `complete`. `error` is set, and raised by `wait`, when the exchange fails; the head and the bytes that
    came before it can still be read. Those of the same read too: a `wait` that they end does not raise, the next one
    does. A connection that is `reusable` may `start` again. Reading pauses while more than HIGH_WATER bytes wait to be
    read. The read buffer is shared by all connections of one event loop: it is emptied before the loop can fill it
    again. `close` calls `owner.give(self)`; `owner.connection_closed(self)` is called once the transport is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        buffer: bytearray,
        drop: Container[bytes] = frozenset(),
        outbox: Any = None,
    ) -> None:
        self.transport: Any = None
        self.owner: Any = None
        self.status = 0
        self.headers: list[Header] = []
        self.complete = False
        self.answered = False
        self.reused = False
        self.keep_alive = False
        self.write_paused = False
        self.length = 0
        self.error: UpstreamError | None = None
        self._loop = loop
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._drop = drop
        self._outbox = outbox
        self._waiter: asyncio.Future[None] | None = None
        self._drainer: asyncio.Future[None] | None = None
        self._partial = b""
        self._line = 0
        self._data: list[bytes] = []
        self._buffered = 0
        self._read_paused = False
        self._sent_all = True
        self._no_body = False
        self._leased = False
        self._interim = 0
        self._left = 0
        self._state = "idle"
        self._chunks = ChunkedDecoder()

    @property
    def closed(self) -> bool:
        """Return whether the connection is of no further use."""
        return self._state == "closed"

    @property
    def reusable(self) -> bool:
        """Return whether another exchange may start here."""
        return self._state == "idle" and self.keep_alive and self._sent_all and not self._read_paused

    def start(self, head: bytes, body: bytes = b"", no_body: bool = False, partial: bool = False) -> None:
        """Send a request. `partial`: more of the body follows through `write`; `no_body`: a HEAD request."""
        if self._state != "idle":
            raise UpstreamError("closed", "the connection is not idle", sent=False)
        self.reused = self.answered
        self.answered = self.complete = self.keep_alive = False
        self.status = self.length = 0
        self.headers = []
        self.error = None
        self._no_body = no_body
        self._leased = True
        self._interim = self._line = 0
        self._partial = b""
        self._state = "head"
        self._sent_all = not partial
        if body:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)

    def write(self, data: bytes | memoryview, last: bool) -> None:
        """Send a further piece of the request body."""
        if self._state == "closed":
            raise self.error or UpstreamError("closed", "the connection is closed")
        self.transport.write(data)
        if last:
            self._sent_all = True

    def drain(self) -> asyncio.Future[None]:
        """Return a future that is done once the transport takes more bytes."""
        future = self._loop.create_future()
        if self._state == "closed" or not self.write_paused:
            future.set_result(None)
        else:
            self._drainer = future
        return future

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done when the head, more body, the end or an error has come."""
        future = self._loop.create_future()
        if self.error is not None:
            future.set_exception(self.error)
        elif self._state == "closed" and not self.complete:
            future.set_exception(UpstreamError("closed", "the connection is closed"))
        else:
            self._waiter = future
        return future

    def read(self) -> bytes:
        """Return the body bytes received since the last call, b"" if none."""
        if not self._data:
            return b""
        data = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        self._data = []
        self._buffered = 0
        if self._read_paused:
            self._read_paused = False
            if self._state != "closed":
                self.transport.resume_reading()
        return data

    def abort(self) -> None:
        """Drop the connection at once, whatever it is doing. Safe to call at any time, any number of times."""
        self._state = "closed"
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """End the exchange: the owner takes the connection back. Later calls do nothing."""
        if self._leased:
            self._leased = False
            # Where it was raised leads back to here.
            self.error = None
            if self.owner is not None:
                self.owner.give(self)

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport if self._outbox is None else self._outbox.take_over(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the loop's shared read buffer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if self._state not in ("head", "body"):
            # An idle upstream has nothing to say: whatever this is, it is not an answer to us.
            self.abort()
            return
        try:
            self._received(bytes(self._view[:nbytes]))
        except UpstreamError as error:
            if self._state == "body":
                # As if what is malformed had come by itself: whoever waits has first what came before it.
                if self._chunks.before_fault:
                    self._keep(self._chunks.before_fault)
                self._wake()
            self._fail(error)
            self.abort()

    def eof_received(self) -> bool:
        """Note the end of input; the transport closes."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what was under way, and tell the owner."""
        if self._state == "body":
            # An orderly end comes through eof_received. Without one - a reset, or TLS without close_notify - the
            # body is not whole, even one that ends with the connection.
            self._fail(UpstreamError("truncated", "the upstream dropped the connection in the middle of its answer"))
        elif self._state != "closed":
            self._ended()
        self._state = "closed"
        if self.error is None and not self.complete:
            self._fail(UpstreamError("closed", "the connection was closed"))
        self.resume_writing()
        # uvloop's TLS keeps our methods: with this the two would keep each other, and a buffer of 256 KiB.
        self.transport = None
        if self.owner is not None:
            self.owner.connection_closed(self)

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """Wake whoever waits to send more."""
        self.write_paused = False
        self._let_write()

    # --- inside

    def _let_write(self) -> None:
        """Wake whoever waits to send more: there is room, or an answer or an end that makes it pointless."""
        if self._drainer is not None:
            if not self._drainer.done():
                self._drainer.set_result(None)
            self._drainer = None

    def _received(self, data: bytes) -> None:
        self.answered = True
        if self._state == "head":
            rest = self._take_head(data)
            if rest is None:
                return
            data = rest
        if data and self._state == "body":
            data = self._take_body(data)
        if self.complete and (data or not self._sent_all):
            # Bytes after the end of the answer, or an answer before the end of the request: what comes next on
            # this connection cannot be trusted.
            self.keep_alive = False
        self._wake()

    def _take_body(self, data: bytes) -> bytes:
        """Keep the body bytes of `data`; return what follows the body."""
        if self._left == CHUNKED:
            body, consumed = self._chunks.feed(data)
            rest = data[consumed:]
            if body:
                self._keep(body)
            if self._chunks.done:
                self._finish()
            return rest
        if self._left == UNTIL_CLOSE:
            self._keep(data)
            return b""
        body, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._keep(body)
        self._left -= len(body)
        if self._left == 0:
            self._finish()
        return rest

    def _take_head(self, data: bytes) -> bytes | None:
        """Return the bytes after the head, None while it is incomplete."""
        data = self._partial + data
        self._partial = b""
        base = 0
        while True:
            end, self._line = _head_end(data, base, self._line)
            if end < 0:
                if len(data) - base > MAX_HEAD_BYTES:
                    raise _malformed("response head too large")
                self._partial = data[base:]
                return None
            if end > MAX_HEAD_BYTES:
                raise _malformed("response head too large")
            status, headers, length, keep_alive = _parse_head(data[base : base + end], self._drop)
            self._line = 0
            base += end
            if status >= 200:
                break
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise _malformed("unexpected interim response")
        self.status, self.headers, self.keep_alive = status, headers, keep_alive
        self.length = self._left = 0 if self._no_body else length
        self._state = "body"
        if self._left == 0:
            self._finish()
        elif self._left == CHUNKED:
            self._chunks = ChunkedDecoder()
        return data[base:]

    def _keep(self, data: bytes) -> None:
        self._data.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def _finish(self) -> None:
        self.complete = True
        self._state = "idle"

    def _ended(self) -> None:
        """The peer will send no more."""
        if self._state == "body" and self._left == UNTIL_CLOSE:
            self._finish()
            self._wake()
        elif self._state == "body":
            self._fail(UpstreamError("truncated", "the upstream closed in the middle of its answer"))
        elif self._state == "head" and self.answered:
            self._fail(UpstreamError("truncated", "the upstream closed in the middle of its response head"))
        elif self._state == "head":
            self._fail(UpstreamError("closed", "the upstream closed without an answer"))
        self._state = "closed"
        self.keep_alive = False

    def _fail(self, error: UpstreamError) -> None:
        if self.error is None:
            self.error = error
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_exception(self.error)
            self._waiter = None
        self._let_write()

    def _wake(self) -> None:
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None
        if self._drainer is not None:
            self._let_write()
