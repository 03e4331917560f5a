from libc.stdint cimport int64_t


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
    # Sum over workers. The caller has checked that the segment is open and both positions are in range.
    cdef int64_t c_total(self, Py_ssize_t endpoint, Py_ssize_t column) noexcept
    cdef int64_t *_shared_at(self, object endpoint, object i) except NULL
    # Address of a shared cell and of a worker's cell; the caller has checked positions and openness.
    cdef int64_t *c_cell(self, Py_ssize_t endpoint, Py_ssize_t i) noexcept
    cdef int64_t *c_own(self, Py_ssize_t worker, Py_ssize_t endpoint, Py_ssize_t column) noexcept
