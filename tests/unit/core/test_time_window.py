"""The least recently used, over both halves and with real processes."""

import importlib
import multiprocessing
import random
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._counters_file import LAST_USED_MS
from tests.unit.core.halves import fixtures, half_of, pool_of, regate, segment_at
from tests.unit.core.twins import twins

WINDOW_MS = 60_000
DAY_MS = 86_400_000


half, segment = fixtures("time_window", 10, "half")


class Picker:
    """Picks with bits from a seed."""

    def __init__(self, half: ModuleType, candidates: Any, seed: int = 1) -> None:
        self.half = half
        self.candidates = candidates
        self.rng = random.Random(seed)

    def __call__(self, now_ms: int, window_ms: int = WINDOW_MS) -> int:
        picked: int = self.half.least_recently_used(self.candidates, self.rng.getrandbits(64), now_ms, window_ms)
        return picked


def used(segment: Any, *ages: int, now_ms: int = DAY_MS) -> None:
    """Have endpoint i last been used ages[i] ms before now."""
    for row, age in enumerate(ages):
        segment.set_cell(row, LAST_USED_MS, now_ms - age << 20)


def test_nobody_and_one(half: ModuleType, segment: Any) -> None:
    assert Picker(half, pool_of(half_of(half), segment, []))(1000) == -1
    pick = Picker(half, pool_of(half_of(half), segment, [0.0, 1.0]))
    assert [pick(1000 + at) for at in range(3)] == [1, 1, 1]
    # The only one there is claimed like any other.
    assert segment.cell(1, LAST_USED_MS) == 1002 << 20
    assert segment.cell(0, LAST_USED_MS) == 0


def test_the_least_recent_of_the_used(half: ModuleType, segment: Any) -> None:
    used(segment, 100, 5000, 300, 59_999)
    pick = Picker(half, pool_of(half_of(half), segment, [1] * 4))
    assert [pick(DAY_MS) for _ in range(4)] == [3, 1, 2, 0]
    # And so on in turn, also within one millisecond.
    assert [pick(DAY_MS) for _ in range(4)] == [3, 1, 2, 0]
    assert [segment.cell(row, LAST_USED_MS) - (DAY_MS << 20) for row in range(4)] == [7, 5, 6, 4]


def test_who_was_not_used_within_the_window_comes_first(half: ModuleType, segment: Any) -> None:
    used(segment, 59_999, 60_000, 1, 90_000)
    pick = Picker(half, pool_of(half_of(half), segment, [1] * 5))
    free = {pick(DAY_MS) for _ in range(3)}
    assert free == {1, 3, 4}
    assert pick(DAY_MS) == 0


def test_the_free_are_drawn_by_weight(half: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(half), segment, [1, 3])
    pick = Picker(half, candidates)
    counts = Counter(pick(DAY_MS + at * WINDOW_MS) for at in range(8000))
    assert abs(counts[1] - 6000) < 4.5 * 1500**0.5


def test_everybody_in_turn_whatever_the_weight(half: ModuleType, segment: Any) -> None:
    pick = Picker(half, pool_of(half_of(half), segment, [1, 50, 7]))
    counts = Counter(pick(DAY_MS + at) for at in range(300))
    assert counts == {0: 100, 1: 100, 2: 100}


def test_a_newcomer_gets_no_more_than_its_turn(half: ModuleType, segment: Any) -> None:
    """However fast the others are used: stamps never run ahead of time."""
    pick = Picker(half, pool_of(half_of(half), segment, [1] * 2))
    for _ in range(5000):
        pick(DAY_MS)
    pick = Picker(half, pool_of(half_of(half), segment, [1] * 3))
    counts = Counter(pick(DAY_MS + 1 + at) for at in range(300))
    assert counts == {0: 100, 1: 100, 2: 100}


def test_time_that_goes_back_still_takes_turns(half: ModuleType, segment: Any) -> None:
    pick = Picker(half, pool_of(half_of(half), segment, [1] * 3))
    counts = Counter(pick(DAY_MS - at) for at in range(300))
    assert counts == {0: 100, 1: 100, 2: 100}


def test_only_candidates_are_picked(half: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(half), segment, [1] * 4)
    regate(half_of(half), candidates, tried=[0, 3])
    pick = Picker(half, candidates)
    assert {pick(DAY_MS + at) for at in range(10)} == {1, 2}
    assert segment.cell(0, LAST_USED_MS) == segment.cell(3, LAST_USED_MS) == 0


