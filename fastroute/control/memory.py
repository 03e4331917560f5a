"""What the segment's cells hold that is worth knowing after a restart: saved by the control plane every few seconds and
at its end, put back by the supervisor before the first worker starts.

Endpoints and keys are known by their names, cells by theirs, so that the configuration and the layout may change in
between. Times in cells are of the monotonic clock, which a restart of the host sets back: in the file they are Unix
time. A file that is damaged is reported and ignored.
"""

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from fastroute._core._adaptive_rules import MAX_LIMIT, bits_float, unpack_word
from fastroute._core.counters import (
    ADAPTIVE,
    COOLDOWN_UNTIL_MS,
    FAILURES,
    KEY_FAILURES_BASE,
    KEY_REQUESTS_BASE,
    KEY_SINCE_MS,
    KEY_STATE,
    KEY_USED_AT_MS,
    LAST_USED_MS,
    MODEL_SINCE_MS,
    MODEL_STATE,
    PACE,
    QUOTA_REQUESTS,
    QUOTA_REQUESTS_TIMES,
    QUOTA_TOKENS,
    QUOTA_TOKENS_TIMES,
    REQUESTS,
    Segment,
)
from fastroute.clock import Clock
from fastroute.rows import Identity

MEMORY_FILE: Final = "learnt.json"
SAVE_INTERVAL_S: Final = 5.0
VERSION: Final = 1
#: A file of more is not read.
MAX_BYTES: Final = 256 << 20
#: No time lies further ahead than this: one that does was saved by a clock that was wrong.
MAX_AHEAD_MS: Final = 32 * 86_400_000
_DAY_MS: Final = 86_400_000

log = logging.getLogger("fastroute")


class Time(NamedTuple):
    """A time within a cell: monotonic milliseconds in `bits` from bit `shift` on. 0 is no time, all ones is never."""

    shift: int = 0
    bits: int = 63


def _is_count(value: int) -> bool:
    return value >= 0


def _is_word(value: int) -> bool:
    word = unpack_word(value)
    return word.state <= 2 and 0.0 <= word.limit <= MAX_LIMIT


def _is_pace(value: int) -> bool:
    return value >= 0 and math.isfinite(bits_float(value >> 32))


class Kept(NamedTuple):
    """One cell that is kept. time: the one that is in it. late_ms: so long after that time the cell is still of use.

    column: what the workers count there is added to the cell when it is saved. is_sound: whether it may hold a number,
    its time left out.
    """

    name: str
    cell: int
    time: Time | None = None
    late_ms: int = 0
    column: int | None = None
    is_sound: Callable[[int], bool] = _is_count


#: Of the row of an endpoint. A new name for a cell whose meaning changes.
OF_ENDPOINTS: Final = (
    # How long ago it ended decides when a limit is forgotten.
    Kept("cooldown_until", COOLDOWN_UNTIL_MS, Time(), late_ms=_DAY_MS),
    Kept("adaptive", ADAPTIVE, is_sound=_is_word),
    Kept("pace", PACE, is_sound=_is_pace),
    Kept("quota_requests", QUOTA_REQUESTS),
    Kept("quota_requests_times", QUOTA_REQUESTS_TIMES, Time(24, 39)),
    Kept("quota_tokens", QUOTA_TOKENS),
    Kept("quota_tokens_times", QUOTA_TOKENS_TIMES, Time(24, 39)),
    # A key that is out stays out until it has been tried.
    Kept("key_state", KEY_STATE, Time(24, 39), late_ms=365 * _DAY_MS),
    Kept("key_since", KEY_SINCE_MS, Time(), late_ms=365 * _DAY_MS),
    Kept("model_state", MODEL_STATE, Time(24, 39), late_ms=365 * _DAY_MS),
    Kept("model_since", MODEL_SINCE_MS, Time(), late_ms=365 * _DAY_MS),
)
#: Of the row of a key, where it has one of its own (its identity names no model).
OF_KEYS: Final = (
    Kept("last_used", LAST_USED_MS, Time(20, 43), late_ms=_DAY_MS),
    Kept("used_at", KEY_USED_AT_MS),
    Kept("requests", KEY_REQUESTS_BASE, column=REQUESTS),
    Kept("failures", KEY_FAILURES_BASE, column=FAILURES),
)


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of one endpoint or key. cells: by name, [what is in it besides its time, that time or null]."""

    provider: str
    key: str
    model: str
    dialect: str
    cells: dict[str, tuple[int, int | None]]


class Memory(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds. saved_ms: Unix time."""

    version: int
    saved_ms: int
    rows: list[Row]


class Moment(NamedTuple):
    """One moment by both clocks, in milliseconds."""

    monotonic_ms: int
    wall_ms: int


