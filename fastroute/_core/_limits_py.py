"""Pure half of `limits`: the readable reference.

Rates are held by the generic cell rate algorithm (ATM Forum TM 4.0, section 4.4.2; as nginx and Envoy use it): a cell
holds the time at which the subject would have used up everything it may, were it to stop now. An arrival moves it on by
what it costs, and may not move it further ahead of now than one minute. So `rpm: 100` lets in exactly 100 at once, and
then one every 600 ms. What a request was thought to cost is put right when it ends, in either direction.

Exact within one process; several of them may let in too many, because Python cannot compare and swap shared memory.
"""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Self

from fastroute._core._limits_file import (
    BUSY_WAIT_NS,
    CELLS,
    CONCURRENCY,
    COUNT_BITS,
    DAY_NS,
    DAY_REQUESTS,
    DAY_TOKENS,
    FIELD_NAMES,
    HEADER_BYTES,
    KEY,
    LOST,
    MAX_COUNT,
    MAX_DEBT_NS,
    MAX_PROBES,
    PER_DAY_REQUESTS,
    PER_DAY_TOKENS,
    PER_MINUTE_REQUESTS,
    PER_MINUTE_TOKENS,
    PERIOD_NS,
    PROVIDER_FIELDS,
    REFUSED,
    REQUESTS,
    SLOT_BYTES,
    SLOTS,
    TOKENS,
    USERS,
    WORDS_OFFSET,
    Moment,
    Subject,
    checked,
    create_file,
    duration,
    open_file,
    probe,
    replacing,
    subject_key,
)

ATOMIC: Final = False

_FIRST_WORD: Final = WORDS_OFFSET // 8
_FIRST_CELL: Final = HEADER_BYTES // 8
_UNKNOWN: Final = -1
_NOWHERE: Final = -2

Header = tuple[bytes, bytes]


