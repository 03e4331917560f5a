# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `limits`: exact between processes; the meaning of every name is written down in the pure half.

Rates and quotas are moved by compare-and-swap. Concurrency is a count of each worker's own, which nobody else writes:
a worker that is killed leaves nothing behind but that, and the supervisor zeroes it.

A place is given to another subject only while nobody uses it. Whoever uses one is counted in it first and reads whose
it is after that; whoever takes it over marks it as nobody's first and reads that count after that. All four are
sequentially consistent, so of two that meet one sees the other, and steps back.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcmp

from fastroute._core._limits_file import (
    FIELD_NAMES,
    PROVIDER_FIELDS,
    Subject,
    SLOTS as DEFAULT_SLOTS,
    LimitsFileError,
    checked,
    create_file,
    file_bytes,
    open_file,
    replacing,
    subject_key,
)

cdef extern from "_atomics.h":
    int64_t fr_load(int64_t *cell) noexcept
    void fr_store(int64_t *cell, int64_t value) noexcept
    int64_t fr_add(int64_t *cell, int64_t delta) noexcept
    bint fr_cas(int64_t *cell, int64_t expect, int64_t desired) noexcept

cdef extern from "_limits.h":
    void fr_add_32(int32_t *cell, int32_t change) noexcept
    void fr_store_32(int32_t *cell, int32_t value) noexcept
    int64_t fr_sum_32(int32_t *first, int64_t count) noexcept
    int64_t fr_load_key(int64_t *cell) noexcept
    void fr_store_key(int64_t *cell, int64_t value) noexcept
    void fr_add_users(int64_t *cell, int64_t change) noexcept
    bint fr_cas_key(int64_t *cell, int64_t expect, int64_t desired) noexcept
    int64_t fr_cost_ns(int64_t count, int64_t limit, int64_t period, int64_t most) noexcept
    int64_t fr_room(int64_t ns, int64_t limit, int64_t period) noexcept
    int fr_duration(char *out, int64_t ns) noexcept
    int fr_decimal(char *out, int64_t value) noexcept

ATOMIC = True

# The layout of _limits_file, in 64-bit cells; the tests hold the two together.
cdef enum:
    FIRST_WORD = 128
    FIRST_CELL = 512
    CELLS = 8
    KEY = 0
    REQUESTS = 1
    TOKENS = 2
    DAY_REQUESTS = 3
    DAY_TOKENS = 4
    REFUSED = 5
    USERS = 6
    LOST = 0
    MAX_PROBES = 128
    COUNT_BITS = 44
    PER_MINUTE_REQUESTS = 0
    PER_MINUTE_TOKENS = 1
    CONCURRENCY = 2
    PER_DAY_REQUESTS = 3
    PER_DAY_TOKENS = 4
    UNKNOWN = -1
    NOWHERE = -2
    # How often two workers may meet at a ceiling before one of them gives up.
    MAX_MEETINGS = 64

cdef int64_t PERIOD_NS = 60_000_000_000
cdef int64_t DAY_NS = 86_400_000_000_000
cdef int64_t MAX_DEBT_NS = 86_400_000_000_000
cdef int64_t BUSY_WAIT_NS = 1_000_000_000
cdef int64_t MAX_COUNT = (<int64_t>1 << COUNT_BITS) - 1
# No subject's: the slot is being taken over.
cdef int64_t NOBODY = <int64_t>1 << 63

cdef bytes LIMIT_REQUESTS, LEFT_REQUESTS, RESET_REQUESTS, LIMIT_TOKENS, LEFT_TOKENS, RESET_TOKENS
(LIMIT_REQUESTS, LEFT_REQUESTS, RESET_REQUESTS, LIMIT_TOKENS, LEFT_TOKENS, RESET_TOKENS) = FIELD_NAMES


cdef bytes REQUESTS_PREFIX, ANTHROPIC_PREFIX, DRAFT_PREFIX
REQUESTS_PREFIX, ANTHROPIC_PREFIX, DRAFT_PREFIX = PROVIDER_FIELDS


cdef struct Place:
    int64_t key
    # In the table, UNKNOWN or NOWHERE.
    int64_t slot
    int64_t rpm
    int64_t tpm
    int64_t concurrency
    int64_t rpd
    int64_t tpd


