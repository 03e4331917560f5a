# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `ratelimit`; the meaning of every name is written down in the pure half."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport ceil
from libc.stdint cimport int64_t
from libc.string cimport memcmp

from fastroute._core._ratelimit_rules import DAILY_MS as _DAILY_MS
from fastroute._core._ratelimit_rules import KINDS, MAX_DIGITS, MAX_RESET_MS, WHATS
from fastroute._core._ratelimit_rules import MONTHLY_MS as _MONTHLY_MS
from fastroute.interfaces import Allowance

# The numbers of _ratelimit_rules and interfaces; the tests hold the two halves together.
cdef enum:
    REQUESTS_LEFT = 0
    TOKENS_LEFT = 1
    INPUT_TOKENS_LEFT = 2
    OUTPUT_TOKENS_LEFT = 3
    DAY_REQUESTS_LEFT = 4
    DAY_TOKENS_LEFT = 5
    MONTH_LEFT = 6
    DIMENSIONS = 7
    BARE = 7
    PLACES = 24
    DIGITS = 15
    LIMIT = 0
    REMAINING = 1
    RESET = 2
    LONG_MS = 600000

cdef double EPOCH_S = 1e9
cdef double EPOCH_MS = 1e12
cdef double LONGEST_MS = 31.0 * 86400000.0
cdef double DAILY_MS = 6.0 * 3600000.0
cdef double MONTHLY_MS = 10.0 * 86400000.0
cdef double SLACK_MS = 1e-6
cdef double[16] POWERS = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15]

cdef struct Word:
    const char *text
    Py_ssize_t size
    int place

cdef Word[16] _kinds
cdef int _kind_count = 0
# The names that the table points into.
_names = sorted(KINDS.items())
assert MAX_DIGITS == DIGITS and MAX_RESET_MS == LONGEST_MS and len(_names) <= 16
assert DAILY_MS == _DAILY_MS and MONTHLY_MS == _MONTHLY_MS
assert WHATS == (b"limit", b"remaining", b"reset")


def _fill():
    global _kind_count
    for name, dimension in _names:
        _kinds[_kind_count].text = PyBytes_AS_STRING(name)
        _kinds[_kind_count].size = len(name)
        _kinds[_kind_count].place = dimension
        _kind_count += 1


_fill()


