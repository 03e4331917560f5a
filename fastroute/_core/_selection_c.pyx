# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `selection`; the meaning of every name is written down in the pure half.

Lists and tuples are read in place, see _sequence.h.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastroute._core._counters_c cimport Segment

from fastroute._core._selection_py import checked_count, checked_weights

cdef extern from "Python.h":
    object PySequence_Fast(object o, const char *message)
    Py_ssize_t PySequence_Fast_GET_SIZE(object o)
    Py_ssize_t PyNumber_AsSsize_t(object o, object overflow) except? -1
    uint64_t _low_64 "PyLong_AsUnsignedLongLongMask" (object o) except? <uint64_t>-1

cdef extern from "_sequence.h":
    Py_ssize_t _position "fr_position" (object fast, Py_ssize_t i) except? -1
    double _number "fr_number" (object fast, Py_ssize_t i) except? -1.0
    uint64_t _scale "fr_scale" (uint64_t bits, uint64_t n) noexcept

cdef enum:
    # Candidates up to this number are gathered on the stack (4 KB), more on the heap.
    ON_STACK = 512
    IN_FLIGHT = 0


cdef inline object _fast(object sequence):
    return PySequence_Fast(sequence, b"a list or tuple is needed")


cdef int _check(Py_ssize_t i, Py_ssize_t n) except -1:
    if i < 0 or i >= n:
        raise IndexError(f"position {i} is not in 0..{n - 1}")
    return 0


cdef Py_ssize_t *_room(Py_ssize_t n, Py_ssize_t *stack) except NULL:
    """Return space for n positions: `stack` (of ON_STACK) if they fit; to be freed with _leave."""
    if n <= ON_STACK:
        return stack
    cdef Py_ssize_t *heap = <Py_ssize_t *>PyMem_Malloc(n * sizeof(Py_ssize_t))
    if heap == NULL:
        raise MemoryError
    return heap


cdef inline void _leave(Py_ssize_t *room, Py_ssize_t *stack) noexcept:
    if room != stack:
        PyMem_Free(room)


# ---- in turn ----

cdef class RoundRobin:
    """Each candidate in turn, in cyclic order of position: exactly fair on a fixed set of candidates."""

    cdef Py_ssize_t _n
    cdef Py_ssize_t _next

    def __cinit__(self, n, start=0):
        """Serve positions 0..n-1 (n at most 65536, ValueError), first from `start` modulo n on."""
        self._n = checked_count(n)
        self._next = start % n if n else 0

    def pick(self, candidates):
        """Return the first candidate at or cyclically after the position that follows the last pick."""
        cdef object fast = _fast(candidates)
        cdef Py_ssize_t best = -1, nearest = self._n
        cdef Py_ssize_t k, candidate, distance
        for k in range(PySequence_Fast_GET_SIZE(fast)):
            candidate = _position(fast, k)
            _check(candidate, self._n)
            distance = candidate - self._next
            if distance < 0:
                distance += self._n
            if distance < nearest:
                best, nearest = candidate, distance
        if best >= 0:
            self._next = best + 1 if best + 1 < self._n else 0
        return best


cdef struct Peer:
    int64_t weight
    int64_t effective
    int64_t current


cdef class SmoothWeightedRoundRobin:
    """nginx's smooth weighted round robin; see the pure half."""

    cdef Peer *_peers
    cdef Py_ssize_t _n

    def __cinit__(self, weights):
        """Take one weight per position: 0 (never picked) to 1,000,000; at most 65536 of them (ValueError)."""
        cdef list checked = checked_weights(weights)
        cdef Py_ssize_t i
        self._n = len(checked)
        self._peers = <Peer *>PyMem_Calloc(self._n, sizeof(Peer))
        if self._peers == NULL:
            raise MemoryError
        for i in range(self._n):
            self._peers[i].weight = self._peers[i].effective = checked[i]

    def __dealloc__(self):
        PyMem_Free(self._peers)

    @property
    def current(self):
        """A copy of the current weights, by position."""
        return [self._peers[i].current for i in range(self._n)]

    @property
    def effective(self):
        """A copy of the effective weights: failures lower them, each pick that sees the candidate adds 1."""
        return [self._peers[i].effective for i in range(self._n)]

    def pick(self, candidates):
        """Return the next candidate; all of them are checked before any weight changes."""
        cdef object fast = _fast(candidates)
        cdef Py_ssize_t n = PySequence_Fast_GET_SIZE(fast)
        cdef Py_ssize_t stack[ON_STACK]
        cdef Py_ssize_t *checked = _room(n, stack)
        cdef Py_ssize_t k
        try:
            for k in range(n):
                checked[k] = _position(fast, k)
                _check(checked[k], self._n)
            return self._pick(checked, n)
        finally:
            _leave(checked, stack)

    cdef Py_ssize_t _pick(self, Py_ssize_t *candidates, Py_ssize_t n) noexcept:
        cdef Py_ssize_t best = -1
        cdef int64_t total = 0
        cdef Py_ssize_t k
        cdef Peer *peer
        for k in range(n):
            peer = &self._peers[candidates[k]]
            if peer.weight == 0:
                continue
            peer.current += peer.effective
            total += peer.effective
            if peer.effective < peer.weight:
                peer.effective += 1
            if best < 0 or peer.current > self._peers[best].current:
                best = candidates[k]
        if best >= 0:
            self._peers[best].current -= total
        return best

    def succeeded(self, i):
        """Note a success. Changes no weight, as in nginx: what a failure took comes back pick by pick."""
        _check(PyNumber_AsSsize_t(i, IndexError), self._n)

    def failed(self, i, max_fails=1):
        """Lower the effective weight by weight / max_fails, not below 0; max_fails 0 leaves it alone."""
        cdef Py_ssize_t at = PyNumber_AsSsize_t(i, IndexError)
        _check(at, self._n)
        if max_fails < 0:
            raise ValueError("max_fails must not be negative")
        if max_fails:
            lowered = self._peers[at].effective - self._peers[at].weight // max_fails
            self._peers[at].effective = max(0, lowered)