def test_a_key_is_claimed_with_all_its_endpoints(half: ModuleType, segment: Any) -> None:
    """Endpoints 0 and 1 are two models of one key, 2 and 3 of another."""
    first = Picker(half, pool_of(half_of(half), segment, [1, 1], rows=[0, 2], key_rows=[8, 9]))
    second = Picker(half, pool_of(half_of(half), segment, [1, 1], rows=[1, 3], key_rows=[8, 9]))
    turns = [pick(DAY_MS + at) for at, pick in enumerate([first, second] * 10)]
    assert turns == [turns[0], 1 - turns[0]] * 10
    assert [segment.cell(row, LAST_USED_MS) for row in range(4)] == [0] * 4
    assert {segment.cell(row, LAST_USED_MS) >> 20 for row in (8, 9)} == {DAY_MS + 18, DAY_MS + 19}


def test_a_closed_segment_is_refused(half: ModuleType, segment: Any) -> None:
    candidates = pool_of(half_of(half), segment, [1, 1])
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        half.least_recently_used(candidates, 1, 0, WINDOW_MS)


# ---- several workers ----


def test_who_loses_a_claim_looks_again(tmp_path: Path) -> None:
    half = importlib.import_module("fastroute._core._time_window_py")
    pure = half_of(half).counters.Segment

    class Contested(pure):  # type: ignore[misc, valid-type]
        """Another worker is faster, twice."""

        rivals = 2

        def cas_cell(self, endpoint: int, i: int, expect: int, new: int) -> bool:
            if self.rivals:
                self.rivals -= 1
                self.set_cell(endpoint, i, new)
            return bool(super().cas_cell(endpoint, i, expect, new))

    segment = Contested.create(str(tmp_path / "counters"), 1, 3)
    used(segment, 3000, 2000, 1000)
    assert Picker(half, pool_of(half_of(half), segment, [1] * 3))(DAY_MS) == 2
    assert [segment.cell(row, LAST_USED_MS) for row in range(3)] == [(DAY_MS << 20) + at for at in range(3)]
    segment.close()


def _claim(path: str, name: str, picks: int, seed: int) -> None:
    half = importlib.import_module(name)
    pick = Picker(half, pool_of(half_of(half), half_of(half).counters.Segment.open(path), [1]), seed)
    for _ in range(picks):
        pick(DAY_MS)


def test_no_two_workers_make_the_same_claim(tmp_path: Path) -> None:
    half = twins("time_window")[1].values[0]
    if half is None:
        pytest.skip("the compiled half is not built")
    segment = segment_at(half_of(half), tmp_path, 1)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_claim, args=(segment.path, half.__name__, 20_000, at)) for at in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    # Of a single endpoint, each claim is the next stamp: two that were the same would be missing here.
    assert segment.cell(0, LAST_USED_MS) - (DAY_MS << 20) + 1 == 60_000
    segment.close()


# ---- the two halves ----

PURE, COMPILED = (param.values[0] for param in twins("time_window"))


@pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, 7.0]), st.integers(0, 2000) | st.just(0), st.integers(-1, 1)),
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(-300, 900), st.integers(-(2**70), 2**70)), max_size=30),
)
def test_same_choices(tmp_path_factory: Any, endpoints: list[Any], steps: list[tuple[int, int]]) -> None:
    folder = tmp_path_factory.mktemp("twins")
    answers = []
    for half in (PURE, COMPILED):
        (folder / half.__name__).mkdir()
        segment = segment_at(half_of(half), folder / half.__name__, len(endpoints) + 2)
        for row, (_, stamp, _) in enumerate(endpoints):
            segment.set_cell(row, LAST_USED_MS, stamp << 20)
        key_rows = [len(endpoints) + key if key >= 0 else -1 for _, _, key in endpoints]
        candidates = pool_of(half_of(half), segment, [weight for weight, _, _ in endpoints], key_rows=key_rows)
        now_ms = 1500
        seen = []
        for wait, bits in steps:
            now_ms = max(0, now_ms + wait)
            picked = half.least_recently_used(candidates, bits, now_ms, 1000)
            seen.append((picked, [segment.cell(row, LAST_USED_MS) for row in range(segment.endpoints)]))
        answers.append(seen)
        segment.close()
    assert answers[0] == answers[1]


def test_the_numbers_of_both_halves_are_the_same() -> None:
    source = Path(importlib.import_module("fastroute._core").__file__ or "").parent / "_time_window_c.pyx"
    assert f"    LAST_USED_MS = {LAST_USED_MS}\n    NUMBER_BITS = 20\n" in source.read_text()
