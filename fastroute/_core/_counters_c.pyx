# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `counters`: C11 atomics on the mapped file, exact between processes.

Positions are checked before an address is made of them, the mapping's size when it is taken over.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

from fastroute._core._counters_file import SegmentError, create_file, open_file, segment_bytes

cdef extern from "_atomics.h":
    void fr_store(int64_t *cell, int64_t value) noexcept
    int64_t fr_add(int64_t *cell, int64_t delta) noexcept
    bint fr_cas(int64_t *cell, int64_t expect, int64_t desired) noexcept

cdef extern from "Python.h":
    Py_ssize_t PyNumber_AsSsize_t(object o, object overflow) except? -1
    # Unlike Cython's own conversion, takes no float.
    int64_t PyLong_AsLongLong(object o) except? -1

ATOMIC = True

# The layout of _counters_file, in 64-bit cells, as far as the .pxd does not have it; the tests hold the two together.
cdef enum:
    FIRST_WORD = 128
    WORDS = 64
    IN_FLIGHT = 0
    WORK = 6


cdef inline Py_ssize_t _position(object i, Py_ssize_t bound, str what) except -1:
    cdef Py_ssize_t at = PyNumber_AsSsize_t(i, IndexError)
    if at < 0 or at >= bound:
        raise IndexError(f"{what} {i} is not in 0..{bound - 1}")
    return at


