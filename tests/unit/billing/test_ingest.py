"""The ingesting task goes on through errors and finishes the work when it is stopped."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from fastroute.billing.ingest import Ingestor
from fastroute.billing.journal import JournalWriter
from fastroute.billing.ledger import IngestReport, LedgerError, exclusive
from tests.unit.billing.records import record


@pytest.fixture
def ledger_path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite3")


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


def test_run_once_ingests_what_is_there(ledger_path: str, journal: str) -> None:
    ingestor = Ingestor(ledger_path, journal)
    assert ingestor.run_once() == IngestReport()
    writer = JournalWriter(journal, 1)
    writer.append(record(1))
    assert ingestor.run_once().rows == 1
    writer.append(record(2))
    assert ingestor.run_once().rows == 1
    assert ingestor.totals.rows == 2
    writer.close()
    ingestor.close()


def test_nothing_is_done_while_another_process_is_at_it(ledger_path: str, journal: str) -> None:
    writer = JournalWriter(journal, 1)
    writer.append(record(1))
    ingestor = Ingestor(ledger_path, journal)
    ingestor.run_once()
    writer.append(record(2))
    with exclusive(ledger_path):
        assert ingestor.run_once() == IngestReport()
    assert ingestor.run_once().rows == 1
    writer.close()
    ingestor.close()


def test_it_reopens_after_an_error(ledger_path: str, journal: str) -> None:
    ingestor = Ingestor(ledger_path, journal)
    ingestor.run_once()
    writer = JournalWriter(journal, 1)
    writer.append(record(1))
    writer.close()
    os.unlink(ledger_path)
    with pytest.raises(LedgerError):
        ingestor.run_once()
    assert ingestor.run_once() == IngestReport(rows=1, retired=1)
    ingestor.close()


def test_the_task_ingests_and_does_a_last_round(ledger_path: str, journal: str) -> None:
    async def scenario() -> Ingestor:
        ingestor = Ingestor(ledger_path, journal)
        stop = asyncio.Event()
        task = asyncio.create_task(ingestor.run(stop, interval_s=0.01))
        writer = JournalWriter(journal, 1)
        writer.append(record(1))
        while not ingestor.totals.rows:
            await asyncio.sleep(0.005)
        writer.append(record(2))
        writer.close()
        stop.set()
        await asyncio.wait_for(task, 5)
        return ingestor

    ingestor = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert ingestor.totals.rows == 2
    assert ingestor._ledger is None
    assert os.listdir(journal) == []


def test_errors_are_said_once_and_pass(ledger_path: str, journal: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Path(ledger_path).write_bytes(b"this is not a database" * 500)

    async def scenario() -> Ingestor:
        ingestor = Ingestor(ledger_path, journal)
        stop = asyncio.Event()
        writer = JournalWriter(journal, 1)
        writer.append(record(1))
        task = asyncio.create_task(ingestor.run(stop, interval_s=0.002))
        while ingestor.totals.failures < 3:
            await asyncio.sleep(0.005)
        assert "damaged" in str(ingestor.totals.last_error)
        os.unlink(ledger_path)
        while not ingestor.totals.rows:
            await asyncio.sleep(0.005)
        writer.close()
        stop.set()
        await asyncio.wait_for(task, 5)
        return ingestor

    ingestor = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert ingestor.totals.last_error is None
    messages = [item.getMessage() for item in caplog.records if item.name == "fastroute.billing.ingest"]
    assert [message for message in messages if "damaged" in message] == messages[:1]
    assert messages[-1] == "ledger: ingesting again"


def test_bad_lines_and_unreadable_segments_are_reported(
    ledger_path: str, journal: str, caplog: pytest.LogCaptureFixture
) -> None:
    os.makedirs(os.path.join(journal, "00000001-000001.journal"))
    Path(journal, "00000001-000002.journal").write_bytes(b"garbage\n")

    async def scenario() -> Ingestor:
        ingestor = Ingestor(ledger_path, journal)
        stop = asyncio.Event()
        stop.set()
        await ingestor.run(stop)
        return ingestor

    ingestor = asyncio.run(scenario())
    assert (ingestor.totals.bad_lines, ingestor.totals.failures) == (1, 1)
    assert "skipped 1 bad lines" in caplog.text
    assert "00000001-000001.journal: Is a directory" in caplog.text
