"""A pool: what it has learnt, and what outlives a reload."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.counters import Segment
from fastroute.balance.base import BaseStrategy
from fastroute.balance.registry import find_strategy
from fastroute.config.schema import StrategyOptions
from fastroute.interfaces import Ask, PoolInfo, Result, Strategy
from fastroute.routing.pool import (
    FIRST_OUTPUT_TOKENS,
    FIRST_TOKENS_PER_BYTE,
    MAX_TOKENS_PER_BYTE,
    MIN_TOKENS_PER_BYTE,
    Pool,
)

ROWS = 8


class Remembering(BaseStrategy):
    """Notes what it is told."""

    name = "remembering"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self.seen: list[int] = []
        self.adopted: tuple[Any, list[int]] | None = None

    def pick(self, candidates: Any, ask: Ask) -> int:
        return candidates[0] if candidates else -1

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        self.seen.append(position)

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        self.adopted = (previous, list(positions))


def make(name: str, info: PoolInfo) -> Strategy:
    if name == "remembering":
        return Remembering(info)
    return find_strategy(name)(info)


@pytest.fixture
def segment(tmp_path: Path) -> Any:
    with_rows = Segment.create(str(tmp_path / "segment"), 1, ROWS)
    yield with_rows
    with_rows.close()


def pool(segment: Any, rows: Sequence[int] = (0, 1, 2), maker: Any = make) -> Pool:
    """Return a pool of endpoints in those rows; nobody asks its candidates."""
    rng = random.Random(7)
    rows = tuple(rows)
    info = PoolInfo(
        segment, rows, tuple(1.0 for _ in rows), tuple(f"e{row}" for row in rows), tuple(None for _ in rows),
        lambda: rng.getrandbits(64), StrategyOptions(),
    )  # fmt: skip
    candidates: Any = None
    return Pool("m", "openai", rows, candidates, info, maker, limited=False, blind=False)


# --- strategies


def test_strategies_are_made_once_and_named_in_a_header(segment: Any) -> None:
    one = pool(segment)
    chooser = one.chooser("p2c")
    assert one.chooser("p2c") is chooser
    assert one.chooser("random") is not chooser
    assert (chooser.name, chooser.header) == ("p2c", (b"x-fastroute-strategy", b"p2c"))


def test_pools_share_no_strategy(segment: Any) -> None:
    """What one model has learnt of an endpoint, or where its turn is, is nothing to another."""
    one, other = pool(segment), pool(segment)
    assert one.chooser("round_robin").strategy is not other.chooser("round_robin").strategy


def test_a_name_nobody_registered(segment: Any) -> None:
    with pytest.raises(KeyError):
        pool(segment).chooser("no-such-strategy")


@pytest.mark.parametrize(
    ("name", "learns"),
    [("p2c", False), ("round_robin", False), ("least_connections", False), ("random", False),
     ("weighted_round_robin", True), ("remembering", True)],
)  # fmt: skip
def test_only_strategies_that_learn_are_told(segment: Any, name: str, learns: bool) -> None:
    assert pool(segment).chooser(name).learns is learns


# --- estimates


def test_estimates_begin_at_a_rule_of_thumb_and_follow_what_providers_count(segment: Any) -> None:
    one = pool(segment)
    assert (one.tokens_per_byte, one.output_tokens) == (FIRST_TOKENS_PER_BYTE, FIRST_OUTPUT_TOKENS)
    one.learn(1000, 500, 100)
    assert one.tokens_per_byte == pytest.approx(0.25 + 0.1 * 0.25)
    assert one.output_tokens == pytest.approx(300 - 0.1 * 200)
    for _ in range(1000):
        one.learn(1000, 500, 100)
    assert one.tokens_per_byte == pytest.approx(0.5)
    assert one.output_tokens == pytest.approx(100)


@pytest.mark.parametrize(
    ("size", "tokens", "low", "high"),
    [(10, 10**9, 0.25, MAX_TOKENS_PER_BYTE), (10**9, 1, MIN_TOKENS_PER_BYTE, 0.25)],
)
def test_absurd_counts_move_them_within_bounds(segment: Any, size: int, tokens: int, low: float, high: float) -> None:
    one = pool(segment)
    for _ in range(2000):
        one.learn(size, tokens, 1)
        assert low <= one.tokens_per_byte <= high


@pytest.mark.parametrize(("size", "tokens", "output"), [(0, 0, 0), (0, 50, 0), (50, 0, 0), (-1, -1, -1)])
def test_what_was_not_counted_teaches_nothing(segment: Any, size: int, tokens: int, output: int) -> None:
    one = pool(segment)
    one.learn(size, tokens, output)
    assert (one.tokens_per_byte, one.output_tokens) == (FIRST_TOKENS_PER_BYTE, FIRST_OUTPUT_TOKENS)


# --- reload


@pytest.mark.parametrize(
    ("before", "after", "positions"),
    [
        ((0, 1, 2), (0, 1, 2), [0, 1, 2]),
        ((0, 1, 2), (2, 0), [2, 0]),
        ((0, 1), (5, 1, 6, 0), [-1, 1, -1, 0]),
        ((0, 1), (3, 4), [-1, -1]),
        ((), (0,), [-1]),
        ((0,), (), []),
    ],
)
def test_endpoints_that_stay_keep_what_was_learnt_of_them(
    segment: Any, before: Sequence[int], after: Sequence[int], positions: list[int]
) -> None:
    """By their rows in the segment, wherever they stand now; one that was added begins with nothing."""
    old, new = pool(segment, before), pool(segment, after)
    old.learn(1000, 500, 100)
    chooser = old.chooser("remembering")
    new.adopt(old)
    strategy = new.chooser("remembering").strategy
    assert isinstance(strategy, Remembering)
    assert strategy.adopted == (chooser.strategy, positions)
    assert (new.tokens_per_byte, new.output_tokens) == (old.tokens_per_byte, old.output_tokens)


def test_a_strategy_that_is_gone_leaves_nothing(segment: Any) -> None:
    old, new = pool(segment), pool(segment, maker=lambda name, info: find_strategy(name)(info))
    old.chooser("remembering")
    old.chooser("round_robin")
    new.adopt(old)
    assert set(new._choosers) == {"round_robin"}


def test_the_turn_of_round_robin_goes_on(segment: Any) -> None:
    old, new = pool(segment), pool(segment)
    cycle = old.chooser("round_robin").strategy.cycle  # type: ignore[attr-defined]
    for cursor in range(3):
        cycle.cursor = cursor
        new.adopt(old)
        assert new.chooser("round_robin").strategy.cycle.cursor == cursor  # type: ignore[attr-defined]
