# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `attempts`; the meaning of every name is written down in the pure half."""

from libc.math cimport exp
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastroute._core._adaptive_c cimport Adaptive
from fastroute._core._counters_c cimport Segment

from fastroute._core._adaptive_rules import same_segment
from fastroute._core._attempts_rules import Policy, checked, latency_counts

cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept
    void fr_store(int64_t *cell, int64_t value) noexcept
    int64_t fr_add(int64_t *cell, int64_t delta) noexcept
    bint fr_cas(int64_t *cell, int64_t expect, int64_t desired) noexcept

cdef extern from "Python.h":
    uint64_t _low_64 "PyLong_AsUnsignedLongLongMask" (object o) except? <uint64_t>-1

# The layouts of _attempts_rules and _counters_file; the tests hold them together.
cdef enum:
    OK = 0
    FAILED = 1
    RATE_LIMITED = 2
    NEUTRAL = 3
    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2
    IN_FLIGHT = 0
    REQUESTS = 1
    FAILURES = 2
    WORK = 6
    BREAKER = 0
    BREAKER_COUNTS = 27
    COOLDOWN_UNTIL_MS = 2
    COST = 3
    SLOW_START_MS = 6
    CLOSED_AT_MS = 29
    WINDOW_0 = 12
    WINDOW_BUCKETS = 10
    EPOCH_MASK = 0xFFFFFF
    FULL = 0xFFFFF
    SATURATED = 0xFFFF
    GENERATIONS = 0x3FFF
    MARK_SHIFT = 16
    MAX_TRIPS = 16
    MAX_HINT_MS = 86400000
    PROBE_LOST_MS = 60000
    MAX_AHEAD_MS = 0xFFFF
    LATENCY_0 = 32
    LATENCY_CELLS = 16
    LATENCY_LEAST = 10
    EPOCHS_AHEAD = 16

cdef double SEED_COST_MS = 1000.0
cdef double FORGOTTEN_MS = 1e-3
cdef double JITTER = 0.1
cdef double RATE_SLACK = 1e-6