# ---- by load ----

def least_load(loads, weights, candidates, bits):
    """Return the candidate of least cost; `bits` decide between equals, uniformly."""
    return _least(None, _fast(loads), _fast(weights), _fast(candidates), _low_64(bits))


def least_load_segment(Segment segment not None, endpoints, weights, candidates, bits):
    """Return `least_load` where the load at position i is `segment.in_flight(endpoints[i])`."""
    return _least(segment, _fast(endpoints), _fast(weights), _fast(candidates), _low_64(bits))


def p2c(loads, weights, candidates, bits):
    """Return the better of two distinct candidates drawn uniformly by `bits`; between equals the first."""
    return _better(None, _fast(loads), _fast(weights), _fast(candidates), _low_64(bits))


def p2c_segment(Segment segment not None, endpoints, weights, candidates, bits):
    """Return `p2c` where the load at position i is `segment.in_flight(endpoints[i])`."""
    return _better(segment, _fast(endpoints), _fast(weights), _fast(candidates), _low_64(bits))


# In what follows `loads` holds loads, or, where there is a segment, the endpoints to look up in it.

cdef object _least(Segment segment, object loads, object weights, object candidates, uint64_t bits):
    cdef Py_ssize_t n = PySequence_Fast_GET_SIZE(candidates)
    cdef Py_ssize_t stack[ON_STACK]
    cdef Py_ssize_t *ties = _room(n, stack)
    cdef Py_ssize_t tied = 0
    cdef Py_ssize_t k, candidate
    cdef double least = INFINITY, cost
    try:
        for k in range(n):
            candidate = _position(candidates, k)
            cost = _cost(segment, loads, weights, candidate)
            if cost > least:
                continue
            if cost < least:
                least = cost
                tied = 0
            ties[tied] = candidate
            tied += 1
        return ties[_scale(bits, tied)] if tied else -1
    finally:
        _leave(ties, stack)


cdef object _better(Segment segment, object loads, object weights, object candidates, uint64_t bits):
    cdef uint64_t n = PySequence_Fast_GET_SIZE(candidates)
    cdef Py_ssize_t first, second
    if n == 0:
        return -1
    if n == 1:
        first = _position(candidates, 0)
        _check(first, PySequence_Fast_GET_SIZE(weights))
        return first
    # Multiply-shift: a 32-bit half scaled to 0..n-1; no value is favoured by more than n / 2**32.
    cdef uint64_t at_first = (bits >> 32) * n >> 32
    cdef uint64_t at_second = <uint64_t><uint32_t>bits * (n - 1) >> 32
    at_second += at_second >= at_first
    first = _position(candidates, at_first)
    second = _position(candidates, at_second)
    cdef double second_cost = _cost(segment, loads, weights, second)
    return second if second_cost < _cost(segment, loads, weights, first) else first


cdef inline double _cost(Segment segment, object loads, object weights, Py_ssize_t i) except? -1.0:
    cdef double weight = _number(weights, i)
    if not weight > 0.0:
        return INFINITY
    cdef double load = _number(loads, i) if segment is None else _in_flight(segment, _position(loads, i))
    cdef double cost = (load + 1.0) / weight
    return cost if cost == cost else INFINITY


cdef inline double _in_flight(Segment segment, Py_ssize_t endpoint) except? -1.0:
    _check(endpoint, segment.endpoints)
    segment._check_open()
    return <double>segment.c_total(endpoint, IN_FLIGHT)
