# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `selection`; the meaning of every name is written down in the pure half.

The round robins also take a list or tuple of positions; those are read in place, see _sequence.h.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint64_t

from fastroute._core._attempts_c cimport c_cost, c_expected_load
from fastroute._core._candidates_c cimport Candidates

from fastroute._core._selection_py import checked_count, checked_weights

cdef extern from "Python.h":
    object PySequence_Fast(object o, const char *message)
    Py_ssize_t PySequence_Fast_GET_SIZE(object o)
    Py_ssize_t PyNumber_AsSsize_t(object o, object overflow) except? -1

cdef extern from "_sequence.h":
    Py_ssize_t _position "fr_position" (object fast, Py_ssize_t i) except? -1
    uint64_t _scale "fr_scale" (uint64_t bits, uint64_t n) noexcept

cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept

cdef double ALIKE = 1.5

cdef enum:
    MAX_DRAWS = 64
    COST = 3
    WORK = 6
    # Positions of a list up to this number are gathered on the stack (4 KB), more on the heap.
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


cdef Py_ssize_t *_gathered(object fast, Py_ssize_t n, Py_ssize_t *stack) except NULL:
    """Return the first n positions in a list or tuple; to be freed with _leave."""
    cdef Py_ssize_t *positions = _room(n, stack)
    cdef Py_ssize_t k
    try:
        for k in range(n):
            positions[k] = _position(fast, k)
    except BaseException:
        _leave(positions, stack)
        raise
    return positions


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

    @property
    def cursor(self):
        """The position at which the next pick begins."""
        return self._next

    @cursor.setter
    def cursor(self, Py_ssize_t position):
        _check(position, self._n)
        self._next = position

    def pick(self, candidates):
        """Return the first candidate at or cyclically after the position that follows the last pick."""
        cdef Py_ssize_t stack[ON_STACK]
        cdef Py_ssize_t *gathered
        if isinstance(candidates, Candidates):
            return self._pick((<Candidates>candidates).c_positions, (<Candidates>candidates).c_count)
        cdef object fast = _fast(candidates)
        cdef Py_ssize_t n = PySequence_Fast_GET_SIZE(fast)
        gathered = _gathered(fast, n, stack)
        try:
            return self._pick(gathered, n)
        finally:
            _leave(gathered, stack)

    cdef Py_ssize_t _pick(self, Py_ssize_t *candidates, Py_ssize_t n) except -2:
        cdef Py_ssize_t best = -1, nearest = self._n
        cdef Py_ssize_t k, candidate, distance
        for k in range(n):
            candidate = candidates[k]
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

    def restore(self, i, int64_t current, int64_t effective):
        """Take over the weights a position had in another cycle; bounded by its weight here."""
        cdef Py_ssize_t at = PyNumber_AsSsize_t(i, IndexError)
        _check(at, self._n)
        self._peers[at].current = current
        self._peers[at].effective = max(0, min(effective, self._peers[at].weight))

    def pick(self, candidates):
        """Return the next candidate; all of them are checked before any weight changes."""
        cdef Py_ssize_t stack[ON_STACK]
        cdef Py_ssize_t *gathered
        if isinstance(candidates, Candidates):
            return self._pick((<Candidates>candidates).c_positions, (<Candidates>candidates).c_count)
        cdef object fast = _fast(candidates)
        cdef Py_ssize_t n = PySequence_Fast_GET_SIZE(fast)
        gathered = _gathered(fast, n, stack)
        try:
            return self._pick(gathered, n)
        finally:
            _leave(gathered, stack)

    cdef Py_ssize_t _pick(self, Py_ssize_t *candidates, Py_ssize_t n) except -2:
        cdef Py_ssize_t best = -1
        cdef int64_t total = 0
        cdef Py_ssize_t k
        cdef Peer *peer
        for k in range(n):
            _check(candidates[k], self._n)
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


# ---- by load and by weight ----

