# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `adaptive`; the meaning of every name is written down in the pure half."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastroute._core._counters_c cimport Segment, fr_load

from fastroute._core._adaptive_rules import REQUEST_DIMENSIONS, TOKEN_DIMENSIONS, Quota, View, checked

cdef extern from "_atomics.h":
    void fr_store(int64_t *cell, int64_t value) noexcept
    int64_t fr_add(int64_t *cell, int64_t delta) noexcept
    bint fr_cas(int64_t *cell, int64_t expect, int64_t desired) noexcept

# The layouts of _adaptive_rules, _attempts_rules and _counters_file, beside what the .pxd has; the tests hold them
# together.
cdef enum:
    OK = 0
    RATE_LIMITED = 2
    LEARNING = 0
    STABLE = 1
    COOLDOWN = 2
    OFF = 0
    AIMD = 1
    GRADIENT2 = 2
    REFUSED = 1
    ANSWERED = 2
    LOW = 1
    USED_UP = 2
    IN_FLIGHT = 0
    COOLDOWN_UNTIL_MS = 2
    PACE = 23
    QUOTA_REQUESTS_TIMES = 24
    QUOTA_TOKENS_TIMES = 25
    MARK_MASK = 0xFFFFFF
    HALF_MARKS = 0x800000
    MAX_LIMIT = 1000000
    MAX_QUOTA = 0x7FFFFFFF
    MAX_SPAN_MS = 0xFFFFFF
    DEFAULT_RESET_MS = 60000
    STALE_MS = 600000
    QUIET_MS = 60000
    FEW_REQUESTS = 2
    WARM_UP = 10
    # Of an Allowance: limit, remaining and time of each dimension.
    VALUES = 21

cdef int64_t MAX_RESET_MS = 2678400000
cdef tuple _REQUEST_DIMENSIONS = REQUEST_DIMENSIONS
cdef tuple _TOKEN_DIMENSIONS = TOKEN_DIMENSIONS
cdef double DECREASE = 0.5
cdef double KNOWN_SHARE = 0.9
cdef double STABLE_ROUNDS = 8.0
cdef double LEAST_GROWTH = 2.4e-7
cdef double LONG_WINDOW = 600.0
cdef double SMOOTHING = 0.2
cdef double QUEUE = 4.0
cdef double LONG_DECAY = 0.9
cdef double MAX_SAMPLE_MS = 1e9
cdef uint64_t LOW_32 = 0xFFFFFFFF


