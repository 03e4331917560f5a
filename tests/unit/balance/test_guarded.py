"""Strategies of third parties that raise, or choose what they must not."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.attempts import OK
from fastroute.balance.base import BaseStrategy
from fastroute.balance.guarded import Guarded
from fastroute.interfaces import Ask, PoolInfo, Result
from tests.unit.fleet import Fleet, ask_for, shares


class Theirs(BaseStrategy):
    """Chooses what it is told to; an exception is raised."""

    name = "theirs"
    chosen: Any = 0
    learnt = 0

    def pick(self, candidates: Any, ask: Ask) -> int:
        if isinstance(self.chosen, Exception):
            raise self.chosen
        return self.chosen  # type: ignore[no-any-return]

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        if isinstance(self.chosen, Exception):
            raise self.chosen
        self.learnt += 1

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        self.learnt = previous.learnt


def guarded(fleet: Fleet, chosen: Any = 0, load: Callable[[], Any] = lambda: Theirs) -> Guarded:
    made = Guarded("theirs", load, fleet.info)
    if isinstance(made.inner, Theirs):
        made.inner.chosen = chosen
    return made


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, [1.0, 1.0, 1.0, 0.0])


def test_one_that_behaves_is_believed(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    strategy = guarded(fleet, 2)
    assert shares(strategy, fleet, 50) == {2: 50}
    assert strategy.peek(fleet.candidates, ask_for()) == 2
    strategy.observe(2, ask_for(), Result(OK))
    after = guarded(fleet)
    after.adopt(strategy, [0, 1, 2, 3])
    assert isinstance(after.inner, Theirs)
    assert after.inner.learnt == 1
    fleet.tried(0, 1, 2)
    assert guarded(fleet, -1).pick(fleet.candidates, ask_for()) == -1
    assert strategy.reads_prompt is False
    assert caplog.records == []


@pytest.mark.parametrize(
    "chosen", [ValueError("theirs"), 3, 4, -1, 10**30, None, "1", 1.0, [1]], ids=lambda chosen: repr(chosen)[:12]
)
def test_the_default_stands_in_for_one_that_does_not(
    chosen: Any, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = guarded(fleet, chosen)
    counts = shares(strategy, fleet, 300)
    assert set(counts) == {0, 1, 2}
    assert strategy.peek(fleet.candidates, ask_for()) in (0, 1, 2)
    strategy.observe(0, ask_for(), Result(OK))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    # Once, however often it happens.
    assert sorted(set(said)) == sorted(said)
    assert all("'theirs'" in line for line in said)
    assert len(said) in (1, 2)


def test_one_that_was_tried_is_no_candidate(fleet: Fleet) -> None:
    """Else a request could be offered to the same endpoint for ever."""
    strategy = guarded(fleet, 1)
    fleet.tried(1)
    assert set(shares(strategy, fleet, 100)) == {0, 2}
    fleet.tried(0, 1, 2)
    assert strategy.pick(fleet.candidates, ask_for()) == -1


def no_import() -> Any:
    raise ImportError("theirs")


def no_factory() -> Any:
    def make(info: PoolInfo) -> Any:
        raise TypeError("theirs")

    return make


@pytest.mark.parametrize("load", [no_import, no_factory, lambda: None, lambda: object])
def test_one_that_cannot_be_made_is_stood_in_for(
    load: Callable[[], Any], fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = guarded(fleet, load=load)
    assert set(shares(strategy, fleet, 100)) == {0, 1, 2}
    strategy.observe(0, ask_for(), Result(OK))
    strategy.adopt(guarded(fleet), [0, 1, 2, 3])
    guarded(fleet).adopt(strategy, [0, 1, 2, 3])
    assert "cannot be made" in caplog.text
