"""Conditions of routing rules, taken apart: what each looks at, which values hold, and how to tell for the others.

A condition is a conjunction of atoms. Those that compare one thing with given values can be indexed by value; all of
them can also be asked one by one, through `Atom.holds`.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from fastroute.config.patterns import any_matches, is_pattern
from fastroute.config.schema import When
from fastroute.interfaces import Header

LEVELS: Final = ("low", "normal", "high", "critical")
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

NANOSECONDS_PER_MINUTE: Final = 60_000_000_000
MINUTES_PER_DAY: Final = 1440

# What an atom looks at; a header's atom has HEADER followed by the field's name.
MODEL: Final = "model"
TENANT: Final = "tenant"
KEY: Final = "key"
REGION: Final = "region"
TAGS: Final = "tags"
PRIORITY: Final = "priority"
STREAM: Final = "stream"
WINDOW: Final = "window"
HEADER: Final = "header:"
#: Looks at more than one thing, or compares by size.
OTHER: Final = ""


class Facts:
    """What rules may look at in one request.

    model: the route the request goes to; called: the model as the client named it. region: "" for none. priority: one
    of LEVELS. headers: pairs as they were received, names in lower case; read only if some rule asks. wall_ns: Unix
    time in nanoseconds.
    """

    __slots__ = (
        "called",
        "headers",
        "key_id",
        "model",
        "priority",
        "prompt_tokens",
        "region",
        "stream",
        "tags",
        "tenant",
        "wall_ns",
    )

    def __init__(self) -> None:
        self.model = ""
        self.called = ""
        self.tenant = ""
        self.key_id = ""
        self.region = ""
        self.priority = "normal"
        self.tags: frozenset[str] = frozenset()
        self.stream = False
        self.prompt_tokens = 0
        self.headers: Iterable[Header] = ()
        self.wall_ns = 0

    def changed(self, priority: str, tags: frozenset[str]) -> "Facts":
        """Return the same facts with another priority and other tags."""
        facts = Facts()
        for name in Facts.__slots__:
            setattr(facts, name, getattr(self, name))
        facts.priority = priority
        facts.tags = tags
        return facts


Predicate = Callable[[Facts], bool]


class Atom(NamedTuple):
    """One matcher. field: what it looks at; values: those that hold; globs: patterns of further ones that hold."""

    field: str
    values: frozenset[object]
    globs: tuple[str, ...]
    holds: Predicate


class Windows:
    """Times of the day and week, each distinct one worked out once a minute for as many rules as use it.

    open: by number of the window, whether it holds at the minute of the last `refresh`.
    """

    def __init__(self) -> None:
        self.open: list[bool] = []
        self._numbers: dict[tuple[int, int, frozenset[int], str], int] = {}
        self._zones: dict[str, tzinfo] = {}

    def add(self, hours: str | None, days: Iterable[str] | None, zone: str | None) -> int:
        """Return the number of a window. Raises ValueError or ZoneInfoNotFoundError for what no check lets through."""
        start, end = _minutes(hours) if hours is not None else (0, 0)
        wanted = frozenset(map(WEEKDAYS.index, days)) if days is not None else frozenset(range(7))
        name = zone or "UTC"
        # Not by ZoneInfo: UTC must work on a machine without a time zone database.
        self._zones.setdefault(name, UTC if name == "UTC" else ZoneInfo(name))
        number = self._numbers.setdefault((start, end, wanted, name), len(self.open))
        if number == len(self.open):
            self.open.append(False)
        return number

    def refresh(self, minute: int) -> None:
        """Work all windows out for the minute that begins `minute` minutes after the Unix epoch."""
        moments = {name: datetime.fromtimestamp(minute * 60, zone) for name, zone in self._zones.items()}
        local = {name: (moment.weekday(), moment.hour * 60 + moment.minute) for name, moment in moments.items()}
        for (start, end, days, name), number in self._numbers.items():
            weekday, now = local[name]
            self.open[number] = weekday in days and _within(start, end, now)


def _minutes(hours: str) -> tuple[int, int]:
    start, end = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))
    return start, end


def _within(start: int, end: int, now: int) -> bool:
    """Whether a minute of the day is in [start, end), which may pass midnight; equal ends hold always."""
    if start < end:
        return start <= now < end
    return start == end or now >= start or now < end


def atoms(when: When, windows: Windows) -> Iterator[Atom]:
    """Yield the atoms of a condition, those of its `all` included. Their windows are added to `windows`."""
    yield from _named_atoms(when)
    if when.header is not None:
        yield from (_header_atom(name.lower(), values) for name, values in when.header.items())
    if when.hours is not None or when.days is not None:
        number = windows.add(when.hours, when.days, when.tz)
        open_windows = windows.open
        yield Atom(WINDOW, frozenset({number}), (), lambda facts: open_windows[number])
    if when.min_prompt_tokens is not None or when.max_prompt_tokens is not None:
        yield _size_atom(when.min_prompt_tokens, when.max_prompt_tokens)
    for part in when.all or ():
        yield from atoms(part, windows)
    if when.any is not None:
        yield _any_atom([predicate(part, windows) for part in when.any])
    if when.not_ is not None:
        denied = predicate(when.not_, windows)
        yield Atom(OTHER, frozenset(), (), lambda facts: not denied(facts))


def predicate(when: When, windows: Windows) -> Predicate:
    """Return a condition as one function, which holds if all of its atoms do."""
    checks = tuple(atom.holds for atom in atoms(when, windows))
    return checks[0] if len(checks) == 1 else lambda facts: holds_all(checks, facts)


def holds_all(checks: tuple[Predicate, ...], facts: Facts) -> bool:
    """Return whether every check holds."""
    for check in checks:  # noqa: SIM110 - all() over a generator takes twice as long
        if not check(facts):
            return False
    return True


def _named_atoms(when: When) -> Iterator[Atom]:
    if when.model is not None:
        yield _model_atom(when.model)
    if when.tenant is not None:
        tenants = frozenset(when.tenant)
        yield Atom(TENANT, tenants, (), lambda facts: facts.tenant in tenants)
    if when.key is not None:
        keys = frozenset(when.key)
        yield Atom(KEY, keys, (), lambda facts: facts.key_id in keys)
    if when.region is not None:
        regions = frozenset(when.region)
        yield Atom(REGION, regions, (), lambda facts: facts.region in regions)
    if when.tags is not None:
        tags = frozenset(when.tags)
        yield Atom(TAGS, tags, (), lambda facts: not tags.isdisjoint(facts.tags))
    if when.priority is not None or when.min_priority is not None:
        least = LEVELS.index(when.min_priority) if when.min_priority is not None else 0
        levels = frozenset(LEVELS[least:]) & frozenset(when.priority or LEVELS)
        yield Atom(PRIORITY, levels, (), lambda facts: facts.priority in levels)
    if when.stream is not None:
        stream = when.stream
        yield Atom(STREAM, frozenset({stream}), (), lambda facts: facts.stream == stream)


def _model_atom(names: Iterable[str]) -> Atom:
    exact = frozenset(name for name in names if not is_pattern(name))
    globs = tuple(name for name in names if is_pattern(name))

    def holds(facts: Facts) -> bool:
        if facts.model in exact or facts.called in exact or any_matches(globs, facts.model):
            return True
        return facts.called != facts.model and any_matches(globs, facts.called)

    return Atom(MODEL, exact, globs, holds)


def _header_atom(name: str, wanted: Iterable[str]) -> Atom:
    """Return the atom of one field, which holds if any of the lines of that name does. Values count as a whole."""
    field = name.encode()
    exact = frozenset(value.encode() for value in wanted if not is_pattern(value))
    globs = tuple(value for value in wanted if is_pattern(value))

    def holds(facts: Facts) -> bool:
        for key, value in facts.headers:
            if key == field and (value in exact or any_matches(globs, value.decode("latin-1"))):
                return True
        return False

    return Atom(HEADER + name, exact, globs, holds)


def _size_atom(least: int | None, most: int | None) -> Atom:
    low, high = least or 0, most

    def holds(facts: Facts) -> bool:
        return low <= facts.prompt_tokens and (high is None or facts.prompt_tokens <= high)

    return Atom(OTHER, frozenset(), (), holds)


def _any_atom(checks: list[Predicate]) -> Atom:
    def holds(facts: Facts) -> bool:
        for check in checks:  # noqa: SIM110 - any() over a generator takes twice as long
            if check(facts):
                return True
        return False

    return Atom(OTHER, frozenset(), (), holds)
