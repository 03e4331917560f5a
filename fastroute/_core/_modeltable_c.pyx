# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `modeltable`: one hash over the slice, one cache line of filter, then open addressing.

All memory is filled at construction and read-only from then on; a lookup allocates nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastroute._core._modeltable_py import checked_names, line_count

cdef extern from "stdlib.h":
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "Python.h":
    # Clips to what a Py_ssize_t holds where `overflow` is NULL.
    Py_ssize_t PyNumber_AsSsize_t(object o, void *overflow) except? -1

cdef extern from "_hash.h":
    uint64_t fr_hash(const unsigned char *p, size_t length) noexcept
    uint64_t FR_KEY_0

cdef enum:
    LINE_BYTES = 64
    WORDS_PER_LINE = 8


cdef struct Slot:
    uint32_t tag      # low half of the hash
    uint32_t offset   # of the name in the blob
    uint32_t length   # 0: the slot is free
    int32_t position  # in `names`


cdef struct Span:
    const unsigned char *bytes
    Py_ssize_t length


cdef inline int _span(bytes body, object start, object end, Span *span) except -1:
    """Clip body[start:end] to the body."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t first = PyNumber_AsSsize_t(start, NULL)
    cdef Py_ssize_t last = PyNumber_AsSsize_t(end, NULL)
    # Both into 0..size, or their difference could overflow.
    first = min(max(first, 0), size)
    last = min(max(last, 0), size)
    span.length = max(last - first, 0)
    span.bytes = <const unsigned char *>PyBytes_AS_STRING(body) + (first if span.length else 0)
    return 0


cdef class ModelTable:
    """Positions of model names, fixed at construction; see the pure half."""

    cdef Py_ssize_t _count
    cdef Py_ssize_t _longest
    cdef unsigned char *_blob
    cdef Slot *_slots
    cdef uint64_t _mask
    # NULL without a filter.
    cdef uint64_t *_lines
    cdef uint64_t _line_count

    def __cinit__(self, names, bloom=True):
        """Index `names`. ValueError for an empty, overlong or repeated one, TypeError for one not of bytes.

        Without `bloom`, `may_contain` rules out by length alone.
        """
        cdef dict positions = checked_names(names)
        self._count = len(positions)
        self._longest = max(map(len, positions), default=0)
        self._allocate(sum(map(len, positions)), bloom)
        cdef uint32_t offset = 0
        cdef bytes name
        for name, position in positions.items():
            self._insert(name, position, offset)
            offset += <uint32_t>len(name)

    def __dealloc__(self):
        free(self._blob)
        free(self._slots)
        free(self._lines)

    def __len__(self):
        """Return the number of names."""
        return self._count

    def lookup(self, bytes body not None, start, end):
        """Return the position in `names` of body[start:end], or -1. The slice is clipped to the body.

        A negative bound is clipped to 0, not counted from the end: a scanner's "not found" matches nothing.
        """
        cdef Span span
        _span(body, start, end, &span)
        return self._find(span)

    def may_contain(self, bytes body not None, start, end):
        """Return the filter's answer alone: False means that `lookup` finds nothing. Clips as it does."""
        cdef Span span
        _span(body, start, end, &span)
        if span.length == 0 or span.length > self._longest:
            return False
        return self._may_contain(fr_hash(span.bytes, span.length))

    # ---- reading ----

    cdef inline Py_ssize_t _find(self, Span span) noexcept:
        if span.length == 0 or span.length > self._longest:
            return -1
        cdef uint64_t value = fr_hash(span.bytes, span.length)
        if not self._may_contain(value):
            return -1
        cdef uint64_t at = value >> 32
        cdef Slot *slot
        while True:  # ends: at most half of the slots are taken
            slot = &self._slots[at & self._mask]
            if slot.length == 0:
                return -1
            if (
                slot.tag == <uint32_t>value
                and slot.length == span.length
                and memcmp(self._blob + slot.offset, span.bytes, span.length) == 0
            ):
                return slot.position
            at += 1

    cdef inline bint _may_contain(self, uint64_t value) noexcept:
        if self._lines == NULL:
            return True
        cdef uint64_t *line = self._line_of(value)
        cdef uint64_t spread = value * FR_KEY_0 >> 16
        cdef uint64_t missing = 0
        cdef int word
        for word in range(WORDS_PER_LINE):
            missing |= ~line[word] >> (spread >> (6 * word) & 63)
        return not missing & 1

    cdef inline uint64_t *_line_of(self, uint64_t value) noexcept:
        return self._lines + ((value >> 32) * self._line_count >> 32) * WORDS_PER_LINE

    # ---- construction ----

    cdef int _allocate(self, size_t blob_bytes, bint bloom) except -1:
        cdef size_t slots = 2
        while slots < 2 * <size_t>self._count:
            slots *= 2
        self._mask = slots - 1
        self._slots = <Slot *>calloc(slots, sizeof(Slot))
        self._blob = <unsigned char *>malloc(blob_bytes + 1)
        if self._slots == NULL or self._blob == NULL:
            raise MemoryError
        if not bloom:
            return 0
        self._line_count = line_count(self._count)
        self._lines = <uint64_t *>aligned_alloc(LINE_BYTES, self._line_count * LINE_BYTES)
        if self._lines == NULL:
            raise MemoryError
        memset(self._lines, 0, self._line_count * LINE_BYTES)
        return 0

    cdef int _insert(self, bytes name, int32_t position, uint32_t offset) except -1:
        cdef uint32_t length = <uint32_t>len(name)
        memcpy(self._blob + offset, PyBytes_AS_STRING(name), length)
        cdef uint64_t value = fr_hash(self._blob + offset, length)
        cdef uint64_t at = value >> 32
        while self._slots[at & self._mask].length:
            at += 1
        self._slots[at & self._mask] = Slot(<uint32_t>value, offset, length, position)
        if self._lines != NULL:
            self._set_bits(value)
        return 0

    cdef void _set_bits(self, uint64_t value) noexcept:
        cdef uint64_t *line = self._line_of(value)
        cdef uint64_t spread = value * FR_KEY_0 >> 16
        cdef int word
        for word in range(WORDS_PER_LINE):
            line[word] |= <uint64_t>1 << (spread >> (6 * word) & 63)
