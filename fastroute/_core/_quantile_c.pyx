# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `quantile`; the meaning of every name is written down in the pure half."""

from libc.math cimport ceil, log
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from fastroute._core._candidates_c cimport Candidates
from fastroute._core._selection_c cimport Random, c_seed, c_unit

from fastroute._core import _quantile_bins as bins
from fastroute._core._quantile_bins import checked_count, checked_quantile, phase_ms

# The numbers of _quantile_bins; the tests hold them together.
cdef enum:
    BINS = 384
    WINDOWS = 6
    WINDOW_MS = 10000
    CACHE_MS = 250
    PHASES = 40
    IN_FLIGHT = 0

cdef double LOG_GAMMA = bins.LOG_GAMMA
cdef double ENOUGH = bins.ENOUGH
cdef double FIRST_PRIOR = bins.FIRST_PRIOR
cdef double EXPLORED = bins.EXPLORED
cdef double ESTIMATES[BINS]
cdef Py_ssize_t _i
for _i in range(BINS):
    ESTIMATES[_i] = bins.ESTIMATES[_i]


cdef class _Series:
    """What was observed of one position; see the pure half."""

    # What every pick reads comes first, to share a line of the cache.
    cdef int64_t expires_ms
    cdef double q
    cdef double estimate
    cdef int64_t seen
    cdef int64_t count
    cdef int64_t epoch
    cdef int64_t phase
    cdef bint changed
    cdef int64_t counts[WINDOWS]
    cdef uint32_t sum[BINS]
    cdef uint32_t windows[WINDOWS][BINS]

    def __cinit__(self, int64_t phase):
        self.phase = phase
        self.estimate = -1.0
        self.q = -1.0

    cdef void observe(self, int bin_, int64_t now_ms) noexcept:
        cdef int at
        self.turn(now_ms)
        at = self.epoch % WINDOWS
        self.windows[at][bin_] += 1
        self.counts[at] += 1
        self.sum[bin_] += 1
        self.count += 1
        self.changed = True

    cdef void refresh(self, double q, int64_t now_ms) noexcept:
        cdef int64_t tick
        self.turn(now_ms)
        if self.changed or q != self.q:
            self.estimate = self.find(q)
            self.seen = self.count
            self.changed = False
            self.q = q
        tick = ((now_ms if now_ms > 0 else 0) + self.phase) // CACHE_MS
        self.expires_ms = (tick + 1) * CACHE_MS - self.phase

    cdef void turn(self, int64_t now_ms) noexcept:
        cdef int64_t epoch = ((now_ms if now_ms > 0 else 0) + self.phase * PHASES) // WINDOW_MS
        cdef int64_t steps = epoch - self.epoch
        cdef int64_t step
        if steps <= 0:
            return
        for step in range(min(steps, <int64_t>WINDOWS)):
            self.empty((self.epoch + 1 + step) % WINDOWS)
        self.epoch = epoch

    cdef void empty(self, int at) noexcept:
        cdef uint32_t *window = self.windows[at]
        cdef int bin_
        if self.counts[at] == 0:
            return
        for bin_ in range(BINS):
            self.sum[bin_] -= window[bin_]
        memset(window, 0, BINS * sizeof(uint32_t))
        self.count -= self.counts[at]
        self.counts[at] = 0
        self.changed = True

    cdef double find(self, double q) noexcept:
        cdef int64_t rank, reached = 0
        cdef int bin_
        if self.count == 0:
            return -1.0
        rank = <int64_t>(q * <double>(self.count - 1))
        for bin_ in range(BINS):
            reached += self.sum[bin_]
            if reached > rank:
                return ESTIMATES[bin_]
        return ESTIMATES[BINS - 1]


