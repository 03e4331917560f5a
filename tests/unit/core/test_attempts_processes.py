"""Several processes at one segment: the compiled half of `attempts` is exact over all of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core import counters as cells
from fastroute._core._adaptive_rules import AIMD, unpack_word
from fastroute._core._attempts_rules import CLOSED, HALF_OPEN, OPEN
from tests.children import with_paths
from tests.unit.core.halves import Half, halves

COMPILED: Half | None = halves()[1].values[0]
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the pure half does not promise it")

PROCESSES = 4
ROWS = 200
#: When the breakers that are open may be probed.
OPENS_MS = 10_000
_PREAMBLE = """
import random, sys
from fastroute._core._attempts_c import Attempts
from fastroute._core._attempts_rules import FAILED, NEUTRAL, OK, RATE_LIMITED, Policy
from fastroute._core._counters_c import Segment
segment = Segment.open(sys.argv[1])
worker, calls, rows = (int(argument) for argument in sys.argv[2:])
attempts = Attempts(segment, Policy(failure_threshold=3, timeout_ms=1000, half_open_max_calls=calls))
def meet():
    print("here", flush=True)
    sys.stdin.readline()
"""


class Crowd:
    """Processes that run one body as workers 0, 1, ... of the segment; they wait for each other at its `meet()`."""

    def __init__(self, path: str, calls: int, body: str) -> None:
        source = _PREAMBLE + body
        self._children = [
            subprocess.Popen(
                [sys.executable, "-c", source, path, str(worker), str(calls), str(ROWS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=with_paths(os.environ),
            )
            for worker in range(PROCESSES)
        ]

    def all_here(self) -> None:
        """Wait until every process waits in `meet()`."""
        for child in self._children:
            assert child.stdout is not None
            assert child.stdout.readline() == "here\n"

    def go_on(self) -> None:
        """Let them all leave `meet()`."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()

    def finish(self) -> list[str]:
        """Return what each process has printed since."""
        printed = [child.communicate(timeout=60)[0] for child in self._children]
        assert [child.returncode for child in self._children] == [0] * PROCESSES
        return printed

    def stop(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.communicate()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "counters")


@pytest.fixture
def segment(path: str) -> Iterator[Any]:
    assert COMPILED is not None
    made = COMPILED.counters.Segment.create(path, PROCESSES, ROWS)
    yield made
    made.close()


def set_breakers(segment: Any, state: int, until_ms: int, probes: int = 0) -> None:
    for row in range(ROWS):
        segment.set_cell(row, cells.BREAKER, state | probes << 2 | 5 << 10 | until_ms << 24)


def states(segment: Any) -> list[tuple[int, int, int]]:
    """Return (state, probes, generation) of every endpoint."""
    words = [segment.cell(row, cells.BREAKER) for row in range(ROWS)]
    return [(word & 3, word >> 2 & 0xFF, word >> 10 & 0x3FFF) for word in words]


def run(path: str, calls: int, body: str) -> list[str]:
    """Run the body in every process; return what each has printed after the meeting."""
    crowd = Crowd(path, calls, body)
    try:
        crowd.all_here()
        crowd.go_on()
        return crowd.finish()
    finally:
        crowd.stop()


@pytest.mark.parametrize("calls", [1, 3])
def test_all_together_have_so_many_probes(path: str, segment: Any, calls: int) -> None:
    """Each process asks twice; there are fewer probes than questions."""
    set_breakers(segment, OPEN, OPENS_MS)
    body = (
        "meet()\n"
        "tickets = [(row, attempts.enter(worker, row, 1000, 10_000)) for row in [*range(rows)] * 2]\n"
        "print(*(row for row, ticket in tickets if ticket >= 0))"
    )
    admitted = [int(row) for line in run(path, calls, body) for row in line.split()]
    assert sorted(admitted) == sorted([*range(ROWS)] * calls)
    assert segment.totals(cells.IN_FLIGHT) == [calls] * ROWS
    assert states(segment) == [(HALF_OPEN, calls, 6)] * ROWS


def test_lost_probes_are_replaced_by_so_many(path: str, segment: Any) -> None:
    set_breakers(segment, HALF_OPEN, OPENS_MS, probes=1)
    body = (
        "meet()\n"
        "tickets = [(row, attempts.enter(worker, row, 1000, 10_000)) for row in range(rows)]\n"
        "print(*(row for row, ticket in tickets if ticket >= 0))"
    )
    admitted = [int(row) for line in run(path, 1, body) for row in line.split()]
    assert sorted(admitted) == list(range(ROWS))
    assert states(segment) == [(HALF_OPEN, 1, 5)] * ROWS


def test_a_failed_probe_opens_it_among_others_that_come_and_go(path: str, segment: Any) -> None:
    """One process has its probe fail at every endpoint; the others enter and leave there meanwhile."""
    set_breakers(segment, OPEN, OPENS_MS)
    body = (
        "mine = [attempts.enter(worker, row, 1000, 10_000) for row in range(rows)]\n"
        "meet()\n"
        "for row in range(rows):\n"
        "    if worker == 0:\n"
        "        attempts.leave(0, row, mine[row], FAILED, -1.0, 10_000, 0, 0, 1000)\n"
        "        continue\n"
        "    attempts.leave(worker, row, mine[row], NEUTRAL, -1.0, 10_000, 0, 0, 1000)\n"
        "    for _ in range(20):\n"
        "        ticket = attempts.enter(worker, row, 1000, 10_000)\n"
        "        if ticket >= 0:\n"
        "            attempts.leave(worker, row, ticket, NEUTRAL, -1.0, 10_000, 0, 0, 1000)"
    )
    run(path, 200, body)
    assert states(segment) == [(OPEN, 0, 7)] * ROWS
    assert segment.totals(cells.IN_FLIGHT) == segment.totals(cells.WORK) == [0] * ROWS


