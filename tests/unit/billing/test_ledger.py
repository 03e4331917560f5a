"""Every record once, whatever happens on the way."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastroute.billing import ledger as ledger_module
from fastroute.billing.journal import JournalWriter
from fastroute.billing.ledger import (
    IngestReport,
    Ledger,
    LedgerBusyError,
    LedgerError,
    exclusive,
    schema_version,
)
from fastroute.billing.segments import encode_line, encode_record, segment_name
from fastroute.interfaces import Record, Usage
from tests.unit.billing.records import record


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    directory = tmp_path / "journal"
    directory.mkdir()
    return directory


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite3")


@pytest.fixture
def ledger(path: str) -> Iterator[Ledger]:
    with Ledger.open(path) as ledger:
        yield ledger


def query(path: str, sql: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def ids(path: str) -> list[int]:
    return [row[0] for row in query(path, "SELECT id FROM requests ORDER BY id")]


def write_lines(path: Path, *records: Record) -> None:
    path.write_bytes(b"".join(encode_line(encode_record(item)) for item in records))


def test_every_field_of_a_record_is_kept(journal: Path, path: str, ledger: Ledger) -> None:
    usage = Usage(1, 2, 3, 4, 5, 6, 7, 8)
    item = record(5, usage=usage, stream=True, outcome="timeout", usage_source="estimated", priced=False)
    write_lines(journal / segment_name(1, 1), item)
    assert ledger.ingest(str(journal)) == IngestReport(rows=1, retired=1)
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    (row,) = connection.execute("SELECT * FROM records").fetchall()
    connection.close()
    expected = {**msgspec.structs.asdict(item), **msgspec.structs.asdict(usage)}
    del expected["usage"]
    assert dict(row) == expected


def test_a_live_segment_is_followed_and_kept(journal: Path, path: str, ledger: Ledger) -> None:
    writer = JournalWriter(str(journal), 1)
    for id in range(1, 4):
        writer.append(record(id))
        assert ledger.ingest(str(journal)) == IngestReport(rows=1)
    assert ledger.ingest(str(journal)) == IngestReport()
    assert len(os.listdir(journal)) == 1
    writer.append(record(4))
    writer.close()
    assert ledger.ingest(str(journal)) == IngestReport(rows=1, retired=1)
    assert os.listdir(journal) == []
    assert ledger.ingest(str(journal)) == IngestReport()
    assert query(path, "SELECT * FROM segments") == []
    assert ids(path) == [1, 2, 3, 4]


def test_rotated_segments_go_and_the_live_one_stays(journal: Path, path: str, ledger: Ledger) -> None:
    writer = JournalWriter(str(journal), 1, max_segment_bytes=2_000)
    for id in range(1, 101):
        writer.append(record(id))
    segments = len(os.listdir(journal))
    assert ledger.ingest(str(journal)) == IngestReport(rows=100, retired=segments - 1)
    assert len(os.listdir(journal)) == 1
    writer.close()
    assert ids(path) == list(range(1, 101))


def test_more_than_one_batch(journal: Path, path: str, ledger: Ledger) -> None:
    write_lines(journal / segment_name(1, 1), *(record(id) for id in range(1, 12_001)))
    assert os.path.getsize(journal / segment_name(1, 1)) > 2 << 20
    assert ledger.ingest(str(journal)) == IngestReport(rows=12_000, retired=1)
    assert ids(path) == list(range(1, 12_001))


def test_records_met_again_are_not_counted_again(journal: Path, path: str, ledger: Ledger) -> None:
    write_lines(journal / segment_name(1, 1), record(1), record(2), record(2))
    write_lines(journal / segment_name(1, 2), record(2), record(3))
    assert ledger.ingest(str(journal)) == IngestReport(rows=3, duplicates=2, retired=2)
    assert query(path, "SELECT COUNT(*) FROM kinds") == [(1,)]


def test_bad_lines_are_counted_and_their_segment_kept(journal: Path, path: str, ledger: Ledger) -> None:
    name = segment_name(1, 1)
    whole = encode_line(encode_record(record(1)))
    (journal / name).write_bytes(b"\x00garbage\n" + whole + encode_line(b"[1]") + whole[:50])
    assert ledger.ingest(str(journal)) == IngestReport(rows=1, bad_lines=3, retired=1)
    assert os.listdir(journal) == [name + ".bad"]
    assert ledger.ingest(str(journal)) == IngestReport()


def test_only_the_newest_bad_segments_are_kept(journal: Path, ledger: Ledger) -> None:
    for number in range(1, 31):
        (journal / segment_name(1, number)).write_bytes(b"garbage\n")
    assert ledger.ingest(str(journal)).bad_lines == 30
    kept = sorted(os.listdir(journal))
    assert kept == [segment_name(1, number) + ".bad" for number in range(15, 31)]


def test_a_segment_that_cannot_be_read_holds_nobody_up(journal: Path, path: str, ledger: Ledger) -> None:
    (journal / segment_name(1, 1)).mkdir()
    write_lines(journal / segment_name(1, 2), record(1))
    report = ledger.ingest(str(journal))
    assert (report.rows, report.retired) == (1, 1)
    assert report.faults == (f"{segment_name(1, 1)}: Is a directory",)


def test_integers_beyond_sqlite_do_not_block_the_rest(journal: Path, path: str, ledger: Ledger) -> None:
    write_lines(journal / segment_name(1, 1), record(1), record(2, request_bytes=2**64 - 1), record(3))
    assert ledger.ingest(str(journal)).rows == 3
    assert query(path, "SELECT request_bytes FROM requests WHERE id = 2") == [(2**63 - 1,)]


def test_a_full_disk_leaves_journal_and_offset_alone(journal: Path, path: str, ledger: Ledger) -> None:
    write_lines(journal / segment_name(1, 1), *(record(id, request_id="r" * 200) for id in range(1, 2_001)))
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(LedgerError, match="full"):
        ledger.ingest(str(journal))
    assert ids(path) == []
    assert query(path, "SELECT * FROM segments") == query(path, "SELECT * FROM kinds") == []
    assert os.listdir(journal) == [segment_name(1, 1)]
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    assert ledger.ingest(str(journal)).rows == 2_000


def test_kinds_forgotten_by_a_rollback_are_added_again(journal: Path, path: str, ledger: Ledger) -> None:
    write_lines(journal / segment_name(1, 1), record(1, model="new"))
    ledger._connection.execute("CREATE TRIGGER stop BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(LedgerError, match="no"):
        ledger.ingest(str(journal))
    ledger._connection.execute("DROP TRIGGER stop")
    assert ledger.ingest(str(journal)).rows == 1
    assert query(path, "SELECT model FROM records") == [("new",)]


def test_the_cache_of_kinds_is_bounded(
    journal: Path, path: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_CACHED_KINDS", 3)
    models = [f"m{number % 10}" for number in range(100)]
    write_lines(journal / segment_name(1, 1), *(record(n + 1, model=model) for n, model in enumerate(models)))
    ledger.ingest(str(journal))
    assert len(ledger._kinds) <= 3
    assert [row[0] for row in query(path, "SELECT model FROM records ORDER BY id")] == models
    assert query(path, "SELECT COUNT(*) FROM kinds") == [(10,)]


def test_one_process_at_a_time(journal: Path, path: str, ledger: Ledger) -> None:
    with exclusive(path), pytest.raises(LedgerBusyError):
        ledger.ingest(str(journal))
    assert ledger.ingest(str(journal)) == IngestReport()


def test_a_ledger_deleted_under_us_takes_no_journal_with_it(journal: Path, path: str, ledger: Ledger) -> None:
    write_lines(journal / segment_name(1, 1), record(1))
    os.unlink(path)
    with pytest.raises(LedgerError, match="deleted"):
        ledger.ingest(str(journal))
    assert os.listdir(journal) == [segment_name(1, 1)]


def test_reopening_finds_everything(journal: Path, path: str) -> None:
    for id in (1, 2):
        write_lines(journal / segment_name(1, id), record(id))
        with Ledger.open(path) as ledger:
            ledger.ingest(str(journal))
    assert ids(path) == [1, 2]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]


def test_a_damaged_ledger_is_refused_and_journals_stay(journal: Path, path: str) -> None:
    write_lines(journal / segment_name(1, 1), record(1))
    Path(path).write_bytes(b"not a database, but long enough to look like a file with a header" * 50)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger.open(path)
    assert os.listdir(journal) == [segment_name(1, 1)]


def test_a_newer_schema_is_refused(path: str) -> None:
    Ledger.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '99'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="schema 99, newer"):
        Ledger.open(path)


@pytest.mark.parametrize("table", ["something (id)", "meta (key, value)"])
def test_the_database_of_something_else_is_refused(path: str, table: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE {table}")
    connection.close()
    with pytest.raises(LedgerError, match="not a fastroute ledger"):
        Ledger.open(path)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger.open(str(tmp_path / "absent" / "ledger.sqlite3"))


def test_migrations_run_in_order_and_whole(journal: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(path).close()
    first = ledger_module.MIGRATIONS
    broken = (*first, ("ALTER TABLE requests ADD COLUMN region TEXT", "SELECT nonsense"))
    monkeypatch.setattr(ledger_module, "MIGRATIONS", broken)
    with pytest.raises(LedgerError, match="nonsense"):
        Ledger.open(path)
    assert "region" not in str(query(path, "SELECT sql FROM sqlite_master"))
    good = (*first, ("ALTER TABLE segments ADD COLUMN note TEXT",), ("CREATE TABLE extra (id)",))
    monkeypatch.setattr(ledger_module, "MIGRATIONS", good)
    Ledger.open(path).close()
    connection = sqlite3.connect(path)
    assert schema_version(connection, path) == 3
    connection.close()
