import pytest

from fastroute.config.expand import ExpandError, expand

ENV = {"A": "one", "EMPTY": "", "D": "${A}$$"}


@pytest.mark.parametrize(
    ("text", "expected", "variable"),
    [
        ("plain", "plain", ""),
        ("$", "$", ""),
        ("$A costs 5$", "$A costs 5$", ""),
        ("${A}", "one", "A"),
        ("x${A}y${EMPTY}z", "xoneyz", "A"),
        ("${NO:-def}", "def", "NO"),
        ("${NO:-}", "", "NO"),
        ("${EMPTY:-def}", "def", "EMPTY"),
        ("${NO:-a:-b$c}", "a:-b$c", "NO"),
        ("$${A}", "${A}", ""),
        ("$$$$", "$$", ""),
        ("${D}", "${A}$$", "D"),  # what a variable holds is not expanded again
    ],
)
def test_expand(text: str, expected: str, variable: str) -> None:
    assert expand(text, ENV) == (expected, variable)


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1A}", "${A-b}", "${A:+b}", "${ A }", "x${A}${"])
def test_malformed(text: str) -> None:
    with pytest.raises(ExpandError, match="malformed"):
        expand(text, ENV)


def test_unset_names_the_variable() -> None:
    with pytest.raises(ExpandError, match=r"^environment variable NO_SUCH is not set$"):
        expand("${A}${NO_SUCH}", ENV)
