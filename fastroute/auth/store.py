"""The database of virtual keys: who made which, and which were revoked. No request ever looks into it.

SQLite in the state directory, written by `fastroute keys` and by the control plane, whoever is asked. Secrets are not
in it, only their SHA-256. What is committed here is published for the workers afterwards (see `publish`).
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from fastroute.auth.files import store_path
from fastroute.auth.published import PublishedKeys
from fastroute.auth.table import Row
from fastroute.errors import FastrouteError
from fastroute.sqlite import faults, file_identity, opening, transaction

#: Keys that are not revoked, expired ones included.
MAX_KEYS: Final = 1_000_000
#: Of revoked keys, the newest are remembered.
MAX_REVOKED: Final = 10_000

_BUSY_TIMEOUT_MS: Final = 2_000
_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE keys (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, digest BLOB NOT NULL UNIQUE,"
    " terms BLOB NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked_ms INTEGER NOT NULL,"
    " changed INTEGER NOT NULL)",
    "CREATE UNIQUE INDEX keys_by_id ON keys (id) WHERE revoked_ms = 0",
    "CREATE INDEX keys_by_change ON keys (changed)",
)
_VERSION: Final = 1
_COLUMNS: Final = "number, id, digest, terms, created_ms, expires_ms, revoked_ms"
_ROW: Final = "SELECT digest, id, terms, expires_ms, revoked_ms != 0 FROM keys"


class KeyStoreError(FastrouteError):
    """The database of virtual keys cannot be used now. Keys that are known keep working."""


class KeyRefusedError(FastrouteError):
    """What was asked for cannot be done; the message says why.

    kind: "unknown", there is no such key; "taken", it clashes with another; "invalid", it makes no sense.
    """

    def __init__(self, kind: Literal["unknown", "taken", "invalid"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


class NewKey(NamedTuple):
    """A key to be stored. terms: see `terms`. expires_ms: Unix time, 0 for never."""

    id: str
    digest: bytes
    terms: bytes
    expires_ms: int


class KeyRecord(NamedTuple):
    """A key as it is stored. number: rises in the order in which keys were made. Times: Unix, 0 for none."""

    number: int
    id: str
    digest: bytes
    terms: bytes
    created_ms: int
    expires_ms: int
    revoked_ms: int


class KeyStore:
    """The database. May move between threads, but only one call may run at a time. Every call may raise KeyStoreError.

    Each change gets a number of its own, the generation; it rises with the clock, so that a database which was made
    anew, or put back from a backup, comes after the one before with its next change.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, wall_ns: Callable[[], int]) -> None:
        self.path = path
        self._connection = connection
        self._wall_ns = wall_ns
        self._identity = file_identity(path)

    @classmethod
    def open(cls, state_dir: str, wall_ns: Callable[[], int]) -> "KeyStore":
        """Open the database of a state directory. Where there is none, make one with the keys that are published."""
        path = store_path(state_dir)
        with _sqlite_errors(path):
            os.makedirs(state_dir, mode=0o700, exist_ok=True)
            _claim(path)
            with opening(path, _BUSY_TIMEOUT_MS) as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    _create(connection, state_dir, wall_ns)
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version != _VERSION:
                    raise KeyStoreError(f"{path} has schema {version}; this fastroute knows {_VERSION}")
                connection.execute("PRAGMA synchronous = FULL")
        return cls(path, connection, wall_ns)

    @staticmethod
    def exists(state_dir: str) -> bool:
        """Return whether keys have been made in a state directory."""
        return os.path.exists(store_path(state_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    # --- changes

    def add(self, keys: list[NewKey]) -> list[KeyRecord]:
        """Store keys, all or none. Raises KeyRefusedError: an id or a digest is taken, or there are too many keys."""
        now_ms = self._now_ms()
        with self._changing() as generation:
            if self._count() + len(keys) > MAX_KEYS:
                raise KeyRefusedError("invalid", f"there is room for {MAX_KEYS} virtual keys: revoke some")
            self._connection.execute("UPDATE meta SET value = 1 WHERE name = 'closed'")
            for key in keys:
                self._refuse_taken(key)
                self._connection.execute(
                    "INSERT INTO keys VALUES (NULL, ?, ?, ?, ?, ?, 0, ?)",
                    (key.id, key.digest, key.terms, now_ms, key.expires_ms, generation),
                )
            return [self._get(key.id) for key in keys]

    def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key. Raises KeyRefusedError if there is none of that id that is not revoked yet."""
        with self._changing() as generation:
            found = self._get(key_id)
            now_ms = self._now_ms()
            self._connection.execute(
                "UPDATE keys SET revoked_ms = ?, changed = ? WHERE number = ?", (now_ms, generation, found.number)
            )
        return found._replace(revoked_ms=now_ms)

    @property
    def moved(self) -> bool:
        """Return whether the file that is open is no longer the one at the path."""
        return file_identity(self.path) != self._identity

    def forget_revoked(self, before: int) -> None:
        """Remove the oldest of the keys that were revoked up to a generation which is published as a whole."""
        with _sqlite_errors(self.path):
            self._connection.execute(
                "DELETE FROM keys WHERE revoked_ms != 0 AND changed <= ? AND number NOT IN"
                " (SELECT number FROM keys WHERE revoked_ms != 0 ORDER BY changed DESC LIMIT ?)",
                (before, MAX_REVOKED),
            )

    def advance(self, beyond: int) -> None:
        """Count the state of a database that was put back from a backup as a change after those it does not have."""
        with self._changing(beyond) as generation:
            self._connection.execute("UPDATE meta SET value = ? WHERE name = 'born'", (generation,))

    # --- questions

    def get(self, key_id: str) -> KeyRecord:
        """Return a key by its id. Raises KeyRefusedError if there is none that is not revoked."""
        with _sqlite_errors(self.path):
            return self._get(key_id)

    def page(self, after: int, limit: int, *, revoked: bool = False) -> list[KeyRecord]:
        """Return up to `limit` keys whose numbers are above `after`, in the order in which they were made."""
        condition = "number > ?" if revoked else "number > ? AND revoked_ms = 0"
        with _sqlite_errors(self.path):
            found = self._connection.execute(
                f"SELECT {_COLUMNS} FROM keys WHERE {condition} ORDER BY number LIMIT ?", (after, limit)
            )
            return [KeyRecord(*row) for row in found]

    def taken(self, ids: Iterable[str]) -> list[str]:
        """Return those of some ids that keys have which are not revoked."""
        question = "SELECT 1 FROM keys WHERE id = ? AND revoked_ms = 0"
        with _sqlite_errors(self.path):
            return [one for one in ids if self._connection.execute(question, (one,)).fetchone()]

    def count(self) -> int:
        """Return how many keys there are that are not revoked."""
        with _sqlite_errors(self.path):
            return self._count()

    def generation(self) -> int:
        """Return the number of the last change."""
        with _sqlite_errors(self.path):
            return self._generation()

    @contextmanager
    def snapshot(self) -> Iterator["Rows"]:
        """Read everything at one generation, whatever is committed meanwhile."""
        with _sqlite_errors(self.path):
            self._connection.execute("BEGIN")
            try:
                yield Rows(self._connection)
            finally:
                self._connection.execute("ROLLBACK")

    # ---

    def _now_ms(self) -> int:
        return self._wall_ns() // 1_000_000

    def _generation(self) -> int:
        return _meta(self._connection, "generation")

    def _count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM keys WHERE revoked_ms = 0").fetchone()[0])

    def _get(self, key_id: str) -> KeyRecord:
        found = self._connection.execute(
            f"SELECT {_COLUMNS} FROM keys WHERE id = ? AND revoked_ms = 0", (key_id,)
        ).fetchone()
        if found is None:
            raise KeyRefusedError("unknown", f"there is no virtual key '{key_id}'")
        return KeyRecord(*found)

    def _refuse_taken(self, key: NewKey) -> None:
        ask = self._connection.execute
        if ask("SELECT 1 FROM keys WHERE id = ? AND revoked_ms = 0", (key.id,)).fetchone():
            raise KeyRefusedError("taken", f"there is a virtual key '{key.id}' already")
        taken = ask("SELECT revoked_ms FROM keys WHERE digest = ?", (key.digest,)).fetchone()
        if taken is not None:
            why = "this secret was revoked" if taken[0] else "another virtual key has the same secret"
            raise KeyRefusedError("taken", why)

    @contextmanager
    def _changing(self, beyond: int = 0) -> Iterator[int]:
        """Run one change as a transaction of the next generation."""
        with _sqlite_errors(self.path), transaction(self._connection):
            generation = max(self._generation() + 1, self._now_ms(), beyond + 1)
            yield generation
            self._connection.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (generation,))


class Rows:
    """The keys of one generation, for publication.

    born: older tables are of another database, whose revocations this one may not know. closed: a key has been made at
    some time.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.generation = _meta(connection, "generation")
        self.born = _meta(connection, "born")
        self.closed = bool(_meta(connection, "closed"))

    def count_changed(self, since: int) -> int:
        """Return how many keys were made or revoked after a generation."""
        return int(self._connection.execute("SELECT count(*) FROM keys WHERE changed > ?", (since,)).fetchone()[0])

    def changed(self, since: int) -> Iterator[Row]:
        """Return the keys that were made or revoked after a generation, in the order of their digests."""
        return self._rows(f"{_ROW} WHERE changed > ? ORDER BY digest", (since,))

    def valid(self) -> Iterator[Row]:
        """Return the keys that are not revoked, in the order of their digests."""
        return self._rows(f"{_ROW} WHERE revoked_ms = 0 ORDER BY digest", ())

    def _rows(self, question: str, values: tuple[int, ...]) -> Iterator[Row]:
        return map(Row._make, self._connection.execute(question, values))


def _meta(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])


def _create(connection: sqlite3.Connection, state_dir: str, wall_ns: Callable[[], int]) -> None:
    """Make the tables, and put in what is published: whoever has lost the database keeps the keys."""
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        if connection.execute("PRAGMA user_version").fetchone()[0] != 0:
            return  # Another process has made them meanwhile.
        for statement in _SCHEMA:
            connection.execute(statement)
        published = PublishedKeys(state_dir)
        published.refresh()
        now_ms = wall_ns() // 1_000_000
        generation = max(published.generation + 1, now_ms)
        closed = published.closed_by_table or published.fault != ""
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)", [("generation", generation), ("born", generation), ("closed", closed)]
        )
        connection.executemany(
            "INSERT INTO keys VALUES (NULL, ?, ?, ?, ?, ?, 0, ?)",
            ((row.id, row.digest, row.terms, now_ms, row.expires_ms, generation) for row in published.rows()),
        )
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _claim(path: str) -> None:
    """Make the file if it is not there, readable by its owner only, who is that of the directory."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        own_like_directory(fd, path)
    finally:
        os.close(fd)


def own_like_directory(fd: int, path: str) -> None:
    """Give a file that root has made to the owner of its directory, who has to read it."""
    if os.geteuid() == 0:
        owner = os.stat(os.path.dirname(os.path.abspath(path)))
        os.fchown(fd, owner.st_uid, owner.st_gid)


@contextmanager
def _sqlite_errors(path: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise into KeyStoreError."""
    try:
        with faults(path, KeyStoreError, "make one from the published keys"):
            yield
    except OSError as error:
        raise KeyStoreError(f"{path}: {error.strerror or error}") from error
