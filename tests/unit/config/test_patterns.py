import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.config.patterns import any_matches, is_pattern, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("*", "", True),
        ("*", "anything/at:all", True),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "xgpt-4", False),
        ("*-mini", "gpt-4o-mini", True),
        ("a*a", "a", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("a**b", "ab", True),
        ("[gpt]?", "g", False),
    ],
)
def test_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_it_agrees_with_fnmatch_on_stars(pattern: str, name: str) -> None:
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    assert not matches("a*" * 100 + "b", "a" * 200)


def test_helpers() -> None:
    assert is_pattern("gpt-*")
    assert not is_pattern("gpt-4")
    assert any_matches(["a", "b*"], "bc")
    assert not any_matches([], "bc")
