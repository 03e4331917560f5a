"""Time window: turns shared by all workers, and the window of the options."""

from collections import Counter
from pathlib import Path

from fastroute.balance.registry import find_strategy
from fastroute.balance.time_window import TimeWindow
from tests.unit.fleet import Fleet, ask_for, ok


def test_it_is_registered(tmp_path: Path) -> None:
    strategy = find_strategy("time_window")(Fleet(tmp_path, [1.0]).info)
    assert isinstance(strategy, TimeWindow)
    assert strategy.name == "time_window"


def test_workers_take_turns_together(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 4)
    workers = [TimeWindow(pool.info) for _ in range(3)]
    picked = [workers[at % 3].pick(pool.candidates, ask_for(now_ms=1000 + at)) for at in range(400)]
    assert Counter(picked) == {0: 100, 1: 100, 2: 100, 3: 100}
    assert all(len(set(picked[at : at + 4])) == 4 for at in range(0, 400, 4))


def test_the_window_is_that_of_the_options(tmp_path: Path) -> None:
    """Once it has passed, all are free and drawn by weight; within it they take turns."""
    counts = {}
    for window_ms in (50, 200):
        folder = tmp_path / str(window_ms)
        folder.mkdir()
        pool = Fleet(folder, [9.0, 1.0], time_window_ms=window_ms)
        strategy = TimeWindow(pool.info)
        counts[window_ms] = Counter(
            strategy.pick(pool.candidates, ask_for(now_ms=1000 + at * 50)) for at in range(1000)
        )
    assert counts[200] == {0: 500, 1: 500}
    assert counts[50][0] > 850


def test_a_failure_costs_the_turn(tmp_path: Path) -> None:
    pool = Fleet(tmp_path, [1.0] * 3)
    strategy = TimeWindow(pool.info)
    first = strategy.pick(pool.candidates, ask_for(now_ms=1000))
    strategy.observe(first, ask_for(now_ms=1000), ok(5.0))
    pool.tried(first)
    second = strategy.pick(pool.candidates, ask_for(now_ms=1001))
    pool.tried()
    assert {first, second, strategy.pick(pool.candidates, ask_for(now_ms=1002))} == {0, 1, 2}


def test_there_is_nothing_to_learn_or_to_take_over(tmp_path: Path) -> None:
    assert getattr(TimeWindow.observe, "does_nothing", False)
    pool = Fleet(tmp_path, [1.0] * 2)
    old, new = TimeWindow(pool.info), TimeWindow(pool.info)
    first = old.pick(pool.candidates, ask_for(now_ms=1000))
    new.adopt(old, [0, 1])
    assert new.pick(pool.candidates, ask_for(now_ms=1001)) == 1 - first
