# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `time_window`; the meaning of every name is written down in the pure half."""

from libc.stdint cimport int64_t

from fastroute._core._candidates_c cimport Candidates
from fastroute._core._selection_c cimport Random, c_seed, c_unit

cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept
    bint fr_cas(int64_t *cell, int64_t expect, int64_t desired) noexcept

# The layout of _counters_file; the tests hold the two together.
cdef enum:
    LAST_USED_MS = 28
    NUMBER_BITS = 20
    NO_KEY = -1


cdef inline int64_t *_claimed(Candidates candidates, Py_ssize_t position) noexcept:
    """Return the cell that a claim of an endpoint is made in: its key's, if that has a row of its own."""
    cdef int64_t row = candidates.c_places[position].key_row
    if row == NO_KEY:
        row = candidates.c_places[position].row
    return candidates.segment.c_cell(row, LAST_USED_MS)


def least_recently_used(Candidates candidates not None, bits, int64_t now_ms, int64_t window_ms):
    """Return the candidate that was used the longest ago, and mark it as used now; see the pure half."""
    cdef Random random
    cdef Py_ssize_t k, position, best
    cdef int64_t stamp, key, seen, least, latest, claimed
    cdef double weight, tied
    c_seed(&random, bits)
    candidates.segment._check_open()
    while True:
        best, seen, least, latest, tied = -1, 0, 0, 0, 0.0
        for k in range(candidates.c_count):
            position = candidates.c_positions[k]
            stamp = fr_load(_claimed(candidates, position))
            if stamp > latest:
                latest = stamp
            key = stamp if stamp and now_ms - (stamp >> NUMBER_BITS) < window_ms else 0
            if best < 0 or key < least:
                best, seen, least = position, stamp, key
                tied = candidates.c_weight(position, now_ms)
            elif key == least:
                weight = candidates.c_weight(position, now_ms)
                tied += weight
                if c_unit(&random) * tied < weight:
                    best, seen = position, stamp
        if best < 0:
            return -1
        claimed = now_ms << NUMBER_BITS
        if claimed <= latest:
            claimed = latest + 1
        if fr_cas(_claimed(candidates, best), seen, claimed):
            return best
