"""Times to the first token, counted in the segment: quantiles of late, over both halves and several processes."""

import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._attempts_rules import FAILED, NEUTRAL, OK, Policy, latency_counts, latency_place, latency_quantile
from fastroute._core._counters_file import LATENCY_0, LATENCY_CELLS
from tests.unit.core.halves import Half, halves, segment_at

WINDOW_MS = 10_000
ROW = 1


class Endpoint:
    """One endpoint whose good answers take as long as they are told to."""

    def __init__(self, half: Half, folder: Path) -> None:
        self.segment = segment_at(half, folder, 3)
        self.attempts = half.attempts.Attempts(self.segment, Policy(window_ms=WINDOW_MS))

    def answer(self, cost_ms: float, now_ms: int = 0, verdict: int = OK, times: int = 1) -> None:
        for _ in range(times):
            self.attempts.leave(0, ROW, self.attempts.enter(0, ROW, 1, now_ms), verdict, cost_ms, now_ms, 0, 0, 1)

    def counts(self, now_ms: int = 0) -> list[int]:
        found: list[int] = self.attempts.latencies(ROW, now_ms)
        return found

    def quantile(self, q: float, now_ms: int = 0) -> float:
        return latency_quantile(self.counts(now_ms), q)

    def words(self) -> list[int]:
        return [self.segment.cell(ROW, LATENCY_0 + i) for i in range(LATENCY_CELLS)]


@pytest.fixture
def endpoint(half: Half, tmp_path: Path) -> Endpoint:
    return Endpoint(half, tmp_path)


@pytest.mark.parametrize(
    ("cost_ms", "place"),
    [
        (0.0, (0, 0)), (1.023, (0, 0)), (1.365, (0, 0)), (1.366, (0, 1)), (2.047, (0, 2)), (2.048, (1, 0)),
        (100.0, (6, 1)), (65_536.0, (15, 2)), (67_108.0, (15, 2)), (1e9, (15, 2)), (math.inf, (15, 2)),
    ],
)  # fmt: skip
def test_where_a_time_is_counted(cost_ms: float, place: tuple[int, int], endpoint: Endpoint) -> None:
    assert latency_place(cost_ms) == place
    endpoint.answer(cost_ms)
    expected = [0] * 48
    expected[3 * place[0] + place[1]] = 1
    assert endpoint.counts() == expected


def test_nobody_has_asked(endpoint: Endpoint) -> None:
    assert endpoint.quantile(0.5) == -1.0
    assert sum(endpoint.counts(10**9)) == 0


