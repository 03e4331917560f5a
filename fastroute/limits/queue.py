"""Where requests wait that are over a ceiling: by priority, fair between tenants, and none that would wait in vain.

Also who has been let in by all ceilings of its own, and finds that no endpoint has room for it.

Higher priorities go first. Within one, tenants take turns by deficit round robin (Shreedhar and Varghese, 1996),
counted in estimated tokens: many small requests of one get as much as a few large ones of another. A tenant's requests
are let in in the order they came, for each pair of caller and model.

When a ceiling refuses the first in line, everybody behind who has to be let in by the same ceiling waits with it: a
large request is not overtaken for ever by small ones. Who has to do with other ceilings only is not held up.
"""

from collections import OrderedDict
from typing import Any, Final

from fastroute._core.limits import Ceilings, Grant, Limiter, Subject

LEVELS: Final = ("low", "normal", "high", "critical")
#: What a tenant may spend when it is its turn.
QUANTUM_TOKENS: Final = 4096
#: A request counts for no more, so that everybody's turn comes after a bounded number of rounds.
MAX_CHARGE: Final = 64 * QUANTUM_TOKENS
#: The subject whose concurrency is the number of requests that wait, over all workers.
SUBJECT: Final = "queue"
#: Other workers do not say when they give concurrency back: how often to look.
POLL_NS: Final = 20_000_000

#: Of so many subjects it is remembered how fast places become free.
MAX_PACES: Final = 1024
#: What was seen longer ago says nothing any more.
STALE_NS: Final = 30_000_000_000

_CONCURRENCY: Final = 2
#: How far one place that becomes free moves the estimate.
_SMOOTHING: Final = 0.25
Names = tuple[str, ...]


class Waiting:
    """A request in the queue. level: 0 (low) to 3. The tokens are those that it is to be let in with."""

    __slots__ = ("caller", "deadline_ns", "least", "level", "model", "names", "place", "tenant", "tokens")

    def __init__(
        self,
        tenant: str,
        level: int,
        caller: Ceilings | None,
        model: Ceilings | None,
        least: int,
        tokens: int,
        deadline_ns: int,
    ) -> None:
        self.tenant = tenant
        self.level = level
        self.caller = caller
        self.model = model
        self.least = least
        self.tokens = tokens
        self.deadline_ns = deadline_ns
        self.names = subject_names(caller, model)
        #: What it holds of the queue's capacity.
        self.place: Grant | None = None

    @property
    def queued(self) -> bool:
        """Whether it is in the queue."""
        return self.place is not None

    @property
    def charge(self) -> int:
        """What it counts for in its tenant's turn."""
        return min(MAX_CHARGE, max(1, self.tokens))

    @property
    def paced(self) -> Names:
        """The subjects of which it is to be remembered how fast places become free."""
        both = (self.caller, self.model)
        return tuple(one.name for each in both if each is not None for one in each.subjects if one.concurrency)

    def admit(self, limiter: Limiter, now_ns: int, wall_ns: int) -> Any:
        """Return what it is let in with, None if there is no room."""
        return limiter.admit(self.caller, self.model, self.least, self.tokens, now_ns, wall_ns)

    def obstacle(self, limiter: Limiter) -> tuple[str, int]:
        """Return what has just had no room for it, and in how many nanoseconds to look again."""
        name = limiter.refused.name if limiter.refused is not None else ""
        return name, POLL_NS if limiter.dimension == _CONCURRENCY else limiter.wait_ns

    def let_in(self, grant: Any) -> None:
        """Go on with what `admit` has returned; the queue has forgotten it."""
        raise NotImplementedError

    def turn_away(self) -> None:
        """Make room for one of higher priority; the queue has forgotten it."""
        raise NotImplementedError


class _Line:
    """One tenant's requests of one level. deficit: tokens left of its turn; `in_turn`: its turn has begun."""

    __slots__ = ("deficit", "in_turn", "lanes")

    def __init__(self) -> None:
        self.lanes: OrderedDict[Names, OrderedDict[Waiting, None]] = OrderedDict()
        self.deficit = 0
        self.in_turn = False


