# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `cheapest`; the meaning of every name is written down in the pure half."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport HUGE_VAL
from libc.stdint cimport int64_t, uint64_t

from fastroute._core._candidates_c cimport Candidates
from fastroute._core._selection_c cimport Random, c_seed, c_unit

from fastroute._core._cheapest_rules import PRIOR as _PRIOR
from fastroute._core._cheapest_rules import PRIOR_GOOD as _PRIOR_GOOD
from fastroute._core._cheapest_rules import checked

cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept

# The layouts of _attempts_rules and _counters_file; the tests hold them together.
cdef enum:
    IN_FLIGHT = 0
    WINDOW_0 = 12
    WINDOW_BUCKETS = 10
    EPOCH_MASK = 0xFFFFFF
    FULL = 0xFFFFF

cdef double PRIOR = _PRIOR
cdef double PRIOR_GOOD = _PRIOR_GOOD


cdef struct Offer:
    double inward
    double outward
    # Of the pick under way.
    double cost
    double tries


cdef class Cheapest:
    """Chooses by what a success is expected to cost; see the pure half."""

    cdef Offer *_offers
    cdef Py_ssize_t _n
    cdef int64_t _bucket_ms

    def __cinit__(self, prices, window_ms):
        """Take the prices by position and the breaker's window. Raises ValueError for a negative price."""
        cdef Py_ssize_t i
        inward, outward, self._bucket_ms = checked(prices, window_ms)
        self._n = len(inward)
        self._offers = <Offer *>PyMem_Calloc(self._n + 1, sizeof(Offer))
        if self._offers == NULL:
            raise MemoryError
        for i in range(self._n):
            self._offers[i].inward = inward[i]
            self._offers[i].outward = outward[i]

    def __dealloc__(self):
        PyMem_Free(self._offers)

    def expected(self, Candidates candidates not None, Py_ssize_t position, int64_t now_ms, int64_t prompt_tokens,
                 int64_t output_tokens):
        """Return what a success is expected to cost at a position, in pico-USD; infinity if its price is unknown."""
        cdef double price
        self._check(candidates)
        if position < 0 or position >= candidates.size:
            raise IndexError(f"position {position} is not in 0..{candidates.size - 1}")
        candidates.segment._check_open()
        price = c_price(&self._offers[position], c_tokens(prompt_tokens), c_tokens(output_tokens))
        return price * self._tries(candidates.segment.c_cell(candidates.c_places[position].row, WINDOW_0), now_ms)

    def pick(self, Candidates candidates not None, bits, int64_t now_ms, int64_t prompt_tokens, int64_t output_tokens,
             double band):
        """Return the candidate with the least load of those that cost little more than the least; see the pure half."""
        cdef Random random
        cdef Py_ssize_t k, position, best = -1
        cdef double prompt = c_tokens(prompt_tokens)
        cdef double output = c_tokens(output_tokens)
        cdef double price, limit = HUGE_VAL, load, weight, least = 0.0, tied = 0.0
        cdef int64_t in_flight
        cdef Offer *offer
        self._check(candidates)
        if candidates.c_count <= 1:
            return candidates.c_positions[0] if candidates.c_count else -1
        c_seed(&random, bits)
        candidates.segment._check_open()
        for k in range(candidates.c_count):
            position = candidates.c_positions[k]
            offer = &self._offers[position]
            price = c_price(offer, prompt, output)
            offer.tries = 0.0
            if price > limit:
                continue
            offer.tries = self._tries(candidates.segment.c_cell(candidates.c_places[position].row, WINDOW_0), now_ms)
            offer.cost = price * offer.tries
            if offer.cost * (1.0 + band) < limit:
                limit = offer.cost * (1.0 + band)
        for k in range(candidates.c_count):
            position = candidates.c_positions[k]
            offer = &self._offers[position]
            if offer.tries == 0.0 or offer.cost > limit:
                continue
            weight = candidates.c_weight(position, now_ms)
            in_flight = candidates.segment.c_total(candidates.c_places[position].row, IN_FLIGHT)
            if in_flight < 0:
                in_flight = 0
            load = <double>(in_flight + 1) * offer.tries / weight
            if best < 0 or load < least:
                best, least, tied = position, load, weight
            elif load == least:
                tied += weight
                if c_unit(&random) * tied < weight:
                    best = position
        return best

    cdef double _tries(self, int64_t *window, int64_t now_ms) noexcept:
        cdef int64_t good = 0, failed = 0
        cdef uint64_t epoch = <uint64_t>(now_ms // self._bucket_ms)
        cdef uint64_t word
        cdef int i
        for i in range(WINDOW_BUCKETS):
            word = <uint64_t>fr_load(window + i)
            if word and (epoch - (word >> 40) & EPOCH_MASK) < WINDOW_BUCKETS:
                good += word >> 20 & FULL
                failed += word & FULL
        return (<double>(good + failed) + PRIOR) / (<double>good + PRIOR_GOOD)

    cdef int _check(self, Candidates candidates) except -1:
        if candidates.size > self._n:
            raise IndexError("more candidates than prices")
        return 0


cdef inline double c_tokens(int64_t tokens) noexcept:
    return <double>tokens if tokens > 0 else 0.0


cdef inline double c_price(Offer *offer, double prompt, double output) noexcept:
    return HUGE_VAL if offer.inward < 0.0 else offer.inward * prompt + offer.outward * output