def moment(clock: Clock) -> Moment:
    """Return what both clocks say."""
    return Moment(clock.monotonic_ns() // 1_000_000, clock.wall_ns() // 1_000_000)


def remember(segment: Segment, rows: Mapping[Identity, int], now: Moment) -> Memory:
    """Return what is worth keeping of these rows; those of which nothing is known are left out."""
    found = []
    for identity, row in rows.items():
        cells = {}
        for kept in _kept(identity):
            value = segment.cell(row, kept.cell)
            if kept.column is not None:
                value += segment.total(row, kept.column)
            if value:
                cells[kept.name] = _to_file(kept, value, now)
        if cells:
            found.append(Row(*identity, cells))
    return Memory(VERSION, now.wall_ms, found)


def recall(segment: Segment, rows: Mapping[Identity, int], memory: Memory, now: Moment) -> int:
    """Put what was saved into the cells of the rows that there still are; return how many that were."""
    count = 0
    for saved in memory.rows:
        identity = (saved.provider, saved.key, saved.model, saved.dialect)
        row = rows.get(identity)
        if row is None:
            continue
        count += 1
        for kept in _kept(identity):
            value = _from_file(kept, saved.cells.get(kept.name), now)
            if value is not None:
                segment.set_cell(row, kept.cell, value)
    return count


def _kept(identity: Identity) -> tuple[Kept, ...]:
    return OF_ENDPOINTS if identity[2] else OF_KEYS


def _to_file(kept: Kept, value: int, now: Moment) -> tuple[int, int | None]:
    if kept.time is None:
        return value, None
    never = (1 << kept.time.bits) - 1
    at_ms = value >> kept.time.shift & never
    rest = value & ~(never << kept.time.shift)
    if at_ms == 0:
        return rest, None
    return rest, -1 if at_ms == never else at_ms - now.monotonic_ms + now.wall_ms


def _from_file(kept: Kept, saved: tuple[int, int | None] | None, now: Moment) -> int | None:
    """Return what a cell is to hold; None for what is missing, of no use any more, or makes no sense."""
    if saved is None:
        return None
    rest, wall_ms = saved
    if not -(1 << 63) <= rest < 1 << 63 or not kept.is_sound(rest):
        return None
    if kept.time is None or wall_ms is None:
        return rest
    never = (1 << kept.time.bits) - 1
    if rest & never << kept.time.shift:
        return None
    if wall_ms == -1:
        return rest | never << kept.time.shift
    ahead_ms = wall_ms - now.wall_ms
    if not -kept.late_ms < ahead_ms <= MAX_AHEAD_MS:
        return None
    # What was before the clock began is long past, too.
    at_ms = max(1, now.monotonic_ms + ahead_ms)
    return rest | at_ms << kept.time.shift if at_ms < never else None


# --- the file


def save(path: str, memory: Memory) -> None:
    """Replace the file in one step. Raises OSError."""
    draft = f"{path}.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(memory))
    os.replace(draft, path)


def load(path: str) -> Memory | None:
    """Return what the file holds, None if there is none. Raises OSError, and ValueError for one that is damaged."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        memory = msgspec.json.decode(content, type=Memory)
        if memory.version != VERSION:
            raise ValueError(f"version {memory.version}, not {VERSION}")
        return memory
    return None


def restore(state_dir: str, segment: Segment, rows: Mapping[Identity, int], clock: Clock) -> None:
    """Put back what the file of the state directory holds, whatever state it is in."""
    path = os.path.join(state_dir, MEMORY_FILE)
    try:
        memory = load(path)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("%s: what was learnt before is ignored: %s", path, reason)
        return
    if memory is not None:
        count = recall(segment, rows, memory, moment(clock))
        log.info("what was learnt before is known again, of %d of %d endpoints and keys", count, len(memory.rows))


class MemoryKeeper:
    """Saves again and again. rows: returns those of the configuration in force."""

    def __init__(
        self, state_dir: str, segment: Segment, rows: Callable[[], Iterable[tuple[Identity, int]]], clock: Clock
    ) -> None:
        self._path = os.path.join(state_dir, MEMORY_FILE)
        self._segment = segment
        self._rows = rows
        self._clock = clock
        self._failed = False
        self._seen: list[tuple[Identity, tuple[int, ...]]] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Save every few seconds until `stop`, and once more."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SAVE_INTERVAL_S)
            await asyncio.to_thread(self.save)

    def save(self) -> None:
        """Save, if there is anything new. An error is reported when it first happens."""
        rows = dict(self._rows())
        seen = [(identity, self._look(identity, row)) for identity, row in rows.items()]
        if seen == self._seen:
            return
        try:
            save(self._path, remember(self._segment, rows, moment(self._clock)))
        except OSError as error:
            if not self._failed:
                log.error("%s: what is learnt cannot be saved: %s", self._path, error.strerror)
            self._failed = True
            return
        self._failed = False
        self._seen = seen

    def _look(self, identity: Identity, row: int) -> tuple[int, ...]:
        segment = self._segment
        return tuple(
            segment.cell(row, kept.cell) + (segment.total(row, kept.column) if kept.column is not None else 0)
            for kept in _kept(identity)
        )