cdef class Adaptive:
    """Limits and quotas of endpoints. Times are monotonic milliseconds."""

    def __cinit__(self, Segment segment not None, settings):
        """Take what the pure half takes, and raise what it raises."""
        cdef Rule *rule
        self.segment = segment
        checked(settings, segment.endpoints)
        self._rules = <Rule *>PyMem_Calloc(segment.endpoints, sizeof(Rule))
        if self._rules == NULL:
            raise MemoryError
        for row, setting in settings.items():
            rule = &self._rules[row]
            rule.kind = setting.kind
            rule.minimum = setting.minimum
            rule.maximum = setting.maximum
            rule.initial = setting.initial
            rule.headroom_percent = setting.headroom_percent
            rule.forget_ms = setting.forget_ms
            if rule.initial or rule.maximum:
                self._begins_limited = True

    def __dealloc__(self):
        PyMem_Free(self._rules)

    def enter(self, Py_ssize_t row, int64_t now_ms):
        """Count a request as sent; return its mark, which `leave` and `learn` want to have."""
        self._check(row)
        return self.c_enter(row, now_ms)

    def leave(self, Py_ssize_t row, int64_t mark, int verdict, double cost_ms, int64_t hint_ms, int64_t now_ms):
        """Learn how a request ended, which is still counted as in flight. See `Attempts.leave`."""
        self._check(row)
        self.c_leave(row, mark, verdict, cost_ms, hint_ms, now_ms)

    def first_token(self, Py_ssize_t row, double cost_ms, int64_t now_ms):
        """Learn what the first token of a stream took, normalised."""
        self._check(row)
        self.c_first_token(row, cost_ms, now_ms)

    def learn(self, Py_ssize_t row, int64_t mark, allowance, int64_t now_ms):
        """Learn what the header fields of an answer say of the quotas; see the pure half."""
        cdef int64_t since
        self._check(row)
        if self._rules[row].kind == OFF:
            return
        if not isinstance(allowance, tuple) or len(allowance) != VALUES:
            raise TypeError("an Allowance is wanted")
        since = (fr_load(self.segment.c_cell(row, PACE)) - mark) & MARK_MASK
        if since >= HALF_MARKS:
            since = 0
        self._note(row, QUOTA_REQUESTS, _REQUEST_DIMENSIONS, allowance, since, now_ms)
        self._note(row, QUOTA_TOKENS, _TOKEN_DIMENSIONS, allowance, 0, now_ms)

    def excuse(self, Py_ssize_t row):
        """Note that the next refusal is not the fault of concurrency, because the provider says what it is about."""
        cdef int64_t cell
        cdef State word
        self._check(row)
        if self._rules[row].kind == OFF:
            return
        while True:
            cell = fr_load(self.segment.c_cell(row, ADAPTIVE))
            word = c_unpack(cell)
            if word.kind != AIMD or not word.seen & ANSWERED:
                return
            word.seen &= REFUSED
            if self._cas(row, cell, word):
                return

    def full(self, Py_ssize_t row, int64_t now_ms):
        """Return whether as many requests are in flight at the endpoint as it takes."""
        self._check(row)
        return self.c_full(row, now_ms)

    def headroom(self, Py_ssize_t row, int64_t now_ms):
        """Return ROOMY, LOW or USED_UP: what is left of the endpoint's quotas."""
        self._check(row)
        return self.c_headroom(row, now_ms)

    def view(self, Py_ssize_t row, int64_t now_ms):
        """Return what is known of an endpoint, None for one without a setting."""
        cdef bint fresh = False
        cdef State word
        cdef Left requests, tokens
        cdef int64_t until_ms
        cdef double pace
        self._check(row)
        if self._rules[row].kind == OFF:
            return None
        word = self._fresh_if(c_unpack(fr_load(self.segment.c_cell(row, ADAPTIVE))), row, now_ms, &fresh)
        until_ms = fr_load(self.segment.c_cell(row, COOLDOWN_UNTIL_MS))
        if until_ms > now_ms:
            word.state = COOLDOWN
        elif word.state == COOLDOWN:
            word.state = LEARNING
        pace = self._pace(row) if word.seen & REFUSED or (word.kind == GRADIENT2 and word.seen) else 0.0
        requests = self._quota(row, QUOTA_REQUESTS, now_ms)
        tokens = self._quota(row, QUOTA_TOKENS, now_ms)
        return View(
            word.state,
            word.kind,
            word.limit,
            self.segment.c_total(row, IN_FLIGHT),
            pace if word.kind == AIMD else 0.0,
            pace if word.kind == GRADIENT2 else 0.0,
            until_ms - now_ms if until_ms > now_ms else 0,
            self.c_headroom(row, now_ms),
            Quota(requests.limit, requests.remaining, requests.full_in_ms),
            Quota(tokens.limit, tokens.remaining, tokens.full_in_ms),
        )

    cdef int _check(self, Py_ssize_t row) except -1:
        self.segment._check_open()
        if row < 0 or row >= self.segment.endpoints:
            raise IndexError(f"endpoint {row} is not in 0..{self.segment.endpoints - 1}")
        return 0

    cdef int64_t c_enter(self, Py_ssize_t row, int64_t now_ms) noexcept:
        cdef int64_t *cell
        cdef int64_t sent, old
        if self._rules[row].kind == OFF:
            return 0
        sent = fr_add(self.segment.c_cell(row, PACE), 1)
        cell = self.segment.c_cell(row, QUOTA_REQUESTS)
        while True:
            old = fr_load(cell)
            if not <uint64_t>old & LOW_32 or fr_cas(cell, old, old - 1):
                break
        cell = self.segment.c_cell(row, ADAPTIVE)
        old = fr_load(cell)
        if old & 3 == COOLDOWN and fr_load(self.segment.c_cell(row, COOLDOWN_UNTIL_MS)) <= now_ms:
            # One that fails has been forestalled by another worker.
            fr_cas(cell, old, old & ~<int64_t>3 | LEARNING)
        return sent & MARK_MASK

    cdef void c_leave(self, Py_ssize_t row, int64_t mark, int verdict, double cost_ms, int64_t hint_ms,
                      int64_t now_ms) noexcept:
        cdef int kind = self._rules[row].kind
        if kind == OFF:
            return
        if verdict == RATE_LIMITED:
            self._refused(row, mark, hint_ms, now_ms)
        elif verdict == OK and kind == AIMD:
            self._answered(row, mark, now_ms)
        elif verdict == OK and cost_ms >= 0.0:
            self._sample(row, cost_ms, now_ms)

    cdef void c_first_token(self, Py_ssize_t row, double cost_ms, int64_t now_ms) noexcept:
        if self._rules[row].kind == GRADIENT2 and cost_ms >= 0.0:
            self._sample(row, cost_ms, now_ms)

    cdef bint _is_full(self, Py_ssize_t row, int64_t now_ms) noexcept:
        cdef bint fresh = False
        cdef int64_t limit
        cdef int64_t cell = fr_load(self.segment.c_cell(row, ADAPTIVE))
        if self._rules[row].kind == OFF:
            return False
        limit = <int64_t>self._fresh_if(c_unpack(cell), row, now_ms, &fresh).limit
        return limit > 0 and self.segment.c_total(row, IN_FLIGHT) >= limit

    cdef int _headroom(self, Py_ssize_t row, int64_t now_ms) noexcept:
        cdef int requests, tokens
        if self._rules[row].kind == OFF:
            return ROOMY
        requests = self._left(row, QUOTA_REQUESTS, FEW_REQUESTS, now_ms)
        tokens = self._left(row, QUOTA_TOKENS, 1, now_ms)
        return requests if requests > tokens else tokens

    # --- the limit

    cdef State _fresh_if(self, State word, Py_ssize_t row, int64_t now_ms, bint *fresh) noexcept:
        cdef Rule *rule = &self._rules[row]
        fresh[0] = word.kind != rule.kind
        if word.kind == AIMD and word.seen & REFUSED:
            if now_ms - fr_load(self.segment.c_cell(row, COOLDOWN_UNTIL_MS)) >= rule.forget_ms:
                fresh[0] = True
        if fresh[0]:
            word.state = LEARNING
            word.kind = rule.kind
            word.seen = 0
            word.mark = 0
            word.limit = <double>(rule.initial if rule.initial else rule.maximum)
        return word

    cdef void _answered(self, Py_ssize_t row, int64_t mark, int64_t now_ms) noexcept:
        cdef int64_t cell
        cdef State word
        cdef double known, too_much
        cdef bint fresh = False, late
        while True:
            cell = fr_load(self.segment.c_cell(row, ADAPTIVE))
            word = self._fresh_if(c_unpack(cell), row, now_ms, &fresh)
            late = word.state == COOLDOWN or (
                not fresh and word.seen & REFUSED and self._is_stale(row, mark, word.mark, now_ms)
            )
            known = self._pace(row) if word.seen & REFUSED else 0.0
            too_much = known
            if word.limit > 0.0 and not late and self.segment.c_total(row, IN_FLIGHT) * 2 >= word.limit:
                if word.state == STABLE:
                    if now_ms - fr_load(self.segment.c_cell(row, COOLDOWN_UNTIL_MS)) >= QUIET_MS:
                        word.state = LEARNING
                        too_much = 0.0
                c_grow(&word, &too_much, self._rules[row].maximum)
            elif not fresh and word.seen & ANSWERED:
                return
            word.seen |= ANSWERED
            # Where a limit was to be forgotten, it is for good: a cooldown that somebody else begins does not bring
            # it back.
            if self._cas(row, cell, word):
                if too_much != known:
                    self._set_pace(row, too_much)
                return

    cdef void _refused(self, Py_ssize_t row, int64_t mark, int64_t hint_ms, int64_t now_ms) noexcept:
        cdef Rule *rule = &self._rules[row]
        cdef int64_t before_ms = fr_load(self.segment.c_cell(row, COOLDOWN_UNTIL_MS))
        cdef int64_t cell, held
        cdef int64_t *until
        cdef State word
        cdef double too_much
        cdef bint fresh = False, learns, first
        while True:
            cell = fr_load(self.segment.c_cell(row, ADAPTIVE))
            word = self._fresh_if(c_unpack(cell), row, now_ms, &fresh)
            if word.state == COOLDOWN and before_ms > now_ms:
                break
            if not fresh and self._is_stale(row, mark, word.mark, now_ms):
                break
            too_much = <double>(<int64_t>word.limit)
            if too_much == 0.0:
                too_much = <double>self.segment.c_total(row, IN_FLIGHT)
            # A request alone was not one too many; where a quota has run out, it was that; and if nobody at all is
            # answered, fewer will not be either.
            learns = self.segment.c_total(row, IN_FLIGHT) >= 2 and self.c_headroom(row, now_ms) != USED_UP
            learns = learns and (rule.kind == GRADIENT2 or word.seen & ANSWERED)
            if learns:
                word.limit = c_between(too_much * DECREASE, rule)
            first = not word.seen & REFUSED
            word.state = COOLDOWN
            if rule.kind == AIMD:
                word.seen = REFUSED
            word.mark = fr_load(self.segment.c_cell(row, PACE)) & MARK_MASK
            if self._cas(row, cell, word):
                if rule.kind == AIMD and (learns or first):
                    self._set_pace(row, too_much if learns else 0.0)
                break
        until = self.segment.c_cell(row, COOLDOWN_UNTIL_MS)
        while True:
            held = fr_load(until)
            if held >= now_ms + hint_ms or fr_cas(until, held, now_ms + hint_ms):
                return

    cdef bint _is_stale(self, Py_ssize_t row, int64_t mark, int64_t word_mark, int64_t now_ms) noexcept:
        cdef int64_t after = (mark - word_mark) & MARK_MASK
        if now_ms - fr_load(self.segment.c_cell(row, COOLDOWN_UNTIL_MS)) >= STALE_MS:
            return False
        return not (0 < after <= HALF_MARKS)

    cdef void _sample(self, Py_ssize_t row, double short_ms, int64_t now_ms) noexcept:
        cdef int64_t cell, pace
        cdef int64_t *at = self.segment.c_cell(row, PACE)
        cdef State word
        cdef double longer
        cdef bint fresh = False
        if short_ms > MAX_SAMPLE_MS:
            short_ms = MAX_SAMPLE_MS
        while True:
            pace = fr_load(at)
            word = c_unpack(fr_load(self.segment.c_cell(row, ADAPTIVE)))
            longer = c_float(pace) if word.kind == GRADIENT2 and word.seen else 0.0
            longer = c_long_average(longer, short_ms, word.seen)
            if fr_cas(at, pace, c_with_float(pace, longer)):
                break
        while True:
            cell = fr_load(self.segment.c_cell(row, ADAPTIVE))
            word = self._fresh_if(c_unpack(cell), row, now_ms, &fresh)
            if word.state != COOLDOWN:
                word.limit = c_gradient2(word.limit, longer, short_ms, self.segment.c_total(row, IN_FLIGHT))
                word.limit = c_between(word.limit, &self._rules[row])
            if word.seen < WARM_UP:
                word.seen += 1
            if word.state == LEARNING and word.seen == WARM_UP and short_ms <= longer:
                word.state = STABLE
            if self._cas(row, cell, word):
                return

    cdef bint _cas(self, Py_ssize_t row, int64_t cell, State word) noexcept:
        cdef uint64_t low = <uint64_t>(word.state | word.kind << 2 | word.seen << 4) | <uint64_t>word.mark << 8
        return fr_cas(self.segment.c_cell(row, ADAPTIVE), cell, c_with_float(<int64_t>low, word.limit))

    cdef double _pace(self, Py_ssize_t row) noexcept:
        return c_float(fr_load(self.segment.c_cell(row, PACE)))

    cdef void _set_pace(self, Py_ssize_t row, double value) noexcept:
        cdef int64_t *cell = self.segment.c_cell(row, PACE)
        cdef int64_t old
        while True:
            old = fr_load(cell)
            if fr_cas(cell, old, c_with_float(old, value)):
                return

    # --- quotas

    cdef int _note(self, Py_ssize_t row, Py_ssize_t at, tuple dimensions, allowance, int64_t since,
                   int64_t now_ms) except -1:
        """Note the quota of which least is left, in proportion."""
        cdef int64_t *cell = self.segment.c_cell(row, at)
        cdef int64_t known = fr_load(cell) >> 32
        cdef int64_t limit, remaining, least_limit = -1, least = 0, reset_ms = 0
        cdef Py_ssize_t dimension
        for dimension in dimensions:
            remaining = <object>PyTuple_GET_ITEM(allowance, 3 * dimension + 1)
            if remaining < 0:
                continue
            limit = <object>PyTuple_GET_ITEM(allowance, 3 * dimension)
            if remaining > MAX_QUOTA:
                remaining = MAX_QUOTA
            if limit < 0:
                limit = remaining if remaining > known else known
            elif limit > MAX_QUOTA:
                limit = MAX_QUOTA
            if remaining > limit:
                remaining = limit
            if least_limit < 0 or remaining * least_limit < least * limit:
                least_limit, least = limit, remaining
                reset_ms = <object>PyTuple_GET_ITEM(allowance, 3 * dimension + 2)
        if least_limit < 0:
            return 0
        if reset_ms < 0:
            reset_ms = DEFAULT_RESET_MS
        elif reset_ms > MAX_RESET_MS:
            reset_ms = MAX_RESET_MS
        self.segment._check_open()
        fr_store(cell, least_limit << 32 | (least - since if least > since else 0))
        fr_store(self._times(row, at), now_ms + reset_ms << 24 | (reset_ms if reset_ms < MAX_SPAN_MS else MAX_SPAN_MS))
        return 0

    cdef inline int64_t *_times(self, Py_ssize_t row, Py_ssize_t at) noexcept:
        return self.segment.c_cell(row, QUOTA_REQUESTS_TIMES if at == QUOTA_REQUESTS else QUOTA_TOKENS_TIMES)

    cdef Left _quota(self, Py_ssize_t row, Py_ssize_t at, int64_t now_ms) noexcept:
        cdef int64_t *cell = self.segment.c_cell(row, at)
        cdef int64_t word = fr_load(cell)
        cdef int64_t times, span_ms
        cdef Left left
        left.limit = word >> 32
        left.remaining = left.limit
        left.full_in_ms = 0
        if left.limit == 0:
            return left
        times = fr_load(self._times(row, at))
        if times >> 24 <= now_ms:
            return left
        left.full_in_ms = (times >> 24) - now_ms
        left.remaining = <int64_t>(<uint64_t>word & LOW_32)
        span_ms = times & MAX_SPAN_MS
        if left.full_in_ms < span_ms:
            left.remaining += (left.limit - left.remaining) * (span_ms - left.full_in_ms) // span_ms
        return left

    cdef int _left(self, Py_ssize_t row, Py_ssize_t at, int64_t few, int64_t now_ms) noexcept:
        cdef Left left = self._quota(row, at, now_ms)
        if left.limit == 0:
            return ROOMY
        if left.remaining < 1:
            return USED_UP
        if left.remaining * 100 < left.limit * self._rules[row].headroom_percent:
            return LOW
        return LOW if left.remaining < few and left.full_in_ms > 0 else ROOMY


