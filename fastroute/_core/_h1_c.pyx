# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of ``h1``. ``_h1_py`` is the reference and says what each part means."""

import asyncio

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy, memmove

from fastroute._core._h1_errors import (
    HIGH_WATER as _HIGH_WATER,
    MAX_CHUNK_LINE as _MAX_CHUNK_LINE,
    MAX_HEAD_BYTES as _MAX_HEAD_BYTES,
    MAX_HEADERS as _MAX_HEADERS,
    MAX_INTERIM as _MAX_INTERIM,
    MAX_TRAILER_BYTES as _MAX_TRAILER_BYTES,
    UpstreamError,
)

cdef Py_ssize_t HIGH_WATER = _HIGH_WATER
cdef Py_ssize_t MAX_CHUNK_LINE = _MAX_CHUNK_LINE
cdef Py_ssize_t MAX_HEAD_BYTES = _MAX_HEAD_BYTES
cdef int MAX_HEADERS = _MAX_HEADERS
cdef int MAX_INTERIM = _MAX_INTERIM
cdef Py_ssize_t MAX_TRAILER_BYTES = _MAX_TRAILER_BYTES

cdef long long CHUNKED = -1
cdef long long UNTIL_CLOSE = -2

# 0: not a token character; otherwise its lower-case form (RFC 9110 section 5.6.2).
cdef unsigned char[256] TOKEN
# 1: allowed inside a field value (RFC 9110 section 5.5: VCHAR, obs-text, SP, HTAB).
cdef unsigned char[256] VALUE
cdef signed char[256] HEX


cdef void _fill_tables() noexcept:
    cdef int c
    for c in range(256):
        TOKEN[c] = 0
        VALUE[c] = 1 if (c >= 32 and c != 127) or c == 9 else 0
        HEX[c] = -1
    for c in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz":
        TOKEN[c] = c
    for c in range(65, 91):
        TOKEN[c] = c + 32
    for c in range(10):
        HEX[48 + c] = c
    for c in range(6):
        HEX[65 + c] = 10 + c
        HEX[97 + c] = 10 + c


_fill_tables()


cdef struct HeadInfo:
    int status
    long long length
    bint keep_alive


cdef object _malformed(str message):
    return UpstreamError("malformed", message)


cdef Py_ssize_t _head_end(const unsigned char* p, Py_ssize_t n, Py_ssize_t* line) except -2:
    """Return the offset after the blank line, or -1 while it has not come. `line` keeps where to go on looking."""
    cdef const unsigned char* nl
    cdef Py_ssize_t start = line[0], end
    while True:
        nl = <const unsigned char*>memchr(p + start, 10, n - start)
        if nl == NULL:
            line[0] = start
            return -1
        end = nl - p
        if end == start or p[end - 1] != 13:
            raise _malformed("bare line feed in the response head")
        if end - 1 == start:
            if start == 0:
                raise _malformed("empty status line")
            return end + 1
        start = end + 1


cdef int _status_line(const unsigned char* p, Py_ssize_t n, HeadInfo* info) except -1:
    cdef Py_ssize_t i
    if n < 13 or memcmp(p, b"HTTP/1.", 7) != 0 or (p[7] != 48 and p[7] != 49) or p[8] != 32 or p[12] != 32:
        raise _malformed("malformed status line")
    for i in range(9, 12):
        if p[i] < 48 or p[i] > 57:
            raise _malformed("malformed status line")
    for i in range(13, n):
        if not VALUE[p[i]]:
            raise _malformed("control character in the status line")
    info.status = (p[9] - 48) * 100 + (p[10] - 48) * 10 + (p[11] - 48)
    if info.status < 100 or info.status > 599:
        raise _malformed("status code out of range")
    info.keep_alive = p[7] == 49
    return 0