cdef class Segment:
    """Counters in a file mapped by every process of a gateway. Make one with `create` or `open`.

    Values beyond signed 64 bits raise OverflowError, positions out of range IndexError, any use after `close`
    ValueError; checked in that order. Sums wrap at 64 bits.
    """

    def __cinit__(self, str path not None, Py_ssize_t workers, Py_ssize_t endpoints, mapping):
        """Take over `mapping`, which must have exactly the size the dimensions need (SegmentError)."""
        needed = segment_bytes(workers, endpoints)
        PyObject_GetBuffer(mapping, &self._buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if self._buffer.len != needed:
            raise SegmentError(f"{path}: mapping of {self._buffer.len} bytes, {needed} are needed")
        self.path = path
        self.workers = workers
        self.endpoints = endpoints
        self._mapping = mapping
        self._cells = <int64_t *>self._buffer.buf

    def __dealloc__(self):
        PyBuffer_Release(&self._buffer)  # does nothing where no buffer is held

    @classmethod
    def create(cls, path, workers, endpoints):
        """Make a zeroed segment at `path`; whoever has the file it replaces mapped keeps that one, intact.

        Bounds: 1..1024 workers, 1..65536 endpoints (SegmentError). OSError from the file system.
        """
        return cls(path, workers, endpoints, create_file(path, workers, endpoints))

    @classmethod
    def open(cls, path):
        """Map an existing segment. SegmentError for a file that is not one, OSError if it cannot be read."""
        mapping, workers, endpoints = open_file(path)
        return cls(path, workers, endpoints, mapping)

    def word(self, i):
        """Return control word `i` (0..63)."""
        return fr_load(self._word_at(i))

    def set_word(self, i, value):
        """Store a control word."""
        cdef int64_t desired = PyLong_AsLongLong(value)
        fr_store(self._word_at(i), desired)

    def add_word(self, i, delta):
        """Add to a control word and return its new value."""
        cdef int64_t change = PyLong_AsLongLong(delta)
        return fr_add(self._word_at(i), change)

    def cas_word(self, i, expect, new):
        """Store `new` if the control word holds `expect`; return whether it did."""
        cdef int64_t expected = PyLong_AsLongLong(expect)
        cdef int64_t desired = PyLong_AsLongLong(new)
        return fr_cas(self._word_at(i), expected, desired)

    def get(self, worker, endpoint, column):
        """Return one cell."""
        return fr_load(self._cell_at(worker, endpoint, column))

    def set(self, worker, endpoint, column, value):
        """Store one cell."""
        cdef int64_t desired = PyLong_AsLongLong(value)
        fr_store(self._cell_at(worker, endpoint, column), desired)

    def add(self, worker, endpoint, column, delta):
        """Add to one cell and return its new value."""
        cdef int64_t change = PyLong_AsLongLong(delta)
        return fr_add(self._cell_at(worker, endpoint, column), change)

    def cell(self, endpoint, i):
        """Return cell `i` (0..47) of those of an endpoint that all workers share."""
        return fr_load(self._shared_at(endpoint, i))

    def cells(self, endpoint, Py_ssize_t first, Py_ssize_t count):
        """Return `count` cells of those that all workers share, from `first` on."""
        cdef int64_t *at = self._shared_at(endpoint, first)
        cdef Py_ssize_t i
        if count < 0 or first + count > CELLS:
            raise IndexError(f"cells {first} to {first + count} are not in 0..{CELLS}")
        return [fr_load(at + i) for i in range(count)]

    def set_cell(self, endpoint, i, value):
        """Store a shared cell."""
        cdef int64_t desired = PyLong_AsLongLong(value)
        fr_store(self._shared_at(endpoint, i), desired)

    def add_cell(self, endpoint, i, delta):
        """Add to a shared cell and return its new value."""
        cdef int64_t change = PyLong_AsLongLong(delta)
        return fr_add(self._shared_at(endpoint, i), change)

    def cas_cell(self, endpoint, i, expect, new):
        """Store `new` if the shared cell holds `expect`; return whether it did."""
        cdef int64_t expected = PyLong_AsLongLong(expect)
        cdef int64_t desired = PyLong_AsLongLong(new)
        return fr_cas(self._shared_at(endpoint, i), expected, desired)

    def clear_endpoint(self, endpoint):
        """Zero every shared cell of an endpoint, and its row of every worker but for what is in flight."""
        cdef int64_t *first = self._shared_at(endpoint, 0)
        cdef Py_ssize_t i, worker
        for i in range(CELLS):
            fr_store(first + i, 0)
        for worker in range(self.workers):
            for i in range(COLUMNS):
                if i != IN_FLIGHT and i != WORK:
                    fr_store(self._cell_at(worker, endpoint, i), 0)

    def total(self, endpoint, column):
        """Return the sum of a column over all workers' rows of one endpoint."""
        cdef Py_ssize_t row = _position(endpoint, self.endpoints, "endpoint")
        cdef Py_ssize_t at = _position(column, COLUMNS, "column")
        self._check_open()
        return self.c_total(row, at)

    def totals(self, column):
        """Return `total(endpoint, column)` for every endpoint, in order."""
        cdef Py_ssize_t at = _position(column, COLUMNS, "column")
        self._check_open()
        return [self.c_total(endpoint, at) for endpoint in range(self.endpoints)]

    def in_flight(self, endpoint):
        """Return the requests now in flight to one endpoint, over all workers."""
        cdef Py_ssize_t row = _position(endpoint, self.endpoints, "endpoint")
        self._check_open()
        return self.c_total(row, IN_FLIGHT)

    def clear_worker(self, worker):
        """Zero what a worker whose process has died had in flight; its other columns stay."""
        cdef int64_t *first = self._cell_at(worker, 0, 0)
        cdef Py_ssize_t endpoint
        for endpoint in range(self.endpoints):
            fr_store(first + endpoint * COLUMNS + IN_FLIGHT, 0)
            fr_store(first + endpoint * COLUMNS + WORK, 0)

    def close(self):
        """Let go of the mapping; a second call does nothing. The file stays."""
        if self._cells == NULL:
            return
        self._cells = NULL
        PyBuffer_Release(&self._buffer)
        try:
            self._mapping.close()
        except BufferError:
            pass  # somebody still holds a view of the mapping: it is unmapped together with the last one

    # ---- addresses: positions first, for their conversion may run code that closes the segment ----

    cdef int _check_open(self) except -1:
        if self._cells == NULL:
            raise ValueError("segment is closed")
        return 0

    cdef int64_t *_word_at(self, object i) except NULL:
        cdef Py_ssize_t at = _position(i, WORDS, "word")
        self._check_open()
        return self._cells + FIRST_WORD + at

    cdef int64_t *_cell_at(self, object worker, object endpoint, object column) except NULL:
        cdef Py_ssize_t at = _position(worker, self.workers, "worker") * self.endpoints
        at += _position(endpoint, self.endpoints, "endpoint")
        at *= COLUMNS
        at += _position(column, COLUMNS, "column")
        self._check_open()
        return self._cells + FIRST_CELL + at

    cdef int64_t *_shared_at(self, object endpoint, object i) except NULL:
        cdef Py_ssize_t row = _position(endpoint, self.endpoints, "endpoint")
        cdef Py_ssize_t at = _position(i, CELLS, "cell")
        self._check_open()
        return self.c_cell(row, at)
