# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Metering of a server-sent-event stream in passing: the compiled twin of `_sse_py`, which states the rules.

Complete events are looked at where they lie; only the bytes of an event that is cut by a feed are copied.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    USAGE = 1
    ERROR = 2
    DONE = 4
    FINISHED = 8
    NO_CHOICES = 16
    NOWHERE = 1 << 30  # the depth of a place inside a string
    BOM_SETTLED = 3
    KEPT_FIRST = 2
    KEPT = 64
    WINDOW_BYTES = 256
    IDLE_TAIL_BYTES = 1 << 16  # a larger buffer is given back once its event is complete

cdef const char* BOM = b"\xef\xbb\xbf"


cdef inline bint _is_space(char c) noexcept nogil:
    return c == 0x20 or c == 0x09 or c == 0x0A or c == 0x0D


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


cdef Py_ssize_t _string_end(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the index after the quote that closes the string begun before s[i], n + 1 if none does."""
    while i < n:
        if s[i] == 0x22:
            return i + 1
        i += 2 if s[i] == 0x5C else 1
    return n + 1


cdef struct Walk:
    Py_ssize_t at     # an index outside strings
    Py_ssize_t depth  # braces and brackets open there


cdef Py_ssize_t _walk_to(Walk* walk, const char* s, Py_ssize_t at) noexcept nogil:
    """Return how many braces and brackets are open before s[at]; NOWHERE if it lies inside a string."""
    cdef Py_ssize_t i = walk.at, depth = walk.depth
    cdef char c
    while i < at:
        c = s[i]
        i += 1
        if c == 0x22:
            i = _string_end(s, i, at)
            if i > at:
                return NOWHERE
        elif c == 0x7B or c == 0x5B:
            depth += 1
        elif c == 0x7D or c == 0x5D:
            depth -= 1
    walk.at = i
    walk.depth = depth
    return depth


cdef Py_ssize_t _depth(const char* s, Py_ssize_t at) noexcept nogil:
    cdef Walk walk = Walk(0, 0)
    return _walk_to(&walk, s, at)


cdef inline bint _starts(const char* s, Py_ssize_t n, const char* word, Py_ssize_t size) noexcept nogil:
    return n >= size and memcmp(s, word, size) == 0


cdef Py_ssize_t _value(
    const char* s, Py_ssize_t i, Py_ssize_t n, const char* name, Py_ssize_t size
) noexcept nogil:
    """Return where the value of key `name` (with its closing quote) begins if s[i:] is that key, else -1."""
    if not _starts(s + i, n - i, name, size):
        return -1
    i += size
    while i < n and _is_space(s[i]):
        i += 1
    if i == n or s[i] != 0x3A:
        return -1
    i += 1
    while i < n and _is_space(s[i]):
        i += 1
    return i if i < n else -1


cdef bint _filled(
    const char* s, Py_ssize_t i, Py_ssize_t n, const char* name, Py_ssize_t size
) noexcept nogil:
    """Tell whether s[i:] is key `name`, and its value neither null nor the empty string."""
    i = _value(s, i, n, name, size)
    return i >= 0 and not _starts(s + i, n - i, b"null", 4) and not _starts(s + i, n - i, b'""', 2)


cdef int _marker(const char* s, Py_ssize_t n) noexcept nogil:
    """Return the flags of an `event` name or `type` value."""
    if n == 5 and memcmp(s, b"error", 5) == 0:
        return ERROR
    if n == 12 and memcmp(s, b"message_stop", 12) == 0:
        return DONE
    if n < 15 or memcmp(s, b"response.", 9) != 0:
        return 0
    if n == 15 and memcmp(s + 9, b"failed", 6) == 0:
        return DONE | ERROR
    if n == 18 and memcmp(s + 9, b"completed", 9) == 0:
        return DONE
    if n == 19 and memcmp(s + 9, b"incomplete", 10) == 0:
        return DONE
    return 0


cdef int _type_flags(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the flags of the value if s[i:] is key `type`."""
    cdef Py_ssize_t value = _value(s, i, n, b'type"', 5)
    cdef const char* quote
    if value < 0 or s[value] != 0x22:
        return 0
    value += 1
    quote = <const char*>memchr(s + value, 0x22, n - value)
    if quote == NULL:
        return 0
    return _marker(s + value, quote - s - value)


cdef bint _empty_list(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Tell whether s[i:] is key `choices` with an empty list."""
    i = _value(s, i, n, b'choices"', 8)
    if i < 0 or s[i] != 0x5B:
        return False
    i += 1
    while i < n and _is_space(s[i]):
        i += 1
    return i < n and s[i] == 0x5D


cdef int _key_flags(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the flags of the key whose name begins at s[i], just after its opening quote."""
    cdef char c = s[i]
    if c == 0x75:  # u
        if _filled(s, i, n, b'usage"', 6) or _filled(s, i, n, b'usageMetadata"', 14):
            return USAGE
    elif c == 0x74:  # t
        return _type_flags(s, i, n)
    elif c == 0x66:  # f
        if _filled(s, i, n, b'finish_reason"', 14) or _filled(s, i, n, b'finishReason"', 13):
            return FINISHED
    elif c == 0x73:  # s
        if _filled(s, i, n, b'stop_reason"', 12):
            return FINISHED
    elif c == 0x65:  # e
        if _filled(s, i, n, b'error"', 6):
            return ERROR
    elif c == 0x63:  # c
        if _empty_list(s, i, n):
            return NO_CHOICES
    return 0


cdef inline Py_ssize_t _deepest(int flags) noexcept nogil:
    return 2 if flags == USAGE else 3 if flags == FINISHED else 1


cdef int _classify(const char* s, Py_ssize_t n) noexcept nogil:
    cdef int flags = 0, found
    cdef Py_ssize_t i = 0, depth
    cdef Walk walk = Walk(0, 0)
    cdef const char* quote = <const char*>memchr(s, 0x22, n)
    while quote != NULL:
        i = quote - s + 1
        if i == n:
            break
        found = _key_flags(s, i, n)
        if found:
            depth = _walk_to(&walk, s, i - 1)
            if depth == NOWHERE:
                break
            if 1 <= depth <= _deepest(found):
                flags |= found
        quote = <const char*>memchr(s + i, 0x22, n - i)
    return flags


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

    def __init__(self, bint keep_all=False, bint strip_usage=False, Py_ssize_t max_event_bytes=1 << 20):
        if max_event_bytes < 1:
            raise ValueError("max_event_bytes must be at least 1")
        self.usage_events = []
        self.error_event = None
        self.events = self.content_bytes = 0
        self.done = self.finished = self.overflowed = False
        self._keep_all = keep_all
        self._strip_usage = strip_usage
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
            return self._bom_bytes > 0 and not self._strip_usage
        return self._skipping or (self._tail_size > 0 and not self._strip_usage)

    def feed(self, bytes data not None):
        """Meter the next bytes; return those to forward now (without strip_usage: `data` itself)."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef list out
        if n == 0:
            return data
        if not self._strip_usage:
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
        return tail if self._strip_usage and not drop else b""

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
                    name_flags = _marker(s + at, end - at)
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
        if cut and _depth(s, n) > 0:
            self.content_bytes += n
            return 0
        self.events += 1
        flags |= _classify(s, n)
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
        while n and _is_space(s[0]):
            s += 1
            n -= 1
        while n and _is_space(s[n - 1]):
            n -= 1
        if n and s[0] == 0x7B and self.error_event is None and _depth(s, n) == 0 and _classify(s, n) & ERROR:
            self.error_event = PyBytes_FromStringAndSize(s, n)
        return 0


cdef inline Py_ssize_t _field_value(
    const char* s, Py_ssize_t i, Py_ssize_t end, const char* name, Py_ssize_t size
) noexcept nogil:
    """Return where the value of field `name` begins if the line s[i:end] is one, else -1."""
    if not _starts(s + i, end - i, name, size):
        return -1
    i += size
    if i == end:
        return i
    if s[i] != 0x3A:
        return -1
    i += 1
    return i + 1 if i < end and s[i] == 0x20 else i
