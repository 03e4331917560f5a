"""What was learnt outlives a restart: of the gateway, of the host, with another configuration, with a damaged file."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core import counters as cells
from fastroute._core._channel_rules import NEVER_MS, State, pack_state
from fastroute._core.adaptive import Adaptive, Setting
from fastroute._core.attempts import OK, RATE_LIMITED, Attempts
from fastroute._core.counters import Segment
from fastroute.clock import Clock
from fastroute.control import memory as module
from fastroute.control.memory import (
    MEMORY_FILE,
    OF_ENDPOINTS,
    Kept,
    MemoryKeeper,
    Moment,
    Time,
    load,
    recall,
    remember,
    restore,
    save,
)
from fastroute.interfaces import Allowance
from fastroute.rows import Identity

A: Identity = ("p", "k1", "m", "openai")
B: Identity = ("p", "k2", "m", "openai")
ROWS = {A: 0, B: 1}
WALL_MS = 1_790_000_000_000
NOW = Moment(50_000_000, WALL_MS)


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    made = Segment.create(str(tmp_path / "segment"), 2, 4)
    yield made
    made.close()


@pytest.fixture
def after(tmp_path: Path) -> Iterator[Segment]:
    """The segment of the next start."""
    made = Segment.create(str(tmp_path / "after"), 2, 4)
    yield made
    made.close()


def learnt(segment: Segment, row: int, now_ms: int) -> Adaptive:
    """Return limits that have been learnt: 4 of 8 at a time, 29 of 100 requests left, 10 s of cooldown."""
    adaptive = Adaptive(segment, {row: Setting()})
    attempts = Attempts(segment, adaptive=adaptive)
    tickets = [attempts.enter(0, row, 1, now_ms) for _ in range(9)]
    attempts.leave(0, row, tickets.pop(), OK, -1.0, now_ms, 0, 0, 1)
    left = Allowance(requests_limit=100, requests_remaining=30, requests_reset_ms=60_000)
    adaptive.learn(row, tickets[-1] >> 16, left, now_ms)
    for ticket in tickets:
        attempts.leave(0, row, ticket, RATE_LIMITED, -1.0, now_ms, 0, 10_000, 1)
    return adaptive


@pytest.mark.parametrize("monotonic_ms", [50_004_000, 3_000, 9_000_000_000])
def test_after_a_restart_all_is_as_it_was(segment: Segment, after: Segment, monotonic_ms: int) -> None:
    """Of the gateway or of the host, whose clock then begins at 0."""
    before = learnt(segment, 0, NOW.monotonic_ms).view(0, NOW.monotonic_ms + 4_000)
    kept = remember(segment, ROWS, NOW)
    later = Moment(monotonic_ms, WALL_MS + 4_000)
    assert recall(after, {A: 3}, kept, later) == 1
    view = Adaptive(after, {3: Setting()}).view(3, monotonic_ms)
    assert before is not None
    assert view == before
    assert (before.limit, before.too_much, before.cooldown_ms, before.requests.remaining) == (4.0, 8.0, 6_000, 33)


def test_what_is_over_is_dropped(segment: Segment, after: Segment) -> None:
    learnt(segment, 0, NOW.monotonic_ms)
    kept = remember(segment, ROWS, NOW)
    later = Moment(5_000, WALL_MS + 60_000)
    recall(after, ROWS, kept, later)
    view = Adaptive(after, {0: Setting()}).view(0, 5_000)
    assert view is not None
    assert (view.cooldown_ms, view.requests) == (0, (100, 100, 0))
    assert view.limit == 4.0  # 50 s after the cooldown
    assert after.cell(0, cells.QUOTA_REQUESTS_TIMES) == 0


def test_a_limit_is_forgotten_by_the_time_that_has_really_passed(segment: Segment, after: Segment) -> None:
    learnt(segment, 0, NOW.monotonic_ms)
    kept = remember(segment, ROWS, NOW)
    # The host was off for a quarter of an hour, and has been up for a day.
    recall(after, ROWS, kept, Moment(86_400_000, WALL_MS + 900_000))
    view = Adaptive(after, {0: Setting()}).view(0, 86_400_000)
    assert view is not None
    assert view.limit == 0.0


def test_endpoints_that_are_gone_and_new_ones(segment: Segment, after: Segment) -> None:
    learnt(segment, 0, NOW.monotonic_ms)
    learnt(segment, 1, NOW.monotonic_ms)
    kept = remember(segment, ROWS, NOW)
    assert len(kept.rows) == 2
    assert recall(after, {("p", "k9", "m", "openai"): 0, B: 1}, kept, NOW) == 1
    assert after.cell(0, cells.ADAPTIVE) == 0
    assert after.cell(1, cells.ADAPTIVE) == segment.cell(1, cells.ADAPTIVE)


def test_nothing_is_saved_of_an_endpoint_of_which_nothing_is_known(segment: Segment) -> None:
    assert remember(segment, ROWS, NOW).rows == []


def test_states_of_keys_and_models(segment: Segment, after: Segment) -> None:
    out = pack_state(State(kind=3, cause=7, strikes=2, mark=5, look=1, until_ms=NOW.monotonic_ms + 5_000))
    forever = pack_state(State(kind=4, mark=5, until_ms=NEVER_MS))
    sound = pack_state(State(kind=1, mark=5))
    for row, word in enumerate((out, forever, sound)):
        segment.set_cell(row, cells.KEY_STATE, word)
    segment.set_cell(0, cells.KEY_SINCE_MS, NOW.monotonic_ms - 70_000)
    rows = {A: 0, B: 1, ("p", "k3", "m", "openai"): 2}
    kept = remember(segment, rows, NOW)
    # It is past its time by then, but nobody has tried it yet.
    recall(after, rows, kept, Moment(2_000, WALL_MS + 6_000))
    states = [after.cell(row, cells.KEY_STATE) for row in range(3)]
    assert states[0] == out & (1 << 24) - 1 | 1_000 << 24
    assert states[1:] == [forever, sound]
    assert after.cell(0, cells.KEY_SINCE_MS) == 1  # before this clock began


def test_what_keys_were_used_for_is_added_up(segment: Segment, after: Segment) -> None:
    key: Identity = ("p", "k1", "", "")
    segment.set(0, 2, cells.REQUESTS, 30)
    segment.set(1, 2, cells.REQUESTS, 12)
    segment.set(1, 2, cells.FAILURES, 5)
    segment.set_cell(2, cells.KEY_REQUESTS_BASE, 100)
    segment.set_cell(2, cells.KEY_USED_AT_MS, WALL_MS - 5)
    segment.set_cell(2, cells.LAST_USED_MS, NOW.monotonic_ms - 5 << 20 | 3)
    # The same cells of the row of an endpoint mean something else.
    segment.set_cell(2, cells.ADAPTIVE, 77)
    recall(after, {key: 0}, remember(segment, {key: 2}, NOW), Moment(90_000, WALL_MS + 1_000))
    kept = {at: after.cell(0, at) for at in range(cells.CELLS) if after.cell(0, at)}
    assert kept == {
        cells.KEY_REQUESTS_BASE: 142,
        cells.KEY_FAILURES_BASE: 5,
        cells.KEY_USED_AT_MS: WALL_MS - 5,
        cells.LAST_USED_MS: 88_995 << 20 | 3,
    }


times = st.just(0) | st.integers(1, 2**38)
moments = st.builds(Moment, st.integers(1, 2**38), st.integers(0, 2**42))


@given(st.integers(0, 2**24 - 1), times, moments, st.integers(0, 2**36), st.integers(0, 2**38), st.booleans())
def test_a_time_comes_back_or_is_dropped(
    rest: int, at_ms: int, now: Moment, passed_ms: int, booted_ms: int, whole: bool
) -> None:
    time = Time() if whole else Time(24, 39)
    kept = Kept("x", 0, time, late_ms=1_000)
    value = at_ms if whole else rest | at_ms << 24
    later = Moment(booted_ms, now.wall_ms + passed_ms)
    found = module._from_file(kept, module._to_file(kept, value, now), later)
    ahead_ms = at_ms - now.monotonic_ms - passed_ms
    if at_ms == 0:
        assert found == value
    elif -1_000 < ahead_ms <= module.MAX_AHEAD_MS:
        assert found is not None
        assert found >> time.shift == max(1, booted_ms + ahead_ms)
        assert whole or found & (1 << 24) - 1 == rest
    else:
        assert found is None


def test_names_and_cells_are_told_apart() -> None:
    for kept in (OF_ENDPOINTS, module.OF_KEYS):
        assert len({one.name for one in kept}) == len({one.cell for one in kept}) == len(kept)


# --- the file


def path_of(folder: Path) -> Path:
    return folder / MEMORY_FILE


def document(**cell: Any) -> dict[str, Any]:
    row = {"provider": "p", "key": "k1", "model": "m", "dialect": "openai", "cells": cell}
    return {"version": 1, "saved_ms": WALL_MS, "rows": [row]}


def clock_at(now: Moment) -> Clock:
    return Clock(lambda: now.monotonic_ms * 1_000_000, lambda: now.wall_ms * 1_000_000)


def test_the_file_is_for_us_alone_and_replaced_in_one_step(segment: Segment, tmp_path: Path) -> None:
    learnt(segment, 0, NOW.monotonic_ms)
    path = path_of(tmp_path)
    for _ in range(2):
        save(str(path), remember(segment, ROWS, NOW))
        assert path.stat().st_mode & 0o777 == 0o600
        assert os.listdir(tmp_path).count(MEMORY_FILE) == 1
    assert not list(tmp_path.glob("*.draft"))
    assert load(str(path)) == remember(segment, ROWS, NOW)
    written = json.loads(path.read_bytes())
    assert written["rows"][0]["cells"]["cooldown_until"] == [0, WALL_MS + 10_000]


def test_no_file_is_no_matter(after: Segment, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    restore(str(tmp_path), after, ROWS, clock_at(NOW))
    assert caplog.records == []


DAMAGED: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'{"version": 1}',
    b"\xff\xfe",
    json.dumps({**document(), "version": 2}).encode(),
    json.dumps({**document(), "more": 1}).encode(),
    json.dumps(document(adaptive=7)).encode(),
    json.dumps(document(adaptive=[1, 2, 3])).encode(),
    json.dumps(document(adaptive=["1", None])).encode(),
    json.dumps(document(adaptive=[1.5, None])).encode(),
    json.dumps(document(adaptive=[2**70, None])).encode(),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_reported_and_ignored(
    content: bytes, after: Segment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path_of(tmp_path).write_bytes(content)
    restore(str(tmp_path), after, ROWS, clock_at(NOW))
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING] or [None]
    if record is None:
        # Sound as a document: the number has no place in a cell.
        assert b"1180591620717411303424" in content
    else:
        assert MEMORY_FILE in record.getMessage()
    assert [after.cell(row, cell) for row in range(4) for cell in range(cells.CELLS)] == [0] * 4 * cells.CELLS


def test_a_directory_in_its_place(after: Segment, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path_of(tmp_path).mkdir()
    restore(str(tmp_path), after, ROWS, clock_at(NOW))
    assert "is ignored" in caplog.text


@pytest.mark.parametrize(
    "cell",
    [
        {"adaptive": [3, None]},  # no such state
        {"adaptive": [0x7FC00000 << 32, None]},  # not a number
        {"adaptive": [0x7F800000 << 32, None]},  # infinite
        {"adaptive": [-1, None]},
        {"pace": [0x7FC00000 << 32, None]},
        {"quota_requests": [-5, None]},
        {"key_state": [1 << 30, WALL_MS]},  # two times
        {"quota_requests_times": [1000, WALL_MS + 10**15]},
        {"cooldown_until": [0, WALL_MS + 40 * 86_400_000]},  # a wrong clock
        {"cooldown_until": [0, -(10**17)]},
        {"unheard_of": [5, None]},
    ],
)
def test_numbers_without_sense_are_left_out(cell: dict[str, Any], after: Segment, tmp_path: Path) -> None:
    path_of(tmp_path).write_text(json.dumps(document(quota_tokens=[100 << 32 | 7, None], **cell)))
    restore(str(tmp_path), after, ROWS, clock_at(NOW))
    assert after.cell(0, cells.QUOTA_TOKENS) == 100 << 32 | 7
    assert [after.cell(0, at) for at in range(cells.CELLS) if at != cells.QUOTA_TOKENS] == [0] * (cells.CELLS - 1)


def test_a_file_too_large_is_not_read(
    after: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    path_of(tmp_path).write_text(json.dumps(document()) + " " * 200)
    restore(str(tmp_path), after, ROWS, clock_at(NOW))
    assert "more than 100 bytes" in caplog.text


# --- the keeper


def test_it_saves_at_the_end_and_only_what_is_new(segment: Segment, tmp_path: Path) -> None:
    keeper = MemoryKeeper(str(tmp_path), segment, lambda: ROWS.items(), clock_at(NOW))

    async def stopped() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keeper.run(stop))
        await asyncio.sleep(0)
        learnt(segment, 0, NOW.monotonic_ms)
        stop.set()
        await task

    asyncio.run(stopped())
    path = path_of(tmp_path)
    assert len(json.loads(path.read_bytes())["rows"]) == 1
    path.unlink()
    keeper.save()
    assert not path.exists()
    learnt(segment, 1, NOW.monotonic_ms)
    keeper.save()
    assert len(json.loads(path.read_bytes())["rows"]) == 2


def test_a_full_disk_is_reported_once(segment: Segment, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = MemoryKeeper(str(tmp_path / "gone"), segment, lambda: ROWS.items(), clock_at(NOW))
    learnt(segment, 0, NOW.monotonic_ms)
    keeper.save()
    keeper.save()
    assert len(caplog.records) == 1
    (tmp_path / "gone").mkdir()
    keeper.save()
    assert path_of(tmp_path / "gone").exists()
