# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled half of jsonscan; `_jsonscan_py` is the reference and says what the results mean."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_FromSize_t
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint64_t

from fastroute._core._jsonscan_errors import checked_fields, scan_error

__all__ = ["Scanner", "unescape"]


cdef extern from "_scan.h":
    enum:
        FR_MAX_FIELDS
        FR_NO_MEMORY
        FR_DUPLICATE

    ctypedef struct fr_field:
        const uint8_t *name
        size_t length
        uint64_t hash

    ctypedef struct fr_span:
        int kind
        size_t start
        size_t end

    ctypedef struct fr_source:
        int reason
        size_t offset

    ctypedef struct fr_scan:
        fr_source source
        fr_span *spans
        size_t open
        size_t members
        size_t key_end

    void fr_scan_body(
        fr_scan *scan, const char *body, size_t length, const fr_field *fields, size_t count, size_t max_depth
    ) noexcept nogil
    uint64_t fr_hash(const uint8_t *name, size_t length) noexcept nogil
    bint fr_is_string(const char *body, size_t length, size_t start, size_t end) noexcept nogil
    size_t fr_unescape(uint8_t *to, const uint8_t *start, const uint8_t *end) noexcept nogil


# Below this a scan takes less than giving the GIL away and getting it back may.
cdef enum:
    NOGIL_BYTES = 65536


cdef object ZERO = 0


cdef inline void put(object result, Py_ssize_t index, size_t value):
    # Most fields are absent from most bodies.
    cdef object item = PyLong_FromSize_t(value) if value else ZERO
    Py_INCREF(item)
    PyTuple_SET_ITEM(result, index, item)


cdef object fault(const fr_scan *scan, bytes body):
    """Return the exception for a scan that ended with a reason."""
    if scan.source.reason == FR_NO_MEMORY:
        return MemoryError()
    key = b""
    if scan.source.reason == FR_DUPLICATE:
        key = unescape(body, scan.source.offset, scan.key_end)
    return scan_error(scan.source.reason, scan.source.offset, key)


@cython.final
cdef class Scanner:
    """Finds `fields` among the top-level members of JSON objects nested at most `max_depth` deep."""

    cdef tuple names  # keeps alive what `fields` points into
    cdef fr_field fields[FR_MAX_FIELDS]
    cdef size_t field_count
    cdef size_t max_depth

    # Not __init__: a second call of that would free names which a scan without the GIL is reading.
    def __cinit__(self, fields, max_depth=64):
        self.names = checked_fields(fields, max_depth)
        self.max_depth = max_depth
        self.field_count = len(self.names)
        for index, name in enumerate(self.names):
            self.fields[index].name = <const uint8_t *>PyBytes_AS_STRING(name)
            self.fields[index].length = len(name)
            self.fields[index].hash = fr_hash(self.fields[index].name, len(name))

    def scan(self, body):
        """Return (kind, start, end) for each field, flat, then `open` and `members`."""
        cdef fr_scan scan
        self.read(&scan, body)
        return self.flat(&scan)

    def scan_kinds(self, body):
        """Return (the kind of each field, one byte each; what `scan` does)."""
        cdef fr_scan scan
        cdef uint8_t[FR_MAX_FIELDS] kinds
        cdef size_t i
        self.read(&scan, body)
        for i in range(self.field_count):
            kinds[i] = <uint8_t>scan.spans[i].kind
        return PyBytes_FromStringAndSize(<const char *>kinds, self.field_count), self.flat(&scan)

    cdef int read(self, fr_scan *scan, body) except -1:
        cdef size_t length
        cdef const char *start
        if not isinstance(body, bytes):
            raise TypeError(f"the body must be bytes, not {type(body).__name__}")
        start = PyBytes_AS_STRING(body)
        length = PyBytes_GET_SIZE(body)
        if length > NOGIL_BYTES:
            with nogil:
                fr_scan_body(scan, start, length, self.fields, self.field_count, self.max_depth)
        else:
            fr_scan_body(scan, start, length, self.fields, self.field_count, self.max_depth)
        if scan.source.reason:
            raise fault(scan, body)
        return 0

    cdef tuple flat(self, const fr_scan *scan):
        cdef tuple result
        cdef size_t i
        result = PyTuple_New(3 * self.field_count + 2)
        for i in range(self.field_count):
            put(result, 3 * i, scan.spans[i].kind)
            put(result, 3 * i + 1, scan.spans[i].start)
            put(result, 3 * i + 2, scan.spans[i].end)
        put(result, 3 * self.field_count, scan.open)
        put(result, 3 * self.field_count + 1, scan.members)
        return result


def unescape(body, Py_ssize_t start, Py_ssize_t end):
    """Return the content of the JSON string body[start:end], quotes included, as UTF-8 without escapes."""
    cdef const char *text
    cdef const uint8_t *content
    cdef bytes result
    cdef size_t length
    if not isinstance(body, bytes):
        raise TypeError(f"the body must be bytes, not {type(body).__name__}")
    text = PyBytes_AS_STRING(body)
    if not 0 <= start < end <= PyBytes_GET_SIZE(body) or not fr_is_string(
        text, PyBytes_GET_SIZE(body), start, end
    ):
        raise ValueError(f"no JSON string at bytes {start} to {end}")
    content = <const uint8_t *>text + start + 1
    result = PyBytes_FromStringAndSize(NULL, end - start - 2)
    length = fr_unescape(<uint8_t *>PyBytes_AS_STRING(result), content, content + (end - start - 2))
    return result if length == <size_t>(end - start - 2) else result[:length]
