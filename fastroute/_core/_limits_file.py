"""The file behind the limits of callers, models and provider keys: layout, words, how it is made and opened.

    0     header: magic, layout version, slot bytes, workers, slots, file size, boot id (native byte order)
    1024  64 control words of 8 bytes
    4096  slots of 64 bytes (one cache line, 8 signed 64-bit cells), an open-addressed table
    then  for each slot one signed 32-bit count per worker: what that worker holds of the subject's concurrency

A subject ("key:app-1", "model:gpt-4o") is found by a 64-bit hash of its name. Whoever needs a slot first claims it, so
neither reloads nor keys made at run time have to be coordinated. A subject that finds none within its reach gets that
of another who has nothing under way, and of whom there is nothing to be remembered: its rates have refilled, and its
day has not begun. When a gateway starts it makes a new file, into which only what still means anything is carried over.

    REQUESTS, TOKENS          the theoretical arrival time (GCRA): monotonic nanoseconds
    DAY_REQUESTS, DAY_TOKENS  day number (UTC) << 44 | count
    REFUSED                   requests that this subject's ceilings have refused
    USERS                     requests under way; those of a worker that was killed keep the slot until the next start
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastroute._core._mapped_file import new_file
from fastroute.errors import FastrouteError

KEY: Final = 0
REQUESTS: Final = 1
TOKENS: Final = 2
DAY_REQUESTS: Final = 3
DAY_TOKENS: Final = 4
REFUSED: Final = 5
USERS: Final = 6
CELLS: Final = 8

#: In place of a subject's hash, while its slot is given to another.
NOBODY: Final = -(1 << 63)

#: Control word: how often a subject found no slot, and its ceilings did not hold.
LOST: Final = 0
WORDS: Final = 64

HEADER_BYTES: Final = 4096
WORDS_OFFSET: Final = 1024
SLOT_BYTES: Final = 8 * CELLS
SHARE_BYTES: Final = 4
#: Room for 200,000 subjects and more: 16 MiB, and 1 MiB for each worker.
SLOTS: Final = 1 << 18
MAX_SLOTS: Final = 1 << 24
MAX_WORKERS: Final = 1024
#: How far from its place a subject is looked for. At three quarters full, one in 10**15 does not find a slot.
MAX_PROBES: Final = 128

#: Rates are per minute; this many nanoseconds of arrivals may come at once.
PERIOD_NS: Final = 60_000_000_000
DAY_NS: Final = 86_400_000_000_000
#: What one request used beyond its reservation keeps its caller out for this long at most.
MAX_DEBT_NS: Final = DAY_NS
COUNT_BITS: Final = 44
MAX_COUNT: Final = (1 << COUNT_BITS) - 1
#: Nobody knows when a concurrent request will end: callers are asked to come back after this long.
BUSY_WAIT_NS: Final = 1_000_000_000
#: A ceiling, and what a request may count for.
MAX_LIMIT: Final = 10**12
MAX_SUBJECTS: Final = 8

# Which ceiling of a subject, in the order in which they are looked at.
PER_MINUTE_REQUESTS: Final = 0
PER_MINUTE_TOKENS: Final = 1
CONCURRENCY: Final = 2
PER_DAY_REQUESTS: Final = 3
PER_DAY_TOKENS: Final = 4
#: As the configuration calls them.
DIMENSIONS: Final = ("rpm", "tpm", "concurrency", "rpd", "tpd")

#: Header fields in the order of `fields`: of requests, then of tokens.
FIELD_NAMES: Final = (
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
    b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-tokens",
    b"x-ratelimit-reset-tokens",
)

#: How the fields begin by which providers tell of their own limits.
PROVIDER_FIELDS: Final = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit")

_MAGIC: Final = b"FRLIMITS"
_LAYOUT_VERSION: Final = 1
_HEADER: Final = struct.Struct("=8sIIIIQ16s")
_SLOT: Final = struct.Struct(f"={CELLS}q")
_PAGE: Final = 4096


class LimitsFileError(FastrouteError, ValueError):
    """A file that is not a usable table of limits, or dimensions that none can have."""


class Subject(NamedTuple):
    """Whom ceilings are for, and what they are; 0: none. name: unique, such as "key:app-1"."""

    name: str
    rpm: int = 0
    tpm: int = 0
    concurrency: int = 0
    rpd: int = 0
    tpd: int = 0


class Moment(NamedTuple):
    """When a file is made: what it is compared with to tell which of the old file's cells still mean anything."""

    boot: bytes
    now_ns: int
    wall_ns: int


