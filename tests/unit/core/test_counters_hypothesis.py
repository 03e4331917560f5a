"""The two halves of `counters` give the same answers, or the same exception, to the same calls."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.twins import twins

PURE, COMPILED = (param.values[0] for param in twins("counters"))
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

position = st.integers(-2, 9) | st.sampled_from([63, 64, 2**40, -(2**70), 2**70])
value = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**63, -(2**63) - 1])
call = st.one_of(
    st.tuples(st.just("word"), position),
    st.tuples(st.just("set_word"), position, value),
    st.tuples(st.just("add_word"), position, value),
    st.tuples(st.just("cas_word"), position, value, value),
    st.tuples(st.just("get"), position, position, position),
    st.tuples(st.just("set"), position, position, position, value),
    st.tuples(st.just("add"), position, position, position, value),
    st.tuples(st.just("total"), position, position),
    st.tuples(st.just("totals"), position),
    st.tuples(st.just("in_flight"), position),
    st.tuples(st.just("clear_worker"), position),
    st.tuples(st.just("clear_endpoint"), position),
    st.tuples(st.just("cell"), position, position),
    st.tuples(st.just("set_cell"), position, position, value),
    st.tuples(st.just("add_cell"), position, position, value),
    st.tuples(st.just("cas_cell"), position, position, value, value),
    st.tuples(st.just("close")),
)


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except (IndexError, OverflowError, ValueError) as error:
        return type(error)


@given(st.integers(1, 3), st.integers(1, 4), st.lists(call, max_size=60))
def test_same_calls_same_answers(workers: int, endpoints: int, calls: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pure_path, compiled_path = str(Path(folder, "py")), str(Path(folder, "c"))
        pure = PURE.Segment.create(pure_path, workers, endpoints)
        compiled = COMPILED.Segment.create(compiled_path, workers, endpoints)
        for name, *arguments in calls:
            left = outcome(getattr(pure, name), tuple(arguments))
            right = outcome(getattr(compiled, name), tuple(arguments))
            assert left == right, (name, arguments)
            assert type(left) is type(right)
        pure.close()
        compiled.close()
        assert Path(pure_path).read_bytes() == Path(compiled_path).read_bytes()
