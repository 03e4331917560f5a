"""Rows of the segment over reloads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.rows import Identity, Rows, RowsError


class Board:
    """Which rows were cleared, and what is in flight where."""

    def __init__(self, capacity: int) -> None:
        self.cleared: list[int] = []
        self.busy: dict[int, int] = {}
        self.rows = Rows(capacity, self.cleared.append, lambda row: self.busy.get(row, 0))


def names(text: str) -> list[Identity]:
    return [(letter, "k", "m", "openai") for letter in text]


def test_who_stays_keeps_his_row() -> None:
    board = Board(8)
    assert board.rows.assign(names("abc")) == (0, 1, 2)
    assert board.rows.assign(names("cxa")) == (2, 3, 0)
    assert board.cleared == []


def test_a_free_row_is_used_again_when_it_is_quiet() -> None:
    board = Board(8)
    board.rows.assign(names("ab"))
    board.rows.assign(names("b"))
    board.busy[0] = 1
    assert board.rows.assign(names("bc")) == (1, 2)
    board.busy[0] = 0
    assert board.rows.assign(names("bcd")) == (1, 2, 0)
    assert board.cleared == [0]


def test_a_row_is_not_given_on_at_the_reload_that_frees_it() -> None:
    board = Board(8)
    board.rows.assign(names("a"))
    assert board.rows.assign(names("b")) == (1,)


def test_no_room_changes_nothing() -> None:
    board = Board(2)
    board.rows.assign(names("ab"))
    with pytest.raises(RowsError):
        board.rows.assign(names("abc"))
    assert board.rows.assign(names("ba")) == (1, 0)


@given(st.lists(st.text("abcdefgh", max_size=6).map(lambda text: "".join(dict.fromkeys(text))), max_size=12))
def test_rows_are_never_shared(configurations: list[str]) -> None:
    board = Board(20)
    before: dict[Identity, int] = {}
    for text in configurations:
        rows = board.rows.assign(names(text))
        now = dict(zip(names(text), rows, strict=True))
        assert len(set(rows)) == len(rows)
        assert all(now[identity] == row for identity, row in before.items() if identity in now)
        before = now