cdef class Quantiles:
    """Quantiles of what was observed at positions 0..n-1 within the last minute; see the pure half."""

    cdef list _series
    cdef Py_ssize_t _n

    def __cinit__(self, n):
        """Raises ValueError for more than 65536 positions."""
        self._n = checked_count(n)
        self._series = [None] * self._n

    def observe(self, Py_ssize_t position, double value, int64_t now_ms):
        """Note one value. Raises IndexError for a position that does not exist."""
        cdef _Series series
        self._check(position)
        series = self._series[position]
        if series is None:
            series = _Series(phase_ms(position))
            self._series[position] = series
        series.observe(bin_of(value), now_ms)

    def estimate(self, Py_ssize_t position, double q, int64_t now_ms):
        """Return (quantile, number of observations) of a position; (-1, 0) if there are none."""
        cdef _Series series
        q = checked_quantile(q)
        self._check(position)
        series = self._series[position]
        if series is None:
            return -1.0, 0
        if q != series.q or now_ms >= series.expires_ms:
            series.refresh(q, now_ms)
        return series.estimate, series.seen

    def restore(self, Py_ssize_t position, Quantiles previous not None, Py_ssize_t old):
        """Share with `previous` what was and will be observed at its position `old`."""
        self._check(position)
        previous._check(old)
        self._series[position] = previous._series[old]

    def pick(self, Candidates candidates not None, double q, bits, int64_t now_ms, double target):
        """Return the candidate with the least expected quantile x (in flight + 1) / weight; see the pure half."""
        cdef Random random
        cdef Py_ssize_t k, position, best = -1, other = -1
        cdef bint exploring, is_late, late = True
        cdef double enough, prior, estimate, expected, weight, load, cost, hope
        cdef double least = 0.0, tied = 0.0, other_least = 0.0, other_tied = 0.0
        cdef int64_t seen, in_flight
        cdef object item
        q = checked_quantile(q)
        if candidates.size > self._n:
            raise IndexError("more candidates than positions")
        if candidates.c_count <= 1:
            return candidates.c_positions[0] if candidates.c_count else -1
        c_seed(&random, bits)
        candidates.segment._check_open()
        exploring = c_unit(&random) < EXPLORED
        enough = ENOUGH / (1.0 - q)
        prior = self._prior(candidates, q, now_ms)
        for k in range(candidates.c_count):
            position = candidates.c_positions[k]
            item = self._series[position]
            if item is None:
                estimate, seen = -1.0, 0
            else:
                estimate, seen = (<_Series>item).estimate, (<_Series>item).seen
            expected = blended(estimate, seen, prior, enough)
            weight = candidates.c_weight(position, now_ms)
            in_flight = candidates.segment.c_total(candidates.c_places[position].row, IN_FLIGHT)
            if in_flight < 0:
                in_flight = 0
            load = <double>(in_flight + 1) / weight
            cost = expected * load
            is_late = target > 0.0 and expected > target
            if best < 0 or (cost < least if is_late == late else late):
                best, late, least, tied = position, is_late, cost, weight
            elif is_late == late and cost == least:
                tied += weight
                if c_unit(&random) * tied < weight:
                    best = position
            if exploring and <double>seen < enough and in_flight <= seen:
                hope = estimate * <double>seen / (<double>seen + 1.0) * load if seen else 0.0
                if other < 0 or hope < other_least:
                    other, other_least, other_tied = position, hope, weight
                elif hope == other_least:
                    other_tied += weight
                    if c_unit(&random) * other_tied < weight:
                        other = position
        return other if other >= 0 and other_least < least else best

    cdef double _prior(self, Candidates candidates, double q, int64_t now_ms):
        cdef double total = 0.0
        cdef Py_ssize_t k, known = 0
        cdef object item
        cdef _Series series
        for k in range(candidates.c_count):
            item = self._series[candidates.c_positions[k]]
            if item is None:
                continue
            series = <_Series>item
            if q != series.q or now_ms >= series.expires_ms:
                series.refresh(q, now_ms)
            if series.seen:
                total += series.estimate
                known += 1
        return total / <double>known if known else FIRST_PRIOR

    cdef int _check(self, Py_ssize_t position) except -1:
        if position < 0 or position >= self._n:
            raise IndexError(f"position {position} is not in 0..{self._n - 1}")
        return 0


cdef inline int bin_of(double value) noexcept:
    cdef double at
    if not value > 1.0:
        return 0
    at = log(value) / LOG_GAMMA
    return <int>ceil(at) if at < BINS - 1 else BINS - 1


cdef inline double blended(double estimate, int64_t seen, double prior, double enough) noexcept:
    if <double>seen >= enough:
        return estimate
    return (<double>seen * estimate + (enough - <double>seen) * prior) / enough if seen else prior