cdef inline State c_unpack(int64_t cell) noexcept:
    cdef State word
    word.state = cell & 3
    word.kind = cell >> 2 & 3
    word.seen = cell >> 4 & 0xF
    word.mark = cell >> 8 & MARK_MASK
    word.limit = c_float(cell)
    return word


cdef inline double c_float(int64_t cell) noexcept:
    """Return the number in a cell's upper half."""
    cdef uint32_t bits = <uint32_t>(<uint64_t>cell >> 32)
    cdef float value
    memcpy(&value, &bits, 4)
    return value


cdef inline int64_t c_with_float(int64_t cell, double value) noexcept:
    """Return a cell with a number put into its upper half."""
    cdef float narrow = <float>value
    cdef uint32_t bits
    memcpy(&bits, &narrow, 4)
    return <int64_t>(<uint64_t>cell & LOW_32 | <uint64_t>bits << 32)


cdef inline double c_between(double limit, Rule *rule) noexcept:
    cdef double top = <double>(rule.maximum if rule.maximum else MAX_LIMIT)
    if limit < <double>rule.minimum:
        limit = <double>rule.minimum
    return limit if limit < top else top


cdef double c_gradient2(double limit, double long_ms, double short_ms, int64_t in_flight) noexcept:
    cdef double gradient
    if in_flight * 2 < limit:
        return limit
    gradient = 1.0 if short_ms <= long_ms else long_ms / short_ms
    if gradient < 0.5:
        gradient = 0.5
    return limit * (1.0 - SMOOTHING) + (limit * gradient + QUEUE) * SMOOTHING