class _Level:
    """The requests of one priority. `order`: all of them as they came; `ahead`: (requests, tokens) by subject."""

    __slots__ = ("ahead", "order", "ring")

    def __init__(self) -> None:
        self.ring: OrderedDict[str, _Line] = OrderedDict()
        self.order: OrderedDict[Waiting, None] = OrderedDict()
        self.ahead: dict[str, tuple[int, int]] = {}

    def add(self, waiting: Waiting) -> None:
        line = self.ring.setdefault(waiting.tenant, _Line())
        line.lanes.setdefault(waiting.names, OrderedDict())[waiting] = None
        self.order[waiting] = None
        self._count(waiting, 1)

    def remove(self, waiting: Waiting) -> None:
        line = self.ring[waiting.tenant]
        lane = line.lanes[waiting.names]
        del lane[waiting]
        if not lane:
            del line.lanes[waiting.names]
        if not line.lanes:
            # What is left of a turn is not saved up.
            del self.ring[waiting.tenant]
        del self.order[waiting]
        self._count(waiting, -1)

    def _count(self, waiting: Waiting, sign: int) -> None:
        for name in waiting.names:
            requests, tokens = self.ahead.get(name, (0, 0))
            requests += sign
            if requests:
                self.ahead[name] = requests, tokens + sign * waiting.tokens
            else:
                del self.ahead[name]


class _Pace:
    """How fast places of a subject's concurrency come to this queue. last_ns: when one did, 0 if none waited since."""

    __slots__ = ("interval_ns", "last_ns", "seen_ns")

    def __init__(self) -> None:
        self.interval_ns = 0.0
        self.last_ns = 0
        self.seen_ns = 0

    def note(self, now_ns: int, *, more_wait: bool) -> None:
        """Note that somebody who waited has got a place."""
        if self.last_ns:
            sample = now_ns - self.last_ns
            step = _SMOOTHING * (sample - self.interval_ns) if self.interval_ns else sample
            self.interval_ns += step
            self.seen_ns = now_ns
        self.last_ns = now_ns if more_wait else 0

    def estimate_ns(self, requests: int, now_ns: int) -> int:
        """Return how long until so many have got one; 0 while that is not known."""
        return int(requests * self.interval_ns) if now_ns - self.seen_ns < STALE_NS else 0


