# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of ``heads``. ``_heads_py`` is the reference and says what each part means."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

from fastroute._core._heads_flags import (
    ENCODED as _ENCODED,
    EVENTS as _EVENTS,
    IDENTIFIED as _IDENTIFIED,
    LENGTH_FIELDS as _LENGTH_FIELDS,
    LIMITS as _LIMITS,
    MAX_LENGTH_DIGITS as _MAX_LENGTH_DIGITS,
    TYPED as _TYPED,
)

cdef int EVENTS = _EVENTS
cdef int TYPED = _TYPED
cdef int IDENTIFIED = _IDENTIFIED
cdef int ENCODED = _ENCODED
cdef int LIMITS = _LIMITS
cdef Py_ssize_t MAX_LENGTH_DIGITS = _MAX_LENGTH_DIGITS
# The two differ in the case of three letters only, and are of one length.
cdef bytes UPPER = _LENGTH_FIELDS[0]
cdef bytes LOWER = _LENGTH_FIELDS[1]
cdef Py_ssize_t FIELD = len(UPPER)


cdef struct Answer:
    Py_ssize_t size
    long long length
    bint closes
    bint has_connection
    bint dated


cdef inline bint _is(bytes data, const char* word, Py_ssize_t size) noexcept:
    return PyBytes_GET_SIZE(data) == size and memcmp(PyBytes_AS_STRING(data), word, size) == 0


cdef inline char* _put(char* at, const char* data, Py_ssize_t size) noexcept:
    memcpy(at, data, size)
    return at + size