class Table:
    """The slots of all subjects. Make one with `create` or `open`. Use after `close` raises ValueError."""

    def __init__(self, path: str, workers: int, slots: int, mapping: mmap.mmap) -> None:
        self.path = path
        self.workers = workers
        self.slots = slots
        self._mapping = mapping
        view = memoryview(mapping)
        end = HEADER_BYTES + slots * SLOT_BYTES
        self._cells = view[:end].cast("q")
        self._shares = view[end:].cast("i")
        view.release()
        self._closed = False

    @classmethod
    def create(cls, path: str, workers: int, moment: Moment, slots: int = SLOTS) -> Self:
        """Make the file at `path`, carrying over from one that is there what still holds at that moment."""
        return cls(path, workers, slots, create_file(path, workers, slots, moment))

    @classmethod
    def open(cls, path: str) -> Self:
        """Map an existing file. LimitsFileError for one that is none, OSError if it cannot be read."""
        mapping, workers, slots = open_file(path)
        return cls(path, workers, slots, mapping)

    @property
    def lost(self) -> int:
        """How often a subject found no slot, and was let through without its ceilings."""
        self._check_open()
        return self._cells[_FIRST_WORD + LOST]

    def find(self, name: str) -> int:
        """Return the slot of a subject, claimed if it has none yet; -1 if there is none to be had."""
        slot = self._seek(subject_key(name))
        if slot < 0:
            self._cells[_FIRST_WORD + LOST] += 1
        return slot if slot >= 0 else -1

    def cell(self, slot: int, cell: int) -> int:
        """Return one cell of a slot."""
        return self._cells[self._at(slot, cell)]

    def set_cell(self, slot: int, cell: int, value: int) -> None:
        """Store one cell of a slot."""
        self._cells[self._at(slot, cell)] = value

    def held(self, slot: int) -> int:
        """Return how many requests of the subject are under way, over all workers."""
        self._at(slot, 0)
        return self._held(slot)

    def clear_worker(self, worker: int) -> None:
        """Give back what a worker whose process has died held of everybody's concurrency."""
        self._check_open()
        self._check_worker(worker)
        for at, held in enumerate(self._shares[worker :: self.workers].tolist()):
            if held:
                self._shares[at * self.workers + worker] = 0

    def close(self) -> None:
        """Let go of the mapping; a second call does nothing. The file stays."""
        if self._closed:
            return
        self._closed = True
        self._cells.release()
        self._shares.release()
        self._mapping.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("table is closed")

    def _check_worker(self, worker: int) -> None:
        if not 0 <= worker < self.workers:
            raise IndexError(f"worker {worker} is not in 0..{self.workers - 1}")

    def _at(self, slot: int, cell: int) -> int:
        if not 0 <= slot < self.slots or not 0 <= cell < CELLS:
            raise IndexError(f"no cell {cell} of slot {slot}")
        self._check_open()
        return _FIRST_CELL + slot * CELLS + cell

    def _seek(self, key: int) -> int:
        """Return the slot of a subject, claimed if it has none yet and one is empty; else _NOWHERE."""
        self._check_open()
        for attempt in range(MAX_PROBES):
            slot = probe(key, attempt, self.slots)
            at = _FIRST_CELL + slot * CELLS + KEY
            if self._cells[at] == 0:
                self._cells[at] = key
            if self._cells[at] == key:
                return slot
        return _NOWHERE

    def _place(self, key: int, now_ns: int, day: int) -> int:
        """Return the slot of a subject, if need be that of another of whom nothing is to be remembered."""
        slot = self._seek(key)
        if slot < 0 and any(self._is_idle(at, now_ns, day) for at in self._within_reach(key)):
            slot = self._replace(key, now_ns, day)
        if slot < 0:
            self._cells[_FIRST_WORD + LOST] += 1
        return slot

    def _replace(self, key: int, now_ns: int, day: int) -> int:
        """Give a subject the slot of an idle one; one process at a time, so that nobody gets two."""
        with replacing(self.path) as alone:
            if not alone:
                return _NOWHERE
            slot = self._seek(key)
            if slot >= 0:
                return slot
            for slot in self._within_reach(key):
                if self._is_idle(slot, now_ns, day):
                    first = _FIRST_CELL + slot * CELLS
                    self._cells[first + REFUSED] = 0
                    self._cells[first + KEY] = key
                    return slot
        return _NOWHERE

    def _use(self, slot: int, change: int) -> None:
        self._cells[_FIRST_CELL + slot * CELLS + USERS] += change

    def _within_reach(self, key: int) -> Iterator[int]:
        return (probe(key, attempt, self.slots) for attempt in range(MAX_PROBES))

    def _is_idle(self, slot: int, now_ns: int, day: int) -> bool:
        """Whether a slot says nothing that an empty one would not."""
        first = _FIRST_CELL + slot * CELLS
        return (
            self._cells[first + USERS] == 0
            and all(self._cells[first + cell] <= now_ns for cell in (REQUESTS, TOKENS))
            and all(counted(self._cells[first + cell], day)[1] == 0 for cell in (DAY_REQUESTS, DAY_TOKENS))
        )

    def _held(self, slot: int) -> int:
        return sum(self._shares[slot * self.workers : (slot + 1) * self.workers])


class Ceilings:
    """Subjects that a request has to be let in by, all of them; compiled once for a caller, model or provider key."""

    def __init__(self, table: Table, subjects: Iterable[Subject]) -> None:
        """Raises ValueError for too many subjects, or a ceiling out of bounds."""
        self.subjects = checked(tuple(subjects))
        self.counts_tokens = any(subject.tpm or subject.tpd for subject in self.subjects)
        self._table = table
        self._keys = [subject_key(subject.name) for subject in self.subjects]
        self._slots = [_UNKNOWN] * len(self.subjects)

    def _enter(self, now_ns: int, day: int) -> list[tuple[Subject, int]]:
        """Be counted in the slots of all subjects, found for those who have none or have it no longer; return them.

        Nobody else gets a slot while somebody is counted in it. A subject for which there is none is left out.
        """
        table = self._table
        found = []
        for at, subject in enumerate(self.subjects):
            slot = self._slots[at]
            if slot < 0 or table.cell(slot, KEY) != self._keys[at]:
                slot = self._slots[at] = table._place(self._keys[at], now_ns, day)
            if slot >= 0:
                table._use(slot, 1)
                found.append((subject, slot))
        return found

    def _leave(self, places: list[tuple[Subject, int]]) -> None:
        for _, slot in places:
            self._table._use(slot, -1)