class FairQueue:
    """One worker's queue. It knows no clock and wakes nobody: see `pump`."""

    def __init__(self, limiter: Limiter, capacity: int) -> None:
        """capacity: how many requests may wait in the queues of all workers together."""
        self._limiter = limiter
        self.resize(capacity)
        self._levels = [_Level() for _ in LEVELS]
        self._size = 0
        self._paces: OrderedDict[str, _Pace] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def resize(self, capacity: int) -> None:
        """Change the capacity; 0 for no queue. Who waits already goes on waiting."""
        self.capacity = capacity
        self._places = Ceilings(self._limiter.table, [Subject(SUBJECT, concurrency=capacity)])

    def is_ahead(self, level: int, names: Names) -> bool:
        """Whether somebody waits whom a request of that level, for any of these, must not overtake."""
        return any(name in one.ahead for one in self._levels[level:] for name in names)

    def estimate_ns(self, waiting: Waiting, now_ns: int, wall_ns: int) -> int:
        """Return how long it will take to let in all before a request, and then itself.

        Of a rate that is known; of concurrency it is guessed by how fast those who waited have got places of late, and
        0 while nobody has.
        """
        longest = 0
        for ceilings in (waiting.caller, waiting.model):
            if ceilings is None:
                continue
            for at, subject in enumerate(ceilings.subjects):
                counts = [one.ahead.get(subject.name, (0, 0)) for one in self._levels[waiting.level :]]
                requests = 1 + sum(count for count, _ in counts)
                tokens = waiting.tokens + sum(count for _, count in counts)
                wait_ns = self._limiter.estimate_ns(ceilings, at, requests, tokens, now_ns, wall_ns)
                longest = max(longest, wait_ns)
        for name in waiting.paced:
            before = sum(one.ahead.get(name, (0, 0))[0] for one in self._levels[waiting.level :])
            pace = self._paces.get(name) if before else None
            if pace is not None:
                longest = max(longest, pace.estimate_ns(before + 1, now_ns))
        return longest

    def join(self, waiting: Waiting) -> bool:
        """Put a request in; False if the queue is full and nobody of lower priority waits in this worker."""
        if not self.capacity:
            return False
        waiting.place = self._take_place()
        if waiting.place is None and self._make_room(waiting.level):
            waiting.place = self._take_place()
        if waiting.place is None:
            return False
        for name in waiting.names:
            pace = self._paces.get(name)
            if pace is not None and not self._waited_for(name):
                # Nobody has waited for it: the time since the last one says nothing.
                pace.last_ns = 0
        self._levels[waiting.level].add(waiting)
        self._size += 1
        return True

    def _waited_for(self, name: str) -> bool:
        return any(name in level.ahead for level in self._levels)

    def _take_place(self) -> Grant | None:
        return self._limiter.admit(self._places, None, 0, 0, 0, 0)

    def leave(self, waiting: Waiting) -> None:
        """Take a request out, if it is still in."""
        if waiting.place is not None:
            waiting.place.settle(0)
            waiting.place = None
            self._size -= 1
            self._levels[waiting.level].remove(waiting)

    def pump(self, now_ns: int, wall_ns: int) -> int:
        """Let in whoever can be; return in how many nanoseconds to look again, -1 if nobody is left."""
        if not self._size:
            return -1
        pass_ = _Pass(now_ns, wall_ns)
        for level in reversed(self._levels):
            if level.ring:
                self._serve_level(level, pass_)
        return pass_.again_ns if self._size else -1

    def _make_room(self, level: int) -> bool:
        """Turn away the youngest of the lowest priority below `level`."""
        for lower in self._levels[:level]:
            if lower.order:
                youngest = next(reversed(lower.order))
                self.leave(youngest)
                youngest.turn_away()
                return True
        return False

    def _serve_level(self, level: _Level, pass_: "_Pass") -> None:
        """Give each tenant its turn until all that are left have to wait for a ceiling."""
        turns = list(level.ring)
        while turns:
            poor: list[str] = []
            for tenant in turns:
                line = level.ring[tenant]
                if not line.in_turn:
                    line.in_turn = True
                    line.deficit += QUANTUM_TOKENS
                if self._serve_line(line, pass_) and tenant in level.ring:
                    line.in_turn = False
                    level.ring.move_to_end(tenant)
                    poor.append(tenant)
            turns = poor

    def _serve_line(self, line: _Line, pass_: "_Pass") -> bool:
        """Let in a tenant's requests while its turn lasts; whether it needs another turn to go on.

        A tenant whose requests wait for ceilings keeps its place and what is left of its turn.
        """
        while True:
            needs_turn = False
            for names in list(line.lanes):
                if not pass_.blocked.isdisjoint(names):
                    continue
                waiting = next(iter(line.lanes[names]))
                if waiting.charge > line.deficit:
                    needs_turn = True
                    continue
                if self._try(waiting, line, pass_):
                    if names in line.lanes:
                        line.lanes.move_to_end(names)
                    break
            else:
                return needs_turn
            if not line.lanes:
                return False

    def _try(self, waiting: Waiting, line: _Line, pass_: "_Pass") -> bool:
        grant = waiting.admit(self._limiter, pass_.now_ns, pass_.wall_ns)
        if grant is None:
            pass_.refused(*waiting.obstacle(self._limiter))
            return False
        line.deficit -= waiting.charge
        self.leave(waiting)
        for name in waiting.paced:
            self._pace(name).note(pass_.now_ns, more_wait=self._waited_for(name))
        waiting.let_in(grant)
        return True

    def _pace(self, name: str) -> _Pace:
        pace = self._paces.get(name)
        if pace is None:
            if len(self._paces) >= MAX_PACES:
                self._paces.popitem(last=False)
            pace = self._paces[name] = _Pace()
        return pace


class _Pass:
    """What one look through the queue has found. blocked: subjects that have no room."""

    __slots__ = ("again_ns", "blocked", "now_ns", "wall_ns")

    def __init__(self, now_ns: int, wall_ns: int) -> None:
        self.now_ns = now_ns
        self.wall_ns = wall_ns
        self.blocked: set[str] = set()
        self.again_ns = POLL_NS * 50

    def refused(self, name: str, wait_ns: int) -> None:
        """Note what had no room, and when to look again."""
        if name:
            self.blocked.add(name)
        self.again_ns = max(1, min(self.again_ns, wait_ns))


def subject_names(caller: Ceilings | None, model: Ceilings | None) -> Names:
    """Return the names of all subjects that a request has to be let in by."""
    names = tuple(subject.name for subject in caller.subjects) if caller is not None else ()
    return names + tuple(subject.name for subject in model.subjects) if model is not None else names
