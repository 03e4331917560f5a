"""What the databases of the state directory have in common: how they are opened and changed, and what their faults are.

None of them is open in a worker.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from fastroute.errors import FastrouteError


@contextmanager
def opening(path: str, busy_timeout_ms: int) -> Iterator[sqlite3.Connection]:
    """Open a database for the block to set up. It stays open, unless the block fails."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
        yield connection
    except BaseException:
        connection.close()
        raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block changes, all or nothing. Nobody else changes anything meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself ends the transaction for some faults, a full disk among them.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def faults(path: str, error: type[FastrouteError], remedy: str) -> Iterator[None]:
    """Turn what SQLite raises into `error`. remedy: what a damaged file is moved away for."""
    try:
        yield
    except sqlite3.OperationalError as fault:
        raise error(f"{path}: {fault}") from fault
    except sqlite3.DatabaseError as fault:
        raise error(f"{path} is damaged ({fault}); move it away to {remedy}") from fault


def file_identity(path: str) -> tuple[int, int] | None:
    """Return what tells the file at a path from one put in its place later; None where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
