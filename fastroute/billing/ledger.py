"""The ledger: every request once, in SQLite, filled from the journals by one process at a time.

Rows and the journal offset they were read up to are committed in one transaction, and a row's key is the
record's id: a crash at any point neither loses nor doubles a record. What repeats from row to row (who asked
for what, where it went, how it ended) is kept once in `kinds`, which makes a row smaller and an insert
cheaper; the view `records` has every field of a record by name.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from types import TracebackType
from typing import Final

import msgspec

from fastroute.billing.segments import Batch, Chunk, Segment, decode_entries, decode_kind, list_segments, read_chunk
from fastroute.errors import FastrouteError
from fastroute.interfaces import Kind
from fastroute.sqlite import faults, file_identity, opening, transaction

#: Segments with unreadable lines are kept beside the journals under this suffix, the newest few of them.
BAD_SUFFIX: Final = ".bad"
MAX_BAD_SEGMENTS: Final = 16

_BUSY_TIMEOUT_MS: Final = 5_000
_MAX_CACHED_KINDS: Final = 65_536
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1

_KIND_COLUMNS: Final = (
    "key_id",
    "tenant",
    "dialect",
    "operation",
    "model",
    "provider",
    "endpoint",
    "upstream_model",
    "outcome",
    "usage_source",
)
_COLUMNS: Final = (
    "id",
    "at_ns",
    "request_id",
    "kind",
    "stream",
    "status",
    "attempts",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "input_audio_tokens",
    "output_tokens",
    "reasoning_tokens",
    "output_audio_tokens",
    "priced",
    "cost_nano_usd",
    "first_byte_us",
    "total_us",
    "request_bytes",
    "response_bytes",
)
_TEXT: Final = frozenset({"request_id"})
#: In the order of a row: an `Entry` with its usage spread out, then the kind.
_INSERTED: Final = (
    "id",
    "at_ns",
    "request_id",
    "stream",
    "status",
    "attempts",
    "priced",
    "cost_nano_usd",
    "first_byte_us",
    "total_us",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "input_audio_tokens",
    "output_tokens",
    "reasoning_tokens",
    "output_audio_tokens",
    "kind",
)
_USAGE_AT: Final = 12

Row = tuple[int | str, ...]


def _schema_1() -> tuple[str, ...]:
    columns = ", ".join(f"{name} {'TEXT' if name in _TEXT else 'INTEGER'}" for name in _COLUMNS[1:])
    kinds = ", ".join(f"{name} TEXT NOT NULL" for name in _KIND_COLUMNS)
    fields = ", ".join(f"r.{name}" for name in _COLUMNS if name != "kind")
    return (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        f"CREATE TABLE kinds (id INTEGER PRIMARY KEY, {kinds}, UNIQUE ({', '.join(_KIND_COLUMNS)}))",
        f"CREATE TABLE requests (id INTEGER PRIMARY KEY, {columns})",
        "CREATE TABLE segments (name TEXT PRIMARY KEY, offset INTEGER NOT NULL, bad_lines INTEGER NOT NULL,"
        " retired INTEGER NOT NULL DEFAULT 0)",
        f"CREATE VIEW records AS SELECT {fields}, {', '.join(f'k.{name}' for name in _KIND_COLUMNS)}"
        " FROM requests r JOIN kinds k ON k.id = r.kind",
    )


#: Step n leads from schema n to schema n + 1; schema 0 is an empty file. Steps are never edited, only added.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_schema_1(),)

_ROW: Final = f"({', '.join('?' * len(_INSERTED))})"
_INSERT: Final = f"INSERT OR IGNORE INTO requests ({', '.join(_INSERTED)}) VALUES {_ROW}"
#: So many rows at a time cost a quarter less. All builds of SQLite take 999 parameters.
_TOGETHER: Final = 20
_INSERT_TOGETHER: Final = _INSERT + f", {_ROW}" * (_TOGETHER - 1)
_FIND_KIND: Final = f"SELECT id FROM kinds WHERE {' AND '.join(f'{name} = ?' for name in _KIND_COLUMNS)}"
_ADD_KIND: Final = f"INSERT INTO kinds VALUES (NULL, {', '.join('?' * len(_KIND_COLUMNS))})"
_ADVANCE: Final = (
    "INSERT INTO segments (name, offset, bad_lines) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET offset = excluded.offset, bad_lines = excluded.bad_lines"
)
_RETIRE: Final = (
    "INSERT INTO segments (name, offset, bad_lines, retired) VALUES (?, ?, ?, 1)"
    " ON CONFLICT (name) DO UPDATE SET retired = 1"
)


class LedgerError(FastrouteError):
    """The ledger cannot be used now. The journals are untouched, so nothing is lost by trying again later."""


class LedgerBusyError(LedgerError):
    """Another process is filling the ledger at this moment."""


class IngestReport(msgspec.Struct, frozen=True):
    """What one `Ledger.ingest` did.

    rows: records new to the ledger. duplicates: records it already had (after a crash or a retried write).
    bad_lines: torn or garbage lines skipped. retired: segments finished with and removed. faults: one line
    for each segment that could not be read; it is tried again next time.
    """

    rows: int = 0
    duplicates: int = 0
    bad_lines: int = 0
    retired: int = 0
    faults: tuple[str, ...] = ()


class _Tally:
    """The counts of an `IngestReport` while they grow."""

    def __init__(self) -> None:
        self.rows = 0
        self.duplicates = 0
        self.bad_lines = 0
        self.retired = 0
        self.faults: list[str] = []

    def report(self) -> IngestReport:
        return IngestReport(self.rows, self.duplicates, self.bad_lines, self.retired, tuple(self.faults))


class Ledger:
    """The ledger database. May move between threads, but only one call may run at a time."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._identity = file_identity(path)
        self._kinds: dict[bytes, int] = {}

    @classmethod
    def open(cls, path: str) -> "Ledger":
        """Open the ledger at `path`; create or migrate it if need be.

        Raises LedgerError when the file is damaged, is no ledger, or has a newer schema than this program
        knows, LedgerBusyError when another process is creating or migrating it.
        """
        with _faults(path), opening(path, _BUSY_TIMEOUT_MS) as connection:
            if schema_version(connection, path) < len(MIGRATIONS):
                with exclusive(path):
                    _migrate(connection, path, MIGRATIONS)
            connection.execute("PRAGMA synchronous = NORMAL")
        return cls(path, connection)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def ingest(self, directory: str) -> IngestReport:
        """Bring every complete line of the journals in `directory` into the ledger; remove finished segments.

        Raises LedgerBusyError when another process is at it, LedgerError when the database refuses (full
        disk, damage): what was committed stays, the rest is still in the journals.
        """
        tally = _Tally()
        with exclusive(self._path), _faults(self._path):
            if file_identity(self._path) != self._identity:
                # Rows would go into a file nobody can see, and the journals would be removed after it.
                raise LedgerError(f"{self._path} was moved or deleted while it was open")
            segments = list_segments(directory)
            progress = self._forget({segment.name for segment in segments})
            for segment in segments:
                offset, bad_lines = progress.get(segment.name, (0, 0))
                try:
                    self._ingest_segment(segment, offset, bad_lines, tally)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    tally.faults.append(f"{segment.name}: {error.strerror or error}")
        return tally.report()

    def _forget(self, present: set[str]) -> dict[str, tuple[int, int]]:
        """Return offset and bad lines by segment; drop those of segments whose file is gone."""
        rows = self._connection.execute("SELECT name, offset, bad_lines FROM segments").fetchall()
        gone = [(name,) for name, _, _ in rows if name not in present]
        if gone:
            with self._transaction():
                self._connection.executemany("DELETE FROM segments WHERE name = ?", gone)
        return {name: (offset, bad_lines) for name, offset, bad_lines in rows}

    def _ingest_segment(self, segment: Segment, offset: int, bad_lines: int, tally: _Tally) -> None:
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Held until the file is removed, so that no writer can start on a file that is about to go.
            closed = _is_abandoned(fd)
            while True:
                chunk = read_chunk(fd, offset, final=closed)
                if chunk.next_offset == offset:
                    break
                offset = chunk.next_offset
                inserted, duplicates, bad = self._commit(decode_entries(chunk), segment.name, offset, bad_lines, chunk)
                bad_lines += bad
                tally.rows += inserted
                tally.duplicates += duplicates
                tally.bad_lines += bad
            if closed:
                self._retire(segment, offset, bad_lines)
                tally.retired += 1
        finally:
            os.close(fd)

    def _commit(self, batch: Batch, name: str, offset: int, bad_lines: int, chunk: Chunk) -> tuple[int, int, int]:
        """Insert a batch and advance the segment in one transaction; return (new rows, old ones, bad lines)."""
        with self._transaction():
            rows = self._rows(batch)
            bad = len(chunk.kinds) - len(rows) + chunk.bad_lines
            before = self._connection.total_changes
            try:
                self._insert(rows)
            except OverflowError:
                # An integer beyond 64 bits must not block all that follow.
                self._insert([_clamped(row) for row in rows])
            inserted = self._connection.total_changes - before
            self._connection.execute(_ADVANCE, (name, offset, bad_lines + bad))
            if len(self._kinds) > _MAX_CACHED_KINDS:
                self._kinds.clear()  # Starting over is cheap and needs no order of use.
        return inserted, len(rows) - inserted, bad

    def _insert(self, rows: list[Row]) -> None:
        even = len(rows) - len(rows) % _TOGETHER
        together = (tuple(chain.from_iterable(rows[at : at + _TOGETHER])) for at in range(0, even, _TOGETHER))
        self._connection.executemany(_INSERT_TOGETHER, together)
        self._connection.executemany(_INSERT, rows[even:])

    def _rows(self, batch: Batch) -> list[Row]:
        numbers = self._kinds
        for text in set(batch.kinds).difference(numbers):
            self._number(text)
        return [
            (*entry[:_USAGE_AT], *entry[_USAGE_AT], numbers[text])
            for text, entry in zip(batch.kinds, batch.entries, strict=True)
            if numbers[text]
        ]

    def _number(self, text: bytes) -> None:
        """Learn the number of a kind; 0 for what is none."""
        kind = decode_kind(text)
        number = self._kind_number(kind) if kind is not None else 0
        self._kinds[text] = number

    def _kind_number(self, kind: Kind) -> int:
        found = self._connection.execute(_FIND_KIND, kind).fetchone()
        number = found[0] if found else self._connection.execute(_ADD_KIND, kind).lastrowid
        assert isinstance(number, int)
        return number

    def _retire(self, segment: Segment, offset: int, bad_lines: int) -> None:
        """Remove a segment that is wholly in the ledger, once the ledger would survive a power loss.

        Under synchronous=NORMAL the last commits may sit in the kernel only. One commit under FULL syncs the
        log up to and including it; a mark that is already there says that this has been done.
        """
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            with self._transaction():
                self._connection.execute(_RETIRE, (segment.name, offset, bad_lines))
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")
        if bad_lines:
            os.replace(segment.path, segment.path + BAD_SUFFIX)
            _prune_bad(os.path.dirname(segment.path))
        else:
            os.unlink(segment.path)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with transaction(self._connection):
                yield
        except BaseException:
            self._kinds.clear()  # It may hold numbers that were rolled back.
            raise


