"""kill -9 at any moment, of worker and ingesting process: every acknowledged record is there, exactly once."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from fastroute.billing.ledger import Ledger
from fastroute.billing.report import usage_rows
from fastroute.billing.segments import journal_directory
from tests.children import with_paths

ROUNDS = 20
SEED = 20_241_121
ID_BYTES = 8

#: Appends as fast as it can, in bursts; acknowledges each id on stdout once `append` has returned.
WRITER = """
import os, sys, time
from fastroute.billing.boot import allocate_boot
from fastroute.billing.journal import JournalWriter
from fastroute.billing.segments import journal_directory
from tests.unit.billing.records import record

state = sys.argv[1]
writer = JournalWriter(journal_directory(state), allocate_boot(state), max_segment_bytes=100_000)
while True:
    for _ in range(50):
        id = writer.next_id()
        writer.append(record(id, cost_nano_usd=id % 1_000_003))
        assert writer.backlog == 0
        os.write(1, id.to_bytes(8, "big"))
    time.sleep(0.001)
"""

#: Opens the ledger and ingests without pause.
INGESTER = """
import sys
from fastroute.billing.ledger import Ledger
from fastroute.billing.segments import journal_directory

state = sys.argv[1]
with Ledger.open(state + "/ledger.sqlite3") as ledger:
    while True:
        if ledger.ingest(journal_directory(state)).rows:
            sys.stdout.write(".")
            sys.stdout.flush()
"""


def start(script: str, state: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start a child whose output survives it: in a file, as a pipe nobody reads would block it."""
    with open(output, "ab") as file:
        return subprocess.Popen([sys.executable, "-c", script, str(state)], stdout=file, env=with_paths(os.environ))


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL  # anything else: it failed by itself


def wait_for_growth(path: Path, size: int) -> None:
    deadline = time.monotonic() + 10
    while path.stat().st_size <= size:
        assert time.monotonic() < deadline, f"{path.name}: the child does nothing"
        time.sleep(0.002)


def test_no_acknowledged_record_is_lost_or_doubled(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    acks, dots = tmp_path / "acks", tmp_path / "dots"
    acks.touch()
    dots.touch()
    for _ in range(ROUNDS):
        acked, dotted = acks.stat().st_size, dots.stat().st_size
        children = [start(WRITER, tmp_path, acks), start(INGESTER, tmp_path, dots)]
        try:
            wait_for_growth(acks, acked)
            if rng.random() < 0.8:
                wait_for_growth(dots, dotted)
            time.sleep(rng.uniform(0, 0.08))
            rng.shuffle(children)
            kill(children[0])
            time.sleep(rng.choice([0, rng.uniform(0, 0.03)]))
            kill(children[1])
        finally:
            for child in children:
                child.kill()
                child.wait(10)
    verify(tmp_path, acks.read_bytes())


def verify(state: Path, acks: bytes) -> None:
    whole = len(acks) // ID_BYTES * ID_BYTES
    acked = [int.from_bytes(acks[at : at + ID_BYTES], "big") for at in range(0, whole, ID_BYTES)]
    path = str(state / "ledger.sqlite3")
    with Ledger.open(path) as ledger:
        ledger.ingest(journal_directory(str(state)))
    connection = sqlite3.connect(path)
    stored = dict(connection.execute("SELECT id, cost_nano_usd FROM requests"))
    connection.close()
    assert len(acked) == len(set(acked)) >= ROUNDS
    assert not set(acked) - stored.keys()
    # A record may have been written by a worker that died before it could acknowledge it: one per worker.
    assert len(stored.keys() - set(acked)) <= ROUNDS
    assert all(cost == id % 1_000_003 for id, cost in stored.items())
    assert [name for name in os.listdir(journal_directory(str(state))) if name.endswith(".journal")] == []
    (row,) = usage_rows(path, str(state), "model")
    assert row["requests"] == len(stored)
    assert row["cost_nano_usd"] == sum(stored.values())