cdef class Attempts:
    """Admission to endpoints and the one record of each attempt's end. Times are monotonic milliseconds."""

    cdef readonly object policy
    cdef readonly Adaptive adaptive
    cdef Segment _segment
    cdef int64_t _failure_threshold, _success_threshold, _timeout_ms, _half_open_max_calls, _min_requests
    cdef int64_t _window_ms, _max_timeout_ms, _decay_ms, _penalty_ms, _bucket_ms
    cdef double _failure_rate

    def __cinit__(self, Segment segment not None, policy=Policy(), Adaptive adaptive=None):
        """Raises ValueError for a policy out of bounds, and for limits of another segment."""
        same_segment(adaptive, segment)
        self.adaptive = adaptive
        self.policy = checked(policy)
        self._segment = segment
        self._failure_threshold = policy.failure_threshold
        self._success_threshold = policy.success_threshold
        self._timeout_ms = policy.timeout_ms
        self._half_open_max_calls = policy.half_open_max_calls
        self._failure_rate = policy.failure_rate
        self._min_requests = policy.min_requests
        self._window_ms = policy.window_ms
        self._max_timeout_ms = policy.max_timeout_ms
        self._decay_ms = policy.decay_ms
        self._penalty_ms = policy.penalty_ms
        self._bucket_ms = max(1, policy.window_ms // WINDOW_BUCKETS)

    def enter(self, Py_ssize_t worker, Py_ssize_t row, int64_t work, int64_t now_ms):
        """Admit an attempt and count it in; return its ticket, -1 if the breaker refuses it (nothing is counted)."""
        self._check(worker, row)
        cdef int64_t ticket = self._admit(row, now_ms)
        if ticket >= 0:
            ticket |= self._count_in(worker, row, work, now_ms)
        return ticket

    def enter_anyway(self, Py_ssize_t worker, Py_ssize_t row, int64_t work, int64_t now_ms):
        """Count an attempt in that no breaker is asked about, nor told of."""
        self._check(worker, row)
        return 2 | self._count_in(worker, row, work, now_ms)

    def first_token(self, Py_ssize_t worker, Py_ssize_t row, int64_t work, double cost_ms, int64_t now_ms):
        """Give back the part of the work that the first token ends, and note what that token took (-1: nothing)."""
        self._check(worker, row)
        fr_add(self._segment.c_own(worker, row, WORK), -work)
        if cost_ms >= 0.0:
            self._measured(row, cost_ms, now_ms)
            if self.adaptive is not None:
                self.adaptive.c_first_token(row, cost_ms, now_ms)

    def leave(self, Py_ssize_t worker, Py_ssize_t row, int64_t ticket, int verdict, double cost_ms, int64_t now_ms,
              bits, int64_t hint_ms, int64_t work):
        """Count an attempt out and record how it ended; see the pure half."""
        cdef uint64_t random = _low_64(bits)
        self._check(worker, row)
        if hint_ms > MAX_HINT_MS:
            hint_ms = MAX_HINT_MS
        if self.adaptive is not None:
            self.adaptive.c_leave(row, ticket >> MARK_SHIFT, verdict, cost_ms, hint_ms, now_ms)
        fr_add(self._segment.c_own(worker, row, IN_FLIGHT), -1)
        fr_add(self._segment.c_own(worker, row, WORK), -work)
        fr_add(self._segment.c_own(worker, row, REQUESTS), 1)
        if verdict == OK:
            self._count(row, 1 << 20, now_ms)
            if cost_ms >= 0.0:
                self._measured(row, cost_ms, now_ms)
        elif verdict == NEUTRAL:
            if cost_ms >= 0.0:
                self._observe(row, cost_ms, now_ms, True)
        else:
            self._punish(worker, row, verdict, hint_ms, now_ms)
        if not ticket & 2:
            self._judge(row, ticket, verdict, hint_ms, now_ms, random)

    def state(self, Py_ssize_t row, int64_t now_ms):
        """Return (state, generation, probes in flight, until_ms) of a breaker."""
        self._check(0, row)
        cdef uint64_t word = self._load(row, BREAKER)
        return word & 3, word >> 10 & GENERATIONS, word >> 2 & 0xFF, word >> 24

    def cost(self, Py_ssize_t row, int64_t now_ms):
        """Return the cost of an endpoint in normalised milliseconds, decayed to now; 0 for one nobody has measured."""
        self._check(0, row)
        return c_cost(self._load(row, COST), now_ms, self._decay_ms)

    def load(self, Py_ssize_t row, int64_t now_ms):
        """Return cost x (in-flight work + 1): what the p2c strategy compares."""
        self._check(0, row)
        cdef double work = <double>self._segment.c_total(row, WORK) / 1000.0
        return c_expected_load(c_cost(self._load(row, COST), now_ms, self._decay_ms), work)

    def health(self, Py_ssize_t row, int64_t now_ms):
        """Return (good, failed) attempts in the window."""
        self._check(0, row)
        cdef int64_t good = 0, failed = 0
        self._health(row, now_ms, &good, &failed)
        return good, failed

    def latencies(self, Py_ssize_t row, int64_t now_ms):
        """Return how many good answers of late there were by their time to the first token; see `latency_quantile`."""
        self._check(0, row)
        words = [self._load(row, LATENCY_0 + i) for i in range(LATENCY_CELLS)]
        return latency_counts(words, now_ms // self._window_ms & 0xFFFF)

    cdef int _check(self, Py_ssize_t worker, Py_ssize_t row) except -1:
        self._segment._check_open()
        if worker < 0 or worker >= self._segment.workers:
            raise IndexError(f"worker {worker} is not in 0..{self._segment.workers - 1}")
        if row < 0 or row >= self._segment.endpoints:
            raise IndexError(f"endpoint {row} is not in 0..{self._segment.endpoints - 1}")
        return 0

    # --- in

    cdef int64_t _count_in(self, Py_ssize_t worker, Py_ssize_t row, int64_t work, int64_t now_ms) noexcept:
        """Count an attempt in; return its mark where a ticket has it."""
        fr_add(self._segment.c_own(worker, row, IN_FLIGHT), 1)
        fr_add(self._segment.c_own(worker, row, WORK), work)
        return self.adaptive.c_enter(row, now_ms) << MARK_SHIFT if self.adaptive is not None else 0

    cdef int64_t _admit(self, Py_ssize_t row, int64_t now_ms) noexcept:
        cdef int64_t lost_ms = self._timeout_ms if self._timeout_ms > PROBE_LOST_MS else PROBE_LOST_MS
        cdef uint64_t word, probes, generation
        cdef int state
        cdef int64_t until_ms
        while True:
            word = self._load(row, BREAKER)
            state = word & 3
            probes = word >> 2 & 0xFF
            generation = word >> 10 & GENERATIONS
            until_ms = <int64_t>(word >> 24)
            if state == CLOSED:
                return <int64_t>(generation << 2)
            if state == HALF_OPEN and until_ms > now_ms:
                if <int64_t>probes >= self._half_open_max_calls:
                    return -1
                probes += 1
            elif until_ms > now_ms:
                return -1
            else:
                probes = 1
                if state == OPEN:
                    generation = generation + 1 & GENERATIONS
            if self._cas(row, BREAKER, word, c_word(HALF_OPEN, probes, generation, now_ms + lost_ms)):
                if state == OPEN:
                    self._set_counts(row, self._trips(row))
                return <int64_t>(generation << 2 | 1)

    # --- out

    cdef void _punish(self, Py_ssize_t worker, Py_ssize_t row, int verdict, int64_t hint_ms, int64_t now_ms) noexcept:
        if verdict != RATE_LIMITED:
            fr_add(self._segment.c_own(worker, row, FAILURES), 1)
        if verdict == FAILED:
            self._count(row, 1, now_ms)
        if hint_ms > 0 and verdict == RATE_LIMITED:
            self._raise_cell(row, COOLDOWN_UNTIL_MS, now_ms + hint_ms)
        self._observe(row, <double>(hint_ms if hint_ms > self._penalty_ms else self._penalty_ms), now_ms, True)

    cdef void _judge(self, Py_ssize_t row, int64_t ticket, int verdict, int64_t hint_ms, int64_t now_ms,
                     uint64_t bits) noexcept:
        cdef uint64_t word = self._load(row, BREAKER)
        if <int64_t>(word >> 10 & GENERATIONS) != (ticket >> 2 & GENERATIONS):
            return
        if (word & 3) == CLOSED:
            self._judge_closed(row, word, verdict, now_ms, bits)
        elif (word & 3) == HALF_OPEN and ticket & 1:
            self._judge_probe(row, ticket, verdict, hint_ms, now_ms, bits)

    cdef void _judge_closed(self, Py_ssize_t row, uint64_t word, int verdict, int64_t now_ms, uint64_t bits) noexcept:
        cdef int64_t good = 0, failed = 0, in_a_row
        cdef bint too_many
        if verdict == OK:
            if self._load(row, BREAKER_COUNTS) & SATURATED:
                self._set_consecutive(row, 0)
        elif verdict == FAILED:
            in_a_row = self._set_consecutive(row, -1)
            self._health(row, now_ms, &good, &failed)
            too_many = (good + failed >= self._min_requests
                        and failed + RATE_SLACK >= self._failure_rate * (good + failed))
            if in_a_row >= self._failure_threshold or too_many:
                self._open(row, word, 0, now_ms, bits)

    cdef void _judge_probe(self, Py_ssize_t row, int64_t ticket, int verdict, int64_t hint_ms, int64_t now_ms,
                           uint64_t bits) noexcept:
        cdef int64_t well = self._add_success(row) if verdict == OK else 0
        cdef uint64_t word, probes
        while True:
            word = self._load(row, BREAKER)
            if <int64_t>(word >> 10 & GENERATIONS) != (ticket >> 2 & GENERATIONS) or (word & 3) != HALF_OPEN:
                return
            if verdict == FAILED or verdict == RATE_LIMITED:
                if self._open(row, word, hint_ms, now_ms, bits):
                    return
                continue
            if well >= self._success_threshold:
                if self._close(row, word, now_ms):
                    return
                continue
            probes = word >> 2 & 0xFF
            probes = probes - 1 if probes else 0
            if self._cas(row, BREAKER, word, c_word(HALF_OPEN, probes, word >> 10 & GENERATIONS, word >> 24)):
                return

    cdef bint _open(self, Py_ssize_t row, uint64_t word, int64_t hint_ms, int64_t now_ms, uint64_t bits) noexcept:
        cdef int64_t trips = self._trips(row)
        cdef int64_t closed_at = <int64_t>self._load(row, CLOSED_AT_MS)
        if (word & 3) == CLOSED and closed_at and now_ms - closed_at > self._window_ms:
            trips = 0
        cdef int64_t longest = self._timeout_ms << trips
        if longest > self._max_timeout_ms:
            longest = self._max_timeout_ms
        cdef int64_t open_ms = <int64_t>(longest * (1.0 + JITTER * (<double><uint32_t>bits / 4294967296.0)))
        if hint_ms > open_ms:
            open_ms = hint_ms
        cdef uint64_t generation = (word >> 10) + 1 & GENERATIONS
        if not self._cas(row, BREAKER, word, c_word(OPEN, 0, generation, now_ms + open_ms)):
            return False
        self._set_counts(row, trips + 1 if trips < MAX_TRIPS else MAX_TRIPS)
        return True

    cdef bint _close(self, Py_ssize_t row, uint64_t word, int64_t now_ms) noexcept:
        cdef Py_ssize_t i
        cdef uint64_t generation = (word >> 10) + 1 & GENERATIONS
        if not self._cas(row, BREAKER, word, c_word(CLOSED, 0, generation, 0)):
            return False
        self._set_counts(row, self._trips(row))
        fr_store(self._segment.c_cell(row, CLOSED_AT_MS), now_ms)
        fr_store(self._segment.c_cell(row, SLOW_START_MS), now_ms)
        for i in range(WINDOW_BUCKETS):
            fr_store(self._segment.c_cell(row, WINDOW_0 + i), 0)
        return True

    # --- cells

    cdef inline uint64_t _load(self, Py_ssize_t row, Py_ssize_t cell) noexcept:
        return <uint64_t>fr_load(self._segment.c_cell(row, cell))

    cdef inline bint _cas(self, Py_ssize_t row, Py_ssize_t cell, uint64_t expect, uint64_t new) noexcept:
        return fr_cas(self._segment.c_cell(row, cell), <int64_t>expect, <int64_t>new)

    cdef void _raise_cell(self, Py_ssize_t row, Py_ssize_t cell, int64_t value) noexcept:
        cdef int64_t old
        while True:
            old = fr_load(self._segment.c_cell(row, cell))
            if old >= value or fr_cas(self._segment.c_cell(row, cell), old, value):
                return

    cdef int64_t _trips(self, Py_ssize_t row) noexcept:
        return <int64_t>(self._load(row, BREAKER_COUNTS) >> 32 & SATURATED)

    cdef void _set_counts(self, Py_ssize_t row, int64_t trips) noexcept:
        """Set the trips in a row; failures in a row and probes that went well begin at 0 again."""
        fr_store(self._segment.c_cell(row, BREAKER_COUNTS), trips << 32)

    cdef int64_t _set_consecutive(self, Py_ssize_t row, int64_t value) noexcept:
        """Set the number of failures in a row, or add one to it (-1); return it."""
        cdef uint64_t old, new
        while True:
            old = self._load(row, BREAKER_COUNTS)
            new = <uint64_t>value if value >= 0 else (old & SATURATED) + 1
            if new > SATURATED:
                new = SATURATED
            if self._cas(row, BREAKER_COUNTS, old, (old & ~<uint64_t>SATURATED) | new):
                return <int64_t>new

    cdef int64_t _add_success(self, Py_ssize_t row) noexcept:
        cdef uint64_t old, well
        while True:
            old = self._load(row, BREAKER_COUNTS)
            well = (old >> 16 & SATURATED) + 1
            if well > SATURATED:
                well = SATURATED
            if self._cas(row, BREAKER_COUNTS, old, (old & ~(<uint64_t>SATURATED << 16)) | well << 16):
                return <int64_t>well

    cdef void _count(self, Py_ssize_t row, uint64_t what, int64_t now_ms) noexcept:
        """Add to the window's bucket of now; one that is of an earlier time starts anew."""
        cdef int64_t at = now_ms // self._bucket_ms
        cdef uint64_t epoch = <uint64_t>at & EPOCH_MASK
        cdef int64_t *cell = self._segment.c_cell(row, WINDOW_0 + at % WINDOW_BUCKETS)
        cdef uint64_t old, base, full
        while True:
            old = <uint64_t>fr_load(cell)
            base = old if old >> 40 == epoch else epoch << 40
            full = base & FULL if what == 1 else base >> 20 & FULL
            if full == FULL or fr_cas(cell, <int64_t>old, <int64_t>(base + what)):
                return

    cdef void _health(self, Py_ssize_t row, int64_t now_ms, int64_t *good, int64_t *failed) noexcept:
        cdef uint64_t epoch = <uint64_t>(now_ms // self._bucket_ms)
        cdef uint64_t word
        cdef Py_ssize_t i
        for i in range(WINDOW_BUCKETS):
            word = self._load(row, WINDOW_0 + i)
            if word and (epoch - (word >> 40) & EPOCH_MASK) < WINDOW_BUCKETS:
                good[0] += word >> 20 & FULL
                failed[0] += word & FULL

    cdef void _measured(self, Py_ssize_t row, double cost_ms, int64_t now_ms) noexcept:
        cdef uint64_t us, old, counts, epoch, age
        cdef uint64_t now = <uint64_t>(now_ms // self._window_ms) & 0xFFFF
        cdef int power = 0, lane
        self._observe(row, cost_ms, now_ms, False)
        us = <uint64_t>((cost_ms if cost_ms < 1e8 else 1e8) * 1000.0)
        if us < 1 << LATENCY_LEAST:
            us = 1 << LATENCY_LEAST
        elif us >= 1 << LATENCY_LEAST + LATENCY_CELLS:
            us = (1 << LATENCY_LEAST + LATENCY_CELLS) - 1
        while us >> LATENCY_LEAST + power + 1:
            power += 1
        lane = 16 * <int>(3 * (us - (<uint64_t>1 << LATENCY_LEAST + power)) >> LATENCY_LEAST + power)
        while True:
            old = self._load(row, LATENCY_0 + power)
            counts = old & 0xFFFFFFFFFFFFULL
            epoch = now
            age = now - (old >> 48) & 0xFFFF
            if counts and age:
                if age > 0xFFFF - EPOCHS_AHEAD:
                    epoch = old >> 48
                elif age < 16:
                    counts = counts >> age & (<uint64_t>0xFFFF >> age) * 0x000100010001ULL
                else:
                    counts = 0
            if (counts >> lane & 0xFFFF) == 0xFFFF:
                return
            if self._cas(row, LATENCY_0 + power, old, epoch << 48 | counts + (<uint64_t>1 << lane)):
                return

    cdef void _observe(self, Py_ssize_t row, double sample, int64_t now_ms, bint only_if_above) noexcept:
        """Take a sample into the peak EWMA. only_if_above: leave it be if it has a worse opinion already."""
        cdef uint64_t old
        cdef double value, kept, new
        while True:
            old = self._load(row, COST)
            value = c_value(old)
            kept = exp(-<double>c_age_ms(<uint32_t>old, now_ms) / <double>self._decay_ms)
            if only_if_above and sample <= value * kept:
                return
            new = sample if sample > value else value * kept + sample * (1.0 - kept)
            if self._cas(row, COST, old, c_pack(new, now_ms)):
                return


cdef inline uint64_t c_word(uint64_t state, uint64_t probes, uint64_t generation, int64_t until_ms) noexcept:
    return state | probes << 2 | generation << 10 | <uint64_t>until_ms << 24


cdef inline uint64_t c_pack(double value, int64_t now_ms) noexcept:
    cdef float narrow = <float>(value if value < 3e38 else 3e38)
    cdef uint32_t bits
    memcpy(&bits, &narrow, 4)
    return <uint64_t>bits << 32 | <uint64_t>(<uint32_t>now_ms)


cdef inline double c_value(uint64_t cell) noexcept:
    cdef uint32_t bits = <uint32_t>(cell >> 32)
    cdef float value
    memcpy(&value, &bits, 4)
    return value


cdef inline int64_t c_age_ms(uint32_t stamp, int64_t now_ms) noexcept:
    cdef uint32_t age = <uint32_t>now_ms - stamp
    return <int64_t>age if age <= 0xFFFFFFFFU - MAX_AHEAD_MS else 0


cdef double c_cost(uint64_t cell, int64_t now_ms, int64_t decay_ms) noexcept:
    cdef double value = c_value(cell)
    return value * exp(-<double>c_age_ms(<uint32_t>cell, now_ms) / <double>decay_ms) if value > 0.0 else 0.0


cdef double c_expected_load(double cost_ms, double work) noexcept:
    if cost_ms < FORGOTTEN_MS:
        return SEED_COST_MS * (work + 1.0) if work > 0.0 else 0.0
    return cost_ms * ((work if work > 0.0 else 0.0) + 1.0)
