# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `bandit`; the meaning of every name is written down in the pure half."""

from libc.math cimport copysign, exp, fabs, log, pow, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastroute._core._candidates_c cimport Candidates
from fastroute._core._counters_c cimport Segment
from fastroute._core._selection_c cimport Random, c_draw, c_next, c_seed, c_unit

from fastroute._core import _bandit_rules as rules
from fastroute._core._bandit_rules import checked_shape

cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept
    bint fr_cas(int64_t *cell, int64_t expect, int64_t desired) noexcept

# The numbers of _bandit_rules and _counters_file; the tests hold them together.
cdef enum:
    LAYERS = 256
    BANDIT = 9
    BANDIT_TIME_MS = 8
    CELLS = 48

cdef double FLOOR = rules.FLOOR
cdef double MAX_FLOOR = rules.MAX_FLOOR
cdef double SQUEEZE = rules.SQUEEZE
cdef double TAIL = rules.TAIL
cdef double EDGES[LAYERS + 1]
cdef double INNER[LAYERS]
cdef Py_ssize_t _i
for _i in range(LAYERS):
    EDGES[_i] = rules.EDGES[_i]
    INNER[_i] = rules.INNER[_i]
EDGES[LAYERS] = rules.EDGES[LAYERS]


cdef struct Counts:
    double successes
    double failures


def thompson(Candidates candidates not None, bits, int64_t now_ms, int64_t tau_ms):
    """Return the candidate with the greatest draw from what is known of it; see the pure half."""
    cdef Random random
    cdef Py_ssize_t k, position, best = -1
    cdef double share, weight, highest = 0.0, won, lost, best_won = 0.0, best_lost = 1.0
    cdef Counts counts
    cdef bint even = True
    cdef int64_t *first
    cdef int64_t *cell
    if candidates.c_count <= 1:
        return candidates.c_positions[0] if candidates.c_count else -1
    c_seed(&random, bits)
    candidates.segment._check_open()
    share = FLOOR * <double>candidates.c_count
    if c_unit(&random) < (share if share < MAX_FLOOR else MAX_FLOOR):
        return c_draw(candidates, &random, now_ms, -1)
    for k in range(candidates.c_count):
        weight = candidates.c_weight(candidates.c_positions[k], now_ms)
        even = even and (k == 0 or weight == highest)
        if weight > highest:
            highest = weight
    first = candidates.segment.c_cell(0, 0)
    for k in range(candidates.c_count):
        position = candidates.c_positions[k]
        if not even:
            weight = candidates.c_weight(position, now_ms)
            if weight < highest and c_unit(&random) * highest >= weight:
                continue
        cell = first + candidates.c_places[position].row * CELLS
        counts = c_faded(fr_load(cell + BANDIT), fr_load(cell + BANDIT_TIME_MS), now_ms, tau_ms)
        if counts.successes + counts.failures > 0.0:
            won = c_large_gamma(&random, 1.0 + counts.successes)
            lost = c_large_gamma(&random, 1.0 + counts.failures)
        else:
            won = c_unit(&random)
            lost = 1.0 - won
        if best < 0 or won * best_lost > best_won * lost:
            best, best_won, best_lost = position, won, lost
    return best


def record(Segment segment not None, row, double reward, int64_t now_ms, int64_t tau_ms, double cap):
    """Add a reward of 0 to 1 to an endpoint's successes and the rest of 1 to its failures; see the pure half."""
    cdef int64_t *cell = segment._shared_at(row, BANDIT)
    cdef int64_t *time_cell = segment._shared_at(row, BANDIT_TIME_MS)
    cdef int64_t old
    cdef double kept, total
    cdef Counts counts
    reward = (reward if reward < 1.0 else 1.0) if reward > 0.0 else 0.0
    kept = c_claim(time_cell, now_ms, tau_ms)
    while True:
        old = fr_load(cell)
        counts = c_unpack(old)
        counts.successes = counts.successes * kept + reward
        counts.failures = counts.failures * kept + (1.0 - reward)
        total = counts.successes + counts.failures
        if total > cap:
            counts.successes *= cap / total
            counts.failures *= cap / total
        if fr_cas(cell, old, c_pack(counts)):
            return


def posterior(Segment segment not None, row, int64_t now_ms, int64_t tau_ms):
    """Return (successes, failures) of an endpoint, faded to now."""
    cdef int64_t *cell = segment._shared_at(row, BANDIT)
    cdef int64_t since_ms = fr_load(segment._shared_at(row, BANDIT_TIME_MS))
    cdef Counts counts = c_faded(fr_load(cell), since_ms, now_ms, tau_ms)
    return counts.successes, counts.failures