def subject_key(name: str) -> int:
    """Return the hash that a subject is known by, as the signed number of its cell; never 0."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    key = int.from_bytes(digest, "little", signed=True)
    return key if key not in (0, NOBODY) else 1


def checked(subjects: tuple[Subject, ...]) -> tuple[Subject, ...]:
    """Return the subjects, or raise ValueError for more than there may be, or a ceiling out of bounds."""
    if len(subjects) > MAX_SUBJECTS:
        raise ValueError(f"at most {MAX_SUBJECTS} subjects together")
    if any(not 0 <= ceiling <= MAX_LIMIT for subject in subjects for ceiling in subject[1:]):
        raise ValueError(f"a ceiling must be 0 to {MAX_LIMIT}")
    return subjects


def read_boot_id() -> bytes:
    """Return 16 bytes that tell this boot of the machine from others; zeros where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return bytes.fromhex(file.read(64).decode("ascii").strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return bytes(16)


def file_bytes(workers: int, slots: int) -> int:
    """Return the size of a file; LimitsFileError for dimensions out of bounds."""
    if not 1 <= workers <= MAX_WORKERS:
        raise LimitsFileError(f"workers must be 1 to {MAX_WORKERS}, not {workers}")
    if not 1 <= slots <= MAX_SLOTS or slots & (slots - 1):
        raise LimitsFileError(f"slots must be a power of two up to {MAX_SLOTS}, not {slots}")
    return HEADER_BYTES + slots * (SLOT_BYTES + workers * SHARE_BYTES)


def create_file(path: str, workers: int, slots: int, moment: Moment) -> mmap.mmap:
    """Make the file at `path` and return its mapping; what an older file there still means is carried over.

    One that cannot be understood is replaced all the same (see `new_file`). Raises LimitsFileError for the dimensions,
    OSError for the file system.
    """
    size = file_bytes(workers, slots)
    carried = _carried(path, moment)
    header = _HEADER.pack(_MAGIC, _LAYOUT_VERSION, SLOT_BYTES, workers, slots, size, moment.boot)
    with new_file(path, header, size) as mapping:
        _place(mapping, slots, carried)
    return mapping


def open_file(path: str) -> tuple[mmap.mmap, int, int]:
    """Return (mapping, workers, slots) of the file at `path`.

    Raises LimitsFileError if it is not one of this layout, OSError if it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        workers, slots, _ = _check_header(path, os.pread(fd, _HEADER.size, 0), size)
        return mmap.mmap(fd, size), workers, slots
    finally:
        os.close(fd)


def slots_for(subjects: int) -> int:
    """Return the slots of a table for that many subjects: never more than three quarters of it are used."""
    return min(MAX_SLOTS, max(SLOTS, 1 << (-(-subjects * 4 // 3) - 1).bit_length()))


@contextlib.contextmanager
def replacing(path: str) -> Iterator[bool]:
    """Be the one process that gives slots of others away; False if that cannot be arranged.

    The kernel frees the lock of a process that dies.
    """
    with contextlib.ExitStack() as stack:
        alone = False
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            alone = True
        yield alone


def probe(key: int, attempt: int, slots: int) -> int:
    """Return where to look for a subject at the given attempt: triangular steps, which meet every slot."""
    return (key + attempt * (attempt + 1) // 2) & (slots - 1)


def duration(ns: int) -> str:
    """Return a length of time as OpenAI writes it: 0s, 20ms, 8.64s, 6m0s, 1h0m0s; rounded up to milliseconds."""
    ms = -(-ns // 1_000_000) if ns > 0 else 0
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{ms:03d}".rstrip("0") if ms else ""
    text = f"{seconds}{fraction}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _carried(path: str, moment: Moment) -> list[list[int]]:
    """Return the slots of the file at `path` that still say something; [] if there is none that can be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            _, slots, boot = _check_header(path, file.read(_HEADER.size), size)
            same_boot = boot == moment.boot and boot != bytes(16)
            file.seek(HEADER_BYTES)
            found: list[list[int]] = []
            for _ in range(-(-slots * SLOT_BYTES // _PAGE)):
                page = file.read(min(_PAGE, slots * SLOT_BYTES))
                if page.count(0) != len(page):
                    found += _living(page, same_boot, moment)
            return found
    except (OSError, LimitsFileError):
        return []


def _living(page: bytes, same_boot: bool, moment: Moment) -> list[list[int]]:
    found: list[list[int]] = []
    today = moment.wall_ns // DAY_NS
    for cells in map(list, _SLOT.iter_unpack(page)):
        for at in (REQUESTS, TOKENS):
            if not same_boot or cells[at] <= moment.now_ns:
                cells[at] = 0
        for at in (DAY_REQUESTS, DAY_TOKENS):
            if cells[at] >> COUNT_BITS != today:
                cells[at] = 0
        if cells[KEY] not in (0, NOBODY) and any(cells[REQUESTS : DAY_TOKENS + 1]):
            found.append([*cells[: DAY_TOKENS + 1], 0, 0, 0])
    return found


def _place(mapping: mmap.mmap, slots: int, carried: list[list[int]]) -> None:
    """Put what is carried over into a new table; what finds no slot begins anew."""
    for cells in carried:
        for attempt in range(MAX_PROBES):
            at = HEADER_BYTES + probe(cells[KEY], attempt, slots) * SLOT_BYTES
            if mapping[at : at + 8] == bytes(8):
                _SLOT.pack_into(mapping, at, *cells)
                break


def _check_header(path: str, header: bytes, size: int) -> tuple[int, int, bytes]:
    """Return (workers, slots, boot id), or raise LimitsFileError naming the first thing that is wrong."""
    if len(header) < _HEADER.size or size < HEADER_BYTES:
        raise LimitsFileError(f"{path}: too short for a table of limits ({size} bytes)")
    magic, version, slot_bytes, workers, slots, declared, boot = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise LimitsFileError(f"{path}: not a table of limits (magic {magic!r})")
    if version != _LAYOUT_VERSION or slot_bytes != SLOT_BYTES:
        raise LimitsFileError(f"{path}: layout {version}/{slot_bytes}, not {_LAYOUT_VERSION}/{SLOT_BYTES}")
    try:
        expected = file_bytes(workers, slots)
    except LimitsFileError as error:
        raise LimitsFileError(f"{path}: {error}") from None
    if declared != expected or size != expected:
        raise LimitsFileError(f"{path}: {size} bytes (header: {declared}) where {expected} are expected")
    return workers, slots, boot