class Grant:
    """What one request holds until it is settled."""

    def __init__(self, limiter: "Limiter", places: list[tuple[Subject, int]], tokens: int, day: int) -> None:
        self._limiter = limiter
        self._places = places
        self.tokens = tokens
        self._day = day
        self.open = True

    def settle(self, tokens: int) -> None:
        """End it, having used that many tokens; later calls do nothing."""
        if not self.open:
            return
        self.open = False
        tokens = _bounded(tokens)
        limiter = self._limiter
        limiter._table._check_open()
        for subject, slot in self._places:
            limiter._add(slot, USERS, -1)
            if subject.concurrency:
                limiter._share(slot, -1)
            if subject.tpm:
                debited = cost_ns(min(self.tokens, subject.tpm), subject.tpm)
                limiter._add(slot, TOKENS, cost_ns(tokens, subject.tpm) - debited)
            if subject.tpd:
                limiter._correct(slot, DAY_TOKENS, self._day, tokens - min(self.tokens, subject.tpd))

    def withdraw(self) -> None:
        """End it as if it had never been given; later calls do nothing."""
        if not self.open:
            return
        self.settle(0)
        for subject, slot in self._places:
            if subject.rpm:
                self._limiter._add(slot, REQUESTS, -cost_ns(1, subject.rpm))
            if subject.rpd:
                self._limiter._correct(slot, DAY_REQUESTS, self._day, -1)


