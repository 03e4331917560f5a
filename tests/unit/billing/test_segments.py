"""A reader takes every intact line and nothing else, whatever stands between them."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastroute.billing.segments import (
    encode_line,
    encode_record,
    list_segments,
    read_chunk,
    read_segment,
    segment_name,
)
from tests.unit.billing.records import record


def line(id: int) -> bytes:
    return encode_line(encode_record(record(id)))


def read(path: Path, offset: int = 0, **options: int) -> tuple[list[int], int, int]:
    records, next_offset, bad_lines = read_segment(str(path), offset, **options)
    return [item.id for item in records], next_offset, bad_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / segment_name(1, 1)


def test_names_and_order(tmp_path: Path) -> None:
    assert list_segments(str(tmp_path / "absent")) == []
    for boot, number in ((2, 1), (1, 1_000_000), (1, 999_999), (16, 1)):
        (tmp_path / segment_name(boot, number)).touch()
    for name in ("00000001-000001.journal.bad", "x.journal", "boot"):
        (tmp_path / name).touch()
    found = [(segment.boot, segment.number) for segment in list_segments(str(tmp_path))]
    assert found == [(1, 999_999), (1, 1_000_000), (2, 1), (16, 1)]


def test_records_come_back_as_they_were(path: Path) -> None:
    path.write_bytes(line(1))
    assert read_segment(str(path), 0)[0] == [record(1)]


def test_a_torn_tail_waits_for_its_end(path: Path) -> None:
    whole = line(1) + line(2)
    for cut in range(len(line(1)), len(whole)):
        path.write_bytes(whole[:cut])
        assert read(path) == ([1], len(line(1)), 0)
    path.write_bytes(whole)
    assert read(path, len(line(1))) == ([2], len(whole), 0)
    assert read(path, len(whole)) == ([], len(whole), 0)


@pytest.mark.parametrize("room", [1, 4095, 4096, 4097, 8192, 1 << 19])
@pytest.mark.parametrize("begun", [0, 1, 30])
def test_room_made_in_advance_is_nothing(path: Path, room: int, begun: int) -> None:
    """Whether or not the line before it is whole, and however its pages lie."""
    for lines in (0, 1, 20, 21):
        written = b"".join(line(number) for number in range(1, lines + 1))
        path.write_bytes(written + line(lines + 1)[:begun] + bytes(room))
        assert read(path) == (list(range(1, lines + 1)), len(written), 0)


def test_a_line_torn_and_ended_costs_only_itself(path: Path) -> None:
    for cut in range(1, len(line(1)) - 1):
        path.write_bytes(line(1)[:cut] + b"\n" + line(1) + line(2))
        assert read(path) == ([1, 2], path.stat().st_size, 1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\n",
        b"\x00" * 5_000 + b"\n",
        b"00000000 \n",
        b"zzzzzzzz []\n",
        encode_line(b"{}"),
        encode_line(b"[1,2]"),
        encode_line(b"[" * 100_000),
        encode_line(b'["\xff"]'),
        line(3)[:20] + b"\xff" + line(3)[21:],
        line(3).upper(),
    ],
    ids=range(10),
)
def test_garbage_is_counted_and_skipped(path: Path, garbage: bytes) -> None:
    path.write_bytes(line(1) + garbage + line(2))
    assert read(path) == ([1, 2], path.stat().st_size, 1)


def test_empty_lines_are_nothing(path: Path) -> None:
    path.write_bytes(b"\n" + line(1) + b"\n\n")
    assert read(path) == ([1], path.stat().st_size, 0)


def test_a_read_is_bounded_and_goes_on_where_it_stopped(path: Path) -> None:
    path.write_bytes(b"".join(line(id) for id in range(1, 101)))
    seen: list[int] = []
    offset = reads = 0
    while offset < path.stat().st_size:
        ids, offset, bad_lines = read(path, offset, limit=1_000)
        assert not bad_lines
        seen += ids
        reads += 1
    assert seen == list(range(1, 101))
    assert reads > 20


def test_more_garbage_than_a_read_holds_is_passed_over(path: Path) -> None:
    path.write_bytes(b"x" * 2_500 + b"\n" + line(1))
    ids: list[int] = []
    offset = bad_lines = 0
    for _ in range(10):
        more, offset, bad = read(path, offset, limit=1_000)
        ids += more
        bad_lines += bad
    assert (ids, offset) == ([1], path.stat().st_size)
    assert bad_lines == 3


def test_a_finished_segment_has_no_tail_to_wait_for(path: Path) -> None:
    path.write_bytes(line(1) + line(2)[:-1])
    fd = os.open(path, os.O_RDONLY)
    try:
        assert len(read_chunk(fd, 0).kinds) == 1
        assert len(read_chunk(fd, 0, final=True).kinds) == 2
        torn = read_chunk(fd, 10, final=True)
        assert (len(torn.kinds), torn.bad_lines, torn.next_offset) == (1, 1, path.stat().st_size)
    finally:
        os.close(fd)


@given(pieces=st.lists(st.one_of(st.integers(1, 10**6), st.binary(max_size=50)), max_size=20))
@example(pieces=[b"\n"])
def test_any_bytes_between_lines_leave_the_lines_intact(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int | bytes]
) -> None:
    path = tmp_path_factory.mktemp("segment") / segment_name(1, 1)
    path.write_bytes(b"".join(line(p) if isinstance(p, int) else p + b"\n" for p in pieces))
    ids, offset, _ = read(path, final=True)
    assert ids == [piece for piece in pieces if isinstance(piece, int)]
    assert offset == path.stat().st_size
    # While somebody may still be at it, only what stands behind the last intact line waits.
    ids, offset, _ = read(path)
    assert ids == [piece for piece in pieces if isinstance(piece, int)]
    intact = [number for number, piece in enumerate(pieces) if isinstance(piece, int)]
    judged = pieces[: intact[-1] + 1] if intact else []
    behind = b"".join(piece + b"\n" for piece in pieces[len(judged) :] if isinstance(piece, bytes))
    empty = len(behind) - len(behind.lstrip(b"\n"))
    assert offset == sum(len(line(p)) if isinstance(p, int) else len(p) + 1 for p in judged) + empty
