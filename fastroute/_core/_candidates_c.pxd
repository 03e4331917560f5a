cimport cython
from libc.stdint cimport int64_t, uint64_t

from fastroute._core._adaptive_c cimport Adaptive
from fastroute._core._counters_c cimport Segment, fr_load

# Of the layout in _counters_file.
cdef enum:
    SLOW_START_MS = 6


cdef class Need:
    cdef public int64_t capabilities
    cdef public int64_t prompt_tokens
    cdef public int64_t output_tokens
    cdef public object regions
    cdef public bytes order
    cdef public bytes stages
    cdef public object max_cost_pico
    cdef public int64_t now_ms
    cdef public object tried
    cdef public int64_t slow_start_ms
    cdef public int64_t panic_percent
    cdef public int64_t panic_min


cdef struct Place:
    int64_t row
    int64_t key_row
    int64_t rank
    int64_t provider
    int64_t region
    int64_t capabilities
    int64_t context_window
    int64_t max_output
    double input_price
    double output_price
    double weight
    double factor


@cython.final
cdef class Candidates:
    cdef readonly Py_ssize_t size
    cdef readonly Segment segment
    cdef readonly Adaptive adaptive
    cdef readonly bint panicking
    cdef readonly bint on_trial
    cdef readonly double max_weight
    cdef readonly int64_t retry_at_ms
    # The candidates after `gate`: positions[0..count-1].
    cdef Py_ssize_t *c_positions
    cdef Py_ssize_t c_count
    cdef Place *c_places
    cdef int64_t _slow_start_ms
    cdef int64_t _half_open_max_calls
    cdef int64_t _removed[17]
    cdef uint64_t _regions
    cdef double _max_cost
    cdef Py_ssize_t _tried[64]
    cdef Py_ssize_t _tried_count

    # Inline, for strategies ask it of every candidate.
    cdef inline double c_weight(self, Py_ssize_t position, int64_t now_ms) noexcept:
        cdef Place *place = &self.c_places[position]
        cdef double weight = place.weight * place.factor
        cdef int64_t began
        if self._slow_start_ms:
            began = fr_load(self.segment.c_cell(place.row, SLOW_START_MS))
            if began and now_ms - began < self._slow_start_ms:
                weight *= self._slow_share(now_ms - began)
        return weight

    cdef double _slow_share(self, int64_t elapsed_ms) noexcept
    cdef Py_ssize_t _through(self, Need need) except -1
    cdef int64_t _back_ms(self, Py_ssize_t position, int64_t now_ms) noexcept
    cdef int64_t _opens_ms(self, int64_t row, int64_t probes, int64_t now_ms) noexcept
    cdef int _fate(self, Py_ssize_t position, Need need) noexcept
    cdef int _channel(self, Py_ssize_t row, int64_t now_ms) noexcept
    cdef int _take(self, Need need) except -1
    cdef int _check(self, Py_ssize_t position) except -1