cdef long long _content_length(const unsigned char* p, Py_ssize_t n) except -1:
    cdef Py_ssize_t i
    cdef long long value = 0
    if n == 0 or n > 18:
        raise _malformed("malformed content-length")
    for i in range(n):
        if p[i] < 48 or p[i] > 57:
            raise _malformed("malformed content-length")
        value = value * 10 + (p[i] - 48)
    return value


cdef Py_ssize_t _parse_head(
    const unsigned char* p, Py_ssize_t n, HeadInfo* info, list headers, object drop
) except -2:
    """Parse the complete head p[:n] (blank line included) into `info` and `headers`."""
    cdef Py_ssize_t start, end, colon, a, b, i
    cdef unsigned char[128] name
    cdef bint chunked = False
    cdef bint http10
    cdef long long length = -3
    cdef object key, connection = None
    cdef int count = 0
    cdef const unsigned char* nl
    cdef unsigned char c

    nl = <const unsigned char*>memchr(p, 10, n)
    _status_line(p, nl - p - 1, info)
    http10 = not info.keep_alive
    start = nl - p + 1
    while True:
        nl = <const unsigned char*>memchr(p + start, 10, n - start)
        end = nl - p - 1
        if end == start:
            break
        count += 1
        if count > MAX_HEADERS:
            raise _malformed("too many response headers")
        colon = start
        i = 0
        while colon < end:
            c = TOKEN[p[colon]]
            if c == 0:
                break
            if i == 128:
                raise _malformed("response header name too long")
            name[i] = c
            i += 1
            colon += 1
        if i == 0 or colon == end or p[colon] != 58:
            raise _malformed("malformed response header name")
        a = colon + 1
        b = end
        while a < b and (p[a] == 32 or p[a] == 9):
            a += 1
        while b > a and (p[b - 1] == 32 or p[b - 1] == 9):
            b -= 1
        for colon in range(a, b):
            if not VALUE[p[colon]]:
                raise _malformed("control character in a response header")
        start = end + 2
        if i == 14 and memcmp(name, b"content-length", 14) == 0:
            if length != -3:
                raise _malformed("more than one content-length")
            length = _content_length(p + a, b - a)
        elif i == 17 and memcmp(name, b"transfer-encoding", 17) == 0:
            if chunked or b - a != 7 or PyBytes_FromStringAndSize(<const char*>p + a, 7).lower() != b"chunked":
                raise _malformed("unsupported transfer-encoding")
            chunked = True
            continue
        elif i == 10 and memcmp(name, b"connection", 10) == 0:
            key = PyBytes_FromStringAndSize(<const char*>p + a, b - a).lower()
            connection = key if connection is None else connection + b"," + key
            continue
        key = PyBytes_FromStringAndSize(<const char*>name, i)
        if key in drop:
            continue
        headers.append((key, PyBytes_FromStringAndSize(<const char*>p + a, b - a)))

    if chunked:
        if length != -3:
            raise _malformed("both content-length and transfer-encoding")
        if http10:
            raise _malformed("transfer-encoding in HTTP/1.0")
        length = CHUNKED
    elif length == -3:
        length = UNTIL_CLOSE
    if info.status < 200 or info.status == 204 or info.status == 304:
        length = 0
    if length == UNTIL_CLOSE:
        info.keep_alive = False
    info.length = length
    if connection is not None:
        _apply_connection(info, connection, headers, http10)
    return n


cdef int _apply_connection(HeadInfo* info, bytes value, list headers, bint http10) except -1:
    """Read the Connection field: `close`, `keep-alive`, and names of further hop-by-hop fields to drop."""
    cdef set tokens = {token.strip() for token in value.split(b",")}
    if b"close" in tokens:
        info.keep_alive = False
    elif http10 and b"keep-alive" in tokens and info.length != UNTIL_CLOSE:
        info.keep_alive = True
    tokens -= {b"close", b"keep-alive", b"content-length", b"content-type"}
    if tokens:
        headers[:] = [pair for pair in headers if pair[0] not in tokens]
    return 0


