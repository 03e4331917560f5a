"""What all databases share; what is theirs alone is tested with the key store and the ledger."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastroute.errors import FastrouteError
from fastroute.sqlite import faults, file_identity, opening, transaction


class BrokenError(FastrouteError):
    """What faults are turned into here."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "some.sqlite3")


@pytest.fixture
def connection(path: str) -> Iterator[sqlite3.Connection]:
    with opening(path, 100) as opened:
        opened.execute("CREATE TABLE t (x INTEGER UNIQUE)")
    yield opened
    opened.close()


def rows(connection: sqlite3.Connection) -> list[int]:
    return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]


def test_a_connection_is_closed_when_its_setting_up_fails(path: str) -> None:
    with pytest.raises(RuntimeError), opening(path, 100) as opened:
        raise RuntimeError
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened.execute("SELECT 1")


def test_a_transaction_is_all_or_nothing(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        connection.execute("INSERT INTO t VALUES (2)")
        connection.execute("INSERT INTO t VALUES (1)")
    assert rows(connection) == [1]
    assert not connection.in_transaction


def test_a_transaction_that_sqlite_has_ended_itself(connection: sqlite3.Connection) -> None:
    """The fault is what is told, not that there is nothing left to be rolled back."""
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("INSERT OR ROLLBACK INTO t VALUES (1)")
    assert rows(connection) == []


def test_what_faults_become(path: str, connection: sqlite3.Connection) -> None:
    with pytest.raises(BrokenError, match=f"^{path}: no such table: absent$"), faults(path, BrokenError, "begin anew"):
        connection.execute("SELECT * FROM absent")
    with pytest.raises(BrokenError, match=r"is damaged \(UNIQUE .*\); move it away to begin anew$"):
        with faults(path, BrokenError, "begin anew"):
            connection.execute("INSERT INTO t VALUES (1), (1)")


def test_the_identity_of_a_file_is_not_that_of_its_successor(tmp_path: Path) -> None:
    path, successor = tmp_path / "a", tmp_path / "b"
    assert file_identity(str(path)) is None
    path.touch()
    successor.touch()
    before = file_identity(str(path))
    assert before == file_identity(str(path))
    successor.replace(path)
    assert file_identity(str(path)) not in (None, before)