def least_connections(Candidates candidates not None, bits, int64_t now_ms):
    """Return the candidate with the least in flight for its weight, over all workers; equals by weight at random."""
    cdef Random random
    cdef Py_ssize_t k, position, best = -1
    cdef double least = 0.0, tied = 0.0, weight, cost
    cdef int64_t in_flight
    c_seed(&random, bits)
    candidates.segment._check_open()
    for k in range(candidates.c_count):
        position = candidates.c_positions[k]
        weight = candidates.c_weight(position, now_ms)
        in_flight = candidates.segment.c_total(candidates.c_places[position].row, IN_FLIGHT)
        cost = <double>(in_flight if in_flight > 0 else 0) / weight
        if best < 0 or cost < least:
            best, least, tied = position, cost, weight
        elif cost == least:
            tied += weight
            if c_unit(&random) * tied < weight:
                best = position
    return best


def p2c(Candidates candidates not None, bits, int64_t now_ms, int64_t decay_ms):
    """Return the better of two candidates drawn by weight; see the pure half."""
    cdef Random random
    cdef Py_ssize_t first, second
    cdef double first_weight, second_weight, mean, first_load, second_load
    if candidates.c_count <= 1:
        return candidates.c_positions[0] if candidates.c_count else -1
    c_seed(&random, bits)
    candidates.segment._check_open()
    first = c_draw(candidates, &random, now_ms, -1)
    second = c_draw(candidates, &random, now_ms, first)
    first_weight = candidates.c_weight(first, now_ms)
    second_weight = candidates.c_weight(second, now_ms)
    mean = (first_weight + second_weight) / 2.0
    first_load = _load(candidates, first, first_weight / mean, now_ms, decay_ms)
    second_load = _load(candidates, second, second_weight / mean, now_ms, decay_ms)
    if first_load <= second_load * ALIKE and second_load <= first_load * ALIKE:
        return first
    return first if first_load < second_load else second


def weighted_random(Candidates candidates not None, bits, int64_t now_ms):
    """Return a candidate drawn by weight."""
    cdef Random random
    if candidates.c_count <= 1:
        return candidates.c_positions[0] if candidates.c_count else -1
    c_seed(&random, bits)
    candidates.segment._check_open()
    return c_draw(candidates, &random, now_ms, -1)


cdef Py_ssize_t c_draw(Candidates candidates, Random *random, int64_t now_ms, Py_ssize_t but) noexcept:
    """Draw a candidate by weight, another one than `but`: by rejection, so that no pool is too large for it."""
    cdef Py_ssize_t _k, drawn
    for _k in range(MAX_DRAWS):
        drawn = candidates.c_positions[_scale(c_next(random), candidates.c_count)]
        if drawn != but and c_unit(random) * candidates.max_weight < candidates.c_weight(drawn, now_ms):
            return drawn
    return _draw_from_all(candidates, random, now_ms, but)


cdef Py_ssize_t _draw_from_all(Candidates candidates, Random *random, int64_t now_ms, Py_ssize_t but) noexcept:
    """Draw as `c_draw` does, at the cost of a look at everybody; see the pure half."""
    cdef Py_ssize_t k, position, last = -1
    cdef double total = 0.0, left
    for k in range(candidates.c_count):
        if candidates.c_positions[k] != but:
            total += candidates.c_weight(candidates.c_positions[k], now_ms)
    left = c_unit(random) * total
    for k in range(candidates.c_count):
        position = candidates.c_positions[k]
        if position == but:
            continue
        last = position
        left -= candidates.c_weight(position, now_ms)
        if left < 0.0:
            return position
    return last


cdef double _load(Candidates candidates, Py_ssize_t position, double share, int64_t now_ms, int64_t decay_ms) noexcept:
    cdef int64_t row = candidates.c_places[position].row
    cdef int64_t work = candidates.segment.c_total(row, WORK)
    cdef double cost = c_cost(<uint64_t>fr_load(candidates.segment.c_cell(row, COST)), now_ms, decay_ms)
    return c_expected_load(cost, <double>(work if work > 0 else 0) / 1000.0 / share)
