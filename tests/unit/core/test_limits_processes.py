"""Several processes at one table: the compiled half of `limits` is exact over all of them, whatever kills them."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._limits_file import DAY_NS, USERS, Moment
from tests.children import with_paths
from tests.unit.core.twins import twins

COMPILED: Any = twins("limits")[1].values[0]
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the pure half does not promise it")

PROCESSES = 4
NOW = 10**12
WALL = 20_000 * DAY_NS
_PREAMBLE = f"""
import random, sys
from fastroute._core._limits_c import Ceilings, Limiter, Table
from fastroute._core._limits_file import Subject
NOW, WALL = {NOW}, {WALL}
table = Table.open(sys.argv[1])
worker = int(sys.argv[2])
limiter = Limiter(table, worker)
def meet():
    print("here", flush=True)
    sys.stdin.readline()
def try_in(ceilings, tokens=0, model=None):
    return limiter.admit(ceilings, model, 0, tokens, NOW, WALL)
"""


class Crowd:
    """Processes that run one body as workers 0, 1, ... of the table; they wait for each other at its `meet()`."""

    def __init__(self, path: str, body: str) -> None:
        self.children = [
            subprocess.Popen(
                [sys.executable, "-c", _PREAMBLE + body, path, str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=with_paths(os.environ),
            )
            for worker in range(PROCESSES)
        ]

    def begin(self) -> None:
        """Let all of them go on once all of them are there."""
        for child in self.children:
            assert child.stdout is not None
            assert child.stdout.readline() == "here\n"
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()

    def finish(self) -> list[str]:
        printed = [child.communicate(timeout=60)[0] for child in self.children]
        assert [child.returncode for child in self.children] == [0] * PROCESSES
        return printed

    def stop(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            if child.stdout is not None and not child.stdout.closed:
                child.communicate()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "limits")


@pytest.fixture
def table(path: str) -> Iterator[Any]:
    made = COMPILED.Table.create(path, PROCESSES, Moment(bytes(16), NOW, WALL), 1024)
    yield made
    made.close()


def run(path: str, body: str) -> list[str]:
    crowd = Crowd(path, body)
    try:
        crowd.begin()
        return crowd.finish()
    finally:
        crowd.stop()


@pytest.mark.parametrize(
    ("ceilings", "tokens", "expected"),
    [
        ("rpm=500", 0, 500),
        ("rpd=500", 0, 500),
        ("concurrency=500", 0, 500),
        ("tpm=10_000", 7, 1428),
        ("tpd=10_000", 7, 1428),
        ("rpm=800, tpm=5_000, concurrency=700, rpd=600, tpd=20_000", 10, 500),
    ],
)
def test_all_together_let_in_exactly_what_they_may(
    path: str, table: Any, ceilings: str, tokens: int, expected: int
) -> None:
    """Each asks for more than all of them together may have."""
    body = (
        f"ceilings = Ceilings(table, [Subject('key:a', {ceilings})])\n"
        "meet()\n"
        f"print(sum(try_in(ceilings, {tokens}) is not None for _ in range(1600)))"
    )
    assert sum(map(int, run(path, body))) == expected


def test_what_one_ceiling_refuses_is_there_for_others(path: str, table: Any) -> None:
    """Half of them are refused by their model, and must leave what they share with the others alone."""
    body = (
        "ceilings = Ceilings(table, [Subject('key:a', rpm=900, tpm=10**6, rpd=900)])\n"
        "model = Ceilings(table, [Subject(f'model:{worker % 2}', rpd=300 if worker % 2 else 10**6)])\n"
        "meet()\n"
        "print(sum(try_in(ceilings, 10, model) is not None for _ in range(1600)))"
    )
    assert sum(map(int, run(path, body))) == 900
    assert table.cell(table.find("model:1"), 3) & 0xFFFFFFFF <= 300


def test_each_subject_has_one_slot(path: str, table: Any) -> None:
    """Everybody claims the same subjects in an order of their own."""
    body = (
        "names = [f'key:{number}' for number in range(500)]\n"
        "random.Random(worker).shuffle(names)\n"
        "meet()\n"
        "print(sorted((name, table.find(name)) for name in names))"
    )
    printed = run(path, body)
    assert len(set(printed)) == 1
    assert table.lost == 0
    claimed = [slot for slot in range(1024) if table.cell(slot, 0)]
    assert len(claimed) == 500


def test_nothing_stays_after_comings_and_goings(path: str, table: Any) -> None:
    body = (
        "rng = random.Random(worker)\n"
        "few = [Ceilings(table, [Subject(f'key:{n}', concurrency=5, tpm=10**9, tpd=10**9)]) for n in range(2)]\n"
        "inside, most = [], 0\n"
        "meet()\n"
        "for _ in range(20_000):\n"
        "    if inside and rng.random() < 0.5:\n"
        "        inside.pop(rng.randrange(len(inside))).settle(rng.randrange(100))\n"
        "    else:\n"
        "        grant = try_in(few[rng.randrange(2)], rng.randrange(100))\n"
        "        if grant: inside.append(grant)\n"
        "        most = max(most, len(inside))\n"
        "for grant in inside: grant.withdraw()\n"
        "print(most)"
    )
    assert all(0 < int(most) <= 10 for most in run(path, body))
    assert [table.held(table.find(f"key:{number}")) for number in range(2)] == [0, 0]


def test_a_kill_at_any_moment_leaks_nothing(path: str, table: Any) -> None:
    """Processes do nothing but let in and settle; each is killed at some moment, and given back what it held."""
    body = (
        "caller = Ceilings(table, [Subject('key:a', concurrency=3), Subject('tenant:t', concurrency=5)])\n"
        "model = Ceilings(table, [Subject('model:m', concurrency=4)])\n"
        "meet()\n"
        "inside = []\n"
        "while True:\n"
        "    grant = try_in(caller, 0, model)\n"
        "    if grant: inside.append(grant)\n"
        "    if len(inside) > 1 or not grant and inside: inside.pop().settle(0)\n"
    )
    slots = [table.find(name) for name in ("key:a", "tenant:t", "model:m")]
    rng = random.Random(7)
    for _ in range(3):
        crowd = Crowd(path, body)
        try:
            crowd.begin()
            for worker, child in enumerate(crowd.children):
                time.sleep(rng.random() * 0.02)
                os.kill(child.pid, signal.SIGKILL)
                child.communicate()
                table.clear_worker(worker)
        finally:
            crowd.stop()
        assert [table.held(slot) for slot in slots] == [0, 0, 0]


def test_places_change_hands_and_nobody_shares_one(path: str) -> None:
    """Ten times as many subjects as places, one request at a time of each: who is inside writes that down."""
    table = COMPILED.Table.create(path, PROCESSES, Moment(bytes(16), NOW, WALL), 32)
    Path(f"{path}.inside").write_bytes(bytes(320))
    body = (
        "import mmap\n"
        "file = open(sys.argv[1] + '.inside', 'r+b')\n"
        "who = mmap.mmap(file.fileno(), 0)\n"
        "rng = random.Random(worker)\n"
        "some = [Ceilings(table, [Subject(f'key:{n}', concurrency=1)]) for n in range(320)]\n"
        "inside, let_in = [], 0\n"
        "def leave(n, grant):\n"
        "    assert who[n] == worker + 1\n"
        "    who[n] = 0\n"
        "    grant.settle(0)\n"
        "meet()\n"
        "for step in range(30_000):\n"
        "    n = rng.randrange(320) if step % 3 else rng.randrange(3)\n"
        "    grant = try_in(some[n])\n"
        "    if grant:\n"
        "        assert who[n] == 0\n"
        "        who[n] = worker + 1\n"
        "        let_in += 1\n"
        "        inside.append((n, grant))\n"
        "    if len(inside) > 3 or not grant and inside:\n"
        "        leave(*inside.pop(rng.randrange(len(inside))))\n"
        "for n, grant in inside: leave(n, grant)\n"
        "print(let_in)"
    )
    assert all(int(let_in) > 10_000 for let_in in run(path, body))
    assert table.lost == 0
    owners = [table.cell(slot, 0) for slot in range(32)]
    assert len(set(owners)) == 32
    assert [table.held(slot) + table.cell(slot, USERS) for slot in range(32)] == [0] * 32
    table.close()
