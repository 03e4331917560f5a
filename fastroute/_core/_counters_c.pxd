cimport cython
from libc.stdint cimport int64_t, uint64_t


cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept


# Of the layout in _counters_file.
cdef enum:
    FIRST_CELL = 512
    COLUMNS = 8
    CELLS = 48


@cython.final
cdef class Segment:
    cdef readonly str path
    cdef readonly Py_ssize_t workers
    cdef readonly Py_ssize_t endpoints
    cdef object _mapping
    cdef Py_buffer _buffer
    # Base of the mapping in 64-bit cells; NULL once closed.
    cdef int64_t *_cells

    cdef int _check_open(self) except -1
    cdef int64_t *_word_at(self, object i) except NULL
    cdef int64_t *_cell_at(self, object worker, object endpoint, object column) except NULL
    cdef int64_t *_shared_at(self, object endpoint, object i) except NULL

    # Addresses of a shared cell and of a worker's cell, and a sum over workers: inline, for they are read for every
    # candidate of a pool. The caller has checked that the segment is open and the positions are in range.

    cdef inline int64_t *c_cell(self, Py_ssize_t endpoint, Py_ssize_t i) noexcept:
        return self._cells + FIRST_CELL + self.workers * self.endpoints * COLUMNS + endpoint * CELLS + i

    cdef inline int64_t *c_own(self, Py_ssize_t worker, Py_ssize_t endpoint, Py_ssize_t column) noexcept:
        return self._cells + FIRST_CELL + (worker * self.endpoints + endpoint) * COLUMNS + column

    cdef inline int64_t c_total(self, Py_ssize_t endpoint, Py_ssize_t column) noexcept:
        cdef int64_t *cell = self.c_own(0, endpoint, column)
        cdef Py_ssize_t stride = self.endpoints * COLUMNS
        cdef Py_ssize_t worker
        cdef uint64_t sum = 0
        for worker in range(self.workers):
            sum += <uint64_t>fr_load(cell + worker * stride)
        return <int64_t>sum
