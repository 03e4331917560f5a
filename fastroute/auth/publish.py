"""From the database of virtual keys to the tables that workers read.

A change is committed first and published after that, under a lock, so that no publisher overwrites what a later one
has written. Whoever dies in between leaves tables that are older than the database: the next publisher sees that, be
it another command, the control plane, which looks every half second, or the supervisor at the next start.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from fastroute.auth.files import lock_path, recent_path, table_path
from fastroute.auth.publication import Publication
from fastroute.auth.store import KeyStore, KeyStoreError, Rows, own_like_directory
from fastroute.auth.table import TableError, encode_table

#: More changes than this, and than one in `_SHARE` of all keys, make a new table instead of longer changes.
MIN_RECENT: Final = 512
_SHARE: Final = 16


class BusyError(KeyStoreError):
    """Somebody else is publishing at this moment."""


class Publisher:
    """Publishes the keys of one state directory. min_recent: up to so many changes are published as such."""

    def __init__(self, state_dir: str, min_recent: int = MIN_RECENT) -> None:
        self._state_dir = state_dir
        self._min_recent = min_recent
        self._published = Publication(state_dir)

    def publish(self, store: KeyStore, *, wait: bool = True) -> bool:
        """Bring the tables up to the database; return whether that took anything.

        Raises KeyStoreError: the files cannot be written, or, unless `wait`, another process is at it.
        """
        with _file_errors(self._state_dir), _lock(self._state_dir, wait):
            published = self._published
            if published.due():
                published.refresh()
            generation = store.generation()
            if generation < published.generation:
                store.advance(published.generation)
            elif generation == published.generation and not published.fault:
                return False
            with store.snapshot() as rows, _file_errors(self._state_dir):
                whole = self._write(rows)
            if whole:
                store.forget_revoked(rows.generation)
            published.refresh()
        return True

    def _write(self, rows: Rows) -> bool:
        """Write the changes since the table, or another table; return whether it was that."""
        published = self._published
        base, count = published.base
        if base >= rows.born and not published.fault:
            changes = rows.count_changed(base)
            if changes <= max(self._min_recent, count // _SHARE):
                self._replace(recent_path(self._state_dir), _encoded(rows, base))
                return False
        self._replace(table_path(self._state_dir), _encoded(rows, 0))
        with suppress(FileNotFoundError):
            os.unlink(recent_path(self._state_dir))
        return True

    def _replace(self, path: str, data: bytes) -> None:
        # Not synced: a table that a power loss has left half written is made again from the database.
        folder, name = os.path.split(path)
        fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                own_like_directory(fd, path)
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def repair(state_dir: str, wall_ns: Callable[[], int]) -> None:
    """Publish what somebody has committed and not published. Raises KeyStoreError."""
    if KeyStore.exists(state_dir):
        with KeyStore.open(state_dir, wall_ns) as store, suppress(BusyError):
            Publisher(state_dir).publish(store, wait=False)


def _encoded(rows: Rows, base: int) -> bytes:
    found = rows.changed(base) if base else rows.valid()
    try:
        return encode_table(found, rows.generation, base=base, closed=rows.closed)
    except TableError as error:
        raise KeyStoreError(str(error)) from None


@contextmanager
def _lock(state_dir: str, wait: bool) -> Iterator[None]:
    """Hold the lock of the one publisher. The kernel frees the lock of a process that dies."""
    path = lock_path(state_dir)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        own_like_directory(fd, path)
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError:
        raise BusyError(f"{path}: another process is publishing") from None
    finally:
        os.close(fd)


@contextmanager
def _file_errors(state_dir: str) -> Iterator[None]:
    """Turn what the file system raises into KeyStoreError."""
    try:
        yield
    except OSError as error:
        raise KeyStoreError(f"{error.filename2 or error.filename or state_dir}: {error.strerror or error}") from error
