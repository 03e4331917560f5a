from libc.stdint cimport int64_t, uint64_t

from fastroute._core._candidates_c cimport Candidates


cdef extern from "Python.h":
    uint64_t _low_64 "PyLong_AsUnsignedLongLongMask" (object o) except? <uint64_t>-1


# splitmix64: `state` is the random integer that the draws come from.
cdef struct Random:
    uint64_t state


# Starts at the low 64 bits of an integer of any size.
cdef inline int c_seed(Random *random, object bits) except -1:
    random.state = _low_64(bits)
    return 0


cdef inline uint64_t c_next(Random *random) noexcept:
    random.state += 0x9E3779B97F4A7C15ULL
    cdef uint64_t z = random.state
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ z >> 27) * 0x94D049BB133111EBULL
    return z ^ z >> 31


# Uniform in [0, 1), of 53 bits.
cdef inline double c_unit(Random *random) noexcept:
    return <double>(c_next(random) >> 11) * (1.0 / 9007199254740992.0)


# Draws a candidate by weight, another one than `but`. There must be one.
cdef Py_ssize_t c_draw(Candidates candidates, Random *random, int64_t now_ms, Py_ssize_t but) noexcept