cdef inline char* _put_bytes(char* at, bytes data) noexcept:
    return _put(at, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


def find_head(bytes data not None):
    """Return (end, key, digits) of the request head that `data` begins with."""
    cdef const char* p = PyBytes_AS_STRING(data)
    cdef const char* line = p
    cdef const char* stop = p + PyBytes_GET_SIZE(data)
    cdef const char* start = NULL
    cdef const char* last = NULL
    cdef const char* digit
    cdef Py_ssize_t size, count
    cdef bytes key
    while True:
        # A line feed, and whatever begins after it; what is looked for begins with the end of a line.
        line = <const char*>memchr(line, 10, stop - line)
        if line == NULL:
            return -1, b"", b""
        line += 1
        if line - p >= 4 and memcmp(line - 4, b"\r\n\r\n", 4) == 0:
            break
        if start == NULL and line - p >= 2 and stop - line >= FIELD - 2 and _begins_length(line - 2):
            start = line + FIELD - 2
    size = line - p
    # A field that begins in the blank line is not of this head.
    if start != NULL and start < line:
        last = <const char*>memchr(start, 13, line - start)
        while last[1] != 10:
            last = <const char*>memchr(last + 1, 13, line - last - 1)
        digit = start
        while digit < last and c"0" <= digit[0] <= c"9":
            digit += 1
        count = last - start
        if digit == last and 0 < count <= MAX_LENGTH_DIGITS:
            key = PyBytes_FromStringAndSize(NULL, size - count)
            memcpy(_put(PyBytes_AS_STRING(key), p, start - p), last, line - last)
            return size, key, PyBytes_FromStringAndSize(start, count)
    return size, PyBytes_FromStringAndSize(p, size), b""


cdef inline bint _begins_length(const char* at) noexcept:
    """Whether the end of a line and a content-length begin here."""
    return memcmp(at, PyBytes_AS_STRING(UPPER), FIELD) == 0 or memcmp(at, PyBytes_AS_STRING(LOWER), FIELD) == 0


def head_key(list headers):
    """Return (key, content-length) of a request's header fields."""
    cdef Py_ssize_t size = 0
    cdef long long length = -1
    cdef tuple pair
    cdef bytes name, value, key
    cdef char* at
    for item in headers:
        pair = <tuple?>item
        name = <bytes?>pair[0]
        value = <bytes?>pair[1]
        if _is(name, b"content-length", 14):
            length = _declared(value) if length == -1 else -2
        else:
            size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 2
    key = PyBytes_FromStringAndSize(NULL, size)
    at = PyBytes_AS_STRING(key)
    for item in headers:
        pair = <tuple>item
        name = <bytes>pair[0]
        if not _is(name, b"content-length", 14):
            at = _put(_put_bytes(at, name), b":", 1)
            at = _put(_put_bytes(at, <bytes>pair[1]), b"\n", 1)
    return key, length


def request_head(headers, drop):
    """Return the lines of the fields of `headers` not in `drop`, each with its line end."""
    cdef list parts = []
    cdef tuple pair
    cdef object name
    for item in headers:
        pair = <tuple>item
        name = pair[0]
        if name in drop:
            continue
        parts.append(name)
        parts.append(b": ")
        parts.append(pair[1])
        parts.append(b"\r\n")
    return b"".join(parts)


def answer_head(bytes line not None, list headers not None, bytes date_line not None):
    """Return (status line and fields, content-length, whether it says `connection: close`) of an answer."""
    cdef Answer answer
    cdef bytes head
    _measure(&answer, line, headers, date_line)
    head = PyBytes_FromStringAndSize(NULL, answer.size)
    _write(PyBytes_AS_STRING(head), &answer, line, headers, date_line)
    return head, answer.length, answer.closes


def whole_answer(bytes line not None, list headers not None, bytes date_line not None, bytes body not None):
    """Return head and body of an answer; b"" if it has not the body's length, or a connection field."""
    cdef Answer answer
    cdef bytes whole
    cdef char* at
    _measure(&answer, line, headers, date_line)
    if answer.has_connection or answer.length != PyBytes_GET_SIZE(body):
        return b""
    whole = PyBytes_FromStringAndSize(NULL, answer.size + 2 + PyBytes_GET_SIZE(body))
    at = _write(PyBytes_AS_STRING(whole), &answer, line, headers, date_line)
    _put_bytes(_put(at, b"\r\n", 2), body)
    return whole


cdef int _measure(Answer* answer, bytes line, list headers, bytes date_line) except -1:
    """Look through the fields of an answer; how many bytes they come to includes the status line."""
    cdef tuple pair
    cdef bytes name, value
    answer.size = PyBytes_GET_SIZE(line)
    answer.length = -1
    answer.closes = answer.has_connection = answer.dated = False
    for item in headers:
        pair = <tuple?>item
        name = <bytes?>pair[0]
        value = <bytes?>pair[1]
        answer.size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
        if _is(name, b"date", 4):
            answer.dated = True
        elif _is(name, b"content-length", 14):
            answer.length = int(value)
        elif _is(name, b"connection", 10):
            answer.has_connection = True
            if _is(value, b"close", 5):
                answer.closes = True
    if not answer.dated:
        answer.size += PyBytes_GET_SIZE(date_line)
    return 0


cdef char* _write(char* at, Answer* answer, bytes line, list headers, bytes date_line) noexcept:
    """Write what was measured; return the place behind it."""
    cdef tuple pair
    at = _put_bytes(at, line)
    for item in headers:
        pair = <tuple>item
        at = _put(_put_bytes(at, <bytes>pair[0]), b": ", 2)
        at = _put(_put_bytes(at, <bytes>pair[1]), b"\r\n", 2)
    return at if answer.dated else _put_bytes(at, date_line)


def answer_flags(list headers not None):
    """Return what the fields of an answer say, as a sum of `_heads_flags`."""
    cdef int flags = 0
    cdef tuple pair
    cdef bytes name, value
    cdef const char* at
    cdef Py_ssize_t size
    for item in headers:
        pair = <tuple?>item
        name = <bytes?>pair[0]
        value = <bytes?>pair[1]
        size = PyBytes_GET_SIZE(name)
        at = PyBytes_AS_STRING(name)
        if _is(name, b"content-type", 12):
            flags = flags & ~EVENTS | TYPED
            if PyBytes_GET_SIZE(value) >= 17 and _is_lower(PyBytes_AS_STRING(value), b"text/event-stream", 17):
                flags |= EVENTS
        elif _is(name, b"x-request-id", 12):
            flags |= IDENTIFIED
        elif _is(name, b"content-encoding", 16):
            if PyBytes_GET_SIZE(value) != 8 or not _is_lower(PyBytes_AS_STRING(value), b"identity", 8):
                flags |= ENCODED
        elif size >= 5 and (at[0] == c"x" or at[0] == c"r" or at[0] == c"a") and _names_limit(at, size):
            flags |= LIMITS
    return flags


cdef bint _is_lower(const char* text, const char* word, Py_ssize_t size) noexcept:
    """Return whether a text is a word in lower case, whatever its own case."""
    cdef Py_ssize_t i
    cdef char letter
    for i in range(size):
        letter = text[i]
        if c"A" <= letter <= c"Z":
            letter += 32
        if letter != word[i]:
            return False
    return True


cdef bint _names_limit(const char* name, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(size - 4):
        if name[i] == c"l" and memcmp(name + i, b"limit", 5) == 0:
            return True
    return False


cdef long long _declared(bytes value) noexcept:
    """Return the number a content-length field declares, -2 if it is none."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value), i
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef long long number = 0
    if n == 0 or n > 18:
        return -2
    for i in range(n):
        if p[i] < 48 or p[i] > 57:
            return -2
        number = number * 10 + (p[i] - 48)
    return number
