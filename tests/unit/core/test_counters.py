"""Counters shared by processes, over both halves and with real processes."""

import errno
import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastroute._core import _counters_file as layout
from fastroute._core.counters import (
    CELLS,
    COLUMNS,
    FAILURES,
    IN_FLIGHT,
    LAST_USED_NS,
    REQUESTS,
    WORDS,
    WORK,
    SegmentError,
)
from fastroute.errors import FastrouteError
from tests.unit.core.twins import twins

INT64_MAX = 2**63 - 1


@pytest.fixture(params=twins("counters"))
def counters(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "counters")


@pytest.fixture
def segment(counters: ModuleType, path: str) -> Iterator[Any]:
    made = counters.Segment.create(path, 3, 5)
    yield made
    made.close()


def run_child(counters: ModuleType, path: str, body: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a process that opens the segment as `s` and runs `body`; `argv` holds the arguments as ints."""
    source = (
        f"import sys\nfrom {counters.__name__} import Segment\n"
        f"s = Segment.open({path!r})\nargv = [int(a) for a in sys.argv[1:]]\n{body}\n"
    )
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(children: "list[subprocess.Popen[str]]") -> None:
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0


def test_which_half_is_atomic(counters: ModuleType) -> None:
    assert counters.ATOMIC is counters.__name__.endswith("_c")


def test_a_new_segment_is_zero(segment: Any, path: str) -> None:
    assert (segment.path, segment.workers, segment.endpoints) == (path, 3, 5)
    assert [segment.word(i) for i in range(WORDS)] == [0] * WORDS
    assert [segment.totals(c) for c in range(COLUMNS)] == [[0] * 5] * COLUMNS
    assert [segment.cell(e, i) for e in range(5) for i in range(CELLS)] == [0] * (5 * CELLS)
    assert os.path.getsize(path) == 4096 + 3 * 5 * 64 + 5 * 8 * layout.CELLS


def test_named_cells_are_cells_of_their_own() -> None:
    names = ["BREAKER", "BREAKER_COUNTS", "COOLDOWN_UNTIL_MS", "COST", "LAST_USED_MS", "SLOW_START_MS", "BANDIT"]
    names += ["BANDIT_TIME_MS", "CLOSED_AT_MS", "KEY_STATE", "KEY_SINCE_MS", "MODEL_STATE", "MODEL_SINCE_MS", "PACE"]
    names += ["ADAPTIVE", "QUOTA_REQUESTS", "QUOTA_TOKENS", "QUOTA_REQUESTS_TIMES", "QUOTA_TOKENS_TIMES"]
    window = range(layout.WINDOW_0, layout.WINDOW_0 + layout.WINDOW_BUCKETS)
    latencies = range(layout.LATENCY_0, layout.LATENCY_0 + layout.LATENCY_CELLS)
    cells = [getattr(layout, name) for name in names] + list(window) + list(latencies)
    assert len(set(cells)) == len(cells)
    assert all(0 <= cell < CELLS for cell in cells)


def test_what_gates_look_at_is_in_one_cache_line() -> None:
    gates = (layout.BREAKER, layout.COOLDOWN_UNTIL_MS, layout.KEY_STATE, layout.ADAPTIVE)
    assert max(*gates, layout.QUOTA_REQUESTS, layout.QUOTA_TOKENS) < layout.LINE == 64 // 8


def test_several_cells_at_once(segment: Any) -> None:
    for i in range(CELLS):
        segment.set_cell(2, i, i - 20)
    assert segment.cells(2, 0, CELLS) == list(range(-20, CELLS - 20))
    assert (segment.cells(2, 3, 2), segment.cells(2, CELLS - 1, 1), segment.cells(1, 5, 0)) == ([-17, -16], [27], [])
    for wrong in ((2, 0, CELLS + 1), (2, -1, 1), (5, 0, 1), (2, CELLS, 0), (2, 4, -1), (2, CELLS - 1, 2)):
        with pytest.raises(IndexError):
            segment.cells(*wrong)
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.cells(2, 0, 1)


def test_only_the_owner_may_read_the_file(segment: Any, path: str) -> None:
    assert os.stat(path).st_mode & 0o077 == 0


def test_words(segment: Any) -> None:
    segment.set_word(0, -7)
    assert segment.add_word(0, 10) == 3
    assert segment.cas_word(0, 4, 9) is False
    assert segment.word(0) == 3
    assert segment.cas_word(0, 3, 9) is True
    assert segment.word(0) == 9
    assert segment.word(1) == 0


def test_cells_do_not_alias(segment: Any) -> None:
    value = 0
    for worker in range(3):
        for endpoint in range(5):
            for column in range(COLUMNS):
                value += 1
                segment.set(worker, endpoint, column, value)
    for i in range(WORDS):
        segment.set_word(i, -1 - i)
    seen = [segment.get(w, e, c) for w in range(3) for e in range(5) for c in range(COLUMNS)]
    assert seen == list(range(1, value + 1))
    assert [segment.word(i) for i in range(WORDS)] == [-1 - i for i in range(WORDS)]


def test_shared_cells_do_not_alias(segment: Any) -> None:
    for worker in range(3):
        for endpoint in range(5):
            for column in range(COLUMNS):
                segment.set(worker, endpoint, column, -1)
    cells = [(endpoint, i) for endpoint in range(5) for i in range(CELLS)]
    for value, cell in enumerate(cells):
        segment.set_cell(*cell, value)
    assert [segment.cell(*cell) for cell in cells] == list(range(len(cells)))
    assert [segment.totals(column) for column in range(COLUMNS)] == [[-3] * 5] * COLUMNS
    assert [segment.word(i) for i in range(WORDS)] == [0] * WORDS


def test_shared_cells(segment: Any) -> None:
    segment.set_cell(4, 47, -7)
    assert segment.add_cell(4, 47, 10) == 3
    assert segment.cas_cell(4, 47, 4, 9) is False
    assert segment.cell(4, 47) == 3
    assert segment.cas_cell(4, 47, 3, INT64_MAX) is True
    assert segment.add_cell(4, 47, 1) == -(2**63)
    assert segment.cell(4, 46) == segment.cell(3, 47) == 0


def test_totals_sum_over_workers(segment: Any) -> None:
    for worker in range(3):
        assert segment.add(worker, 2, REQUESTS, 10**worker) == 10**worker
    segment.add(1, 4, REQUESTS, 5)
    segment.add(0, 2, IN_FLIGHT, 3)
    segment.add(2, 2, IN_FLIGHT, -1)
    assert segment.total(2, REQUESTS) == 111
    assert segment.totals(REQUESTS) == [0, 0, 111, 0, 5]
    assert segment.in_flight(2) == 2


def test_sums_wrap_at_64_bits(segment: Any) -> None:
    segment.set(0, 0, FAILURES, INT64_MAX)
    assert segment.add(0, 0, FAILURES, 1) == -(2**63)
    segment.set(1, 0, FAILURES, -1)
    assert segment.total(0, FAILURES) == INT64_MAX
    segment.set_word(5, -(2**63))
    assert segment.add_word(5, -1) == INT64_MAX


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_values_beyond_64_bits(segment: Any, value: int) -> None:
    for call in (
        lambda: segment.set(0, 0, 0, value),
        lambda: segment.add(0, 0, 0, value),
        lambda: segment.set_word(0, value),
        lambda: segment.add_word(0, value),
        lambda: segment.cas_word(0, value, 0),
        lambda: segment.cas_word(0, 0, value),
        lambda: segment.set_cell(0, 0, value),
        lambda: segment.add_cell(0, 0, value),
        lambda: segment.cas_cell(0, 0, value, 0),
        lambda: segment.cas_cell(0, 0, 0, value),
    ):
        with pytest.raises(OverflowError):
            call()
    assert segment.word(0) == segment.get(0, 0, 0) == segment.cell(0, 0) == 0


@pytest.mark.parametrize("at", [(3, 0, 0), (0, 5, 0), (0, 0, 8), (-1, 0, 0), (0, -1, 0), (0, 0, -1), (10**30, 0, 0)])
def test_cells_out_of_range(segment: Any, at: tuple[int, int, int]) -> None:
    for call in (lambda: segment.get(*at), lambda: segment.set(*at, 1), lambda: segment.add(*at, 1)):
        with pytest.raises(IndexError):
            call()


@pytest.mark.parametrize("at", [(5, 0), (0, CELLS), (-1, 0), (0, -1), (10**30, 0), (0, -(10**30))])
def test_shared_cells_out_of_range(segment: Any, at: tuple[int, int]) -> None:
    for call in (
        lambda: segment.cell(*at),
        lambda: segment.set_cell(*at, 1),
        lambda: segment.add_cell(*at, 1),
        lambda: segment.cas_cell(*at, 0, 1),
    ):
        with pytest.raises(IndexError):
            call()


def test_other_positions_out_of_range(segment: Any) -> None:
    for i in (-1, WORDS, -(10**30)):
        for call in (
            lambda i=i: segment.word(i),
            lambda i=i: segment.set_word(i, 1),
            lambda i=i: segment.add_word(i, 1),
            lambda i=i: segment.cas_word(i, 0, 1),
            lambda i=i: segment.total(i, 0),
            lambda i=i: segment.total(0, i),
            lambda i=i: segment.totals(i),
            lambda i=i: segment.in_flight(i),
            lambda i=i: segment.clear_worker(i),
            lambda i=i: segment.clear_endpoint(i),
        ):
            with pytest.raises(IndexError):
                call()


def test_integers_only(segment: Any) -> None:
    for call in (
        lambda: segment.set(0, 0, 0, 1.0),
        lambda: segment.word(1.0),
        lambda: segment.add_word(0, "1"),
        lambda: segment.cell(0, 1.0),
        lambda: segment.set_cell(0, 0, 1.0),
    ):
        with pytest.raises(TypeError):
            call()


def test_clear_worker_keeps_what_was_counted(segment: Any) -> None:
    for worker in range(3):
        for endpoint in range(5):
            segment.set(worker, endpoint, IN_FLIGHT, 4)
            segment.set(worker, endpoint, WORK, 4000)
            segment.set(worker, endpoint, REQUESTS, 9)
            segment.set_cell(endpoint, 3, 5)
    segment.clear_worker(1)
    assert segment.totals(IN_FLIGHT) == [8] * 5
    assert segment.totals(WORK) == [8000] * 5
    assert segment.totals(REQUESTS) == [27] * 5
    assert [segment.cell(endpoint, 3) for endpoint in range(5)] == [5] * 5


def test_clear_endpoint_keeps_what_is_in_flight(segment: Any) -> None:
    for endpoint in range(5):
        for i in range(CELLS):
            segment.set_cell(endpoint, i, 1 + i)
        for worker in range(3):
            for column in range(COLUMNS):
                segment.set(worker, endpoint, column, 10 + column)
    segment.clear_endpoint(2)
    assert [segment.cell(2, i) for i in range(CELLS)] == [0] * CELLS
    cleared = [10 + column if column in (IN_FLIGHT, WORK) else 0 for column in range(COLUMNS)]
    for worker in range(3):
        assert [segment.get(worker, 2, column) for column in range(COLUMNS)] == cleared
    for endpoint in (0, 1, 3, 4):
        assert [segment.cell(endpoint, i) for i in range(CELLS)] == list(range(1, CELLS + 1))
        assert [segment.get(2, endpoint, column) for column in range(COLUMNS)] == list(range(10, 10 + COLUMNS))


def test_use_after_close(segment: Any) -> None:
    segment.close()
    segment.close()
    for call in (
        lambda: segment.word(0),
        lambda: segment.set_word(0, 1),
        lambda: segment.add_word(0, 1),
        lambda: segment.cas_word(0, 0, 1),
        lambda: segment.get(0, 0, 0),
        lambda: segment.set(0, 0, 0, 1),
        lambda: segment.add(0, 0, 0, 1),
        lambda: segment.total(0, 0),
        lambda: segment.totals(0),
        lambda: segment.in_flight(0),
        lambda: segment.clear_worker(0),
        lambda: segment.clear_endpoint(0),
        lambda: segment.cell(0, 0),
        lambda: segment.set_cell(0, 0, 1),
        lambda: segment.add_cell(0, 0, 1),
        lambda: segment.cas_cell(0, 0, 0, 1),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_close_while_a_view_is_held(counters: ModuleType, path: str) -> None:
    counters.Segment.create(path, 1, 1).close()
    mapping, workers, endpoints = layout.open_file(path)
    segment = counters.Segment(path, workers, endpoints, mapping)
    view = memoryview(mapping)
    segment.set(0, 0, 0, 77)
    segment.close()
    assert struct.unpack_from("=q", view, layout.HEADER_BYTES) == (77,)
    view.release()


def test_closed_by_an_index_of_its_own(counters: ModuleType, path: str) -> None:
    segment = counters.Segment.create(path, 1, 1)

    class Closing:
        def __index__(self) -> int:
            segment.close()
            return 0

    with pytest.raises(ValueError, match="closed"):
        segment.add(0, 0, Closing(), 1)


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (1025, 1), (1, 65537), (-1, 1)])
def test_dimensions_out_of_bounds(counters: ModuleType, path: str, shape: tuple[int, int]) -> None:
    with pytest.raises(SegmentError, match=r"must be 1 to"):
        counters.Segment.create(path, *shape)
    assert os.listdir(os.path.dirname(path)) == []


def test_a_mapping_of_another_size(counters: ModuleType, path: str) -> None:
    with mmap.mmap(-1, 4096) as small, pytest.raises(SegmentError, match="are needed"):
        counters.Segment(path, 1, 1, small)


def test_create_replaces_without_touching_the_old_mapping(counters: ModuleType, path: str) -> None:
    old = counters.Segment.create(path, 4, 100)
    old.set(3, 99, REQUESTS, 5)
    new = counters.Segment.create(path, 1, 1)
    assert old.get(3, 99, REQUESTS) == 5
    assert old.add(3, 99, REQUESTS, 1) == 6
    assert counters.Segment.open(path).endpoints == new.endpoints == 1
    assert os.listdir(os.path.dirname(path)) == ["counters"]


def test_a_relative_path(counters: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    counters.Segment.create("here", 1, 1).set_word(0, 3)
    assert counters.Segment.open("here").word(0) == 3


def test_a_full_disk_leaves_nothing_behind(counters: ModuleType, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    counters.Segment.create(path, 1, 1).set_word(0, 3)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no space"):
        counters.Segment.create(path, 2, 2)
    assert os.listdir(os.path.dirname(path)) == ["counters"]
    assert counters.Segment.open(path).word(0) == 3


def test_a_file_system_that_cannot_reserve(counters: ModuleType, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert counters.Segment.create(path, 2, 2).add(1, 1, 7, 1) == 1


def patched(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"NOTMAGIC", "not a counter segment"),
        (8, struct.pack("=I", 99), "layout 99/64, not 4/64"),
        (8, struct.pack("=I", 1), "layout 1/64, not 4/64"),
        (12, struct.pack("=I", 128), "layout 4/128"),
        (16, struct.pack("=I", 2000), "workers must be"),
        (20, struct.pack("=I", 0), "endpoints must be"),
        (20, struct.pack("=I", 6), "6976 bytes .* where 7552 are expected"),
        (24, struct.pack("=Q", 1), "are expected"),
    ],
)
def test_open_refuses_a_wrong_header(counters: ModuleType, path: str, offset: int, data: bytes, message: str) -> None:
    counters.Segment.create(path, 3, 5).close()
    patched(path, offset, data)
    with pytest.raises(SegmentError, match=message) as caught:
        counters.Segment.open(path)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FastrouteError)
    assert path in str(caught.value)


@pytest.mark.parametrize("size", [0, 8, 4095, 4096, 5056, 6335, 6337])
def test_open_refuses_a_wrong_size(counters: ModuleType, path: str, size: int) -> None:
    counters.Segment.create(path, 3, 5).close()
    os.truncate(path, size)
    with pytest.raises(SegmentError):
        counters.Segment.open(path)


def test_open_of_a_missing_file(counters: ModuleType, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        counters.Segment.open(path)
    with pytest.raises(FileNotFoundError):
        counters.Segment.create(path + "/no/such/folder", 1, 1)


def test_the_halves_share_one_layout(path: str) -> None:
    py, c = (param.values[0] for param in twins("counters"))
    if c is None:
        pytest.skip("the compiled half is not built")
    writer, reader = c.Segment.create(path, 3, 5), py.Segment.open(path)
    cells = [(w, e, k) for w in range(3) for e in range(5) for k in range(COLUMNS)]
    for value, cell in enumerate(cells):
        writer.set(*cell, value)
    for i in range(WORDS):
        writer.set_word(i, i - 5)
    for endpoint in range(5):
        for i in range(CELLS):
            writer.set_cell(endpoint, i, -endpoint * CELLS - i)
    assert [reader.get(*cell) for cell in cells] == list(range(len(cells)))
    assert [reader.word(i) for i in range(WORDS)] == [i - 5 for i in range(WORDS)]
    assert [-reader.cell(endpoint, i) for endpoint in range(5) for i in range(CELLS)] == list(range(5 * CELLS))


def test_a_reader_sees_the_writers_rows(counters: ModuleType, path: str) -> None:
    segment = counters.Segment.create(path, 4, 2)
    body = (
        "worker, count = argv\n"
        "for _ in range(count): s.add(worker, 1, 1, 1); s.add(worker, 1, 3, 7)\n"
        "s.set(worker, 0, 5, worker)"
    )
    finish([run_child(counters, path, body, worker, 5000) for worker in range(4)])
    assert segment.totals(REQUESTS) == [0, 20_000]
    assert segment.total(1, 3) == 140_000
    assert [segment.get(w, 0, LAST_USED_NS) for w in range(4)] == [0, 1, 2, 3]


def test_words_and_cells_are_exact_between_processes(counters: ModuleType, path: str) -> None:
    if not counters.ATOMIC:
        pytest.skip("the pure half does not promise it")
    segment = counters.Segment.create(path, 1, 2)
    body = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(argv[0]):\n"
        "    s.add_word(3, 1)\n"
        "    s.add(0, 0, 1, 1)\n"
        "    s.add_cell(1, 2, 1)\n"
        "    while not s.cas_word(4, v := s.word(4), v + 1): pass\n"
        "    while not s.cas_cell(1, 3, v := s.cell(1, 3), v + 1): pass"
    )
    children = [run_child(counters, path, body, 50_000) for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:  # only now, so that they run at the same time
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    finish(children)
    counts = [segment.word(3), segment.word(4), segment.get(0, 0, REQUESTS), segment.cell(1, 2), segment.cell(1, 3)]
    assert counts == [200_000] * 5


def test_a_killed_worker_is_cleared(counters: ModuleType, path: str) -> None:
    segment = counters.Segment.create(path, 2, 3)
    segment.add(0, 1, IN_FLIGHT, 2)
    body = "s.add(1, 1, 0, 5); s.add(1, 1, 1, 8); print('ready', flush=True); sys.stdin.readline()"
    child = run_child(counters, path, body)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.communicate(timeout=10)
    assert segment.in_flight(1) == 7
    segment.clear_worker(1)
    assert segment.in_flight(1) == 2
    assert segment.total(1, REQUESTS) == 8


#: Files whose words of these names are about something else: gates, and the table of limits.
OTHERS = {("_candidates_c.pyx", "BREAKER"), ("_candidates_c.pyx", "COST"), ("_limits_c.pyx", "CELLS")}


def test_the_compiled_halves_have_this_layout() -> None:
    seen = set()
    for source in sorted(Path(layout.__file__).parent.glob("_*_c.p*")):
        for name, value in re.findall(r"^    ([A-Z_0-9]+) = (\d+)$", source.read_text(), re.MULTILINE):
            if hasattr(layout, name) and (source.name, name) not in OTHERS:
                assert int(value) == getattr(layout, name), (source.name, name)
                seen.add(name)
    assert {"BREAKER_COUNTS", "ADAPTIVE", "KEY_STATE", "QUOTA_TOKENS_TIMES", "WINDOW_0", "CELLS", "COLUMNS"} <= seen
