"""A report shows each request once, wherever it is."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastroute.billing.journal import JournalWriter
from fastroute.billing.ledger import Ledger, LedgerBusyError, LedgerError, exclusive
from fastroute.billing.report import GroupBy, format_json, format_table, usage_rows
from fastroute.billing.segments import journal_directory
from fastroute.interfaces import NO_USAGE, Usage
from tests.unit.billing.records import MIDNIGHT_NS, record

EVERYTHING = Usage(1, 20, 300, 4_000, 50_000, 600_000, 7_000_000, 80_000_000)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite3")


@pytest.fixture
def writer(state: str) -> Iterator[JournalWriter]:
    writer = JournalWriter(journal_directory(state), 1)
    yield writer
    writer.close()


def test_no_usage_at_all(path: str, state: str) -> None:
    assert usage_rows(path, state, "model") == []
    assert format_json([]) == b'{"rows":[]}'
    assert format_table([]) == "no usage recorded\n"
    assert not Path(path).exists()


def mixed(writer: JournalWriter) -> None:
    writer.append(record(1, usage=EVERYTHING, attempts=3, cost_nano_usd=5))
    writer.append(record(2, usage_source="estimated", cost_nano_usd=7))
    writer.append(record(3, priced=False, cost_nano_usd=0))
    writer.append(record(4, priced=False, cost_nano_usd=0, usage=NO_USAGE, usage_source="none", attempts=0))
    writer.append(record(5, model="other", key_id="app-2", tenant="zeta", provider="groq", at_ns=MIDNIGHT_NS - 1))


EXPECTED = {
    "requests": 4,
    "attempts": 5,
    "input_tokens": 54_321 + 15 + 15,
    "cached_input_tokens": 20 + 5 + 5,
    "output_tokens": 87_600_000 + 10 + 10,
    "reasoning_tokens": 7_000_000 + 3 + 3,
    "cost_nano_usd": 12,
    "estimated_requests": 1,
    "unpriced_requests": 1,
}


@pytest.mark.parametrize(
    ("by", "first", "second"),
    [
        ("model", "gpt-4o", "other"),
        ("key", "app-1", "app-2"),
        ("tenant", "acme", "zeta"),
        ("provider", "openai", "groq"),
        ("day", "2024-11-21", "2024-11-20"),
    ],
)
@pytest.mark.parametrize("where", ["ledger", "tail", "both"])
def test_the_contract(
    path: str, state: str, writer: JournalWriter, by: GroupBy, first: str, second: str, where: str
) -> None:
    if where == "both":
        writer.append(record(1, usage=EVERYTHING, attempts=3, cost_nano_usd=5))
        usage_rows(path, state, by)
    mixed(writer)
    if where == "ledger":
        rows = usage_rows(path, state, by)
    else:
        with exclusive(path):
            rows = _without_ingest(path, state, by)
    expected = {by: first, **EXPECTED}
    assert [row[by] for row in rows] == sorted([first, second])
    assert next(row for row in rows if row[by] == first) == expected
    assert list(rows[0]) == list(expected)
    assert sum(row["requests"] for row in rows) == 5


def _without_ingest(path: str, state: str, by: GroupBy) -> list[dict[str, object]]:
    """Report while somebody else holds the ledger's lock, and prove that nothing was ingested."""
    before = _count(path)
    rows = usage_rows(path, state, by)
    assert _count(path) == before
    return rows


def _count(path: str) -> int:
    connection = sqlite3.connect(path)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchone():
            return 0
        return int(connection.execute("SELECT COUNT(*) FROM requests").fetchone()[0])
    finally:
        connection.close()


def test_it_ingests_when_nobody_else_does(path: str, state: str, writer: JournalWriter) -> None:
    mixed(writer)
    usage_rows(path, state, "model")
    assert _count(path) == 5


def test_a_read_only_ledger_is_read_with_the_tail(path: str, state: str, writer: JournalWriter) -> None:
    mixed(writer)
    usage_rows(path, state, "model")
    writer.append(record(6))
    connection = sqlite3.connect(path)
    connection.execute("CREATE TRIGGER full BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'full'); END")
    connection.close()
    assert sum(row["requests"] for row in usage_rows(path, state, "model")) == 6
    assert _count(path) == 5


def test_sums_beyond_64_bits_are_exact(path: str, state: str, writer: JournalWriter) -> None:
    huge = Usage(input_tokens=2**63 - 1, cache_read_tokens=2**63 - 1)
    for id in range(1, 4):
        writer.append(record(id, usage=huge, cost_nano_usd=2**63 - 1))
    (row,) = usage_rows(path, state, "model")
    assert row["input_tokens"] == 6 * (2**63 - 1)
    assert row["cost_nano_usd"] == 3 * (2**63 - 1)
    assert json.loads(format_json([{"cost_nano_usd": 2**63 - 1}])) == {"rows": [{"cost_nano_usd": 2**63 - 1}]}
    assert json.loads(format_json([row])) == {"rows": [row]}


def test_a_damaged_or_newer_ledger_is_an_error(path: str, state: str, writer: JournalWriter) -> None:
    writer.append(record(1))
    usage_rows(path, state, "model")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '99'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="schema 99"):
        usage_rows(path, state, "model")
    for suffix in ("-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)
    Path(path).write_bytes(b"nonsense " * 1_000)
    with pytest.raises(LedgerError, match="not a database"):
        usage_rows(path, state, "model")


def test_reports_while_writing_and_ingesting(path: str, state: str) -> None:
    """Each report counts every record written before it once, and none twice, while segments come and go."""
    directory = journal_directory(state)
    writer = JournalWriter(directory, 1, max_segment_bytes=20_000)
    stop = threading.Event()
    ledger = Ledger.open(path)

    def ingest() -> None:
        with ledger:
            while not stop.is_set():
                try:
                    ledger.ingest(directory)
                except LedgerBusyError:
                    continue  # a report is at it

    thread = threading.Thread(target=ingest)
    thread.start()
    try:
        for turn in range(1, 31):
            for id in range((turn - 1) * 200 + 1, turn * 200 + 1):
                writer.append(record(id))
            (row,) = usage_rows(path, state, "model")
            assert row["requests"] == turn * 200
            assert row["cost_nano_usd"] == turn * 200 * 1_000
    finally:
        stop.set()
        thread.join()
        writer.close()


def test_the_table_is_for_people() -> None:
    rows = [
        {"model": "gpt-4o", "requests": 12, "cost_nano_usd": 1},
        {"model": "x\x1b[31m\n" + "y" * 100, "requests": 3, "cost_nano_usd": 12_345_678_901},
    ]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["model", "requests", "cost_usd"]
    assert lines[1].split() == ["gpt-4o", "12", "0.000000001"]
    assert lines[2].split()[0] == "x?[31m?" + "y" * 56 + "…"
    assert lines[2].endswith("12.345678901")
    assert len({len(line) for line in lines}) == 1
