"""Usage reports: what the ledger holds plus what still waits in the journals, each request once."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from fastroute.billing.ledger import Ledger, LedgerError, schema_version
from fastroute.billing.money import format_usd
from fastroute.billing.segments import decode_records, journal_directory, list_segments, read_chunk
from fastroute.interfaces import Record

GroupBy = Literal["model", "key", "tenant", "provider", "day"]

#: Column of `kinds` and field of `Record` for each grouping; a day is the UTC date of `at_ns`.
_FIELDS: Final[dict[GroupBy, str]] = {
    "model": "model",
    "key": "key_id",
    "tenant": "tenant",
    "provider": "provider",
}
_NS_PER_DAY: Final = 86_400_000_000_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_LAST_DAY: Final = date.max.toordinal()
_IDS_PER_QUERY: Final = 500
_BUSY_TIMEOUT_S: Final = 5.0
_MAX_CELL_CHARS: Final = 64

#: Added up one by one: in SQLite a sum within a row turns into a float when it overflows.
_INPUTS: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "input_audio_tokens",
)
_OUTPUTS: Final = ("output_tokens", "reasoning_tokens", "output_audio_tokens")
_SUMMED: Final = ("attempts", *_INPUTS, *_OUTPUTS, "cost_nano_usd")


class _Totals(msgspec.Struct):
    """One row of a report."""

    requests: int = 0
    attempts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    estimated_requests: int = 0
    unpriced_requests: int = 0


class _Report:
    """Totals by group value (a name, or a day number since 1970)."""

    def __init__(self, by: GroupBy) -> None:
        self.by = by
        self.groups: dict[str | int, _Totals] = {}

    def add_sums(self, group: str | int, source: str, count: int, unpriced: int, sums: dict[str, int]) -> None:
        """Add `count` requests of one `usage_source` whose columns add up to `sums`."""
        totals = self.groups.setdefault(group, _Totals())
        totals.requests += count
        totals.attempts += sums["attempts"]
        totals.input_tokens += sum(sums[name] for name in _INPUTS)
        totals.cached_input_tokens += sums["cache_read_tokens"]
        totals.output_tokens += sum(sums[name] for name in _OUTPUTS)
        totals.reasoning_tokens += sums["reasoning_tokens"]
        totals.cost_nano_usd += sums["cost_nano_usd"]
        if source == "estimated":
            totals.estimated_requests += count
        if source != "none":
            totals.unpriced_requests += unpriced

    def add_record(self, record: Record) -> None:
        """Add one request that is not in the ledger yet."""
        usage = record.usage
        sums = {name: getattr(usage, name) for name in (*_INPUTS, *_OUTPUTS)}
        sums["attempts"] = record.attempts
        sums["cost_nano_usd"] = record.cost_nano_usd
        group = record.at_ns // _NS_PER_DAY if self.by == "day" else getattr(record, _FIELDS[self.by])
        count = 0 if record.outcome == "hedged" else 1
        self.add_sums(group, record.usage_source, count, 0 if record.priced else count, sums)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the contract, in the order of their group."""
        rows = []
        for group in sorted(self.groups):
            name = _day(group) if isinstance(group, int) else group
            rows.append({self.by: name, **msgspec.structs.asdict(self.groups[group])})
        return rows


class _ExactSum:
    """SUM without the 64-bit limit, as text. SQLite's own raises "integer overflow", and is much faster."""

    def __init__(self) -> None:
        self._total = 0

    def step(self, value: int) -> None:
        self._total += value

    def finalize(self) -> str:
        return str(self._total)


def usage_rows(ledger_path: str, state_dir: str, by: GroupBy) -> list[dict[str, Any]]:
    """Return usage grouped by `by`: one dict per group, with the group's name under `by` and the totals.

    Input and output tokens are totals (cached and reasoning tokens included). `unpriced_requests` counts
    requests that used tokens at an unknown price. Needs no other process; where the journals cannot be
    brought into the ledger (another process is at it, a full or read-only disk) they are read in passing.

    Raises LedgerError when the ledger is damaged or of a newer schema, OSError when the journals cannot be
    read.
    """
    directory = journal_directory(state_dir)
    _ingest_if_possible(ledger_path, directory)
    report = _Report(by)
    with _open_segments(directory) as segments, closing(_connect(ledger_path)) as connection:
        try:
            # One snapshot: rows and offsets that belong together. The files were opened before it, so a
            # segment that is ingested and removed meanwhile can still be read; what is in both is told by id.
            connection.execute("BEGIN")
            offsets: dict[str, int] = {}
            if schema_version(connection, ledger_path):
                offsets = dict(connection.execute("SELECT name, offset FROM segments").fetchall())
                _add_ledger(connection, report)
            _add_tails(connection, segments, offsets, report)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{ledger_path}: {error}") from error
    return report.rows()


