"""The writer loses nothing that the disk can be made to take, and says so when it must."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastroute.billing.boot import MAX_BOOT
from fastroute.billing.journal import JournalWriter
from fastroute.billing.segments import (
    MAX_PAYLOAD_BYTES,
    encode_line,
    encode_record,
    list_segments,
    read_segment,
    segment_name,
)
from fastroute.interfaces import Record, Usage
from tests.unit.billing.records import record

Reserve = Callable[[int, int, int], None]

#: A segment of one window of one page, so that the disk is asked for room often.
PAGE = 4096


class Disk:
    """Stands for `os.posix_fallocate`. script: an OSError is raised, None lets the call through; then all pass.

    `stuck`: raise this whatever the script says.
    """

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self.script: list[OSError | None] = []
        self.stuck: OSError | None = None
        self.calls = 0

    def reserve(self, fd: int, start: int, size: int) -> None:
        self.calls += 1
        step = self.stuck or (self.script.pop(0) if self.script else None)
        if step is not None:
            raise step
        self._reserve(fd, start, size)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(os.posix_fallocate)
    monkeypatch.setattr(os, "posix_fallocate", disk.reserve)
    return disk


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    writer = JournalWriter(str(tmp_path), 7)
    yield writer
    writer.close()


def stored(directory: Path) -> tuple[list[Record], int]:
    """Return the records of all segments and how many bad lines stand between them."""
    records: list[Record] = []
    bad_lines = 0
    for segment in list_segments(str(directory)):
        found, _, bad = read_segment(segment.path, 0)
        records += found
        bad_lines += bad
    return records, bad_lines


def ids(directory: Path) -> list[int]:
    return [item.id for item in stored(directory)[0]]


def test_ids_carry_boot_and_sequence(writer: JournalWriter) -> None:
    assert [writer.next_id() for _ in range(3)] == [(7 << 32) | number for number in (1, 2, 3)]


def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path, writer: JournalWriter, disk: Disk) -> None:
    writer.append(record(1))
    assert stored(tmp_path) == ([record(1)], 0)
    writer.append(record(2, model="gp\n日本\x00"))
    assert stored(tmp_path)[0][1] == record(2, model="gp\n日本\x00")
    assert disk.calls == 1
    assert (writer.backlog, writer.lost, writer.healthy) == (0, 0, True)


def test_files_are_private(tmp_path: Path) -> None:
    JournalWriter(str(tmp_path / "new" / "journal"), 1).close()
    assert (tmp_path / "new" / "journal").stat().st_mode & 0o777 == 0o700
    (segment,) = list_segments(str(tmp_path / "new" / "journal"))
    assert os.stat(segment.path).st_mode & 0o777 == 0o600


def test_segments_rotate_by_size(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path), 3, max_segment_bytes=PAGE)
    for id in range(1, 101):
        writer.append(record(id))
    names = [segment.name for segment in list_segments(str(tmp_path))]
    assert names[:2] == ["00000003-000001.journal", "00000003-000002.journal"]
    assert len(names) >= 4
    assert all(os.path.getsize(tmp_path / name) <= PAGE for name in names)
    assert ids(tmp_path) == list(range(1, 101))
    writer.close()
    assert ids(tmp_path) == list(range(1, 101))


def test_windows_follow_each_other_in_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr("fastroute.billing.journal.WINDOW_BYTES", PAGE)
    writer = JournalWriter(str(tmp_path), 3)
    for id in range(1, 201):
        writer.append(record(id, request_id="r" * (id % 97)))
        assert stored(tmp_path)[1] == 0
    assert disk.calls > 10
    assert ids(tmp_path) == list(range(1, 201))
    writer.close()
    assert len(list_segments(str(tmp_path))) == 1
    assert stored(tmp_path) == ([record(id, request_id="r" * (id % 97)) for id in range(1, 201)], 0)


def test_a_closed_segment_has_no_room_left_over(tmp_path: Path, writer: JournalWriter) -> None:
    writer.append(record(1))
    (segment,) = list_segments(str(tmp_path))
    assert os.path.getsize(segment.path) > 100_000
    writer.close()
    assert Path(segment.path).read_bytes() == encode_line(encode_record(record(1)))


def test_a_line_longer_than_a_window_gets_a_longer_one(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path), 3, max_segment_bytes=PAGE)
    for id in (1, 2, 3):
        writer.append(record(id, request_id="r" * (3 * PAGE)))
    writer.close()
    assert ids(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve_is_written_ahead(
    tmp_path: Path, writer: JournalWriter, disk: Disk, code: int
) -> None:
    disk.stuck = OSError(code, "not supported")
    writer.append(record(1))
    (segment,) = list_segments(str(tmp_path))
    assert os.stat(segment.path).st_blocks * 512 >= 1 << 20
    assert (writer.backlog, ids(tmp_path)) == (0, [1])


def test_whatever_a_killed_writer_leaves_behind_only_its_last_line_is_torn(tmp_path: Path) -> None:
    """Memory is copied in no particular order: any bytes of the last line may be missing."""
    directory = tmp_path / "whole"
    writer = JournalWriter(str(directory), 1)
    for id in (1, 2, 3):
        writer.append(record(id))
    (segment,) = list_segments(str(directory))
    data = Path(segment.path).read_bytes()
    end = len(data.rstrip(b"\0"))
    start = data.rindex(b"\n", 0, end - 1) + 1
    writer.close()
    rng = random.Random(1)
    for _ in range(200):
        torn = bytearray(data)
        for _ in range(rng.randint(1, 40)):
            at = rng.randrange(start, end)
            torn[at : min(end, at + rng.randint(1, 16))] = bytes(min(end, at + rng.randint(1, 16)) - at)
        Path(segment.path).write_bytes(torn[: len(data)])
        found, _, bad = read_segment(segment.path, 0, final=True)
        assert [item.id for item in found][:2] == [1, 2]
        assert len(found) + bad <= 2 + 40
        live, offset, bad = read_segment(segment.path, 0)
        assert ([item.id for item in live][:2], bad) == ([1, 2], 0)
        assert offset == start or live == [record(1), record(2), record(3)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR])
def test_a_refused_record_waits_and_goes_first(tmp_path: Path, writer: JournalWriter, disk: Disk, code: int) -> None:
    disk.script = [OSError(code, "refused"), OSError(code, "refused")]
    writer.append(record(1))
    writer.append(record(2))
    assert (writer.backlog, writer.healthy, ids(tmp_path)) == (2, True, [])
    writer.append(record(3))
    assert (writer.backlog, ids(tmp_path)) == (0, [1, 2, 3])


def test_flush_writes_the_backlog(tmp_path: Path, writer: JournalWriter, disk: Disk) -> None:
    disk.stuck = full()
    for id in range(1, 1_001):
        writer.append(record(id))
    assert not writer.flush()
    assert writer.backlog == 1_000
    disk.stuck = None
    assert writer.flush()
    assert ids(tmp_path) == list(range(1, 1_001))


def test_a_full_queue_counts_what_it_loses(tmp_path: Path, disk: Disk) -> None:
    writer = JournalWriter(str(tmp_path), 1, max_backlog=3)
    disk.stuck = full()
    for id in range(1, 6):
        writer.append(record(id))
    assert (writer.backlog, writer.lost, writer.healthy) == (3, 2, False)
    disk.stuck = None
    writer.append(record(6))
    assert (writer.backlog, writer.lost, writer.healthy) == (0, 2, True)
    writer.close()
    assert ids(tmp_path) == [1, 2, 3, 6]


def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastroute.billing.journal.MAX_BACKLOG_BYTES", 1_000)
    writer = JournalWriter(str(tmp_path), 1)
    disk.stuck = full()
    for id in range(1, 11):
        writer.append(record(id))
    assert writer.backlog + writer.lost == 10
    assert 1 <= writer.backlog <= 4
    disk.stuck = None
    writer.close()


def test_close_counts_what_the_disk_never_took(tmp_path: Path, disk: Disk) -> None:
    writer = JournalWriter(str(tmp_path), 1)
    disk.stuck = full()
    writer.append(record(1))
    writer.close()
    writer.close()
    assert (writer.lost, writer.healthy, writer.backlog) == (1, False, 0)
    writer.append(record(2))
    assert (writer.lost, writer.backlog) == (2, 0)


def test_a_failed_rotation_goes_on_in_the_old_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter(str(tmp_path), 1, max_segment_bytes=PAGE)
    real = os.open
    tries = 0

    def refuse(*args: object, **options: object) -> int:
        nonlocal tries
        tries += 1
        raise full()

    monkeypatch.setattr(os, "open", refuse)
    for id in range(1, 101):
        writer.append(record(id))
    assert tries > 1
    monkeypatch.setattr(os, "open", real)
    for id in range(101, 151):
        writer.append(record(id))
    writer.close()
    assert ids(tmp_path) == list(range(1, 151))
    assert len(list_segments(str(tmp_path))) >= 2


def test_what_json_cannot_hold_is_made_to_fit(tmp_path: Path, writer: JournalWriter) -> None:
    huge = {"usage": Usage(input_tokens=10**30), "cost_nano_usd": -(10**30)}
    writer.append(record(1, model="a\ud800b", request_id="a\ud800b", **huge))
    writer.append(record(2, model="m" * (MAX_PAYLOAD_BYTES + 1), stream=True))
    first, second = stored(tmp_path)[0]
    assert (first.model, first.request_id) == ("a?b", "a?b")
    assert first.usage.input_tokens == 2**63 - 1
    assert first.cost_nano_usd == -(2**63)
    assert second.model == "m" * 256
    assert second.stream is True


def test_two_writers_cannot_share_a_boot_number(tmp_path: Path, writer: JournalWriter) -> None:
    with pytest.raises(FileExistsError):
        JournalWriter(str(tmp_path), 7)


@pytest.mark.parametrize("boot", [0, -1, MAX_BOOT + 1])
def test_boot_numbers_out_of_range_are_refused(tmp_path: Path, boot: int) -> None:
    with pytest.raises(ValueError, match="boot number"):
        JournalWriter(str(tmp_path), boot)


def test_used_up_ids_need_a_new_boot_number(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path), 1, next_boot=lambda: 9)
    writer._sequence = 2**32 - 2
    assert writer.next_id() == (1 << 32) | (2**32 - 1)
    assert writer.next_id() == (9 << 32) | 1
    writer.append(record(1))
    writer.append(record(2))
    writer.close()
    assert [segment.name for segment in list_segments(str(tmp_path))] == [
        segment_name(1, 1),
        segment_name(9, 1),
    ]
    writer = JournalWriter(str(tmp_path), 2)
    writer._sequence = 2**32 - 1
    with pytest.raises(RuntimeError, match="no ids left"):
        writer.next_id()
    writer.close()