def parse_response_head(bytes data, drop=frozenset()):
    """Return (consumed, status, headers, length, keep_alive), or None while the head is incomplete."""
    cdef HeadInfo info
    cdef Py_ssize_t line = 0
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = _head_end(p, PyBytes_GET_SIZE(data), &line)
    cdef list headers = []
    if (end if end >= 0 else PyBytes_GET_SIZE(data)) > MAX_HEAD_BYTES:
        raise _malformed("response head too large")
    if end < 0:
        return None
    _parse_head(p, end, &info, headers, drop)
    return end, info.status, headers, info.length, bool(info.keep_alive)


cdef enum ChunkState:
    SIZE_FIRST
    SIZE
    EXTENSION
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    TRAILER
    TRAILER_NAME
    TRAILER_LINE
    TRAILER_LF
    LAST_LF
    DONE


cdef class ChunkedDecoder:
    """Strict decoder of the chunked transfer coding (RFC 9112 section 7.1)."""

    cdef ChunkState state
    cdef unsigned long long left
    cdef int digits
    cdef Py_ssize_t line
    cdef Py_ssize_t trailer
    cdef readonly bytes before_fault

    def __cinit__(self):
        self.before_fault = b""
        self.reset()

    cdef void reset(self) noexcept:
        self.state = SIZE_FIRST
        self.left = 0
        self.digits = 0
        self.line = 0
        self.trailer = 0

    @property
    def done(self):
        return self.state == DONE

    def feed(self, data):
        """Return (body bytes, bytes consumed)."""
        cdef bytes copy = PyBytes_FromStringAndSize(NULL, len(data))
        cdef bytes source = bytes(data)
        cdef Py_ssize_t consumed = 0, out
        memcpy(PyBytes_AS_STRING(copy), PyBytes_AS_STRING(source), PyBytes_GET_SIZE(source))
        out = self.decode(<unsigned char*>PyBytes_AS_STRING(copy), PyBytes_GET_SIZE(copy), &consumed)
        return copy[:out], consumed

    cdef Py_ssize_t decode(self, unsigned char* p, Py_ssize_t n, Py_ssize_t* consumed) except -1:
        """Decode p[:n] in place: the body bytes end up at p[0:returned]."""
        cdef Py_ssize_t i = 0, out = 0, take
        cdef unsigned char c
        cdef int digit
        while i < n and self.state != DONE:
            if self.state == DATA:
                take = n - i
                if <unsigned long long>take > self.left:
                    take = <Py_ssize_t>self.left
                if i != out:
                    memmove(p + out, p + i, take)
                i += take
                out += take
                self.left -= take
                if self.left == 0:
                    self.state = DATA_CR
                continue
            c = p[i]
            i += 1
            if self.state == SIZE_FIRST or self.state == SIZE:
                digit = HEX[c]
                if digit >= 0:
                    self.digits += 1
                    if self.digits > 16:
                        raise self.fault(p, out, "chunk size too long")
                    self.left = self.left * 16 + digit
                    self.state = SIZE
                    if self.left > (<unsigned long long>1 << 62):
                        raise self.fault(p, out, "chunk size too large")
                elif self.state == SIZE and c == 13:
                    self.state = SIZE_LF
                elif self.state == SIZE and c == 59:
                    self.state = EXTENSION
                    self.line = 0
                else:
                    raise self.fault(p, out, "malformed chunk size")
            elif self.state == EXTENSION:
                if c == 13:
                    self.state = SIZE_LF
                else:
                    self.line += 1
                    if not VALUE[c] or self.line > MAX_CHUNK_LINE:
                        raise self.fault(p, out, "malformed chunk extension")
            elif self.state == SIZE_LF:
                if c != 10:
                    raise self.fault(p, out, "chunk size not followed by CRLF")
                self.digits = 0
                self.state = DATA if self.left > 0 else TRAILER
            elif self.state == DATA_CR:
                if c != 13:
                    raise self.fault(p, out, "chunk data not followed by CRLF")
                self.state = DATA_LF
            elif self.state == DATA_LF:
                if c != 10:
                    raise self.fault(p, out, "chunk data not followed by CRLF")
                self.state = SIZE_FIRST
            elif self.state == TRAILER:
                if c == 13:
                    self.state = LAST_LF
                elif TOKEN[c] == 0:
                    raise self.fault(p, out, "malformed trailer")
                else:
                    self.state = TRAILER_NAME
                    self.trailer += 1
            elif self.state == TRAILER_NAME or self.state == TRAILER_LINE:
                self.trailer += 1
                if self.trailer > MAX_TRAILER_BYTES:
                    raise self.fault(p, out, "trailer too large")
                if self.state == TRAILER_NAME:
                    if c == 58:
                        self.state = TRAILER_LINE
                    elif TOKEN[c] == 0:
                        raise self.fault(p, out, "malformed trailer")
                elif c == 13:
                    self.state = TRAILER_LF
                elif not VALUE[c]:
                    raise self.fault(p, out, "malformed trailer")
            elif self.state == TRAILER_LF:
                if c != 10:
                    raise self.fault(p, out, "malformed trailer")
                self.state = TRAILER
            else:
                if c != 10:
                    raise self.fault(p, out, "chunked body not ended by CRLF")
                self.state = DONE
        consumed[0] = i
        return out

    cdef object fault(self, unsigned char* p, Py_ssize_t out, str message):
        """Keep the body bytes p[:out] that came before what is malformed; return what to raise."""
        self.before_fault = PyBytes_FromStringAndSize(<const char*>p, out)
        return _malformed(message)