def beta(double a, double b, bits):
    """Return a draw from Beta(a, b). Raises ValueError unless both are above 0."""
    cdef Random random
    cdef double won, lost, total
    checked_shape(a, b)
    c_seed(&random, bits)
    won = c_gamma(&random, a)
    lost = c_gamma(&random, b)
    total = won + lost
    if total > 0.0:
        return won / total
    return 1.0 if c_unit(&random) * (a + b) < a else 0.0


cdef double c_claim(int64_t *time_cell, int64_t now_ms, int64_t tau_ms) noexcept:
    cdef int64_t since_ms
    while True:
        since_ms = fr_load(time_cell)
        if now_ms <= since_ms:
            return 1.0
        if fr_cas(time_cell, since_ms, now_ms):
            return exp(-<double>(now_ms - since_ms) / <double>tau_ms)


cdef inline Counts c_faded(int64_t cell, int64_t since_ms, int64_t now_ms, int64_t tau_ms) noexcept:
    cdef Counts counts = c_unpack(cell)
    cdef double kept
    if now_ms > since_ms:
        kept = exp(-<double>(now_ms - since_ms) / <double>tau_ms)
        counts.successes *= kept
        counts.failures *= kept
    return counts


cdef inline double c_gamma(Random *random, double a) noexcept:
    cdef double larger
    if a < 1.0:
        larger = c_large_gamma(random, a + 1.0)
        return larger * pow(1.0 - c_unit(random), 1.0 / a)
    return c_large_gamma(random, a)


cdef inline double c_large_gamma(Random *random, double a) noexcept:
    cdef double d = a - 1.0 / 3.0
    cdef double c = 1.0 / sqrt(9.0 * d)
    cdef double x, v, u, square, flat
    while True:
        x = c_normal(random)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v = v * v * v
        u = 1.0 - c_unit(random)
        square = x * x
        flat = c * square
        if u < 1.0 - SQUEEZE * (flat * flat):
            return d * v
        if log(u) < 0.5 * square + d * (1.0 - v + log(v)):
            return d * v


cdef inline double c_normal(Random *random) noexcept:
    cdef uint64_t bits = c_next(random)
    cdef int layer = bits & 0xFF
    cdef double u = <double>(bits >> 11) * (1.0 / 4503599627370496.0) - 1.0
    if fabs(u) < INNER[layer]:
        return u * EDGES[layer]
    return c_normal_outside(random, layer, u)


cdef double c_normal_outside(Random *random, int layer, double u) noexcept:
    """Go on where a variate is not within the inner part of its layer."""
    cdef uint64_t bits
    cdef double x, outer, inner
    while True:
        x = u * EDGES[layer]
        if fabs(u) < INNER[layer]:
            return x
        if layer == 0:
            return copysign(c_tail(random), u)
        outer = exp(-0.5 * (EDGES[layer] * EDGES[layer] - x * x))
        inner = exp(-0.5 * (EDGES[layer + 1] * EDGES[layer + 1] - x * x))
        if inner + c_unit(random) * (outer - inner) < 1.0:
            return x
        bits = c_next(random)
        layer = bits & 0xFF
        u = <double>(bits >> 11) * (1.0 / 4503599627370496.0) - 1.0


cdef double c_tail(Random *random) noexcept:
    cdef double beyond
    while True:
        beyond = -log(1.0 - c_unit(random)) / TAIL
        if -2.0 * log(1.0 - c_unit(random)) > beyond * beyond:
            return TAIL + beyond


cdef inline int64_t c_pack(Counts counts) noexcept:
    cdef float successes = <float>counts.successes
    cdef float failures = <float>counts.failures
    cdef uint32_t high, low
    memcpy(&high, &successes, 4)
    memcpy(&low, &failures, 4)
    return <int64_t>(<uint64_t>high << 32 | low)


cdef inline Counts c_unpack(int64_t cell) noexcept:
    cdef uint32_t high = <uint32_t>(<uint64_t>cell >> 32)
    cdef uint32_t low = <uint32_t>cell
    cdef float successes, failures
    cdef Counts counts
    memcpy(&successes, &high, 4)
    memcpy(&failures, &low, 4)
    counts.successes = successes
    counts.failures = failures
    return counts
