# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `candidates`; the meaning of every name is written down in the pure half."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from fastroute._core._adaptive_c cimport Adaptive
from fastroute._core._counters_c cimport Segment, fr_load

from fastroute._core._adaptive_rules import same_segment
from fastroute._core._candidates_gates import checked_factor, checked_keys, checked_region, checked_row, same_length

cdef enum:
    PASSED = 0
    TRIED = 1
    REQUEST = 2
    DRAINED = 5
    CAPABILITY = 6
    CONTEXT = 7
    OUTPUT = 8
    REGION = 9
    COST = 10
    KEY = 11
    MODEL = 12
    QUOTA = 13
    BREAKER = 14
    COOLDOWN = 15
    FULL = 16
    GATES = 17
    NO_KEY = -1
    KEY_PROBES = 1
    BREAKER_CELL = 0
    COOLDOWN_UNTIL_MS = 2
    KEY_STATE = 4
    MODEL_STATE = 10
    LOOK = 0x800000
    QUOTA_EXHAUSTED = 2
    MODEL_NOT_FOUND = 3
    OPEN = 1
    HALF_OPEN = 2
    # A request is tried at no more endpoints than this.
    PROBE_WAIT_MS = 1000
    FULL_WAIT_MS = 1000
    MAX_TRIED = 64

cdef double SLOW_START_FLOOR = 0.1


cdef class Need:
    """What a request needs of an endpoint; see the pure half."""

    def __cinit__(self):
        self.regions = 0
        self.max_cost_pico = -1
        self.tried = ()
        self.panic_min = 1