def schema_version(connection: sqlite3.Connection, path: str) -> int:
    """Return the schema version of a ledger, 0 for an empty file.

    Raises LedgerError for a database of something else or of a newer fastroute.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    found = None
    if "meta" in tables:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if found is None or not found[0].isdigit():
        raise LedgerError(f"{path} is not a fastroute ledger")
    version = int(found[0])
    if version > len(MIGRATIONS):
        raise LedgerError(f"{path} has schema {version}, newer than this fastroute knows ({len(MIGRATIONS)})")
    return version


@contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Hold the lock of the one process that may fill the ledger at `path`.

    Raises LedgerBusyError when another holds it. The kernel frees the lock of a process that dies.
    """
    fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerBusyError(f"another process is filling {path}") from None
        yield
    finally:
        os.close(fd)


def _faults(path: str) -> AbstractContextManager[None]:
    """Turn what SQLite raises into LedgerError, so that callers need not know which database this is."""
    return faults(path, LedgerError, "start a new one")


def _migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Sequence[str]]) -> None:
    version = schema_version(connection, path)  # Again: another process may have been faster.
    if version == 0:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
    for number in range(version, len(migrations)):
        with transaction(connection):
            for statement in migrations[number]:
                connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(number + 1),))


def _is_abandoned(fd: int) -> bool:
    """Lock a segment if no writer holds it; say whether that worked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _prune_bad(directory: str) -> None:
    names = sorted(name for name in os.listdir(directory) if name.endswith(BAD_SUFFIX))
    for name in names[:-MAX_BAD_SEGMENTS]:
        os.unlink(os.path.join(directory, name))


def _clamped(row: Row) -> Row:
    return tuple(min(max(cell, _INT64_MIN), _INT64_MAX) if isinstance(cell, int) else cell for cell in row)
