# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Metering of a server-sent-event stream in passing: the compiled twin of `_sse_py`, which states the rules.

Complete events are looked at where they lie; only the bytes of an event that is cut by a feed are copied.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.string cimport memchr, memcmp, memcpy

from fastroute._core._sse_keys cimport DONE, ERROR, FINISHED, NO_CHOICES, USAGE
from fastroute._core._sse_keys cimport classify, depth_at, is_space, marker, starts

cdef enum:
    BOM_SETTLED = 3
    KEPT_FIRST = 2
    KEPT = 64
    WINDOW_BYTES = 256
    IDLE_TAIL_BYTES = 1 << 16  # a larger buffer is given back once its event is complete

cdef const char* BOM = b"\xef\xbb\xbf"


cdef Py_ssize_t _line_end(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the index of the first CR or LF of s[i:n], n if there is none."""
    cdef Py_ssize_t end
    cdef const char* lf
    cdef const char* cr
    while i < n:
        # In windows: looking for a LF that never comes must not cost the whole feed at every CR.
        end = min(i + WINDOW_BYTES, n)
        lf = <const char*>memchr(s + i, 0x0A, end - i)
        if lf != NULL:
            end = lf - s
        cr = <const char*>memchr(s + i, 0x0D, end - i)
        if cr != NULL:
            return cr - s
        if lf != NULL:
            return end
        i = end
    return n


cdef bint _is_done_word(const char* s, Py_ssize_t n) noexcept nogil:
    """Tell whether s is `[DONE]`, spaces and tabs around it aside."""
    while n and (s[0] == 0x20 or s[0] == 0x09):
        s += 1
        n -= 1
    while n and (s[n - 1] == 0x20 or s[n - 1] == 0x09):
        n -= 1
    return n == 6 and memcmp(s, b"[DONE]", 6) == 0


cdef class StreamMeter:
    """Reads along a server-sent-event stream and forwards it; see the twin for arguments and attributes."""

    cdef readonly list usage_events
    cdef readonly object error_event
    cdef readonly Py_ssize_t events
    cdef readonly Py_ssize_t content_bytes
    cdef readonly bint done
    cdef readonly bint finished
    cdef readonly bint overflowed
    cdef bint _keep_all
    cdef bint _strip_usage
    cdef bint _hold_back      # forward whole events only
    cdef bint _skipping       # inside an event that is too long
    cdef bint _lf_pending     # the last blank line ended by CR: a LF now still belongs to it
    cdef bint _dropped        # the last complete event was not forwarded
    cdef bint _line_empty     # no byte of the current line was seen yet
    cdef bint _cr_seen        # the last byte was a CR that ended a line of the current event
    cdef int _bom_bytes       # bytes of a BOM seen so far; BOM_SETTLED: seen or ruled out
    cdef Py_ssize_t _max_event_bytes
    cdef char* _tail          # the incomplete event
    cdef Py_ssize_t _tail_size
    cdef Py_ssize_t _tail_capacity

    def __cinit__(self):
        self._tail = NULL
        self._tail_size = self._tail_capacity = 0

    def __init__(
        self,
        bint keep_all=False,
        bint strip_usage=False,
        Py_ssize_t max_event_bytes=1 << 20,
        bint whole_events=False,
    ):
        if max_event_bytes < 1:
            raise ValueError("max_event_bytes must be at least 1")
        self.usage_events = []
        self.error_event = None
        self.events = self.content_bytes = 0
        self.done = self.finished = self.overflowed = False
        self._keep_all = keep_all
        self._strip_usage = strip_usage
        self._hold_back = strip_usage or whole_events
        self._max_event_bytes = max_event_bytes
        self._skipping = self._lf_pending = self._dropped = self._cr_seen = False
        self._line_empty = True
        self._bom_bytes = 0
        self._tail_size = 0

    def __dealloc__(self):
        PyMem_Free(self._tail)

    @property
    def mid_event(self):
        """Whether the forwarded bytes end inside an event: send a blank line before an event of your own."""
        if self._bom_bytes != BOM_SETTLED:
            return self._bom_bytes > 0 and not self._hold_back
        return self._skipping or (self._tail_size > 0 and not self._hold_back)

    def feed(self, bytes data not None):
        """Meter the next bytes; return those to forward now (`data` itself unless events are held back)."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef list out
        if n == 0:
            return data
        if not self._hold_back:
            self._advance(PyBytes_AS_STRING(data), n, None)
            return data
        out = []
        self._advance(PyBytes_AS_STRING(data), n, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def finish(self):
        """End the stream: account the unterminated last event and return what was held back of it.

        If that event was cut inside its JSON, it only adds to `content_bytes`. Do not feed afterwards.
        """
        cdef bint drop
        cdef bytes tail
        if 0 < self._bom_bytes < BOM_SETTLED:
            self._append(BOM, self._bom_bytes)
            self._bom_bytes = BOM_SETTLED
        if self._skipping or self._tail_size == 0:
            self._skipping = False
            return b""
        tail = PyBytes_FromStringAndSize(self._tail, self._tail_size)
        self._clear_tail()
        drop = self._end_event(PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail), True)
        return tail if self._hold_back and not drop else b""

    cdef int _append(self, const char* s, Py_ssize_t n) except -1:
        """Add to the tail; the callers keep it within max_event_bytes (or a partial BOM)."""
        cdef Py_ssize_t need = self._tail_size + n
        cdef Py_ssize_t capacity = self._tail_capacity
        cdef char* grown
        if need > capacity:
            capacity = max(need, 2 * capacity, 256)
            grown = <char*>PyMem_Realloc(self._tail, capacity)
            if grown == NULL:
                raise MemoryError
            self._tail = grown
            self._tail_capacity = capacity
        memcpy(self._tail + self._tail_size, s, n)
        self._tail_size = need
        return 0

    cdef void _clear_tail(self) noexcept:
        self._tail_size = 0
        if self._tail_capacity > IDLE_TAIL_BYTES:
            PyMem_Free(self._tail)
            self._tail = NULL
            self._tail_capacity = 0

    cdef Py_ssize_t _settle_bom(self, const char* s, Py_ssize_t n, list out) except -1:
        """Pass a BOM, which may come in pieces; return where the first event begins, n if not known yet."""
        cdef int before = self._bom_bytes
        cdef Py_ssize_t i = 0
        while i < n and self._bom_bytes < BOM_SETTLED and s[i] == BOM[self._bom_bytes]:
            i += 1
            self._bom_bytes += 1
        if self._bom_bytes == BOM_SETTLED:
            if out is not None:
                out.append(PyBytes_FromStringAndSize(BOM, BOM_SETTLED))
            return i
        if i == n:
            return n
        self._bom_bytes = BOM_SETTLED
        if before:
            self._append(BOM, before)
            self._line_empty = False
        return 0

    cdef int _advance(self, const char* s, Py_ssize_t n, list out) except -1:
        """Meter s[:n]; append what may be forwarded to `out`, unless that is None."""
        cdef Py_ssize_t start = 0
        if self._lf_pending:
            self._lf_pending = False
            if s[0] == 0x0A:
                start = 1
                if out is not None and not self._dropped:
                    out.append(b"\n")
        elif self._bom_bytes != BOM_SETTLED:
            start = self._settle_bom(s, n, out)
        if start < n:
            self._split(s, start, n, out)
        return 0

    cdef int _split(self, const char* s, Py_ssize_t start, Py_ssize_t n, list out) except -1:
        cdef Py_ssize_t sent = start  # what lies before is forwarded or dropped
        cdef Py_ssize_t blank
        while start < n:
            blank = self._find_blank_line(s, start, n)
            if blank < 0:
                break
            self._dropped = self._complete(s + start, blank - start, out)
            if self._dropped and start > sent:
                out.append(PyBytes_FromStringAndSize(s + sent, start - sent))
            start = blank + 1
            if s[blank] == 0x0D:
                if start == n:
                    self._lf_pending = True
                elif s[start] == 0x0A:
                    start += 1
            if self._dropped:
                sent = start
        if start < n:
            start += self._hold(s + start, n - start, out)
        if out is not None and start > sent:
            out.append(PyBytes_FromStringAndSize(s + sent, start - sent))
        return 0

    cdef Py_ssize_t _find_blank_line(self, const char* s, Py_ssize_t i, Py_ssize_t n) noexcept:
        """Return where the next blank line of s[i:n] begins, or -1 and remember how s ends."""
        cdef bint empty = self._line_empty, after_cr = self._cr_seen
        cdef Py_ssize_t end
        self._line_empty = True
        self._cr_seen = False
        while i < n:
            if after_cr:
                after_cr = False
                if s[i] == 0x0A:
                    i += 1
                    continue
            end = _line_end(s, i, n)
            if end == n:
                self._line_empty = False
                return -1
            if end == i and empty:
                return end
            empty = True
            after_cr = s[end] == 0x0D
            i = end + 1
        self._line_empty = empty
        self._cr_seen = after_cr
        return -1

    cdef int _complete(self, const char* s, Py_ssize_t n, list out) except -1:
        """Account the event whose end (after the tail) is s[:n]; return whether to drop it."""
        cdef Py_ssize_t held = self._tail_size
        cdef int drop
        if held == 0:
            return 0 if n == 0 and not self._skipping else self._end_event(s, n, False)
        if held + n > self._max_event_bytes:
            self.overflowed = True
            drop = 0
        else:
            self._append(s, n)
            drop = self._end_event(self._tail, self._tail_size, False)
        if out is not None and not drop:
            out.append(PyBytes_FromStringAndSize(self._tail, held))
        self._clear_tail()
        return drop

    cdef Py_ssize_t _hold(self, const char* s, Py_ssize_t n, list out) except -1:
        """Keep the incomplete event that ends with s[:n]; return how many bytes of s to forward now."""
        if not self._skipping and self._tail_size + n <= self._max_event_bytes:
            self._append(s, n)
            return 0
        self.overflowed = self._skipping = True
        if self._tail_size:
            if out is not None:
                out.append(PyBytes_FromStringAndSize(self._tail, self._tail_size))
            self._clear_tail()
        return n

    cdef int _end_event(self, const char* s, Py_ssize_t n, bint cut) except -1:
        """Account one event (its lines without the blank one); return whether to drop it."""
        cdef Py_ssize_t i = 0, end, at, size = 0
        cdef const char* payload = NULL
        cdef int name_flags = 0
        cdef list more = None
        if self._skipping:
            self._skipping = False
            return 0
        if n > self._max_event_bytes:
            self.overflowed = True
            return 0
        while i < n:
            end = _line_end(s, i, n)
            at = _field_value(s, i, end, b"data", 4)
            if at >= 0:
                if payload != NULL:
                    more = [PyBytes_FromStringAndSize(payload, size)] if more is None else more
                    more.append(PyBytes_FromStringAndSize(s + at, end - at))
                else:
                    payload = s + at
                    size = end - at
            else:
                at = _field_value(s, i, end, b"event", 5)
                if at >= 0:
                    name_flags = marker(s + at, end - at)
            i = end + 1
            if i < n and s[end] == 0x0D and s[i] == 0x0A:
                i += 1
        if more is not None:
            joined = b"\n".join(more)
            return self._account(joined, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined), name_flags, cut)
        if size == 0:
            return self._look_for_bare_error(s, n)
        return self._account(None, payload, size, name_flags, cut)

    cdef int _account(self, bytes whole, const char* s, Py_ssize_t n, int flags, bint cut) except -1:
        """Account a payload s[:n]; `whole` is the same as an object, if there is one already."""
        if _is_done_word(s, n):
            self.done = self.finished = True
            return 0
        if cut and depth_at(s, n) > 0:
            self.content_bytes += n
            return 0
        self.events += 1
        flags |= classify(s, n)
        if flags & (DONE | FINISHED):
            self.finished = True
            if flags & DONE:
                self.done = True
        if not flags & USAGE:
            self.content_bytes += n
        if not flags & (USAGE | ERROR):
            return 0
        if whole is None:
            whole = PyBytes_FromStringAndSize(s, n)
        if flags & ERROR and self.error_event is None:
            self.error_event = whole
        if flags & USAGE:
            self._keep(whole)
        return self._strip_usage and flags & (USAGE | NO_CHOICES | ERROR) == USAGE | NO_CHOICES

    cdef int _keep(self, bytes payload) except -1:
        if not self._keep_all:
            self.usage_events.clear()
        elif len(self.usage_events) == KEPT:
            del self.usage_events[KEPT_FIRST]
        self.usage_events.append(payload)
        return 0

    cdef int _look_for_bare_error(self, const char* s, Py_ssize_t n) except -1:
        while n and is_space(s[0]):
            s += 1
            n -= 1
        while n and is_space(s[n - 1]):
            n -= 1
        if n and s[0] == 0x7B and self.error_event is None and depth_at(s, n) == 0 and classify(s, n) & ERROR:
            self.error_event = PyBytes_FromStringAndSize(s, n)
        return 0


cdef inline Py_ssize_t _field_value(
    const char* s, Py_ssize_t i, Py_ssize_t end, const char* name, Py_ssize_t size
) noexcept nogil:
    """Return where the value of field `name` begins if the line s[i:end] is one, else -1."""
    if not starts(s + i, end - i, name, size):
        return -1
    i += size
    if i == end:
        return i
    if s[i] != 0x3A:
        return -1
    i += 1
    return i + 1 if i < end and s[i] == 0x20 else i