class Limiter:
    """One worker's way to the table: lets requests in, or says why not.

    `refused`, `dimension`, `wait_ns` and `hopeless` tell of the last refusal: whose ceiling it was and which (the one
    that takes longest), how long until there is room, and whether the request would never fit.
    """

    def __init__(self, table: Table, worker: int) -> None:
        """Raises IndexError for a worker that the table does not have."""
        table._check_worker(worker)
        self._table = table
        self._worker = worker
        self.refused: Subject | None = None
        self.dimension = 0
        self.wait_ns = 0
        self.hopeless = False

    @property
    def table(self) -> Table:
        """The table it lets requests in by."""
        return self._table

    def admit(
        self, first: Ceilings | None, second: Ceilings | None, least: int, tokens: int, now_ns: int, wall_ns: int
    ) -> Grant | None:
        """Let a request in by every ceiling of both, or by none: None, and the attributes say why.

        tokens: what it is thought to use, debited now. least: what it has asked for and may well use, which must be
        within a ceiling; where only `tokens` is beyond it, a full bucket is enough.
        """
        self._table._check_open()
        least, tokens = _bounded(least), max(_bounded(tokens), _bounded(least))
        day = wall_ns // DAY_NS
        places = _entered(first, now_ns, day) + _entered(second, now_ns, day)
        if not self._peek(places, least, tokens, now_ns, wall_ns):
            for _, slot in places:
                self._table._use(slot, -1)
            return None
        for subject, slot in places:
            self._take(subject, slot, tokens, now_ns, day)
        return Grant(self, places, tokens, day)

    def estimate_ns(self, ceilings: Ceilings, at: int, requests: int, tokens: int, now_ns: int, wall_ns: int) -> int:
        """Return how long until one of the subjects lets in that many requests and tokens, one after the other.

        Nobody knows when a concurrent request ends: for that the answer is 0. IndexError: there is no such subject.
        """
        self._table._check_open()
        if not 0 <= at < len(ceilings.subjects):
            raise IndexError(f"no subject {at}")
        places = ceilings._enter(now_ns, wall_ns // DAY_NS)
        ceilings._leave(places)
        subject, slot = ceilings.subjects[at], ceilings._slots[at]
        requests, tokens = _bounded(requests), _bounded(tokens)
        longest = 0
        if slot < 0:
            return longest
        for limit, cell, count in ((subject.rpm, REQUESTS, requests), (subject.tpm, TOKENS, tokens)):
            if limit:
                ahead = max(0, self._cell(slot, cell) - now_ns) + cost_ns(count, limit)
                longest = max(longest, ahead - PERIOD_NS)
        for limit, cell, count in ((subject.rpd, DAY_REQUESTS, requests), (subject.tpd, DAY_TOKENS, tokens)):
            if limit and self._counted(slot, cell, wall_ns // DAY_NS)[1] + count > limit:
                longest = max(longest, DAY_NS - wall_ns % DAY_NS)
        return longest

    def fields(self, ceilings: Ceilings, now_ns: int, wall_ns: int) -> list[Header]:
        """Return the header fields that tell a caller how much is left: of its ceilings, the nearest one each."""
        self._table._check_open()
        day = wall_ns // DAY_NS
        places = ceilings._enter(now_ns, day)
        ceilings._leave(places)
        found: list[Header] = []
        for at, minute, daily in ((0, REQUESTS, DAY_REQUESTS), (3, TOKENS, DAY_TOKENS)):
            best: tuple[int, int, int] | None = None
            for subject, slot in places:
                rate, quota = (subject.rpm, subject.rpd) if at == 0 else (subject.tpm, subject.tpd)
                if rate:
                    ahead = max(0, self._cell(slot, minute) - now_ns)
                    best = _nearer(best, (max(0, PERIOD_NS - ahead) * rate // PERIOD_NS, rate, ahead))
                if quota:
                    used = self._counted(slot, daily, day)[1]
                    best = _nearer(best, (max(0, quota - used), quota, DAY_NS - wall_ns % DAY_NS if used else 0))
            if best is not None:
                left, limit, reset_ns = best
                values = (b"%d" % limit, b"%d" % left, duration(reset_ns).encode())
                found += zip(FIELD_NAMES[at : at + 3], values, strict=True)
        return found

    def instead(self, headers: list[Header], ceilings: Ceilings, now_ns: int, wall_ns: int) -> list[Header]:
        """Return an answer's fields with those of `fields` in place of what a provider says of its own limits."""
        kept = [pair for pair in headers if not pair[0].startswith(PROVIDER_FIELDS)]
        return kept + self.fields(ceilings, now_ns, wall_ns)

    # --- looking

    def _peek(self, places: Sequence[tuple[Subject, int]], least: int, tokens: int, now_ns: int, wall_ns: int) -> bool:
        """Whether there is room by every ceiling; notes the one that takes longest if there is not."""
        self.refused = None
        self.hopeless = False
        self.wait_ns = -1
        day = wall_ns // DAY_NS
        midnight = DAY_NS - wall_ns % DAY_NS
        for subject, slot in places:
            if subject.rpm:
                ahead = max(self._cell(slot, REQUESTS), now_ns) + cost_ns(1, subject.rpm) - now_ns
                self._note(subject, PER_MINUTE_REQUESTS, slot, ahead - PERIOD_NS)
            if subject.tpm and tokens:
                if least > subject.tpm:
                    self._note(subject, PER_MINUTE_TOKENS, slot, PERIOD_NS, hopeless=True)
                cost = cost_ns(min(tokens, subject.tpm), subject.tpm)
                ahead = max(self._cell(slot, TOKENS), now_ns) + cost - now_ns
                self._note(subject, PER_MINUTE_TOKENS, slot, ahead - PERIOD_NS)
            if subject.concurrency and self._table._held(slot) >= subject.concurrency:
                self._note(subject, CONCURRENCY, slot, BUSY_WAIT_NS)
            if subject.rpd and self._counted(slot, DAY_REQUESTS, day)[1] + 1 > subject.rpd:
                self._note(subject, PER_DAY_REQUESTS, slot, midnight)
            if subject.tpd and tokens:
                if least > subject.tpd:
                    self._note(subject, PER_DAY_TOKENS, slot, DAY_NS, hopeless=True)
                if self._counted(slot, DAY_TOKENS, day)[1] + min(tokens, subject.tpd) > subject.tpd:
                    self._note(subject, PER_DAY_TOKENS, slot, midnight)
        return self.refused is None

    def _note(self, subject: Subject, dimension: int, slot: int, wait_ns: int, *, hopeless: bool = False) -> None:
        if wait_ns <= 0:
            return
        if self.refused is None:
            # Counted once, for the first that refuses.
            self._add(slot, REFUSED, 1)
        if self.hopeless or (wait_ns <= self.wait_ns and not hopeless):
            return
        self.refused, self.dimension, self.wait_ns, self.hopeless = subject, dimension, wait_ns, hopeless

    def _cell(self, slot: int, cell: int) -> int:
        return self._table._cells[_FIRST_CELL + slot * CELLS + cell]

    def _counted(self, slot: int, cell: int, day: int) -> tuple[int, int]:
        return counted(self._cell(slot, cell), day)

    # --- taking

    def _take(self, subject: Subject, slot: int, tokens: int, now_ns: int, day: int) -> None:
        if subject.rpm:
            self._arrive(slot, REQUESTS, cost_ns(1, subject.rpm), now_ns)
        if subject.tpm:
            self._arrive(slot, TOKENS, cost_ns(min(tokens, subject.tpm), subject.tpm), now_ns)
        if subject.concurrency:
            self._share(slot, 1)
        if subject.rpd:
            self._count(slot, DAY_REQUESTS, day, 1)
        if subject.tpd and tokens:
            self._count(slot, DAY_TOKENS, day, min(tokens, subject.tpd))

    def _arrive(self, slot: int, cell: int, cost: int, now_ns: int) -> None:
        if cost:
            self._set(slot, cell, max(self._cell(slot, cell), now_ns) + cost)

    def _count(self, slot: int, cell: int, day: int, count: int) -> None:
        stamped, before = self._counted(slot, cell, day)
        self._set(slot, cell, stamped << COUNT_BITS | min(MAX_COUNT, before + count))

    def _correct(self, slot: int, cell: int, day: int, change: int) -> None:
        """Put right what was counted on a day. Once that day is over there is nothing to put right."""
        word = self._cell(slot, cell)
        if word >> COUNT_BITS == day:
            self._set(slot, cell, day << COUNT_BITS | min(MAX_COUNT, max(0, (word & MAX_COUNT) + change)))

    def _set(self, slot: int, cell: int, value: int) -> None:
        self._table._cells[_FIRST_CELL + slot * CELLS + cell] = value

    def _add(self, slot: int, cell: int, change: int) -> None:
        self._set(slot, cell, self._cell(slot, cell) + change)

    def _share(self, slot: int, change: int) -> None:
        self._table._shares[slot * self._table.workers + self._worker] += change


def counted(word: int, day: int) -> tuple[int, int]:
    """Return (day, count) that a day's cell says: one of a day that is over counts nothing.

    One of tomorrow stands, for another worker has looked at its clock later. One of a day further ahead is due to
    a clock that was wrong, and counts nothing either.
    """
    stamped = word >> COUNT_BITS
    return (stamped, word & MAX_COUNT) if 0 <= stamped - day <= 1 else (day, 0)


def cost_ns(count: int, limit: int) -> int:
    """Return how far an arrival that counts for `count` moves a cell on, when `limit` may come in a minute.

    Rounded down, so that `limit` of them fit into the minute; at least 1 ns for what is not nothing; at most a day.
    """
    if count <= 0:
        return 0
    return min(MAX_DEBT_NS, max(1, count * PERIOD_NS // limit))


def _entered(ceilings: Ceilings | None, now_ns: int, day: int) -> list[tuple[Subject, int]]:
    return ceilings._enter(now_ns, day) if ceilings is not None else []


def _bounded(count: int) -> int:
    return min(MAX_COUNT >> 4, max(0, count))


def _nearer(best: tuple[int, int, int] | None, other: tuple[int, int, int]) -> tuple[int, int, int]:
    return other if best is None or other[0] < best[0] else best