def test_probes_of_all_together_close_it_once(path: str, segment: Any) -> None:
    set_breakers(segment, OPEN, OPENS_MS)
    body = (
        "mine = [attempts.enter(worker, row, 1000, 10_000) for row in range(rows)]\n"
        "meet()\n"
        "for row in range(rows):\n"
        "    attempts.leave(worker, row, mine[row], OK, 5.0, 10_000, 0, 0, 1000)"
    )
    run(path, 200, body)  # 4 probes, of which 3 are needed
    assert states(segment) == [(CLOSED, 0, 7)] * ROWS
    assert segment.totals(cells.REQUESTS) == [PROCESSES] * ROWS


def test_failures_in_a_row_of_all_together_are_one_trip(path: str, segment: Any) -> None:
    body = (
        "mine = [[attempts.enter(worker, row, 1000, 10_000) for _ in range(5)] for row in range(rows)]\n"
        "meet()\n"
        "for row in range(rows):\n"
        "    for ticket in mine[row]:\n"
        "        attempts.leave(worker, row, ticket, FAILED, -1.0, 10_000, 0, 0, 1000)"
    )
    run(path, 1, body)
    assert states(segment) == [(OPEN, 0, 1)] * ROWS
    assert [segment.cell(row, cells.BREAKER) >> 24 for row in range(ROWS)] == [11_000] * ROWS
    assert [segment.cell(row, cells.BREAKER_COUNTS) >> 32 for row in range(ROWS)] == [1] * ROWS
    assert segment.totals(cells.FAILURES) == [5 * PROCESSES] * ROWS


def test_nothing_is_lost_and_nothing_stays_in_flight(path: str, segment: Any) -> None:
    """Every process lives through attempts of all kinds at the same few endpoints."""
    body = (
        "rng = random.Random(worker)\n"
        "inside, ended, failed = [], 0, 0\n"
        "meet()\n"
        "for step in range(6_000):\n"
        "    now_ms = 10_000 + step // 100\n"
        "    if step < 5_000 and (not inside or rng.random() < 0.5):\n"
        "        row, work = rng.randrange(3), rng.randrange(5_000)\n"
        "        ticket = attempts.enter(worker, row, work, now_ms)\n"
        "        if ticket < 0:\n"
        "            ticket = attempts.enter_anyway(worker, row, work, now_ms)\n"
        "        inside.append((row, ticket, work))\n"
        "    elif inside:\n"
        "        row, ticket, work = inside.pop(rng.randrange(len(inside)))\n"
        "        verdict = rng.choice([OK, OK, FAILED, RATE_LIMITED, NEUTRAL])\n"
        "        attempts.leave(worker, row, ticket, verdict, rng.random() * 50, now_ms, step, 0, work)\n"
        "        ended += 1\n"
        "        failed += verdict == FAILED\n"
        "print(ended, failed, len(inside))"
    )
    counts = [[int(number) for number in line.split()] for line in run(path, 1, body)]
    assert [left for _, _, left in counts] == [0] * PROCESSES
    assert segment.totals(cells.IN_FLIGHT) == segment.totals(cells.WORK) == [0] * ROWS
    assert sum(segment.totals(cells.REQUESTS)) == sum(ended for ended, _, _ in counts)
    assert sum(segment.totals(cells.FAILURES)) == sum(failed for _, failed, _ in counts)


def test_no_result_of_any_process_is_missing_in_the_window(path: str, segment: Any) -> None:
    assert COMPILED is not None
    body = (
        "meet()\n"
        "for step in range(3_000):\n"
        "    for verdict in (OK, FAILED):\n"
        "        ticket = attempts.enter_anyway(worker, 0, 1000, 10_000)\n"
        "        attempts.leave(worker, 0, ticket, verdict, -1.0, 10_000, 0, 0, 1000)"
    )
    run(path, 1, body)
    attempts = COMPILED.attempts.Attempts(segment)
    assert attempts.health(0, 10_000) == (3_000 * PROCESSES,) * 2


LEARNING = """
from fastroute._core._adaptive_c import Adaptive
from fastroute._core._adaptive_rules import Setting
adaptive = Adaptive(segment, {row: Setting(minimum=2, maximum=50, initial=20) for row in range(rows)})
attempts = Attempts(segment, Policy(failure_threshold=60_000, min_requests=10**9), adaptive)
rng = random.Random(worker)
meet()
for now_ms in range(10_000, 15_000):
    row = rng.randrange(4)
    tickets = [attempts.enter(worker, row, 1000, now_ms) for _ in range(3)]
    for ticket in tickets:
        verdict = RATE_LIMITED if rng.random() < 0.05 else OK
        attempts.leave(worker, row, ticket, verdict, -1.0, now_ms, 0, 1, 1000)
"""


def test_what_is_learnt_is_learnt_by_all_and_nothing_is_lost(path: str, segment: Any) -> None:
    left = 1_000_000
    for row in range(4):
        segment.set_cell(row, cells.QUOTA_REQUESTS, left << 32 | left)
    run(path, 1, LEARNING)
    sent = [segment.cell(row, cells.PACE) & 0xFFFFFFFF for row in range(4)]
    assert sum(sent) == PROCESSES * 5_000 * 3
    assert sent == [segment.total(row, cells.REQUESTS) for row in range(4)]
    assert [segment.cell(row, cells.QUOTA_REQUESTS) & 0xFFFFFFFF for row in range(4)] == [left - n for n in sent]
    for row in range(4):
        word = unpack_word(segment.cell(row, cells.ADAPTIVE))
        assert word.kind == AIMD
        assert 2.0 <= word.limit <= 50.0
        assert segment.in_flight(row) == 0