cdef class Table:
    """The slots of all subjects; see the pure half."""

    cdef readonly str path
    cdef readonly Py_ssize_t workers
    cdef readonly Py_ssize_t slots
    cdef object _mapping
    cdef Py_buffer _buffer
    # Base of the mapping; NULL once closed.
    cdef int64_t *cells
    cdef int32_t *shares

    def __cinit__(self, str path not None, Py_ssize_t workers, Py_ssize_t slots, mapping):
        """Take over `mapping`, which must have exactly the size the dimensions need (LimitsFileError)."""
        needed = file_bytes(workers, slots)
        PyObject_GetBuffer(mapping, &self._buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if self._buffer.len != needed:
            raise LimitsFileError(f"{path}: mapping of {self._buffer.len} bytes, {needed} are needed")
        self.path = path
        self.workers = workers
        self.slots = slots
        self._mapping = mapping
        self.cells = <int64_t *>self._buffer.buf
        self.shares = <int32_t *>(self.cells + FIRST_CELL + slots * CELLS)

    def __dealloc__(self):
        PyBuffer_Release(&self._buffer)  # does nothing where no buffer is held

    @classmethod
    def create(cls, path, workers, moment, slots=DEFAULT_SLOTS):
        """Make the file at `path`, carrying over from one that is there what still holds at that moment."""
        return cls(path, workers, slots, create_file(path, workers, slots, moment))

    @classmethod
    def open(cls, path):
        """Map an existing file. LimitsFileError for one that is none, OSError if it cannot be read."""
        mapping, workers, slots = open_file(path)
        return cls(path, workers, slots, mapping)

    @property
    def lost(self):
        """How often a subject found no slot, and was let through without its ceilings."""
        self.check_open()
        return fr_load(self.cells + FIRST_WORD + LOST)

    def find(self, name):
        """Return the slot of a subject, claimed if it has none yet; -1 if there is none to be had."""
        cdef int64_t key = subject_key(name)
        self.check_open()
        cdef int64_t slot = self.c_seek(key)
        if slot < 0:
            fr_add(self.cells + FIRST_WORD + LOST, 1)
        return slot if slot >= 0 else -1

    def cell(self, Py_ssize_t slot, Py_ssize_t cell):
        """Return one cell of a slot."""
        self.check_at(slot, cell)
        return fr_load(self.c_cell(slot, cell))

    def set_cell(self, Py_ssize_t slot, Py_ssize_t cell, int64_t value):
        """Store one cell of a slot."""
        self.check_at(slot, cell)
        fr_store(self.c_cell(slot, cell), value)

    def held(self, Py_ssize_t slot):
        """Return how many requests of the subject are under way, over all workers."""
        self.check_at(slot, 0)
        return self.c_held(slot)

    def clear_worker(self, Py_ssize_t worker):
        """Give back what a worker whose process has died held of everybody's concurrency."""
        cdef Py_ssize_t slot
        self.check_open()
        self.check_worker(worker)
        for slot in range(self.slots):
            if self.shares[slot * self.workers + worker] != 0:
                fr_store_32(self.shares + slot * self.workers + worker, 0)

    def close(self):
        """Let go of the mapping; a second call does nothing. The file stays."""
        if self.cells == NULL:
            return
        self.cells = NULL
        self.shares = NULL
        PyBuffer_Release(&self._buffer)
        self._mapping.close()

    cdef int check_open(self) except -1:
        if self.cells == NULL:
            raise ValueError("table is closed")
        return 0

    cdef int check_worker(self, Py_ssize_t worker) except -1:
        if worker < 0 or worker >= self.workers:
            raise IndexError(f"worker {worker} is not in 0..{self.workers - 1}")
        return 0

    cdef int check_at(self, Py_ssize_t slot, Py_ssize_t cell) except -1:
        if slot < 0 or slot >= self.slots or cell < 0 or cell >= CELLS:
            raise IndexError(f"no cell {cell} of slot {slot}")
        return self.check_open()

    cdef inline int64_t *c_cell(self, int64_t slot, Py_ssize_t cell) noexcept:
        return self.cells + FIRST_CELL + slot * CELLS + cell

    cdef inline int64_t c_held(self, int64_t slot) noexcept:
        return fr_sum_32(self.shares + slot * self.workers, self.workers)

    cdef int64_t c_seek(self, int64_t key) noexcept:
        """Return the slot of a subject, claimed if it has none yet and one is empty; else NOWHERE."""
        cdef int64_t attempt, slot, found
        cdef int64_t *cell
        for attempt in range(MAX_PROBES):
            slot = self.c_probe(key, attempt)
            cell = self.c_cell(slot, KEY)
            found = fr_load_key(cell)
            if found == 0:
                # Whoever else claims it meanwhile may be the same subject.
                found = key if fr_cas_key(cell, 0, key) else fr_load_key(cell)
            if found == key:
                return slot
        return NOWHERE

    cdef int64_t c_place(self, int64_t key, int64_t now_ns, int64_t day) except? -3:
        """Return the slot of a subject, if need be that of another of whom nothing is to be remembered."""
        cdef int64_t slot = self.c_seek(key)
        if slot < 0 and self.has_idle(key, now_ns, day):
            slot = self.replace(key, now_ns, day)
        if slot < 0:
            fr_add(self.cells + FIRST_WORD + LOST, 1)
        return slot

    cdef bint has_idle(self, int64_t key, int64_t now_ns, int64_t day) noexcept:
        cdef int64_t attempt
        for attempt in range(MAX_PROBES):
            if self.is_idle(self.c_probe(key, attempt), now_ns, day):
                return True
        return False

    cdef int64_t replace(self, int64_t key, int64_t now_ns, int64_t day) except? -3:
        """Give a subject the slot of an idle one; one process at a time, so that nobody gets two."""
        cdef int64_t attempt, slot
        with replacing(self.path) as alone:
            if not alone:
                return NOWHERE
            slot = self.c_seek(key)
            if slot >= 0:
                return slot
            for attempt in range(MAX_PROBES):
                slot = self.c_probe(key, attempt)
                if self.take_over(slot, key, now_ns, day):
                    return slot
        return NOWHERE

    cdef bint take_over(self, int64_t slot, int64_t key, int64_t now_ns, int64_t day) noexcept:
        """Give an idle slot to a subject. One that is NOBODY's has been left so by a process that died."""
        cdef int64_t *cell = self.c_cell(slot, KEY)
        cdef int64_t owner = fr_load_key(cell)
        if not self.is_idle(slot, now_ns, day) or (owner != NOBODY and not fr_cas_key(cell, owner, NOBODY)):
            return False
        if not self.is_idle(slot, now_ns, day):
            # Somebody had come before it was marked.
            fr_store_key(cell, owner)
            return False
        fr_store(self.c_cell(slot, REFUSED), 0)
        fr_store_key(cell, key)
        return True

    cdef inline bint use(self, int64_t slot, int64_t key) noexcept:
        """Be counted in a slot: nobody takes it over while that lasts. False: it is not the subject's, or no longer."""
        fr_add_users(self.c_cell(slot, USERS), 1)
        if fr_load_key(self.c_cell(slot, KEY)) == key:
            return True
        self.unuse(slot)
        return False

    cdef inline void unuse(self, int64_t slot) noexcept:
        fr_add_users(self.c_cell(slot, USERS), -1)

    cdef bint is_idle(self, int64_t slot, int64_t now_ns, int64_t day) noexcept:
        """Whether a slot says nothing that an empty one would not."""
        return (
            fr_load_key(self.c_cell(slot, USERS)) == 0
            and fr_load(self.c_cell(slot, REQUESTS)) <= now_ns
            and fr_load(self.c_cell(slot, TOKENS)) <= now_ns
            and c_count(fr_load(self.c_cell(slot, DAY_REQUESTS)), day) == 0
            and c_count(fr_load(self.c_cell(slot, DAY_TOKENS)), day) == 0
        )

    cdef inline int64_t c_probe(self, int64_t key, int64_t attempt) noexcept:
        return (key + attempt * (attempt + 1) // 2) & (self.slots - 1)


cdef class Ceilings:
    """Subjects that a request has to be let in by; see the pure half."""

    cdef readonly bint counts_tokens
    # There is one of these for every key: what is rarely asked for is put together when it is.
    cdef tuple names
    cdef Table table
    cdef Place *places
    cdef Py_ssize_t size

    def __cinit__(self, Table table not None, subjects):
        """Raises ValueError for too many subjects, or a ceiling out of bounds."""
        cdef Py_ssize_t at
        cdef Place *place
        cdef tuple some = checked(tuple(subjects))
        self.names = tuple([subject.name for subject in some])
        self.size = len(some)
        self.table = table
        self.places = <Place *>PyMem_Calloc(self.size if self.size else 1, sizeof(Place))
        if self.places == NULL:
            raise MemoryError
        for at in range(self.size):
            place = &self.places[at]
            name, place.rpm, place.tpm, place.concurrency, place.rpd, place.tpd = some[at]
            place.key = subject_key(name)
            place.slot = UNKNOWN
            if place.tpm or place.tpd:
                self.counts_tokens = True

    def __dealloc__(self):
        PyMem_Free(self.places)

    @property
    def subjects(self):
        """The subjects, in their order."""
        return tuple([self.c_subject(at) for at in range(self.size)])

    cdef object c_subject(self, Py_ssize_t at):
        cdef Place *place = &self.places[at]
        return Subject(self.names[at], place.rpm, place.tpm, place.concurrency, place.rpd, place.tpd)

    cdef int enter(self, int64_t now_ns, int64_t day) except -1:
        """Be counted in the slots of all subjects, found for those who have none or have it no longer."""
        cdef Py_ssize_t at
        cdef Place *place
        cdef int _meeting
        for at in range(self.size):
            place = &self.places[at]
            for _meeting in range(MAX_MEETINGS):
                if place.slot >= 0 and self.table.use(place.slot, place.key):
                    break
                # It may be given to another again before it is used.
                place.slot = self.table.c_place(place.key, now_ns, day)
                if place.slot < 0:
                    break
            else:
                place.slot = NOWHERE
        return 0

    cdef void leave(self, int bits) noexcept:
        """Be counted no longer in those slots. They may be others' from here on."""
        cdef Py_ssize_t at
        for at in range(self.size):
            if bits >> at & 1:
                self.table.unuse(self.places[at].slot)

    cdef int placed(self) noexcept:
        """Return which of the subjects have a slot, as bits."""
        cdef Py_ssize_t at
        cdef int bits = 0
        for at in range(self.size):
            if self.places[at].slot >= 0:
                bits |= 1 << at
        return bits


@cython.freelist(64)
@cython.final
cdef class Grant:
    """What one request holds until it is settled."""

    cdef Limiter limiter
    cdef Ceilings first
    cdef Ceilings second
    # Which of their subjects it is counted in: others may find a slot before it ends.
    cdef int at_first
    cdef int at_second
    cdef readonly int64_t tokens
    cdef int64_t day
    cdef readonly bint open

    def __init__(self):
        raise TypeError("grants are given by a Limiter")

    def settle(self, tokens):
        """End it, having used that many tokens; later calls do nothing."""
        cdef int64_t used = c_bounded(tokens)
        if not self.open:
            return
        self.open = False
        self.limiter.table.check_open()
        if self.first is not None:
            self.settle_at(self.first, self.at_first, used)
        if self.second is not None:
            self.settle_at(self.second, self.at_second, used)

    def withdraw(self):
        """End it as if it had never been given; later calls do nothing."""
        if not self.open:
            return
        self.open = False
        self.limiter.table.check_open()
        if self.first is not None:
            self.limiter.give_back(self.first, self.at_first, self.tokens, self.day)
            self.first.leave(self.at_first)
        if self.second is not None:
            self.limiter.give_back(self.second, self.at_second, self.tokens, self.day)
            self.second.leave(self.at_second)

    cdef void settle_at(self, Ceilings ceilings, int bits, int64_t used) noexcept:
        cdef Py_ssize_t at
        cdef Place *place
        cdef Limiter limiter = self.limiter
        cdef int64_t debited, change
        for at in range(ceilings.size):
            place = &ceilings.places[at]
            if not bits >> at & 1:
                continue
            if place.concurrency:
                limiter.share(place.slot, -1)
            if place.tpm:
                debited = self.tokens if self.tokens < place.tpm else place.tpm
                change = c_cost(used, place.tpm) - c_cost(debited, place.tpm)
                if change:
                    fr_add(limiter.table.c_cell(place.slot, TOKENS), change)
            if place.tpd:
                debited = self.tokens if self.tokens < place.tpd else place.tpd
                limiter.correct(place.slot, self.day, used - debited)
        # Last: from here on the slots may be others'.
        ceilings.leave(bits)


@cython.final
cdef class Limiter:
    """One worker's way to the table; see the pure half."""

    cdef readonly Table table
    cdef Py_ssize_t worker
    cdef readonly object refused
    cdef readonly int dimension
    cdef readonly int64_t wait_ns
    cdef readonly bint hopeless

    def __cinit__(self, Table table not None, Py_ssize_t worker):
        """Raises IndexError for a worker that the table does not have."""
        table.check_worker(worker)
        self.table = table
        self.worker = worker

    def admit(self, Ceilings first, Ceilings second, least, tokens, int64_t now_ns, int64_t wall_ns):
        """Let a request in by every ceiling of both, or by none: None, and the attributes say why."""
        cdef int64_t needed = c_bounded(least)
        cdef int64_t wanted = c_bounded(tokens)
        cdef int64_t day = wall_ns // DAY_NS
        cdef Grant grant
        cdef int _meeting
        self.table.check_open()
        if wanted < needed:
            wanted = needed
        for _meeting in range(MAX_MEETINGS):
            self.refused = None
            self.hopeless = False
            self.wait_ns = -1
            if first is not None:
                first.enter(now_ns, day)
            if second is not None:
                second.enter(now_ns, day)
            if first is not None:
                self.look(first, needed, wanted, now_ns, wall_ns)
            if second is not None:
                self.look(second, needed, wanted, now_ns, wall_ns)
            if self.refused is None and self.take_all(first, second, wanted, now_ns, day):
                grant = Grant.__new__(Grant)
                grant.limiter = self
                grant.first = first
                grant.second = second
                grant.at_first = first.placed() if first is not None else 0
                grant.at_second = second.placed() if second is not None else 0
                grant.tokens = wanted
                grant.day = day
                grant.open = True
                return grant
            if first is not None:
                first.leave(first.placed())
            if second is not None:
                second.leave(second.placed())
            if self.refused is not None:
                return None
        # Somebody else was faster each time: whatever it is that they meet at, it is next to full.
        self.refused = (first if first is not None and first.size else second).c_subject(0)
        self.dimension = PER_MINUTE_REQUESTS
        self.wait_ns = BUSY_WAIT_NS
        return None

    def estimate_ns(self, Ceilings ceilings not None, Py_ssize_t at, requests, tokens, int64_t now_ns,
                    int64_t wall_ns):
        """Return how long until one of the subjects lets in that many requests and tokens, one after the other."""
        cdef int64_t count = c_bounded(requests), wanted = c_bounded(tokens), day = wall_ns // DAY_NS
        cdef int64_t longest = 0
        cdef Place *place
        self.table.check_open()
        if at < 0 or at >= ceilings.size:
            raise IndexError(f"no subject {at}")
        place = &ceilings.places[at]
        ceilings.enter(now_ns, day)
        if place.slot >= 0:
            longest = self.ahead_ns(place, count, wanted, now_ns, wall_ns)
        ceilings.leave(ceilings.placed())
        return longest

    cdef int64_t ahead_ns(self, Place *place, int64_t count, int64_t wanted, int64_t now_ns, int64_t wall_ns) noexcept:
        cdef int64_t wait, longest = 0, day = wall_ns // DAY_NS
        if place.rpm:
            wait = c_ahead(fr_load(self.table.c_cell(place.slot, REQUESTS)), now_ns) - PERIOD_NS
            wait += c_cost(count, place.rpm)
            longest = wait if wait > longest else longest
        if place.tpm:
            wait = c_ahead(fr_load(self.table.c_cell(place.slot, TOKENS)), now_ns) - PERIOD_NS
            wait += c_cost(wanted, place.tpm)
            longest = wait if wait > longest else longest
        wait = 0
        if place.rpd and self.counted(place.slot, DAY_REQUESTS, day) + count > place.rpd:
            wait = DAY_NS - wall_ns % DAY_NS
        if place.tpd and self.counted(place.slot, DAY_TOKENS, day) + wanted > place.tpd:
            wait = DAY_NS - wall_ns % DAY_NS
        return wait if wait > longest else longest

    def fields(self, Ceilings ceilings not None, int64_t now_ns, int64_t wall_ns):
        """Return the header fields that tell a caller how much is left: of its ceilings, the nearest one each."""
        cdef Py_ssize_t at
        cdef Place *place
        cdef int64_t day = wall_ns // DAY_NS
        cdef int64_t left[2]
        cdef int64_t limit[2]
        cdef int64_t reset[2]
        limit[0] = limit[1] = 0
        left[0] = left[1] = reset[0] = reset[1] = 0
        self.table.check_open()
        ceilings.enter(now_ns, day)
        for at in range(ceilings.size):
            place = &ceilings.places[at]
            if place.slot < 0:
                continue
            if place.rpm:
                self.near_rate(place.slot, REQUESTS, place.rpm, now_ns, left, limit, reset)
            if place.rpd:
                self.near_quota(place.slot, DAY_REQUESTS, place.rpd, day, wall_ns, left, limit, reset)
            if place.tpm:
                self.near_rate(place.slot, TOKENS, place.tpm, now_ns, left + 1, limit + 1, reset + 1)
            if place.tpd:
                self.near_quota(place.slot, DAY_TOKENS, place.tpd, day, wall_ns, left + 1, limit + 1, reset + 1)
        ceilings.leave(ceilings.placed())
        found = []
        if limit[0]:
            found.append((LIMIT_REQUESTS, c_decimal(limit[0])))
            found.append((LEFT_REQUESTS, c_decimal(left[0])))
            found.append((RESET_REQUESTS, c_duration(reset[0])))
        if limit[1]:
            found.append((LIMIT_TOKENS, c_decimal(limit[1])))
            found.append((LEFT_TOKENS, c_decimal(left[1])))
            found.append((RESET_TOKENS, c_duration(reset[1])))
        return found

    def instead(self, list headers not None, Ceilings ceilings not None, int64_t now_ns, int64_t wall_ns):
        """Return an answer's fields with those of `fields` in place of what a provider says of its own limits."""
        kept = [pair for pair in headers if not c_is_providers(pair[0])]
        kept += self.fields(ceilings, now_ns, wall_ns)
        return kept

    # --- looking

    cdef int look(self, Ceilings ceilings, int64_t least, int64_t tokens, int64_t now_ns, int64_t wall_ns) except -1:
        """Note the ceiling that takes longest, if there is one without room."""
        cdef Py_ssize_t at
        cdef Place *place
        cdef int64_t day = wall_ns // DAY_NS
        cdef int64_t midnight = DAY_NS - wall_ns % DAY_NS
        cdef int64_t tat, cost, wanted
        for at in range(ceilings.size):
            place = &ceilings.places[at]
            if place.slot < 0:
                continue
            if place.rpm:
                tat = fr_load(self.table.c_cell(place.slot, REQUESTS))
                cost = c_cost(1, place.rpm)
                self.note(ceilings, at, PER_MINUTE_REQUESTS, c_ahead(tat, now_ns) + cost - PERIOD_NS)
            if place.tpm and tokens:
                if least > place.tpm:
                    self.note_hopeless(ceilings, at, PER_MINUTE_TOKENS, PERIOD_NS)
                tat = fr_load(self.table.c_cell(place.slot, TOKENS))
                cost = c_cost(tokens if tokens < place.tpm else place.tpm, place.tpm)
                self.note(ceilings, at, PER_MINUTE_TOKENS, c_ahead(tat, now_ns) + cost - PERIOD_NS)
            if place.concurrency and self.table.c_held(place.slot) >= place.concurrency:
                self.note(ceilings, at, CONCURRENCY, BUSY_WAIT_NS)
            if place.rpd and self.counted(place.slot, DAY_REQUESTS, day) + 1 > place.rpd:
                self.note(ceilings, at, PER_DAY_REQUESTS, midnight)
            if place.tpd and tokens:
                if least > place.tpd:
                    self.note_hopeless(ceilings, at, PER_DAY_TOKENS, DAY_NS)
                wanted = tokens if tokens < place.tpd else place.tpd
                if self.counted(place.slot, DAY_TOKENS, day) + wanted > place.tpd:
                    self.note(ceilings, at, PER_DAY_TOKENS, midnight)
        return 0

    cdef inline int note(self, Ceilings ceilings, Py_ssize_t at, int dimension, int64_t wait_ns) except -1:
        if wait_ns > 0:
            self.put_down(ceilings, at, dimension, wait_ns, False)
        return 0

    cdef int note_hopeless(self, Ceilings ceilings, Py_ssize_t at, int dimension, int64_t wait_ns) except -1:
        return self.put_down(ceilings, at, dimension, wait_ns, True)

    cdef int put_down(self, Ceilings ceilings, Py_ssize_t at, int dimension, int64_t wait_ns, bint hopeless) except -1:
        if self.refused is None:
            # Counted once, for the first that refuses.
            fr_add(self.table.c_cell(ceilings.places[at].slot, REFUSED), 1)
        if self.hopeless or (wait_ns <= self.wait_ns and not hopeless):
            return 0
        self.refused = ceilings.c_subject(at)
        self.dimension = dimension
        self.wait_ns = wait_ns
        self.hopeless = hopeless
        return 0

    cdef int64_t counted(self, int64_t slot, Py_ssize_t cell, int64_t day) noexcept:
        return c_count(fr_load(self.table.c_cell(slot, cell)), day)

    cdef void near_rate(self, int64_t slot, Py_ssize_t cell, int64_t rate, int64_t now_ns, int64_t *left,
                        int64_t *limit, int64_t *reset) noexcept:
        cdef int64_t ahead = c_ahead(fr_load(self.table.c_cell(slot, cell)), now_ns)
        cdef int64_t room = fr_room(PERIOD_NS - ahead, rate, PERIOD_NS) if ahead < PERIOD_NS else 0
        if not limit[0] or room < left[0]:
            left[0] = room
            limit[0] = rate
            reset[0] = ahead

    cdef void near_quota(self, int64_t slot, Py_ssize_t cell, int64_t quota, int64_t day, int64_t wall_ns,
                         int64_t *left, int64_t *limit, int64_t *reset) noexcept:
        cdef int64_t used = self.counted(slot, cell, day)
        cdef int64_t room = quota - used if used < quota else 0
        if not limit[0] or room < left[0]:
            left[0] = room
            limit[0] = quota
            reset[0] = DAY_NS - wall_ns % DAY_NS if used else 0

    # --- taking

    cdef bint take_all(self, Ceilings first, Ceilings second, int64_t tokens, int64_t now_ns, int64_t day) noexcept:
        """Take everything, or nothing if another worker has been faster somewhere."""
        if first is not None and not self.take(first, tokens, now_ns, day):
            return False
        if second is not None and not self.take(second, tokens, now_ns, day):
            if first is not None:
                self.give_back(first, first.placed(), tokens, day)
            return False
        return True

    cdef bint take(self, Ceilings ceilings, int64_t tokens, int64_t now_ns, int64_t day) noexcept:
        """Take from all subjects, or nothing."""
        cdef Py_ssize_t at
        for at in range(ceilings.size):
            if ceilings.places[at].slot >= 0 and not self.take_at(&ceilings.places[at], tokens, now_ns, day):
                self.give_back(ceilings, ceilings.placed() & ((1 << at) - 1), tokens, day)
                return False
        return True

    cdef void give_back(self, Ceilings ceilings, int bits, int64_t tokens, int64_t day) noexcept:
        cdef Py_ssize_t at
        for at in range(ceilings.size):
            if bits >> at & 1:
                self.return_at(&ceilings.places[at], tokens, day, PER_DAY_TOKENS + 1)

    cdef bint take_at(self, Place *place, int64_t tokens, int64_t now_ns, int64_t day) noexcept:
        """Take what one subject asks for; True, or what was taken has been given back."""
        cdef int done = PER_MINUTE_REQUESTS
        if place.rpm and not self.arrive(place.slot, REQUESTS, c_cost(1, place.rpm), now_ns):
            return False
        done = PER_MINUTE_TOKENS
        if place.tpm and not self.arrive(
            place.slot, TOKENS, c_cost(tokens if tokens < place.tpm else place.tpm, place.tpm), now_ns
        ):
            self.return_at(place, tokens, day, done)
            return False
        done = CONCURRENCY
        if place.concurrency and not self.claim(place.slot, place.concurrency):
            self.return_at(place, tokens, day, done)
            return False
        done = PER_DAY_REQUESTS
        if place.rpd and not self.count(place.slot, DAY_REQUESTS, day, 1, place.rpd):
            self.return_at(place, tokens, day, done)
            return False
        done = PER_DAY_TOKENS
        if place.tpd and tokens and not self.count(
            place.slot, DAY_TOKENS, day, tokens if tokens < place.tpd else place.tpd, place.tpd
        ):
            self.return_at(place, tokens, day, done)
            return False
        return True

    cdef void return_at(self, Place *place, int64_t tokens, int64_t day, int done) noexcept:
        """Give back what was taken by the dimensions before `done`."""
        if place.rpm and done > PER_MINUTE_REQUESTS:
            fr_add(self.table.c_cell(place.slot, REQUESTS), -c_cost(1, place.rpm))
        if place.tpm and done > PER_MINUTE_TOKENS:
            fr_add(
                self.table.c_cell(place.slot, TOKENS),
                -c_cost(tokens if tokens < place.tpm else place.tpm, place.tpm),
            )
        if place.concurrency and done > CONCURRENCY:
            self.share(place.slot, -1)
        if place.rpd and done > PER_DAY_REQUESTS:
            self.correct_cell(place.slot, DAY_REQUESTS, day, -1)
        if place.tpd and tokens and done > PER_DAY_TOKENS:
            self.correct(place.slot, day, -(tokens if tokens < place.tpd else place.tpd))

    cdef bint arrive(self, int64_t slot, Py_ssize_t cell, int64_t cost, int64_t now_ns) noexcept:
        cdef int64_t *at = self.table.c_cell(slot, cell)
        cdef int64_t old, new
        if not cost:
            return True
        while True:
            old = fr_load(at)
            new = now_ns + c_ahead(old, now_ns) + cost
            if new - now_ns > PERIOD_NS:
                return False
            if fr_cas(at, old, new):
                return True

    cdef bint count(self, int64_t slot, Py_ssize_t cell, int64_t day, int64_t change, int64_t most) noexcept:
        cdef int64_t *at = self.table.c_cell(slot, cell)
        cdef int64_t old, counted, stamped
        while True:
            old = fr_load(at)
            counted = c_count(old, day) + change
            if counted > most:
                return False
            stamped = old >> COUNT_BITS
            if stamped != day + 1:
                stamped = day
            if fr_cas(at, old, stamped << COUNT_BITS | (counted if counted < MAX_COUNT else MAX_COUNT)):
                return True

    cdef inline void correct(self, int64_t slot, int64_t day, int64_t change) noexcept:
        if change:
            self.correct_cell(slot, DAY_TOKENS, day, change)

    cdef void correct_cell(self, int64_t slot, Py_ssize_t cell, int64_t day, int64_t change) noexcept:
        """Put right what was counted on a day. Once that day is over there is nothing to put right."""
        cdef int64_t *at = self.table.c_cell(slot, cell)
        cdef int64_t old, counted
        while True:
            old = fr_load(at)
            if old >> COUNT_BITS != day:
                return
            counted = (old & MAX_COUNT) + change
            if counted < 0:
                counted = 0
            if counted > MAX_COUNT:
                counted = MAX_COUNT
            if fr_cas(at, old, day << COUNT_BITS | counted):
                return

    cdef inline void share(self, int64_t slot, int32_t change) noexcept:
        fr_add_32(self.table.shares + slot * self.table.workers + self.worker, change)

    cdef bint claim(self, int64_t slot, int64_t most) noexcept:
        """Announce a claim, then see whether it is one too many: then it is withdrawn.

        Two that meet at the last place may both withdraw; so whoever withdraws looks once more, and tries again if the
        place is still there. The last one to look sees none but those who stay.
        """
        cdef int _meeting
        for _meeting in range(MAX_MEETINGS):
            self.share(slot, 1)
            if self.table.c_held(slot) <= most:
                return True
            self.share(slot, -1)
            if self.table.c_held(slot) >= most:
                return False
        return False


cdef inline int64_t c_cost(int64_t count, int64_t limit) noexcept:
    return fr_cost_ns(count, limit, PERIOD_NS, MAX_DEBT_NS)


cdef inline int64_t c_ahead(int64_t tat, int64_t now_ns) noexcept:
    return tat - now_ns if tat > now_ns else 0


cdef inline int64_t c_count(int64_t word, int64_t day) noexcept:
    """Return what a day's cell counts: nothing if it is of a day that is over, or of one too far ahead."""
    cdef int64_t ahead = (word >> COUNT_BITS) - day
    return word & MAX_COUNT if ahead == 0 or ahead == 1 else 0


cdef inline int64_t c_bounded(object count) except? -1:
    cdef int64_t most = MAX_COUNT >> 4
    cdef int64_t value = count if count < most else most
    return value if value > 0 else 0


cdef bint c_begins(bytes name, bytes prefix) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    return PyBytes_GET_SIZE(name) >= size and memcmp(PyBytes_AS_STRING(name), PyBytes_AS_STRING(prefix), size) == 0


cdef bint c_is_providers(bytes name) noexcept:
    return c_begins(name, REQUESTS_PREFIX) or c_begins(name, ANTHROPIC_PREFIX) or c_begins(name, DRAFT_PREFIX)


cdef inline bytes c_decimal(int64_t value):
    cdef char text[48]
    cdef int length = fr_decimal(text, value)
    return PyBytes_FromStringAndSize(text, length)


cdef inline bytes c_duration(int64_t ns):
    cdef char text[48]
    cdef int length = fr_duration(text, ns)
    return PyBytes_FromStringAndSize(text, length)