def read_allowance(list headers not None, int64_t wall_ms):
    """Return what the fields say, None if there are none; see the pure half."""
    cdef int64_t[PLACES] found
    cdef bint any_field = False, unit = False
    cdef bint[DIMENSIONS + 1] in_units
    cdef Py_ssize_t i
    cdef int place, j
    cdef const char *text
    cdef const char *end
    cdef object pair, name, value
    for i in range(PyList_GET_SIZE(headers)):
        pair = <object>PyList_GET_ITEM(headers, i)
        if not PyTuple_Check(pair) or PyTuple_GET_SIZE(pair) != 2:
            raise TypeError("a header is a pair of bytes")
        name = <object>PyTuple_GET_ITEM(pair, 0)
        value = <object>PyTuple_GET_ITEM(pair, 1)
        if not PyBytes_Check(name) or not PyBytes_Check(value):
            raise TypeError("a header is a pair of bytes")
        place = c_place(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if place < 0:
            continue
        if not any_field:
            any_field = True
            for j in range(PLACES):
                found[j] = -1
            for j in range(DIMENSIONS + 1):
                in_units[j] = False
        if found[place] >= 0:
            continue
        text = PyBytes_AS_STRING(value)
        end = text + PyBytes_GET_SIZE(value)
        while text < end and (text[0] == c' ' or text[0] == c'\t'):
            text += 1
        while text < end and ((end - 1)[0] == c' ' or (end - 1)[0] == c'\t'):
            end -= 1
        if place % 3 == RESET:
            found[place] = c_time(text, end, wall_ms, &unit)
            in_units[place // 3] = unit
        else:
            found[place] = c_count(text, end)
    if not any_field:
        return None
    if found[LIMIT] < 0 and found[REMAINING] < 0 and found[RESET] < 0:
        for j in range(3):
            found[j] = found[3 * BARE + j]
    if in_units[REQUESTS_LEFT]:
        c_move(found, REQUESTS_LEFT, DAY_REQUESTS_LEFT)
    if in_units[TOKENS_LEFT] and found[3 * TOKENS_LEFT + RESET] > LONG_MS:
        c_move(found, TOKENS_LEFT, DAY_TOKENS_LEFT)
    for j in range(3 * DIMENSIONS):
        if found[j] >= 0:
            break
    else:
        return None
    return tuple.__new__(Allowance, (
        found[0], found[1], found[2], found[3], found[4], found[5], found[6], found[7], found[8], found[9], found[10],
        found[11], found[12], found[13], found[14], found[15], found[16], found[17], found[18], found[19], found[20],
    ))


cdef int c_what(const char *text, Py_ssize_t size) noexcept:
    if size == 5 and memcmp(text, b"limit", 5) == 0:
        return LIMIT
    if size == 9 and memcmp(text, b"remaining", 9) == 0:
        return REMAINING
    if size == 5 and memcmp(text, b"reset", 5) == 0:
        return RESET
    return -1


cdef int c_kind(const char *text, Py_ssize_t size) noexcept:
    cdef int i
    for i in range(_kind_count):
        if _kinds[i].size == size and memcmp(_kinds[i].text, text, size) == 0:
            return _kinds[i].place
    return -1


cdef int c_place(const char *name, Py_ssize_t size) noexcept:
    cdef int what
    if size < 9:
        return -1
    if name[0] == c'x':
        if size > 11 and memcmp(name, b"x-ratelimit", 11) == 0:
            return c_kind_last(name + 11, size - 11)
        if size > 13 and memcmp(name, b"x-tokenlimit-", 13) == 0:
            what = c_what(name + 13, size - 13)
            return 3 * TOKENS_LEFT + what if what >= 0 else -1
        if size > 22 and memcmp(name, b"x-trial-endpoint-call-", 22) == 0:
            what = c_what(name + 22, size - 22)
            return 3 * REQUESTS_LEFT + what if what >= 0 else -1
        if size == 29 and memcmp(name, b"x-endpoint-monthly-call-limit", 29) == 0:
            return 3 * MONTH_LEFT + LIMIT
        return -1
    if name[0] == c'a':
        if size > 20 and memcmp(name, b"anthropic-ratelimit-", 20) == 0:
            return c_what_last(name + 20, size - 20)
        return -1
    if name[0] == c'r' and memcmp(name, b"ratelimit", 9) == 0:
        return c_kind_last(name + 9, size - 9)
    return -1


cdef int c_what_last(const char *tail, Py_ssize_t size) noexcept:
    """Return the place of a field of Anthropic's by what follows `anthropic-ratelimit-`."""
    cdef Py_ssize_t dash = size - 1
    cdef int what, kind
    while dash >= 0 and tail[dash] != c'-':
        dash -= 1
    if dash <= 0:
        return -1
    what = c_what(tail + dash + 1, size - dash - 1)
    if what < 0:
        return -1
    if dash == 8 and memcmp(tail, b"requests", 8) == 0:
        kind = REQUESTS_LEFT
    elif dash == 6 and memcmp(tail, b"tokens", 6) == 0:
        kind = TOKENS_LEFT
    elif dash == 12 and memcmp(tail, b"input-tokens", 12) == 0:
        kind = INPUT_TOKENS_LEFT
    elif dash == 13 and memcmp(tail, b"output-tokens", 13) == 0:
        kind = OUTPUT_TOKENS_LEFT
    else:
        return -1
    return 3 * kind + what


cdef int c_kind_last(const char *tail, Py_ssize_t size) noexcept:
    cdef bint by_size = False
    cdef Py_ssize_t dash = 0
    cdef int what, kind
    if size >= 6 and memcmp(tail, b"bysize", 6) == 0:
        by_size = True
        tail += 6
        size -= 6
    if size < 1 or tail[0] != c'-':
        return -1
    tail += 1
    size -= 1
    while dash < size and tail[dash] != c'-':
        dash += 1
    what = c_what(tail, dash)
    if what < 0:
        return -1
    # What comes after the dash, or nothing.
    tail += dash + 1
    size = size - dash - 1 if size > dash else 0
    if by_size:
        if size == 0 or size == 6 and memcmp(tail, b"minute", 6) == 0:
            kind = TOKENS_LEFT
        elif size == 5 and memcmp(tail, b"month", 5) == 0:
            kind = MONTH_LEFT
        else:
            return -1
    elif size == 0:
        kind = BARE
    else:
        kind = c_kind(tail, size)
        if kind < 0:
            return -1
    return 3 * kind + what


cdef bint c_number(const char **at, const char *end, int64_t *whole, double *number) noexcept:
    """Read a decimal number and go past it; False where there is none. whole: what stands before the point."""
    cdef const char *text = at[0]
    cdef int digits = 0, used = 0, fraction = 0
    cdef int64_t mantissa = 0
    while text < end and c'0' <= text[0] <= c'9':
        if digits == DIGITS:
            return False
        mantissa = mantissa * 10 + (text[0] - c'0')
        digits += 1
        text += 1
    if digits == 0:
        return False
    whole[0] = mantissa
    used = digits
    if text + 1 < end and text[0] == c'.' and c'0' <= text[1] <= c'9':
        text += 1
        digits = 0
        while text < end and c'0' <= text[0] <= c'9':
            if digits == 32:
                return False
            if used < DIGITS:
                mantissa = mantissa * 10 + (text[0] - c'0')
                used += 1
                fraction += 1
            digits += 1
            text += 1
    number[0] = <double>mantissa / POWERS[fraction]
    at[0] = text
    return True


cdef int64_t c_count(const char *text, const char *end) noexcept:
    cdef int64_t whole = -1
    cdef double number = 0.0
    if not c_number(&text, end, &whole, &number) or text != end:
        return -1
    return whole


cdef int64_t c_bounded(double milliseconds) noexcept:
    if milliseconds >= LONGEST_MS:
        return <int64_t>LONGEST_MS
    return <int64_t>ceil(milliseconds - SLACK_MS) if milliseconds > SLACK_MS else 0


cdef int64_t c_time(const char *text, const char *end, int64_t wall_ms, bint *unit) noexcept:
    cdef const char *start = text
    cdef int64_t whole = 0
    cdef double number = 0.0, total = 0.0, scale = 0.0
    cdef int width
    unit[0] = False
    if c_number(&text, end, &whole, &number) and text == end:
        if number >= EPOCH_MS:
            return c_bounded(number - <double>wall_ms)
        if number >= EPOCH_S:
            return c_bounded(number * 1000.0 - <double>wall_ms)
        return c_bounded(number * 1000.0)
    if end - start >= 20 and start[4] == c'-':
        return c_date(start, end, wall_ms)
    text = start
    if text == end:
        return -1
    while text < end:
        if not c_number(&text, end, &whole, &number):
            return -1
        width = c_unit(text, end - text, &scale)
        if width == 0:
            return -1
        total += number * scale
        text += width
    unit[0] = True
    return c_bounded(total)


cdef int c_unit(const char *text, Py_ssize_t size, double *scale) noexcept:
    """Return how long the unit at `text` is, 0 for none."""
    if size >= 2 and text[1] == c's':
        if text[0] == c'm':
            scale[0] = 1.0
            return 2
        if text[0] == c'u':
            scale[0] = 1e-3
            return 2
        if text[0] == c'n':
            scale[0] = 1e-6
            return 2
    if size >= 3 and memcmp(text, b"\xc2\xb5s", 3) == 0:
        scale[0] = 1e-3
        return 3
    if size >= 1:
        if text[0] == c'h':
            scale[0] = 3600000.0
            return 1
        if text[0] == c'm':
            scale[0] = 60000.0
            return 1
        if text[0] == c's':
            scale[0] = 1000.0
            return 1
    return 0


cdef int c_digits(const char *text, int count) noexcept:
    """Return the number that so many digits make, -1 if they are none."""
    cdef int i, value = 0
    for i in range(count):
        if not c'0' <= text[i] <= c'9':
            return -1
        value = value * 10 + (text[i] - c'0')
    return value


cdef int64_t c_date(const char *text, const char *end, int64_t wall_ms) noexcept:
    cdef int64_t year = c_digits(text, 4), month = c_digits(text + 5, 2), day = c_digits(text + 8, 2)
    cdef int64_t hour = c_digits(text + 11, 2), minute = c_digits(text + 14, 2), second = c_digits(text + 17, 2)
    cdef int64_t days, seconds, offset_hours, offset_minutes
    cdef int digits = 0
    cdef char sign
    if text[4] != c'-' or text[7] != c'-' or text[13] != c':' or text[16] != c':':
        return -1
    if text[10] != c'T' and text[10] != c't' and text[10] != c' ':
        return -1
    if year < 0 or month < 1 or month > 12 or day < 1 or day > 31 or hour < 0 or hour > 23:
        return -1
    if minute < 0 or minute > 59 or second < 0 or second > 60:
        return -1
    if month <= 2:
        year -= 1
    days = 365 * year + c_floor(year, 4) - c_floor(year, 100) + c_floor(year, 400)
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    text += 19
    if text + 1 < end and text[0] == c'.':
        text += 1
        while text < end and c'0' <= text[0] <= c'9' and digits < 32:
            digits += 1
            text += 1
        if digits == 0:
            return -1
    if text >= end:
        return -1
    sign = text[0]
    if sign == c'Z' or sign == c'z':
        if text + 1 != end:
            return -1
    elif (sign == c'+' or sign == c'-') and end - text == 6 and text[3] == c':':
        offset_hours = c_digits(text + 1, 2)
        offset_minutes = c_digits(text + 4, 2)
        if offset_hours < 0 or offset_minutes < 0:
            return -1
        if sign == c'+':
            seconds -= offset_hours * 3600 + offset_minutes * 60
        else:
            seconds += offset_hours * 3600 + offset_minutes * 60
    else:
        return -1
    return c_bounded(<double>(seconds * 1000 - wall_ms))


cdef int64_t c_floor(int64_t value, int64_t by) noexcept:
    """Return the quotient rounded down; the only negative value there is is -1, of the year before 0."""
    return value // by if value >= 0 else -1


cdef void c_move(int64_t *found, int dimension, int daily) noexcept:
    cdef int64_t *said = found + 3 * dimension
    cdef int64_t *to
    cdef int64_t used = said[LIMIT] - said[REMAINING]
    cdef double window_ms
    cdef int j
    if said[REMAINING] < 0 or used <= 0:
        return
    window_ms = <double>said[RESET] * <double>said[LIMIT] / <double>used
    to = found + 3 * (MONTH_LEFT if window_ms >= MONTHLY_MS else daily)
    if window_ms >= DAILY_MS and to[LIMIT] < 0 and to[REMAINING] < 0 and to[RESET] < 0:
        for j in range(3):
            to[j] = said[j]
            said[j] = -1