@given(st.lists(st.floats(1.1, 60_000.0), min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_a_quantile_is_within_a_third(times_ms: list[float], q: float) -> None:
    counts = [0] * 48
    for time_ms in times_ms:
        octave, lane = latency_place(time_ms)
        counts[3 * octave + lane] += 1
    true_ms = sorted(times_ms)[max(0, math.ceil(q * len(times_ms)) - 1)]
    assert 0.74 <= latency_quantile(counts, q) / true_ms <= 1.35


def test_a_smooth_distribution_is_told_closely(endpoint: Endpoint) -> None:
    rng = random.Random(4)
    times_ms = sorted(rng.lognormvariate(6.0, 0.5) for _ in range(5000))
    for time_ms in times_ms:
        endpoint.answer(time_ms)
    for q in (0.5, 0.9, 0.95, 0.99):
        assert endpoint.quantile(q) == pytest.approx(times_ms[int(q * 5000)], rel=0.05)


def test_only_good_answers_count(endpoint: Endpoint) -> None:
    for verdict in (FAILED, NEUTRAL):
        endpoint.answer(50.0, verdict=verdict)
    endpoint.answer(-1.0)
    assert sum(endpoint.counts()) == 0
    endpoint.attempts.first_token(0, ROW, 0, 50.0, 0)
    assert sum(endpoint.counts()) == 1


def test_every_window_halves_what_there_was(endpoint: Endpoint) -> None:
    endpoint.answer(100.0, times=40)
    endpoint.answer(110.0, times=5)
    seen = [sum(endpoint.counts(windows * WINDOW_MS)) for windows in range(9)]
    assert seen == [45, 22, 11, 5, 2, 1, 0, 0, 0]
    endpoint.answer(100.0, now_ms=2 * WINDOW_MS)
    assert sum(endpoint.counts(2 * WINDOW_MS)) == 12
    endpoint.answer(100.0, now_ms=40 * WINDOW_MS)
    assert sum(endpoint.counts(40 * WINDOW_MS)) == 1


def test_a_change_of_speed_is_seen_within_two_windows(endpoint: Endpoint) -> None:
    for window, time_ms in ((0, 100.0), (1, 1000.0), (2, 1000.0)):
        endpoint.answer(time_ms, now_ms=window * WINDOW_MS, times=100)
    assert endpoint.quantile(0.5, 2 * WINDOW_MS) > 700.0


def test_a_worker_whose_clock_was_read_earlier_takes_nothing_back(endpoint: Endpoint) -> None:
    endpoint.answer(100.0, now_ms=5 * WINDOW_MS, times=8)
    endpoint.answer(100.0, now_ms=5 * WINDOW_MS - 1)
    assert sum(endpoint.counts(5 * WINDOW_MS)) == sum(endpoint.counts(5 * WINDOW_MS - 1)) == 9


def test_a_count_that_is_full_stays_full(endpoint: Endpoint) -> None:
    octave, lane = latency_place(100.0)
    others = 7 << 16 * ((lane + 1) % 3)
    full = 0xFFFF << 16 * lane | others
    endpoint.segment.set_cell(ROW, LATENCY_0 + octave, full)
    endpoint.answer(100.0)
    assert endpoint.segment.cell(ROW, LATENCY_0 + octave) == full
    endpoint.answer(100.0, now_ms=WINDOW_MS)
    assert sum(endpoint.counts(WINDOW_MS)) == 0x7FFF + 1 + 3


@given(
    st.lists(st.tuples(st.floats(0.0, 1e6), st.integers(0, 40 * WINDOW_MS)), max_size=60),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=LATENCY_CELLS, max_size=LATENCY_CELLS),
)
def test_the_halves_count_the_same(
    tmp_path_factory: pytest.TempPathFactory, answers: list[tuple[float, int]], words: list[int]
) -> None:
    """Also from cells of any content, and whatever way the clock goes."""
    folder = tmp_path_factory.mktemp("halves")
    both = [Endpoint(param.values[0], folder) for param in halves() if param.values[0] is not None]
    seen: list[Any] = []
    for one in both:
        for at, word in enumerate(words):
            one.segment.set_cell(ROW, LATENCY_0 + at, word)
        told = []
        for cost_ms, now_ms in answers:
            one.answer(cost_ms, now_ms)
            told.append(one.counts(now_ms))
        seen.append((one.words(), told))
        one.segment.close()
    assert all(one == seen[0] for one in seen)
    assert latency_counts([0] * LATENCY_CELLS, 5) == [0] * 48


def test_workers_count_together(half: Half, tmp_path: Path) -> None:
    if not half.counters.ATOMIC:
        pytest.skip("the pure half does not promise it")
    segment = segment_at(half, tmp_path, 3)
    children = []
    for worker in range(2):
        pid = os.fork()
        if pid == 0:
            mine = half.counters.Segment.open(segment.path)
            attempts = half.attempts.Attempts(mine, Policy(window_ms=WINDOW_MS))
            for _ in range(20_000):
                attempts.first_token(worker, ROW, 0, 100.0 + 50.0 * worker, 0)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert sum(half.attempts.Attempts(segment, Policy(window_ms=WINDOW_MS)).latencies(ROW, 0)) == 40_000
