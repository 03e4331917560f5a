"""The keys of a JSON payload that tell something, found in its bytes: the JSON half of `_sse_c`.

The rules are those of `_sse_py`: which keys, with which values, how deep.
"""

from libc.string cimport memchr, memcmp

cdef enum:
    USAGE = 1
    ERROR = 2
    DONE = 4
    FINISHED = 8
    NO_CHOICES = 16
    NOWHERE = 1 << 30  # the depth of a place inside a string


cdef inline bint is_space(char c) noexcept nogil:
    return c == 0x20 or c == 0x09 or c == 0x0A or c == 0x0D


cdef inline Py_ssize_t _string_end(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the index after the quote that closes the string begun before s[i], n + 1 if none does."""
    while i < n:
        if s[i] == 0x22:
            return i + 1
        i += 2 if s[i] == 0x5C else 1
    return n + 1


cdef struct Walk:
    Py_ssize_t at     # an index outside strings
    Py_ssize_t depth  # braces and brackets open there


cdef inline Py_ssize_t _walk_to(Walk* walk, const char* s, Py_ssize_t at) noexcept nogil:
    """Return how many braces and brackets are open before s[at]; NOWHERE if it lies inside a string."""
    cdef Py_ssize_t i = walk.at, depth = walk.depth
    cdef char c
    while i < at:
        c = s[i]
        i += 1
        if c == 0x22:
            i = _string_end(s, i, at)
            if i > at:
                return NOWHERE
        elif c == 0x7B or c == 0x5B:
            depth += 1
        elif c == 0x7D or c == 0x5D:
            depth -= 1
    walk.at = i
    walk.depth = depth
    return depth


cdef inline Py_ssize_t depth_at(const char* s, Py_ssize_t at) noexcept nogil:
    cdef Walk walk = Walk(0, 0)
    return _walk_to(&walk, s, at)


cdef inline bint starts(const char* s, Py_ssize_t n, const char* word, Py_ssize_t size) noexcept nogil:
    return n >= size and memcmp(s, word, size) == 0


cdef inline Py_ssize_t _value(
    const char* s, Py_ssize_t i, Py_ssize_t n, const char* name, Py_ssize_t size
) noexcept nogil:
    """Return where the value of key `name` (with its closing quote) begins if s[i:] is that key, else -1."""
    if not starts(s + i, n - i, name, size):
        return -1
    i += size
    while i < n and is_space(s[i]):
        i += 1
    if i == n or s[i] != 0x3A:
        return -1
    i += 1
    while i < n and is_space(s[i]):
        i += 1
    return i if i < n else -1


cdef inline bint _filled(
    const char* s, Py_ssize_t i, Py_ssize_t n, const char* name, Py_ssize_t size
) noexcept nogil:
    """Tell whether s[i:] is key `name`, and its value neither null nor the empty string."""
    i = _value(s, i, n, name, size)
    return i >= 0 and not starts(s + i, n - i, b"null", 4) and not starts(s + i, n - i, b'""', 2)


cdef inline int marker(const char* s, Py_ssize_t n) noexcept nogil:
    """Return the flags of an `event` name or `type` value."""
    if n == 5 and memcmp(s, b"error", 5) == 0:
        return ERROR
    if n == 12 and memcmp(s, b"message_stop", 12) == 0:
        return DONE
    if n < 15 or memcmp(s, b"response.", 9) != 0:
        return 0
    if n == 15 and memcmp(s + 9, b"failed", 6) == 0:
        return DONE | ERROR
    if n == 18 and memcmp(s + 9, b"completed", 9) == 0:
        return DONE
    if n == 19 and memcmp(s + 9, b"incomplete", 10) == 0:
        return DONE
    return 0


cdef inline int _type_flags(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the flags of the value if s[i:] is key `type`."""
    cdef Py_ssize_t value = _value(s, i, n, b'type"', 5)
    cdef const char* quote
    if value < 0 or s[value] != 0x22:
        return 0
    value += 1
    quote = <const char*>memchr(s + value, 0x22, n - value)
    if quote == NULL:
        return 0
    return marker(s + value, quote - s - value)


cdef inline bint _empty_list(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Tell whether s[i:] is key `choices` with an empty list."""
    i = _value(s, i, n, b'choices"', 8)
    if i < 0 or s[i] != 0x5B:
        return False
    i += 1
    while i < n and is_space(s[i]):
        i += 1
    return i < n and s[i] == 0x5D


cdef inline int _key_flags(const char* s, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Return the flags of the key whose name begins at s[i], just after its opening quote."""
    cdef char c = s[i]
    if c == 0x75:  # u
        if _filled(s, i, n, b'usage"', 6) or _filled(s, i, n, b'usageMetadata"', 14):
            return USAGE
    elif c == 0x74:  # t
        return _type_flags(s, i, n)
    elif c == 0x66:  # f
        if _filled(s, i, n, b'finish_reason"', 14) or _filled(s, i, n, b'finishReason"', 13):
            return FINISHED
    elif c == 0x73:  # s
        if _filled(s, i, n, b'stop_reason"', 12):
            return FINISHED
    elif c == 0x65:  # e
        if _filled(s, i, n, b'error"', 6):
            return ERROR
    elif c == 0x63:  # c
        if _empty_list(s, i, n):
            return NO_CHOICES
    return 0


cdef inline Py_ssize_t _deepest(int flags) noexcept nogil:
    return 2 if flags == USAGE else 3 if flags == FINISHED else 1


cdef inline int classify(const char* s, Py_ssize_t n) noexcept nogil:
    cdef int flags = 0, found
    cdef Py_ssize_t i = 0, depth
    cdef Walk walk = Walk(0, 0)
    cdef const char* quote = <const char*>memchr(s, 0x22, n)
    while quote != NULL:
        i = quote - s + 1
        if i == n:
            break
        found = _key_flags(s, i, n)
        if found:
            depth = _walk_to(&walk, s, i - 1)
            if depth == NOWHERE:
                break
            if 1 <= depth <= _deepest(found):
                flags |= found
        quote = <const char*>memchr(s + i, 0x22, n - i)
    return flags