cdef double c_long_average(double long_ms, double short_ms, int count) noexcept:
    cdef double longer
    if long_ms <= 0.0:
        return short_ms
    if count < WARM_UP:
        longer = (long_ms * count + short_ms) / (count + 1)
    else:
        longer = long_ms + (short_ms - long_ms) * 2.0 / (LONG_WINDOW + 1)
    return longer * LONG_DECAY if longer > 2.0 * short_ms else longer


cdef void c_grow(State *word, double *too_much, int64_t maximum) noexcept:
    cdef double top = <double>(maximum if maximum else MAX_LIMIT)
    cdef double step, known = KNOWN_SHARE * too_much[0]
    if word.state == LEARNING:
        if too_much[0] > 0.0 and word.limit + 1.0 >= known:
            word.state = STABLE
            if word.limit < known:
                word.limit = known
        else:
            word.limit += 1.0
    else:
        step = 1.0 / (STABLE_ROUNDS * word.limit)
        word.limit += step if step > LEAST_GROWTH * word.limit else LEAST_GROWTH * word.limit
        if too_much[0] > 0.0 and word.limit >= too_much[0] + 1.0:
            # It takes more than it used to.
            word.state = LEARNING
            too_much[0] = 0.0
    if word.limit >= top:
        word.state = STABLE
        word.limit = top