def _ingest_if_possible(ledger_path: str, directory: str) -> None:
    if not list_segments(directory):
        return
    try:
        with Ledger.open(ledger_path) as ledger:
            ledger.ingest(directory)
    except (LedgerError, OSError):
        pass  # What is left is read in passing, and a ledger that cannot be read either is reported then.


def _connect(path: str) -> sqlite3.Connection:
    """Open the ledger for reading; an empty one in memory where there is none."""
    if not os.path.exists(path):
        return sqlite3.connect(":memory:", isolation_level=None)
    try:
        uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
    except sqlite3.Error as error:
        raise LedgerError(f"{path}: {error}") from error


@contextmanager
def _open_segments(directory: str) -> Iterator[list[tuple[int, str, int]]]:
    """Yield (boot, name, descriptor) of every segment there is now, oldest first."""
    opened: list[tuple[int, str, int]] = []
    try:
        for segment in list_segments(directory):
            try:
                fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # Ingested and removed since it was listed: the snapshot will have its rows.
            opened.append((segment.boot, segment.name, fd))
        yield opened
    finally:
        for _, _, fd in opened:
            os.close(fd)


def _add_ledger(connection: sqlite3.Connection, report: _Report) -> None:
    try:
        rows = connection.execute(_query(report.by, "SUM")).fetchall()
    except sqlite3.OperationalError as error:
        if "integer overflow" not in str(error):
            raise
        connection.create_aggregate("exact_sum", 1, _ExactSum)  # type: ignore[arg-type]
        rows = connection.execute(_query(report.by, "exact_sum")).fetchall()
    for group, source, count, unpriced, *sums in rows:
        report.add_sums(group, source, count, unpriced, dict(zip(_SUMMED, map(int, sums), strict=True)))


def _query(by: GroupBy, function: str) -> str:
    """Return the query of a report. Grouping by number first is cheaper than comparing names row by row."""
    sums = ", ".join(f"{function}({name}) AS {name}" for name in _SUMMED)
    day = f"at_ns / {_NS_PER_DAY}" if by == "day" else "0"
    group = "day" if by == "day" else f"kinds.{_FIELDS[by]}"
    names = ", ".join(_SUMMED)
    return (
        f"SELECT {group}, kinds.usage_source, requests * counts, unpriced * counts, {names}"
        f" FROM (SELECT kind, {day} AS day,"
        f" COUNT(*) AS requests, SUM(NOT priced) AS unpriced, {sums} FROM requests GROUP BY kind, day)"
        " AS grouped JOIN (SELECT *, outcome <> 'hedged' AS counts FROM kinds) AS kinds ON kinds.id = grouped.kind"
    )


def _add_tails(
    connection: sqlite3.Connection,
    segments: list[tuple[int, str, int]],
    offsets: dict[str, int],
    report: _Report,
) -> None:
    """Add the records behind the ledger's offsets, each once. Memory: the ids of one boot's tail."""
    seen: set[int] = set()
    seen_boot = -1
    for boot, name, fd in segments:
        if boot != seen_boot:
            seen, seen_boot = set(), boot
        offset = offsets.get(name, 0)
        while True:
            chunk = read_chunk(fd, offset)
            if chunk.next_offset == offset:
                break
            offset = chunk.next_offset
            records, _ = decode_records(chunk)
            known = _known_ids(connection, [record.id for record in records])
            for record in records:
                if record.id not in known and record.id not in seen:
                    seen.add(record.id)
                    report.add_record(record)


def _known_ids(connection: sqlite3.Connection, ids: list[int]) -> set[int]:
    """Return those of `ids` that the ledger has."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchone():
        return set()
    known: set[int] = set()
    for start in range(0, len(ids), _IDS_PER_QUERY):
        batch = ids[start : start + _IDS_PER_QUERY]
        marks = ", ".join("?" * len(batch))
        rows = connection.execute(f"SELECT id FROM requests WHERE id IN ({marks})", batch)
        known.update(row[0] for row in rows)
    return known


def _day(number: int) -> str:
    """Return the ISO date of a day number since 1970 (UTC)."""
    return date.fromordinal(min(max(number + _EPOCH_DAY, 1), _LAST_DAY)).isoformat()


def format_json(rows: list[dict[str, Any]]) -> bytes:
    """Return `rows` as a JSON document: {"rows": [...]}."""
    return msgspec.json.encode({"rows": rows})


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return `rows` as a table for people: columns aligned, cost in USD with nine decimals."""
    if not rows:
        return "no usage recorded\n"
    header = [name if name != "cost_nano_usd" else "cost_usd" for name in rows[0]]
    table = [header, *([_cell(name, value) for name, value in row.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        first = line[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        lines.append("  ".join((first, *rest)))
    return "\n".join(lines) + "\n"


def _cell(name: str, value: str | int) -> str:
    if name == "cost_nano_usd":
        return format_usd(int(value))
    # Names come from clients: nothing that would steer a terminal.
    text = "".join(char if char.isprintable() else "?" for char in str(value))
    return text if len(text) <= _MAX_CELL_CHARS else text[: _MAX_CELL_CHARS - 1] + "…"