cdef class Candidates:
    """Endpoints and, after `gate`, those of them that a request may go to; see the pure half."""

    def __cinit__(self, Segment segment not None, rows, weights, *, ranks, providers, regions, capabilities,
                  context_windows, max_outputs, input_prices, output_prices, key_rows=(), half_open_max_calls=1,
                  Adaptive adaptive=None):
        """Take what the pure half takes, and raise what it raises."""
        cdef Py_ssize_t i
        cdef Place *place
        self.size = same_length(rows, weights, ranks, providers, regions, capabilities, context_windows, max_outputs,
                                input_prices, output_prices)
        keys = checked_keys(key_rows, self.size, segment.endpoints)
        self.segment = segment
        same_segment(adaptive, segment)
        self.adaptive = adaptive
        self._half_open_max_calls = half_open_max_calls
        self.c_places = <Place *>PyMem_Calloc(self.size + 1, sizeof(Place))
        self.c_positions = <Py_ssize_t *>PyMem_Calloc(self.size + 1, sizeof(Py_ssize_t))
        if self.c_places == NULL or self.c_positions == NULL:
            raise MemoryError
        for i in range(self.size):
            place = &self.c_places[i]
            place.row = checked_row(rows[i], segment.endpoints)
            place.weight = weights[i]
            place.factor = 1.0
            if place.weight > self.max_weight:
                self.max_weight = place.weight
            place.rank = ranks[i]
            place.provider = providers[i]
            place.region = checked_region(regions[i])
            place.capabilities = capabilities[i]
            place.context_window = context_windows[i]
            place.max_output = max_outputs[i]
            place.input_price = input_prices[i]
            place.output_price = output_prices[i]
            place.key_row = keys[i]

    def __dealloc__(self):
        PyMem_Free(self.c_places)
        PyMem_Free(self.c_positions)

    def __len__(self):
        return self.c_count

    def __getitem__(self, Py_ssize_t at):
        if at < 0:
            at += self.c_count
        if at < 0 or at >= self.c_count:
            raise IndexError("candidate index out of range")
        return self.c_positions[at]

    def __iter__(self):
        return iter(self.positions)

    @property
    def positions(self):
        """The candidates as a list."""
        return [self.c_positions[i] for i in range(self.c_count)]

    @property
    def rows(self):
        """The endpoints' rows in the segment."""
        return [self.c_places[i].row for i in range(self.size)]

    @property
    def key_rows(self):
        """The rows of the endpoints' keys, -1 for none."""
        return [self.c_places[i].key_row for i in range(self.size)]

    @property
    def weights(self):
        """The endpoints' configured weights."""
        return [self.c_places[i].weight for i in range(self.size)]

    @property
    def removed(self):
        """How many each gate removed, by the gates' numbers, at the last `gate`."""
        return tuple([self._removed[gate] for gate in range(GATES)])

    @property
    def emptied_by(self):
        """The last gate that removed anyone: where nobody is left, the one that took the last."""
        cdef int gate
        for gate in range(GATES - 1, PASSED, -1):
            if self._removed[gate]:
                return gate
        return PASSED

    def gate(self, Need need not None):
        """Find the candidates of the best order and rank, those with headroom first; return their number."""
        cdef Py_ssize_t passed, waiting, fit
        self._take(need)
        self.panicking = False
        passed = self._through(need)
        waiting = self._removed[BREAKER]
        fit = passed + waiting
        if waiting and fit >= need.panic_min and passed * 100 < need.panic_percent * fit:
            self.panicking = True
            self._through(need)
        return self.c_count

    def narrow(self, Py_ssize_t first, Py_ssize_t end):
        """Keep only the candidates at positions first..end-1, until the next `gate`; return their number."""
        cdef Py_ssize_t i, kept = 0
        for i in range(self.c_count):
            if first <= self.c_positions[i] < end:
                self.c_positions[kept] = self.c_positions[i]
                kept += 1
        self.c_count = kept
        return kept

    def why(self, Py_ssize_t position, Need need not None):
        """Return the number of the gate that removes an endpoint, PASSED if none does."""
        self._check(position)
        self._take(need)
        return self._fate(position, need)

    def set_factor(self, Py_ssize_t position, double factor):
        """Multiply an endpoint's weight, until further notice, by what its health is worth: above 0, at most 1."""
        self._check(position)
        self.c_places[position].factor = checked_factor(factor)

    def weight(self, Py_ssize_t position, int64_t now_ms):
        """Return the weight in force: less than the configured one in a slow start or in poor health."""
        self._check(position)
        self.segment._check_open()
        return self.c_weight(position, now_ms)

    cdef int _check(self, Py_ssize_t position) except -1:
        if position < 0 or position >= self.size:
            raise IndexError(f"position {position} is not in 0..{self.size - 1}")
        return 0

    cdef int _take(self, Need need) except -1:
        """Take over what is a Python object in `need`, and check the bounds of what is looked up in it."""
        cdef Py_ssize_t i, count
        self.segment._check_open()
        self._slow_start_ms = need.slow_start_ms
        self._regions = need.regions
        self._max_cost = need.max_cost_pico
        count = len(need.tried)
        self._tried_count = count if count <= MAX_TRIED else MAX_TRIED
        for i in range(self._tried_count):
            self._tried[i] = need.tried[i]
        if need.order is not None or need.stages is not None:
            for i in range(self.size):
                if need.order is not None and self.c_places[i].provider >= PyBytes_GET_SIZE(need.order):
                    raise IndexError("order has no place for a provider")
                if need.stages is not None and self.c_places[i].provider >= PyBytes_GET_SIZE(need.stages):
                    raise IndexError("stages has no place for a provider")
        return 0

    cdef Py_ssize_t _through(self, Need need) except -1:
        cdef Py_ssize_t i, passed = 0
        cdef int fate
        cdef int64_t best = -1, group, at_ms
        cdef const unsigned char *order = NULL
        if need.order is not None:
            order = <const unsigned char *>PyBytes_AS_STRING(need.order)
        memset(self._removed, 0, sizeof(self._removed))
        self.retry_at_ms = 0
        self.on_trial = False
        self.c_count = 0
        for i in range(self.size):
            fate = self._fate(i, need)
            if fate != PASSED:
                self._removed[fate] += 1
                if fate >= KEY:
                    if fate == FULL:
                        at_ms = need.now_ms + FULL_WAIT_MS
                    elif fate == COOLDOWN:
                        at_ms = fr_load(self.segment.c_cell(self.c_places[i].row, COOLDOWN_UNTIL_MS))
                    elif fate < BREAKER:
                        at_ms = fr_load(self.segment.c_cell(
                            self.c_places[i].row, KEY_STATE if fate == KEY else MODEL_STATE)) >> 24
                    else:
                        at_ms = self._back_ms(i, need.now_ms)
                    if not self.retry_at_ms or at_ms < self.retry_at_ms:
                        self.retry_at_ms = at_ms
                continue
            passed += 1
            group = (<int64_t>order[self.c_places[i].provider] if order != NULL else 1) << 32
            group = (group | self.c_places[i].rank) << 2
            if self.adaptive is not None:
                group |= self.adaptive.c_headroom(self.c_places[i].row, need.now_ms)
            if best < 0 or group < best:
                best = group
                self.c_count = 0
            if group == best:
                self.c_positions[self.c_count] = i
                self.c_count += 1
        return passed

    cdef inline int _fate(self, Py_ssize_t position, Need need) noexcept:
        cdef Place *place = &self.c_places[position]
        cdef int64_t *cells
        cdef Py_ssize_t i
        cdef int gate
        for i in range(self._tried_count):
            if self._tried[i] == position:
                return TRIED
        if need.order is not None and PyBytes_AS_STRING(need.order)[place.provider] == 0:
            return PyBytes_AS_STRING(need.stages)[place.provider] if need.stages is not None else REQUEST
        if not place.weight > 0.0:
            return DRAINED
        if need.capabilities & ~place.capabilities:
            return CAPABILITY
        if place.context_window and need.prompt_tokens + need.output_tokens > place.context_window:
            return CONTEXT
        if place.max_output and need.output_tokens > place.max_output:
            return OUTPUT
        if self._regions and not self._regions >> place.region & 1:
            return REGION
        if self._max_cost >= 0.0:
            if place.input_price < 0.0 or place.output_price < 0.0:
                return COST
            if need.prompt_tokens * place.input_price + need.output_tokens * place.output_price > self._max_cost:
                return COST
        cells = self.segment.c_cell(place.row, 0)
        # Nearly always nothing: one number to look at.
        if fr_load(cells + KEY_STATE) >= LOOK:
            gate = self._channel(place.row, need.now_ms)
            if gate != PASSED:
                return gate
        if self._back_ms(position, need.now_ms):
            return BREAKER
        if fr_load(cells + COOLDOWN_UNTIL_MS) > need.now_ms:
            return COOLDOWN
        if self.adaptive is not None and self.adaptive.c_full(place.row, need.now_ms):
            return FULL
        return PASSED

    cdef int _channel(self, Py_ssize_t row, int64_t now_ms) noexcept:
        cdef int64_t word = fr_load(self.segment.c_cell(row, KEY_STATE))
        cdef int64_t model
        if word >> 24 > now_ms:
            return KEY
        if word & LOOK:
            model = fr_load(self.segment.c_cell(row, MODEL_STATE))
            if (model & 7) == QUOTA_EXHAUSTED or (model & 7) == MODEL_NOT_FOUND:
                if model >> 24 > now_ms:
                    return QUOTA if (model & 7) == QUOTA_EXHAUSTED else MODEL
                self.on_trial = True
        if word >> 24:
            self.on_trial = True
        return PASSED

    cdef inline int64_t _back_ms(self, Py_ssize_t position, int64_t now_ms) noexcept:
        """Return when the breakers may let a request through, 0 if they do now."""
        cdef Place *place = &self.c_places[position]
        cdef int64_t back_ms = 0, key_ms
        if not self.panicking:
            back_ms = self._opens_ms(place.row, self._half_open_max_calls, now_ms)
        if place.key_row != NO_KEY:
            key_ms = self._opens_ms(place.key_row, KEY_PROBES, now_ms)
            if key_ms > back_ms:
                return key_ms
        return back_ms

    cdef inline int64_t _opens_ms(self, int64_t row, int64_t probes, int64_t now_ms) noexcept:
        cdef uint64_t word = <uint64_t>fr_load(self.segment.c_cell(row, BREAKER_CELL))
        cdef int state = word & 3
        if not state or <int64_t>(word >> 24) <= now_ms:
            return 0
        if state != HALF_OPEN:
            return <int64_t>(word >> 24)
        return now_ms + PROBE_WAIT_MS if <int64_t>(word >> 2 & 0xFF) >= probes else 0

    cdef double _slow_share(self, int64_t elapsed_ms) noexcept:
        cdef double share = <double>elapsed_ms / <double>self._slow_start_ms
        return share if share > SLOW_START_FLOOR else SLOW_START_FLOOR
