"""The two halves of `limits` let in the same requests, and leave the same behind; no ceiling is ever exceeded."""

import tempfile
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core import _limits_file as layout
from fastroute._core._limits_file import DAY_NS, PERIOD_NS, Moment, Subject
from tests.unit.core.twins import twins

PURE, COMPILED = (param.values[0] for param in twins("limits"))
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

WORKERS = 3
SLOTS = 8
NOW = 10**12
WALL = 20_000 * DAY_NS + DAY_NS // 2
BOOT = bytes(range(16))

ceiling = st.just(0) | st.integers(1, 12) | st.sampled_from([60, 1000, 99_991, 10**12])
#: All have names of their own but for two that share one.
subjects = st.lists(
    st.builds(Subject, st.just(""), ceiling, ceiling, ceiling, ceiling, ceiling), min_size=1, max_size=4
).map(lambda some: [one._replace(name=f"s{at}") for at, one in enumerate(some)])
tokens = st.integers(0, 15) | st.integers(-5, 2_000) | st.just(10**20)
pause_ns = (
    st.integers(0, 10)
    | st.integers(0, 10 * 10**9)
    | st.integers(0, 2 * PERIOD_NS)
    | st.sampled_from([DAY_NS // 2, DAY_NS, 3 * DAY_NS])
)
worker = st.integers(0, WORKERS - 1)
step = st.one_of(
    st.tuples(st.just("admit"), worker, st.integers(0, 15), tokens, tokens),
    st.tuples(st.just("admit"), worker, st.integers(0, 15), tokens, tokens),
    st.tuples(st.just("settle"), st.integers(0, 99), tokens),
    st.tuples(st.just("settle"), st.integers(0, 99), tokens),
    st.tuples(st.just("withdraw"), st.integers(0, 99)),
    st.tuples(st.just("die"), worker),
    st.tuples(st.just("look"), st.integers(1, 15), st.integers(0, 50), tokens),
    st.tuples(st.just("pause"), pause_ns),
)


class Life:
    """One half's table; every step goes to it with the same arguments as to the other one."""

    def __init__(self, half: ModuleType, folder: Path, subjects: list[Subject], slots: int) -> None:
        path = str(folder / half.__name__)
        self.table = half.Table.create(path, WORKERS, Moment(BOOT, NOW, WALL), slots)
        self.limiters = [half.Limiter(self.table, number) for number in range(WORKERS)]
        # What a request has to do with: some of the subjects are its caller's, the others its model's.
        self.choices = [
            [one for at, one in enumerate(subjects) if chosen >> at & 1] for chosen in range(1 << len(subjects))
        ]
        self.ceilings = [half.Ceilings(self.table, choice) for choice in self.choices]
        self.none = self.ceilings[0]
        self.passed_ns = 0
        self.grants: list[tuple[int, Any]] = []

    def times(self) -> tuple[int, int]:
        return NOW + self.passed_ns, WALL + self.passed_ns

    def do(self, what: str, *arguments: Any) -> object:
        result: object = getattr(self, what)(*arguments)
        return result

    def admit(self, worker: int, chosen: int, least: int, wanted: int) -> object:
        limiter = self.limiters[worker]
        some = chosen % len(self.ceilings)
        caller, model = self.ceilings[some], self.ceilings[len(self.ceilings) - 1 - some]
        grant = limiter.admit(caller, None if worker == 2 else model, least, wanted, *self.times())
        if grant is None:
            return limiter.refused, limiter.dimension, limiter.wait_ns, limiter.hopeless
        self.grants.append((worker, grant))
        return grant.tokens

    def settle(self, which: int, used: int) -> object:
        if not self.grants:
            return None
        _, grant = self.grants[which % len(self.grants)]
        grant.settle(used)
        return grant.open

    def withdraw(self, which: int) -> object:
        if self.grants:
            self.grants[which % len(self.grants)][1].withdraw()
        return None

    def die(self, worker: int) -> object:
        self.table.clear_worker(worker)
        self.grants = [(owner, grant) for owner, grant in self.grants if owner != worker]
        return None

    def look(self, chosen: int, requests: int, wanted: int) -> object:
        ceilings = self.ceilings[chosen % len(self.ceilings)]
        limiter = self.limiters[0]
        estimates = [
            limiter.estimate_ns(ceilings, at, requests, wanted, *self.times()) for at in range(len(ceilings.subjects))
        ]
        return estimates, limiter.fields(ceilings, *self.times())

    def pause(self, ns: int) -> object:
        self.passed_ns += ns
        return None

    def left_behind(self) -> list[list[int]]:
        return [
            [*(self.table.cell(slot, at) for at in range(layout.CELLS)), self.table.held(slot)]
            for slot in range(self.table.slots)
        ] + [[self.table.lost]]


@given(subjects, st.lists(step, max_size=60), st.sampled_from([2, 4, SLOTS]))
def test_halves_agree(subjects: list[Subject], steps: list[tuple[Any, ...]], slots: int) -> None:
    """In a table with room for all, and in one where places change hands."""
    with tempfile.TemporaryDirectory() as folder:
        lives = [Life(half, Path(folder), subjects, slots) for half in (PURE, COMPILED)]
        for what in steps:
            pure, compiled = (life.do(*what) for life in lives)
            assert pure == compiled, what
            assert lives[0].left_behind() == lives[1].left_behind(), what
        for life in lives:
            life.table.close()


small = st.integers(1, 30)
arrival = st.tuples(st.sampled_from([0, 0, 0, 1, 10**9, 5 * 10**9, PERIOD_NS]), st.integers(0, 40), st.integers(0, 40))


@pytest.mark.parametrize("half", [param.values[0] for param in twins("limits")], ids=["py", "c"])
@given(small, small, small, small, st.lists(arrival, max_size=120))
def test_no_ceiling_is_exceeded(
    half: ModuleType, rpm: int, tpm: int, concurrency: int, rpd: int, arrivals: list[tuple[int, int, int]]
) -> None:
    """The envelope of a rate holds for every stretch of time; what is under way and what a day counts stays within."""
    with tempfile.TemporaryDirectory() as folder:
        table = half.Table.create(f"{folder}/limits", 1, Moment(BOOT, NOW, WALL), SLOTS)
        limiter = half.Limiter(table, 0)
        ceilings = half.Ceilings(table, [Subject("a", rpm, tpm, concurrency, rpd, 0)])
        slot = table.find("a")
        passed = 0
        let_in: list[tuple[int, int]] = []
        under_way: list[Any] = []
        for pause, wanted, leaves in arrivals:
            passed += pause
            if leaves % 3 == 0 and under_way:
                # It used exactly what it was debited.
                grant = under_way.pop(leaves % len(under_way))
                grant.settle(min(grant.tokens, tpm))
            grant = limiter.admit(ceilings, None, 0, wanted, NOW + passed, WALL + passed)
            if grant is not None:
                under_way.append(grant)
                let_in.append((passed, min(wanted, tpm)))
            assert table.held(slot) == len(under_way) <= concurrency
        first, second = PERIOD_NS // rpm, PERIOD_NS // tpm
        for begin in range(len(let_in)):
            for end in range(begin + 1, len(let_in) + 1):
                stretch = PERIOD_NS + let_in[end - 1][0] - let_in[begin][0]
                assert (end - begin) * first <= stretch
                assert sum(used for _, used in let_in[begin:end]) * second <= stretch
        for day in {(WALL + at) // DAY_NS for at, _ in let_in}:
            assert sum((WALL + at) // DAY_NS == day for at, _ in let_in) <= rpd
        for grant in under_way:
            grant.settle(0)
        assert table.held(slot) == 0
        table.close()


@given(st.integers(1, 5_000), st.lists(st.integers(1, 60), min_size=2, max_size=20))
def test_a_refusal_tells_the_truth_about_the_wait(rpm: int, pauses: list[int]) -> None:
    """Whoever comes back at that moment is let in, whoever comes a nanosecond earlier is not."""
    with tempfile.TemporaryDirectory() as folder:
        table = COMPILED.Table.create(f"{folder}/limits", 1, Moment(BOOT, NOW, WALL), SLOTS)
        limiter = COMPILED.Limiter(table, 0)
        ceilings = COMPILED.Ceilings(table, [Subject("a", rpm)])
        now = NOW
        for before, after in pairwise(pauses):
            while limiter.admit(ceilings, None, 0, 0, now, WALL):
                pass
            wait = limiter.wait_ns
            assert 0 < wait <= PERIOD_NS
            assert limiter.admit(ceilings, None, 0, 0, now + wait - 1, WALL) is None
            assert limiter.admit(ceilings, None, 0, 0, now + wait, WALL) is not None
            now += wait + (before + after) * 10**6
        table.close()
