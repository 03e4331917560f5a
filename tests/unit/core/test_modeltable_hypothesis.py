"""The two halves of `modeltable` find the same names in the same slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.twins import twins

PURE, COMPILED = (param.values[0] for param in twins("modeltable"))
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

# Two letters, so that slices of a body are names more often than not.
letters = st.lists(st.sampled_from([b"a", b"b"]), max_size=40).map(b"".join)
name = st.binary(min_size=1, max_size=40) | letters.filter(bool)
bound = st.integers(-3, 45) | st.sampled_from([2**62, -(2**70), 2**70])


@given(
    st.lists(name, unique=True, max_size=30),
    letters | st.binary(),
    st.lists(st.tuples(bound, bound)),
    st.booleans(),
)
def test_same_slices_same_positions(
    names: list[bytes], body: bytes, slices: list[tuple[int, int]], bloom: bool
) -> None:
    pure, compiled = PURE.ModelTable(names, bloom), COMPILED.ModelTable(names, bloom)
    known = {name: position for position, name in enumerate(names)}
    for start, end in slices:
        expected = known.get(body[max(start, 0) : max(end, 0)], -1)
        for table in (pure, compiled):
            assert table.lookup(body, start, end) == expected
            assert expected < 0 or table.may_contain(body, start, end)


@given(st.lists(st.binary(max_size=3), max_size=8))
def test_same_refusals(names: list[bytes]) -> None:
    refused = b"" in names or len(set(names)) < len(names)
    for half in (PURE, COMPILED):
        if refused:
            with pytest.raises(ValueError, match="model name"):
                half.ModelTable(names)
        else:
            assert len(half.ModelTable(names)) == len(names)
