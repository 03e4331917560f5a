"""Ceilings in one process, over both halves and on a clock that tests turn."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastroute._core import _limits_file as layout
from fastroute._core._limits_file import (
    CONCURRENCY,
    DAY_NS,
    PER_DAY_REQUESTS,
    PER_DAY_TOKENS,
    PER_MINUTE_REQUESTS,
    PER_MINUTE_TOKENS,
    PERIOD_NS,
    LimitsFileError,
    Moment,
    Subject,
)
from tests.unit.core.twins import twins

S = 1_000_000_000
NOW = 5_000 * S
#: An hour before midnight.
WALL = 20_000 * DAY_NS - 3600 * S
BOOT = bytes(range(16))
SLOTS = 64


@pytest.fixture(params=twins("limits"))
def limits(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "limits")


@pytest.fixture
def table(limits: ModuleType, path: str) -> Iterator[Any]:
    made = limits.Table.create(path, 3, Moment(BOOT, NOW, WALL), SLOTS)
    yield made
    made.close()


class Door:
    """A limiter with one subject; `try_in` says whether a request is let in."""

    def __init__(self, limits: ModuleType, table: Any, **ceilings: int) -> None:
        self.ceilings = limits.Ceilings(table, [Subject("key:a", **ceilings)])
        self.limiter = limits.Limiter(table, 1)

    def enter(self, tokens: int = 0, *, least: int = 0, after_s: float = 0) -> Any:
        shift = int(after_s * S)
        return self.limiter.admit(self.ceilings, None, least, tokens, NOW + shift, WALL + shift)

    def fields(self, after_s: float = 0) -> dict[bytes, bytes]:
        shift = int(after_s * S)
        return dict(self.limiter.fields(self.ceilings, NOW + shift, WALL + shift))


@pytest.mark.parametrize("rpm", [1, 7, 100, 600, 99_991])
def test_a_rate_admits_exactly_that_many_at_once(limits: ModuleType, table: Any, rpm: int) -> None:
    door = Door(limits, table, rpm=rpm)
    assert sum(door.enter() is not None for _ in range(rpm + 50)) == rpm


def test_a_rate_refills_smoothly(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpm=100)
    while door.enter():
        pass
    assert (door.limiter.refused.name, door.limiter.dimension) == ("key:a", PER_MINUTE_REQUESTS)
    assert door.limiter.wait_ns == 600_000_000
    assert door.enter(after_s=0.599) is None
    assert door.limiter.wait_ns == 1_000_000
    assert door.enter(after_s=0.6) is not None
    assert door.enter(after_s=0.6) is None
    assert sum(door.enter(after_s=30.6) is not None for _ in range(100)) == 50
    assert sum(door.enter(after_s=3_000) is not None for _ in range(200)) == 100


def test_a_refusal_takes_nothing(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpm=2)
    door.enter(), door.enter()
    for _ in range(50):
        assert door.enter() is None
    assert door.enter(after_s=30) is not None
    assert table.cell(table.find("key:a"), layout.REFUSED) == 50


def test_a_refusal_by_one_ceiling_leaves_the_others_as_they_were(limits: ModuleType, table: Any) -> None:
    caller = limits.Ceilings(table, [Subject("key:a", rpm=10, tpm=100, concurrency=5, rpd=9, tpd=900)])
    model = limits.Ceilings(table, [Subject("model:m", rpm=1)])
    limiter = limits.Limiter(table, 0)
    assert limiter.admit(caller, model, 0, 10, NOW, WALL) is not None
    slot = table.find("key:a")
    before = [table.cell(slot, at) for at in range(layout.REFUSED)]
    assert limiter.admit(caller, model, 0, 10, NOW, WALL) is None
    assert limiter.refused.name == "model:m"
    assert [table.cell(slot, at) for at in range(layout.REFUSED)] == before
    assert table.held(slot) == 1


def test_tokens_are_debited_and_put_right(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpm=100)
    first = door.enter(80)
    assert door.enter(30) is None
    assert door.limiter.dimension == PER_MINUTE_TOKENS
    assert door.limiter.wait_ns == 6 * S
    first.settle(10)
    assert door.enter(90) is not None
    assert door.enter(1) is None


def test_what_was_used_beyond_the_reservation_is_owed(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpm=100)
    door.enter(10).settle(160)
    assert door.fields()[b"x-ratelimit-remaining-tokens"] == b"0"
    assert door.enter(10, after_s=41.9) is None
    assert door.enter(10, after_s=42) is not None


def test_a_debt_lasts_no_longer_than_a_day(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpm=1)
    door.enter(1).settle(10**12)
    assert door.enter(1, after_s=86_400 - 1) is None
    assert door.enter(1, after_s=86_400) is not None


def test_settling_twice_changes_nothing(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpm=100, concurrency=2, tpd=100)
    grant, other = door.enter(40), door.enter(40)
    assert grant.open
    grant.settle(0)
    grant.settle(0)
    grant.settle(99)
    assert not grant.open
    assert table.held(table.find("key:a")) == 1
    assert door.fields()[b"x-ratelimit-remaining-tokens"] == b"60"
    other.settle(40)
    assert table.held(table.find("key:a")) == 0


def test_an_estimate_beyond_the_ceiling_needs_a_full_bucket(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpm=100)
    grant = door.enter(300, least=20)
    assert grant is not None
    assert door.enter(1) is None
    grant.settle(20)
    assert door.enter(300, least=20) is None
    assert not door.limiter.hopeless
    assert door.enter(300, least=20, after_s=12) is not None


@pytest.mark.parametrize(("ceiling", "dimension"), [("tpm", PER_MINUTE_TOKENS), ("tpd", PER_DAY_TOKENS)])
def test_what_can_never_fit_is_said_to_be_hopeless(
    limits: ModuleType, table: Any, ceiling: str, dimension: int
) -> None:
    door = Door(limits, table, **{ceiling: 100})
    assert door.enter(101, least=101) is None
    assert (door.limiter.hopeless, door.limiter.dimension) == (True, dimension)
    assert door.enter(100, least=100) is not None


def test_concurrency(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, concurrency=3)
    grants = [door.enter() for _ in range(3)]
    assert door.enter() is None
    assert (door.limiter.dimension, door.limiter.wait_ns) == (CONCURRENCY, layout.BUSY_WAIT_NS)
    grants[1].settle(0)
    assert door.enter() is not None
    assert door.enter() is None


def test_what_a_dead_worker_held_is_given_back(limits: ModuleType, table: Any) -> None:
    ceilings = limits.Ceilings(table, [Subject("key:a", concurrency=4)])
    dead, alive = limits.Limiter(table, 0), limits.Limiter(table, 2)
    kept = alive.admit(ceilings, None, 0, 0, NOW, WALL)
    for _ in range(3):
        assert dead.admit(ceilings, None, 0, 0, NOW, WALL)
    assert alive.admit(ceilings, None, 0, 0, NOW, WALL) is None
    table.clear_worker(0)
    assert table.held(table.find("key:a")) == 1
    kept.settle(0)
    assert table.held(table.find("key:a")) == 0


def test_quotas_of_a_day_end_at_midnight(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpd=2, tpd=100)
    first = door.enter(60)
    assert door.enter(50) is None
    assert (door.limiter.dimension, door.limiter.wait_ns) == (PER_DAY_TOKENS, 3600 * S)
    first.settle(30)
    assert door.enter(70) is not None
    assert door.enter(0) is None
    assert door.limiter.dimension == PER_DAY_REQUESTS
    late = door.enter(100, after_s=3600)
    assert late is not None
    assert door.enter(1, after_s=3601) is None


def test_what_ends_after_midnight_changes_nothing_of_the_new_day(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpd=100)
    evening = door.enter(60)
    assert door.enter(10, after_s=3600) is not None
    evening.settle(0)
    assert door.fields(3600)[b"x-ratelimit-remaining-tokens"] == b"90"


def test_a_clock_behind_by_less_than_a_day_counts_on(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpd=2)
    assert door.enter(after_s=3600) is not None
    assert door.enter() is not None
    assert door.enter() is None
    assert door.enter(after_s=3600) is None


def test_a_clock_that_was_far_ahead_is_forgotten(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpd=1)
    assert door.enter(after_s=9 * 86_400) is not None
    assert door.enter() is not None
    assert door.enter() is None


def test_the_longest_wait_is_told(limits: ModuleType, table: Any) -> None:
    subjects = [Subject("key:a", rpm=60), Subject("tenant:t", rpm=1), Subject("x", rpm=6)]
    ceilings = limits.Ceilings(table, subjects)
    limiter = limits.Limiter(table, 0)
    assert limiter.admit(ceilings, None, 0, 0, NOW, WALL)
    assert limiter.admit(ceilings, None, 0, 0, NOW, WALL) is None
    assert limiter.refused == subjects[1]
    assert limiter.wait_ns == PERIOD_NS


def test_an_estimate_counts_what_is_ahead(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpm=60, tpm=600)

    def estimate(requests: int, tokens: int) -> float:
        return door.limiter.estimate_ns(door.ceilings, 0, requests, tokens, NOW, WALL) / S

    assert estimate(60, 600) == 0
    assert estimate(61, 0) == 1
    assert estimate(0, 700) == 10
    for _ in range(60):
        door.enter(10)
    assert estimate(3, 0) == 3
    assert estimate(3, 100) == 10


def test_fields_tell_of_the_nearest_ceiling(limits: ModuleType, table: Any) -> None:
    subjects = [Subject("key:a", rpm=100, tpm=1000), Subject("tenant:t", rpm=60, rpd=50, tpm=5000)]
    ceilings = limits.Ceilings(table, subjects)
    limiter = limits.Limiter(table, 0)
    assert limiter.admit(ceilings, None, 0, 100, NOW, WALL)
    assert limiter.fields(ceilings, NOW, WALL) == [
        (b"x-ratelimit-limit-requests", b"50"),
        (b"x-ratelimit-remaining-requests", b"49"),
        (b"x-ratelimit-reset-requests", b"1h0m0s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"900"),
        (b"x-ratelimit-reset-tokens", b"6s"),
    ]


def test_fields_are_there_only_for_what_is_limited(limits: ModuleType, table: Any) -> None:
    assert [name for name, _ in Door(limits, table, tpd=5).fields().items()] == list(layout.FIELD_NAMES[3:])
    assert Door(limits, table, concurrency=5).fields() == {}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, b"0s"), (0.0001, b"1ms"), (0.02, b"20ms"), (8.64, b"8.64s"), (1, b"1s"), (59.9999, b"1m0s"), (60, b"1m0s")],
)
def test_lengths_of_time_are_written_as_openai_does(
    limits: ModuleType, table: Any, seconds: float, shown: bytes
) -> None:
    door = Door(limits, table, rpm=1)
    assert door.enter() is not None
    assert door.fields(60 - seconds)[b"x-ratelimit-reset-requests"] == shown


@pytest.fixture
def small(limits: ModuleType, path: str) -> Iterator[Any]:
    """A table of two places."""
    made = limits.Table.create(path, 2, Moment(BOOT, NOW, WALL), 2)
    yield made
    made.close()


def admit(limits: ModuleType, table: Any, name: str, after_s: float = 0, **ceilings: int) -> Any:
    shift = int(after_s * S)
    caller = limits.Ceilings(table, [Subject(name, **ceilings)])
    return limits.Limiter(table, 0).admit(caller, None, 0, 1, NOW + shift, WALL + shift)


def subjects_of(table: Any) -> set[int]:
    return {table.cell(slot, layout.KEY) for slot in range(table.slots)}


def test_a_full_table_lets_through_and_counts(limits: ModuleType, small: Any) -> None:
    assert {small.find("a"), small.find("b")} == {0, 1}
    assert small.find("c") == -1
    assert small.lost == 1
    inside = [admit(limits, small, name, concurrency=1) for name in ("a", "b")]
    ceilings = limits.Ceilings(small, [Subject("d", rpm=1, concurrency=1)])
    limiter = limits.Limiter(small, 0)
    grants = [limiter.admit(ceilings, None, 0, 0, NOW, WALL) for _ in range(5)]
    assert None not in grants
    assert small.lost == 6
    assert limiter.fields(ceilings, NOW, WALL) == []
    # They were counted nowhere; and once there is a place, it is found, and not settled by those who had none.
    inside[0].settle(0)
    held = limiter.admit(ceilings, None, 0, 0, NOW, WALL)
    assert held is not None
    assert limiter.admit(ceilings, None, 0, 0, NOW, WALL) is None
    for grant in grants:
        grant.settle(3)
    assert sum(small.held(slot) for slot in range(2)) == 2
    held.withdraw()
    inside[1].settle(0)
    assert [small.held(slot) + small.cell(slot, layout.USERS) for slot in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("ceilings", "kept_s", "free_s"),
    [
        ({"rpm": 2}, 29, 31),
        ({"tpm": 2}, 29, 31),
        ({"rpd": 9}, 3599, 3601),
        ({"tpd": 9}, 3599, 3601),
        ({"concurrency": 1}, -1, 0),
    ],
)
def test_a_place_is_given_to_another_once_it_says_nothing(
    limits: ModuleType, small: Any, ceilings: dict[str, int], kept_s: float, free_s: float
) -> None:
    for name in ("a", "b"):
        admit(limits, small, name, **ceilings).settle(1)
    before = subjects_of(small)
    if kept_s >= 0:
        assert admit(limits, small, "c", kept_s, rpd=1) is not None
        assert (subjects_of(small), small.lost) == (before, 1)
    lost = small.lost
    assert admit(limits, small, "c", free_s, rpd=1) is not None
    assert admit(limits, small, "c", free_s, rpd=1) is None
    assert layout.subject_key("c") in subjects_of(small)
    assert small.lost == lost


def test_whoever_has_something_under_way_keeps_its_place(limits: ModuleType, small: Any) -> None:
    """Whatever its ceilings are: what ends is to be put right where it was debited."""
    grants = [admit(limits, small, name, tpm=100) for name in ("a", "b")]
    before = subjects_of(small)
    assert admit(limits, small, "c", 300, tpm=100) is not None
    assert subjects_of(small) == before
    for grant in grants:
        grant.settle(0)
    assert admit(limits, small, "c", 300, tpm=100) is not None
    assert subjects_of(small) != before


def test_subjects_of_one_request_do_not_take_each_others_places(limits: ModuleType, small: Any) -> None:
    """One place is left for two of them: one gets it, the other one is let through."""
    assert admit(limits, small, "a", rpm=1) is not None
    admit(limits, small, "b", rpm=1).settle(0)
    limiter = limits.Limiter(small, 0)
    caller = limits.Ceilings(small, [Subject("key:c", rpd=1), Subject("tenant:c", rpd=1)])
    model = limits.Ceilings(small, [Subject("model:c", rpd=2)])
    shift = 100 * S
    assert limiter.admit(caller, model, 0, 0, NOW + shift, WALL + shift) is not None
    assert small.lost == 2
    assert limiter.admit(caller, model, 0, 0, NOW + shift, WALL + shift) is None
    assert limiter.refused.name == "key:c"


def test_who_has_lost_its_place_finds_another(limits: ModuleType, small: Any) -> None:
    door = Door(limits, small, rpm=2, concurrency=2)
    first = door.enter()
    assert first is not None
    first.settle(0)
    for name in ("b", "c"):
        admit(limits, small, name, 100, rpd=5).settle(0)
    assert layout.subject_key("key:a") not in subjects_of(small)
    # There is none: it is let through, and leaves what is now others' alone.
    cells = [small.cell(slot, cell) for slot in range(2) for cell in range(layout.CELLS)]
    for _ in range(3):
        grant = door.enter(after_s=100)
        assert grant is not None
        grant.settle(0)
    assert [small.cell(slot, cell) for slot in range(2) for cell in range(layout.CELLS)] == cells
    # After midnight there is.
    assert [door.enter(after_s=4000) is not None for _ in range(3)] == [True, True, False]
    assert door.limiter.refused.name == "key:a"


def test_keys_that_come_and_go_never_fill_the_table(limits: ModuleType, path: str) -> None:
    """A hundred times as many as there are places, each used once; no two share one."""
    table = limits.Table.create(path, 1, Moment(BOOT, NOW, WALL), 16)
    for number in range(1600):
        name, now_s = f"key:{number}", number * 10.0
        admit(limits, table, name, now_s, rpm=1).settle(0)
        assert admit(limits, table, name, now_s, rpm=1) is None
    assert table.lost == 0
    table.close()


def test_a_place_that_a_dead_process_was_about_to_give_away(limits: ModuleType, small: Any, path: str) -> None:
    for name in ("a", "b"):
        admit(limits, small, name, rpd=9).settle(0)
    slot = small.find("a")
    small.set_cell(slot, layout.KEY, layout.NOBODY)
    assert admit(limits, small, "c", rpm=1) is not None
    assert small.cell(slot, layout.KEY) == layout.NOBODY
    assert admit(limits, small, "c", 3601, rpm=1) is not None
    assert admit(limits, small, "d", 3601, rpm=1) is not None
    assert subjects_of(small) == {layout.subject_key("c"), layout.subject_key("d")}
    small.set_cell(slot, layout.KEY, layout.NOBODY)
    again = limits.Table.create(path, 2, Moment(BOOT, NOW, WALL), 2)
    assert layout.NOBODY not in subjects_of(again)
    again.close()


def test_a_table_whose_file_is_gone_gives_no_place_away(limits: ModuleType, small: Any, path: str) -> None:
    for name in ("a", "b"):
        admit(limits, small, name, rpm=1).settle(0)
    Path(path).unlink()
    before = subjects_of(small)
    assert admit(limits, small, "c", 300, rpm=1) is not None
    assert (subjects_of(small), small.lost) == (before, 1)


@pytest.mark.parametrize(
    ("subjects", "slots"),
    [(0, layout.SLOTS), (196_608, layout.SLOTS), (196_609, 1 << 19), (1_000_000, 1 << 21), (10**9, layout.MAX_SLOTS)],
)
def test_a_table_is_made_for_the_keys_there_are(subjects: int, slots: int) -> None:
    assert layout.slots_for(subjects) == slots


def test_subjects_share_by_name(limits: ModuleType, path: str, table: Any) -> None:
    other = limits.Table.open(path)
    try:
        first = limits.Limiter(table, 0)
        second = limits.Limiter(other, 2)
        assert first.admit(limits.Ceilings(table, [Subject("key:a", rpm=2)]), None, 0, 0, NOW, WALL)
        ceilings = limits.Ceilings(other, [Subject("key:a", rpm=2)])
        assert second.admit(ceilings, None, 0, 0, NOW, WALL)
        assert second.admit(ceilings, None, 0, 0, NOW, WALL) is None
    finally:
        other.close()


# === The file ===


def test_a_restart_keeps_what_still_means_anything(limits: ModuleType, path: str) -> None:
    table = limits.Table.create(path, 2, Moment(BOOT, NOW, WALL), SLOTS)
    door = Door(limits, table, rpm=2, rpd=10, tpd=100, concurrency=1)
    door.enter(30)
    old = Door(limits, table, rpm=1)
    old.ceilings = limits.Ceilings(table, [Subject("key:old", rpm=60)])
    old.enter()
    table.close()

    again = limits.Table.create(path, 4, Moment(BOOT, NOW + 2 * S, WALL + 2 * S), 2 * SLOTS)
    door = Door(limits, again, rpm=2, rpd=10, tpd=100, concurrency=1)
    slot = again.find("key:a")
    assert again.held(slot) == 0
    assert door.fields(2)[b"x-ratelimit-remaining-requests"] == b"1"
    assert door.fields(2)[b"x-ratelimit-remaining-tokens"] == b"70"
    assert all(again.cell(at, layout.KEY) in (0, layout.subject_key("key:a")) for at in range(2 * SLOTS))
    again.close()


def test_another_boot_keeps_the_days_and_nothing_else(limits: ModuleType, path: str) -> None:
    table = limits.Table.create(path, 2, Moment(BOOT, NOW, WALL), SLOTS)
    door = Door(limits, table, rpm=1, rpd=10)
    door.enter()
    table.close()
    again = limits.Table.create(path, 2, Moment(bytes(16), NOW, WALL), SLOTS)
    slot = again.find("key:a")
    assert again.cell(slot, layout.REQUESTS) == 0
    assert Door(limits, again, rpd=10).fields()[b"x-ratelimit-remaining-requests"] == b"9"
    again.close()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"FRLIMITS" + bytes(5000), b"x" * 10_000])
def test_a_file_that_is_none_is_replaced_and_not_opened(limits: ModuleType, path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(LimitsFileError):
        limits.Table.open(path)
    table = limits.Table.create(path, 1, Moment(BOOT, NOW, WALL), SLOTS)
    assert table.find("a") >= 0
    table.close()


def test_a_file_of_another_size_is_not_opened(limits: ModuleType, path: str, table: Any) -> None:
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(LimitsFileError, match="bytes"):
        limits.Table.open(path)


@pytest.mark.parametrize(("workers", "slots"), [(0, 64), (2000, 64), (1, 0), (1, 63), (1, 1 << 25)])
def test_dimensions_out_of_bounds(limits: ModuleType, path: str, workers: int, slots: int) -> None:
    with pytest.raises(LimitsFileError):
        limits.Table.create(path, workers, Moment(BOOT, NOW, WALL), slots)


def test_100_000_subjects_take_less_than_100_mb() -> None:
    assert layout.SLOTS >= 200_000
    assert layout.file_bytes(16, layout.SLOTS) < 100_000_000


def test_a_closed_table_is_not_used(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, rpm=5, concurrency=5)
    grant = door.enter()
    table.close()
    table.close()
    for use in (door.enter, door.fields, lambda: grant.settle(0), lambda: table.find("x"), lambda: table.held(0),
                lambda: table.clear_worker(0), lambda: table.lost):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            use()


def test_bounds(limits: ModuleType, table: Any) -> None:
    for use in (lambda: table.cell(SLOTS, 0), lambda: table.cell(-1, 0), lambda: table.cell(0, 8),
                lambda: table.held(SLOTS), lambda: table.clear_worker(3), lambda: limits.Limiter(table, 3),
                lambda: limits.Limiter(table, -1)):  # fmt: skip
        with pytest.raises(IndexError):
            use()
    for subjects in ([Subject("a", rpm=-1)], [Subject("a", tpd=10**12 + 1)], [Subject(str(at)) for at in range(9)]):
        with pytest.raises(ValueError, match=r"ceiling|subjects"):
            limits.Ceilings(table, subjects)


def test_absurd_counts_are_bounded(limits: ModuleType, table: Any) -> None:
    door = Door(limits, table, tpm=10, tpd=10)
    grant = door.enter(10**30, least=-5)
    assert grant is not None
    grant.settle(10**30)
    assert door.enter(1, after_s=120) is None


def test_the_halves_have_one_layout() -> None:
    assert layout.WORDS_OFFSET // 8 == 128
    assert layout.HEADER_BYTES // 8 == 512
    assert (layout.CELLS, layout.MAX_PROBES, layout.COUNT_BITS) == (8, 128, 44)
    assert mmap.PAGESIZE % layout.SLOT_BYTES == 0
