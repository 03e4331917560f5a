"""The writer loses nothing that the disk can be made to take, and says so when it must."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from fastroute.billing.boot import MAX_BOOT
from fastroute.billing.journal import JournalWriter
from fastroute.billing.segments import (
    MAX_PAYLOAD_BYTES,
    encode_line,
    list_segments,
    read_segment,
    segment_name,
)
from fastroute.interfaces import Record, Usage
from tests.unit.billing.records import record

Write = Callable[[int, bytes], int]


class Disk:
    """Stands for `os.write`: takes bytes as the script says, then everything.

    An int: take that many bytes. An OSError: raise it. `stuck`: raise this whatever the script says.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self.script: list[int | OSError] = []
        self.stuck: OSError | None = None
        self.calls = 0

    def write(self, fd: int, data: bytes) -> int:
        self.calls += 1
        step = self.stuck or (self.script.pop(0) if self.script else len(data))
        if isinstance(step, OSError):
            raise step
        return self._write(fd, data[:step])


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(os.write)
    monkeypatch.setattr(os, "write", disk.write)
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
    assert disk.calls == 2
    assert (writer.backlog, writer.lost, writer.healthy) == (0, 0, True)


def test_files_are_private(tmp_path: Path) -> None:
    JournalWriter(str(tmp_path / "new" / "journal"), 1).close()
    assert (tmp_path / "new" / "journal").stat().st_mode & 0o777 == 0o700
    (segment,) = list_segments(str(tmp_path / "new" / "journal"))
    assert os.stat(segment.path).st_mode & 0o777 == 0o600


def test_segments_rotate_by_size(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path), 3, max_segment_bytes=1_000)
    for id in range(1, 21):
        writer.append(record(id))
    writer.close()
    names = [segment.name for segment in list_segments(str(tmp_path))]
    assert names[:2] == ["00000003-000001.journal", "00000003-000002.journal"]
    assert len(names) >= 4
    assert all(os.path.getsize(tmp_path / name) < 1_400 for name in names)
    assert ids(tmp_path) == list(range(1, 21))


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


def test_every_cut_of_a_short_write_is_mended(tmp_path: Path, disk: Disk) -> None:
    for cut in range(len(encode_line(msgspec.json.encode(record(2))))):
        directory = tmp_path / str(cut)
        writer = JournalWriter(str(directory), 1)
        writer.append(record(1))
        disk.script = [cut, full()]
        writer.append(record(2))
        assert writer.backlog == 1
        writer.append(record(3))  # refused as well
        assert writer.backlog == 2
        writer.append(record(4))
        writer.close()
        found, bad_lines = stored(directory)
        assert {item.id for item in found} == {1, 2, 3, 4}
        assert len(found) <= 5  # cut just before the newline: the line counts, and comes again
        assert bad_lines <= 1
        assert (writer.lost, writer.backlog) == (0, 0)


def test_short_writes_in_the_backlog_are_mended(tmp_path: Path, writer: JournalWriter, disk: Disk) -> None:
    disk.stuck = full()
    for id in range(1, 11):
        writer.append(record(id))
    disk.stuck = None
    disk.script = [700, 0, 1, 333, full(), 50]
    for _ in range(10):
        if writer.flush():
            break
    found, bad_lines = stored(tmp_path)
    assert sorted({item.id for item in found}) == list(range(1, 11))
    assert bad_lines <= 4


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
    writer = JournalWriter(str(tmp_path), 1, max_segment_bytes=1_000)
    real = os.open
    tries = 0

    def refuse(*args: object, **options: object) -> int:
        nonlocal tries
        tries += 1
        raise full()

    monkeypatch.setattr(os, "open", refuse)
    for id in range(1, 11):
        writer.append(record(id))
    assert tries > 1
    monkeypatch.setattr(os, "open", real)
    for id in range(11, 16):
        writer.append(record(id))
    writer.close()
    assert ids(tmp_path) == list(range(1, 16))
    assert len(list_segments(str(tmp_path))) >= 2


def test_what_json_cannot_hold_is_made_to_fit(tmp_path: Path, writer: JournalWriter) -> None:
    writer.append(record(1, model="a\ud800b", usage=Usage(input_tokens=10**30), cost_nano_usd=-(10**30)))
    writer.append(record(2, model="m" * (MAX_PAYLOAD_BYTES + 1), stream=True))
    first, second = stored(tmp_path)[0]
    assert first.model == "a?b"
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
