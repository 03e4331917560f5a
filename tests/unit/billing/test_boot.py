"""Boot numbers only ever go up."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastroute.billing.boot import MAX_BOOT, BootError, allocate_boot
from fastroute.billing.segments import journal_directory, segment_name


def test_numbers_increase_from_one(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert [allocate_boot(state) for _ in range(3)] == [1, 2, 3]


def test_concurrent_callers_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        boots = list(pool.map(lambda _: allocate_boot(str(tmp_path)), range(40)))
    assert sorted(boots) == list(range(1, 41))


def test_a_deleted_counter_does_not_collide_with_waiting_journals(tmp_path: Path) -> None:
    directory = Path(journal_directory(str(tmp_path)))
    directory.mkdir()
    (directory / segment_name(41, 1)).touch()
    assert allocate_boot(str(tmp_path)) == 42


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5"])
def test_a_damaged_counter_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "boot").write_text(text)
    with pytest.raises(BootError, match="damaged"):
        allocate_boot(str(tmp_path))


def test_the_numbers_can_run_out(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text(str(MAX_BOOT - 1))
    assert allocate_boot(str(tmp_path)) == MAX_BOOT
    with pytest.raises(BootError, match="used up"):
        allocate_boot(str(tmp_path))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file gets another block: those that have one can be written to."""
    write = os.write

    def refuse(fd: int, data: bytes) -> int:
        if os.fstat(fd).st_size == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", refuse)


@pytest.mark.parametrize(
    ("text", "boot"), [("8\n", 9), ("9", 10), ("9\n", 10), ("  99 \n\n\n", 100), ("0000041\n", 42)]
)
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_does_not_keep_numbers_from_being_given(tmp_path: Path, text: str, boot: int) -> None:
    (tmp_path / "boot").write_text(text)
    assert [allocate_boot(str(tmp_path)) for _ in range(3)] == [boot, boot + 1, boot + 2]


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_there_is_no_first_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        allocate_boot(str(tmp_path))


def test_another_fault_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "boot").write_text("8\n")
    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match="Input/output"):
        allocate_boot(str(tmp_path))
    assert (tmp_path / "boot").read_text() == "8\n"