cdef enum State:
    IDLE
    HEAD
    BODY
    CLOSED


cdef class _Connection:
    cdef readonly object transport
    cdef public object owner
    cdef readonly int status
    cdef readonly list headers
    cdef readonly bint complete
    cdef readonly bint answered
    cdef readonly bint reused
    cdef readonly bint keep_alive
    cdef readonly bint write_paused
    cdef readonly long long length
    cdef readonly object error
    cdef object _loop
    cdef object _buffer
    cdef object _drop
    cdef object _outbox
    cdef object _waiter
    cdef object _drainer
    cdef bytes _partial
    cdef Py_ssize_t _line
    cdef bytes _data
    cdef list _more
    cdef Py_ssize_t _buffered
    cdef bint _read_paused
    cdef bint _sent_all
    cdef bint _no_body
    cdef bint _leased
    cdef int _interim
    cdef long long _left
    cdef State _state
    cdef ChunkedDecoder _chunks

    def __init__(self, loop, bytearray buffer, drop=frozenset(), outbox=None):
        self._loop = loop
        self._outbox = outbox
        self._buffer = buffer
        self._drop = drop
        self._chunks = ChunkedDecoder()
        self._state = IDLE
        self._sent_all = True

    # --- the exchange, as the pool and the gateway see it

    @property
    def closed(self):
        return self._state == CLOSED

    @property
    def reusable(self):
        return self._state == IDLE and self.keep_alive and self._sent_all and not self._read_paused

    def start(self, head, body=b"", bint no_body=False, bint partial=False):
        """Send a request. `partial`: more of the body follows through `write`; `no_body`: a HEAD request."""
        if self._state != IDLE:
            raise UpstreamError("closed", "the connection is not idle", sent=False)
        self.reused = self.answered
        self.answered = False
        self.complete = False
        self.keep_alive = False
        self.status = 0
        self.headers = []
        self.length = 0
        self.error = None
        self._no_body = no_body
        self._leased = True
        self._interim = 0
        self._partial = None
        self._line = 0
        self._state = HEAD
        self._sent_all = not partial
        if body:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)

    def write(self, data, bint last):
        """Send a further piece of the request body."""
        if self._state == CLOSED:
            raise self.error or UpstreamError("closed", "the connection is closed")
        self.transport.write(data)
        if last:
            self._sent_all = True

    def drain(self):
        """Return a future that is done once the transport takes more bytes."""
        cdef object future = self._loop.create_future()
        if self._state == CLOSED or not self.write_paused:
            future.set_result(None)
        else:
            self._drainer = future
        return future

    def wait(self):
        """Return a future that is done when the head, more body, the end or an error has come."""
        cdef object future = self._loop.create_future()
        if self.error is not None:
            future.set_exception(self.error)
        elif self._state == CLOSED and not self.complete:
            future.set_exception(UpstreamError("closed", "the connection is closed"))
        else:
            self._waiter = future
        return future

    def read(self):
        """Return the body bytes received since the last call, b"" if none."""
        cdef bytes data = self._data
        if data is None:
            return b""
        if self._more is not None:
            self._more.insert(0, data)
            data = b"".join(self._more)
            self._more = None
        self._data = None
        self._buffered = 0
        if self._read_paused:
            self._read_paused = False
            if self._state != CLOSED:
                self.transport.resume_reading()
        return data

    def abort(self):
        """Drop the connection at once, whatever it is doing. Safe to call at any time, any number of times."""
        self._state = CLOSED
        if self.transport is not None:
            self.transport.abort()

    def close(self):
        """End the exchange: the owner takes the connection back. Later calls do nothing."""
        if self._leased:
            self._leased = False
            # Where it was raised leads back to here.
            self.error = None
            if self.owner is not None:
                self.owner.give(self)

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport):
        self.transport = transport if self._outbox is None else self._outbox.take_over(transport)

    def get_buffer(self, sizehint):
        return self._buffer

    def buffer_updated(self, Py_ssize_t n):
        cdef Py_buffer view
        if self._state != HEAD and self._state != BODY:
            # An idle upstream has nothing to say: whatever this is, it is not an answer to us.
            self.abort()
            return
        PyObject_GetBuffer(self._buffer, &view, PyBUF_SIMPLE)
        try:
            self._received(<unsigned char*>view.buf, n)
        except UpstreamError as error:
            if self._state == BODY:
                # As if what is malformed had come by itself: whoever waits has first what came before it.
                if self._chunks.before_fault:
                    self._keep(self._chunks.before_fault)
                self._wake()
            self._fail(error)
            self.abort()
        finally:
            PyBuffer_Release(&view)

    def eof_received(self):
        self._ended()
        return False

    def connection_lost(self, exc):
        if self._state == BODY:
            # An orderly end comes through eof_received. Without one - a reset, or TLS without close_notify - the
            # body is not whole, even one that ends with the connection.
            self._fail(UpstreamError("truncated", "the upstream dropped the connection in the middle of its answer"))
        elif self._state != CLOSED:
            self._ended()
        self._state = CLOSED
        if self.error is None and not self.complete:
            self._fail(UpstreamError("closed", "the connection was closed"))
        self.write_paused = False
        self._let_write()
        # uvloop's TLS keeps our methods: with this the two would keep each other, and a buffer of 256 KiB.
        self.transport = None
        if self.owner is not None:
            self.owner.connection_closed(self)

    def pause_writing(self):
        self.write_paused = True

    def resume_writing(self):
        self.write_paused = False
        self._let_write()

    # --- inside

    cdef int _let_write(self) except -1:
        """Wake whoever waits to send more: there is room, or an answer or an end that makes it pointless."""
        if self._drainer is not None:
            if not self._drainer.done():
                self._drainer.set_result(None)
            self._drainer = None
        return 0

    cdef int _received(self, unsigned char* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t used, consumed = 0, out
        cdef bint was_head = self._state == HEAD
        self.answered = True
        if was_head:
            used = self._take_head(p, n)
            if used < 0:
                return 0
            p += used
            n -= used
        if n > 0 and self._state == BODY:
            if self._left == CHUNKED:
                out = self._chunks.decode(p, n, &consumed)
                if out > 0:
                    self._keep(PyBytes_FromStringAndSize(<const char*>p, out))
                p += consumed
                n -= consumed
                if self._chunks.state == DONE:
                    self._finish()
            elif self._left == UNTIL_CLOSE:
                self._keep(PyBytes_FromStringAndSize(<const char*>p, n))
                n = 0
            else:
                out = n if n < self._left else <Py_ssize_t>self._left
                self._keep(PyBytes_FromStringAndSize(<const char*>p, out))
                self._left -= out
                p += out
                n -= out
                if self._left == 0:
                    self._finish()
        if n > 0 and self.complete:
            # Bytes after the end of the answer: what comes next on this connection cannot be trusted.
            self.keep_alive = False
        if not self._sent_all and self.complete:
            self.keep_alive = False
        self._wake()
        return 0

    cdef Py_ssize_t _take_head(self, unsigned char* p, Py_ssize_t n) except -2:
        """Return how many bytes of p[:n] belonged to the head, -1 while it is incomplete."""
        cdef HeadInfo info
        cdef bytes joined = None
        cdef Py_ssize_t before = 0, end, base = 0
        if self._partial is not None:
            before = PyBytes_GET_SIZE(self._partial)
            joined = self._partial + PyBytes_FromStringAndSize(<const char*>p, n)
            p = <unsigned char*>PyBytes_AS_STRING(joined)
            n += before
            self._partial = None
        while True:
            end = _head_end(p + base, n - base, &self._line)
            if end < 0:
                if n - base > MAX_HEAD_BYTES:
                    raise _malformed("response head too large")
                self._partial = PyBytes_FromStringAndSize(<const char*>p + base, n - base)
                return -1
            if end > MAX_HEAD_BYTES:
                raise _malformed("response head too large")
            self.headers = []
            _parse_head(p + base, end, &info, self.headers, self._drop)
            self._line = 0
            base += end
            if info.status >= 200:
                break
            self._interim += 1
            if info.status == 101 or self._interim > MAX_INTERIM:
                raise _malformed("unexpected interim response")
        self.status = info.status
        self.keep_alive = info.keep_alive
        self.length = 0 if self._no_body else info.length
        self._left = self.length
        self._state = BODY
        if self._left == 0:
            self._finish()
        elif self._left == CHUNKED:
            self._chunks.reset()
        return base - before

    cdef int _keep(self, bytes data) except -1:
        if self._data is None:
            self._data = data
        elif self._more is None:
            self._more = [data]
        else:
            self._more.append(data)
        self._buffered += PyBytes_GET_SIZE(data)
        if self._buffered > HIGH_WATER and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()
        return 0

    cdef int _finish(self) except -1:
        self.complete = True
        self._state = IDLE
        return 0

    cdef int _ended(self) except -1:
        """The peer will send no more."""
        if self._state == BODY and self._left == UNTIL_CLOSE:
            self._finish()
            self.keep_alive = False
            self._wake()
        elif self._state == BODY:
            self._fail(UpstreamError("truncated", "the upstream closed in the middle of its answer"))
        elif self._state == HEAD and self.answered:
            self._fail(UpstreamError("truncated", "the upstream closed in the middle of its response head"))
        elif self._state == HEAD:
            self._fail(UpstreamError("closed", "the upstream closed without an answer"))
        self._state = CLOSED
        self.keep_alive = False
        return 0

    cdef int _fail(self, error) except -1:
        if self.error is None:
            self.error = error
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_exception(self.error)
            self._waiter = None
        self._let_write()
        return 0

    cdef int _wake(self) except -1:
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None
        self._let_write()
        return 0


class Connection(_Connection, asyncio.BufferedProtocol):
    """One upstream connection; see ``_h1_py.Connection``."""

    __slots__ = ()
