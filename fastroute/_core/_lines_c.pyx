# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `lines`; `_lines_py` says what it does."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp, memcpy


cdef extern from "_crc.h" nogil:
    void fr_crc_prepare()
    uint32_t fr_crc(uint32_t before, const unsigned char *p, size_t size)


cdef enum:
    PREFIX_BYTES = 9

cdef const char *DIGITS = "0123456789abcdef"

fr_crc_prepare()


cdef inline bint is_intact(const unsigned char *line, Py_ssize_t size) noexcept:
    """Whether the prefix is the checksum of what follows it."""
    cdef uint32_t told = 0
    cdef int i
    cdef unsigned char digit
    if size < PREFIX_BYTES or line[8] != c" ":
        return False
    for i in range(8):
        digit = line[i]
        if c"0" <= digit <= c"9":
            told = told << 4 | (digit - c"0")
        elif c"a" <= digit <= c"f":
            told = told << 4 | (digit - c"a" + 10)
        else:
            return False
    return told == fr_crc(0, line + PREFIX_BYTES, size - PREFIX_BYTES)


def put(window, Py_ssize_t position, bytes head not None, uint32_t checksum, bytes body not None):
    """Write the line of `head` and `body` at `position`; return the position behind it, -1 if there is no room."""
    cdef Py_buffer view
    cdef unsigned char *line
    cdef Py_ssize_t head_bytes = PyBytes_GET_SIZE(head), body_bytes = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t size = PREFIX_BYTES + head_bytes + body_bytes + 1
    cdef uint32_t crc
    cdef int i
    PyObject_GetBuffer(window, &view, PyBUF_WRITABLE)
    if position < 0 or view.len - position < size:
        PyBuffer_Release(&view)
        return -1
    crc = fr_crc(checksum, <const unsigned char *>PyBytes_AS_STRING(body), body_bytes)
    line = <unsigned char *>view.buf + position
    for i in range(8):
        line[i] = DIGITS[crc >> (28 - 4 * i) & 15]
    line[8] = c" "
    memcpy(line + PREFIX_BYTES, PyBytes_AS_STRING(head), head_bytes)
    memcpy(line + PREFIX_BYTES + head_bytes, PyBytes_AS_STRING(body), body_bytes)
    line[size - 1] = c"\n"
    PyBuffer_Release(&view)
    return position + size


def split(bytes data not None, bint final):
    """Return (heads, bodies, end, bad lines) of the intact lines in `data`."""
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef const unsigned char *line
    cdef const unsigned char *newline
    cdef const unsigned char *tab
    cdef const unsigned char *payload
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t position = 0, end = 0, bad = 0, waiting = 0, filled = 0, length
    cdef list heads = []
    cdef bytes head = None
    # Every body is shorter than its line, its newline included.
    cdef char *bodies = <char *>PyMem_Malloc(size + 1)
    if bodies == NULL:
        raise MemoryError
    try:
        while position < size:
            line = start + position
            newline = <const unsigned char *>memchr(line, c"\n", size - position)
            if newline == NULL:
                if not final:
                    break
                newline = start + size
            payload = line + PREFIX_BYTES
            tab = NULL
            if newline > payload:
                tab = <const unsigned char *>memchr(payload, c"\t", newline - payload)
            if tab != NULL and is_intact(line, newline - line):
                length = tab - payload
                # Most requests are of the kind of the one before.
                if head is None or PyBytes_GET_SIZE(head) != length or memcmp(
                    PyBytes_AS_STRING(head), payload, length
                ):
                    head = PyBytes_FromStringAndSize(<const char *>payload, length)
                heads.append(head)
                length = newline - tab - 1
                memcpy(bodies + filled, tab + 1, length)
                filled += length
                bodies[filled] = c"\n"
                filled += 1
                bad += waiting
                waiting = 0
                end = newline - start + 1
                if end > size:
                    end = size
            elif newline > line:
                waiting += 1
            elif not waiting:
                end = newline - start + 1
            position = newline - start + 1
        if final:
            end = size
            bad += waiting
        return heads, PyBytes_FromStringAndSize(bodies, filled), end, bad
    finally:
        PyMem_Free(bodies)
