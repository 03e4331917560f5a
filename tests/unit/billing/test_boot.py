"""Boot numbers only ever go up."""

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
