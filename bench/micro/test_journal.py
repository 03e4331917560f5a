"""What a record costs: written into the journal by a worker, and brought from there into the ledger.

The way from the journal to the ledger is taken for 20,000 records at a time.
"""

from pathlib import Path
from typing import Any

from fastroute.billing.journal import JournalWriter
from fastroute.billing.ledger import Ledger
from fastroute.interfaces import Entry, Usage

RECORDS = 20_000
KIND = (
    "app-1",
    "acme",
    "openai",
    "chat",
    "gpt-4o-mini",
    "openai",
    "openai/k1/gpt-4o-mini",
    "gpt-4o-mini",
    "ok",
    "provider",
)


def entry(number: int) -> Entry:
    usage = Usage(input_tokens=213, output_tokens=41)
    return Entry(
        number,
        1_732_147_200 * 10**9,
        f"fr-0a1b2c3d-{number:x}",
        0,
        200,
        1,
        1,
        123_456,
        1_234,
        2_345,
        1_200,
        1_400,
        usage,
    )


def test_write(benchmark: Any, tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path), 1)
    written = entry(1)
    benchmark(writer.write, KIND, written)
    assert writer.backlog == 0
    writer.close()


def test_ingest(benchmark: Any, tmp_path: Path) -> None:
    entries = [entry(number) for number in range(1, RECORDS + 1)]
    made = 0

    def fill() -> tuple[tuple[Ledger, str], dict[str, Any]]:
        nonlocal made
        made += 1
        writer = JournalWriter(str(tmp_path / f"{made}"), made)
        for item in entries:
            writer.write(KIND, item)
        writer.close()
        return (Ledger.open(str(tmp_path / f"{made}.db")), str(tmp_path / f"{made}")), {}

    report = benchmark.pedantic(Ledger.ingest, setup=fill, rounds=5)
    assert report.rows == RECORDS
