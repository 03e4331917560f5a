cimport cython
from libc.stdint cimport int64_t

from fastroute._core._counters_c cimport Segment, fr_load

# Of the layout in _counters_file.
cdef enum:
    QUOTA_REQUESTS = 1
    QUOTA_TOKENS = 5
    ADAPTIVE = 7

# Of _adaptive_rules.
cdef enum:
    ROOMY = 0


cdef struct Rule:
    int kind
    int64_t minimum
    int64_t maximum
    int64_t initial
    int64_t headroom_percent
    int64_t forget_ms


cdef struct State:
    int state
    int kind
    int seen
    int64_t mark
    double limit


cdef struct Left:
    int64_t limit
    int64_t remaining
    int64_t full_in_ms


@cython.final
cdef class Adaptive:
    cdef readonly Segment segment
    # By row of the segment; kind OFF for an endpoint without a setting.
    cdef Rule *_rules
    # Whether any of them has a limit before anything is learnt.
    cdef bint _begins_limited

    # What the Python methods of these names do; the caller has checked that the segment is open and the row in range.
    cdef int64_t c_enter(self, Py_ssize_t row, int64_t now_ms) noexcept
    cdef void c_leave(self, Py_ssize_t row, int64_t mark, int verdict, double cost_ms, int64_t hint_ms,
                      int64_t now_ms) noexcept
    cdef void c_first_token(self, Py_ssize_t row, double cost_ms, int64_t now_ms) noexcept

    # Inline, for every candidate of a pool is asked, and nearly always nothing is known of it.
    cdef inline bint c_full(self, Py_ssize_t row, int64_t now_ms) noexcept:
        if not fr_load(self.segment.c_cell(row, ADAPTIVE)) >> 32 and not self._begins_limited:
            return False
        return self._is_full(row, now_ms)

    cdef inline int c_headroom(self, Py_ssize_t row, int64_t now_ms) noexcept:
        cdef int64_t *cells = self.segment.c_cell(row, 0)
        if not fr_load(cells + QUOTA_REQUESTS) | fr_load(cells + QUOTA_TOKENS):
            return ROOMY
        return self._headroom(row, now_ms)

    cdef bint _is_full(self, Py_ssize_t row, int64_t now_ms) noexcept
    cdef int _headroom(self, Py_ssize_t row, int64_t now_ms) noexcept

    cdef int _check(self, Py_ssize_t row) except -1
    cdef State _fresh_if(self, State word, Py_ssize_t row, int64_t now_ms, bint *fresh) noexcept
    cdef void _answered(self, Py_ssize_t row, int64_t mark, int64_t now_ms) noexcept
    cdef void _refused(self, Py_ssize_t row, int64_t mark, int64_t hint_ms, int64_t now_ms) noexcept
    cdef bint _is_stale(self, Py_ssize_t row, int64_t mark, int64_t word_mark, int64_t now_ms) noexcept
    cdef void _sample(self, Py_ssize_t row, double short_ms, int64_t now_ms) noexcept
    cdef bint _cas(self, Py_ssize_t row, int64_t cell, State word) noexcept
    cdef double _pace(self, Py_ssize_t row) noexcept
    cdef void _set_pace(self, Py_ssize_t row, double value) noexcept
    cdef int _note(self, Py_ssize_t row, Py_ssize_t at, tuple dimensions, allowance, int64_t since,
                   int64_t now_ms) except -1
    cdef int64_t *_times(self, Py_ssize_t row, Py_ssize_t at) noexcept
    cdef Left _quota(self, Py_ssize_t row, Py_ssize_t at, int64_t now_ms) noexcept
    cdef int _left(self, Py_ssize_t row, Py_ssize_t at, int64_t few, int64_t now_ms) noexcept
