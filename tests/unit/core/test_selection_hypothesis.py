"""The two halves of the round robins take the same turns, and refuse in the same way.

The choices by load and weight are compared with the gates before them, in test_candidates_hypothesis.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.twins import twins

PURE, COMPILED = (param.values[0] for param in twins("selection"))
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

position = st.integers(-1, 8) | st.sampled_from([2**40, 2**70, -(2**70)])
candidates = st.lists(st.integers(0, 5), max_size=10) | st.lists(position, max_size=10).map(tuple)


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (IndexError, ValueError) as error:
        return type(error)


@given(st.integers(-1, 8), st.integers(-(2**70), 2**70), st.lists(candidates))
def test_same_turns(n: int, start: int, rounds: list[list[int]]) -> None:
    if n < 0:
        assert outcome(PURE.RoundRobin, n, start) is outcome(COMPILED.RoundRobin, n, start) is ValueError
        return
    pure, compiled = PURE.RoundRobin(n, start), COMPILED.RoundRobin(n, start)
    for among in rounds:
        assert outcome(pure.pick, among) == outcome(compiled.pick, among)
        assert pure.cursor == compiled.cursor


step = st.one_of(
    st.tuples(st.just("pick"), candidates),
    st.tuples(st.just("succeeded"), position),
    st.tuples(st.just("failed"), position, st.integers(-1, 6)),
)


@given(st.lists(st.integers(0, 9) | st.just(1_000_000_000), max_size=7), st.lists(step))
def test_same_weights(weights: list[int], steps: list[tuple[Any, ...]]) -> None:
    pure, compiled = PURE.SmoothWeightedRoundRobin(weights), COMPILED.SmoothWeightedRoundRobin(weights)
    for name, *arguments in steps:
        assert outcome(getattr(pure, name), *arguments) == outcome(getattr(compiled, name), *arguments)
        assert pure.current == compiled.current
        assert pure.effective == compiled.effective
        assert sum(compiled.current) == 0
        assert all(0 <= effective <= weight for effective, weight in zip(pure.effective, weights, strict=True))
