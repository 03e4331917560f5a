"""The virtual keys made at run time, as a worker sees them: published tables in memory, no database.

Two files in the state directory (see `table`): the keys of some time, and what has changed since. Whoever makes or
revokes a key replaces the second, which is small, and now and then the first. A worker looks every `LOOK_S` whether
either has been replaced. What cannot be read, or is older than what has been in force, changes nothing: the last good
state stays, and a worker without one knows nobody.
"""

import logging
import os
import struct
from typing import Final, NamedTuple, Protocol

from fastroute.auth.files import recent_path, store_path, table_path
from fastroute.auth.table import MAX_TABLE_BYTES, Row, Table, TableError, encode_table
from fastroute.auth.terms import decode_terms
from fastroute.config.schema import ApiKey
from fastroute.words import KEYS_GENERATION

LOOK_S: Final = 0.1
#: After a file that could not be used, this many looks are passed over.
_PATIENCE: Final = 10

_LOG: Final = logging.getLogger("fastroute")
_NOTHING: Final = Table(encode_table([], 0, closed=False))

#: What tells one file at a path from the next: device, inode, size and times; None where there is none.
_Signature = tuple[int, ...] | None


class Words(Protocol):
    """The control words of the shared segment."""

    def word(self, index: int, /) -> int:
        """Return a word."""

    def cas_word(self, index: int, expected: int, value: int, /) -> bool:
        """Set a word if it is what was expected; return whether it was."""


class StoredKey(NamedTuple):
    """A known key, as if it stood in the configuration. until_ns: Unix time at which it expires, 0 for never."""

    key: ApiKey
    until_ns: int


class Reading(NamedTuple):
    """What was found in the files. fault: why it cannot be used, "" if it can."""

    recent_file: "_File"
    table_file: "_File"
    recent: Table
    fault: str

    @property
    def signatures(self) -> tuple[_Signature, _Signature]:
        """Return what tells these files from others."""
        return self.recent_file.signature, self.table_file.signature


class _File(NamedTuple):
    signature: _Signature
    table: Table
    fault: str = ""


_NO_FILE: Final = _File(None, _NOTHING)


class PublishedKeys:
    """The published keys of a state directory. words: shared by all workers; None for a process on its own.

    fault: why the files cannot be used as they are now, "" while they can.
    `read` may run in a thread; everything else belongs to the thread of the event loop.
    """

    def __init__(self, state_dir: str, words: Words | None = None) -> None:
        self._paths = (recent_path(state_dir), table_path(state_dir))
        self._store = store_path(state_dir)
        self._words = words
        self._recent = self._table = _NOTHING
        self._files = (_NO_FILE, _NO_FILE)
        self._signatures: tuple[_Signature, _Signature] | None = None
        self._unusable: tuple[_Signature, _Signature] | None = None
        self._patience = 0
        self.fault = ""
        self._doubtful = False

    @property
    def closed(self) -> bool:
        """Return whether callers need a key: one has been made at some time, or that cannot be ruled out."""
        return self.closed_by_table or self._doubtful

    @property
    def closed_by_table(self) -> bool:
        """Return whether what was published says that a key has been made at some time."""
        return self._table.closed or self._recent.closed

    @property
    def generation(self) -> int:
        """Return which state of the keys this is."""
        return max(self._table.generation, self._recent.generation)

    @property
    def base(self) -> tuple[int, int]:
        """Return the generation of the table that changes are counted from, and how many keys it has."""
        return self._table.generation, self._table.count

    def find(self, known: bytes) -> StoredKey | None:
        """Return the key with this digest, expired or not; None if it is unknown or was revoked."""
        try:
            found = self._recent.find(known) or self._table.find(known)
            if found is None or found.revoked:
                return None
            return StoredKey(decode_terms(found.terms).key(found.id), found.expires_ms * 1_000_000)
        except (ValueError, struct.error) as error:
            # Terms of a newer fastroute, say: a ceiling that is not understood must not become none.
            _LOG.error("a virtual key is refused, because it cannot be read: %s", error)
            return None

    def rows(self) -> list[Row]:
        """Return every key that is known, in the order of the digests."""
        changed = {row.digest: row for row in self._recent.rows()}
        rows = {row.digest: row for row in self._table.rows()} | changed
        return sorted(row for row in rows.values() if not row.revoked)

    # --- taking over what was published

    def due(self) -> bool:
        """Return whether the files are to be read: they are not those that were looked at last."""
        now = (_signature(self._paths[0]), _signature(self._paths[1]))
        if now == self._unusable and self._patience:
            self._patience -= 1
            return False
        return now != self._signatures

    def refresh(self) -> bool:
        """Read the files and take over what they say; return whether that is something new."""
        return self.take(self.read())

    def read(self) -> Reading:
        """Read what has been replaced, and check it. Blocks; changes nothing."""
        # In this order: changes that are older than a table are in it.
        recent_file = _read(self._paths[0], self._files[0])
        table_file = _read(self._paths[1], self._files[1])
        recent, table = recent_file.table, table_file.table
        fault = recent_file.fault or table_file.fault
        if recent.generation <= table.generation:
            recent = _NOTHING
        elif recent.base != table.generation:
            fault = fault or f"{self._paths[0]}: does not belong to {self._paths[1]}"
        return Reading(recent_file, table_file, recent, fault)

    def take(self, reading: Reading) -> bool:
        """Put a reading in force; return whether it was usable and new."""
        fault = reading.fault or self._outdated(reading)
        if fault:
            self._unusable, self._patience = reading.signatures, _PATIENCE
            self._signatures = None
            self._doubtful = True
            if fault != self.fault:
                _LOG.error("%s; the virtual keys stay as they are", fault)
            self.fault = fault
            return False
        if self.fault:
            _LOG.info("the virtual keys can be read again")
        self.fault = ""
        self._signatures = reading.signatures
        was = self.generation, self.closed
        # Without a table the store may still have keys that nobody has published yet.
        self._doubtful = reading.signatures == (None, None) and os.path.exists(self._store)
        self._files = (reading.recent_file, reading.table_file)
        self._recent, self._table = reading.recent, reading.table_file.table
        return was != (self.generation, self.closed)

    def _outdated(self, reading: Reading) -> str:
        """Return what is wrong with a reading that is older than one that was in force here, or in another worker."""
        generation = max(reading.table_file.table.generation, reading.recent.generation)
        highest = self.generation
        if self._words is not None:
            highest = max(highest, self._words.word(KEYS_GENERATION))
        if generation < highest:
            return f"{self._paths[1]}: is of generation {generation}, and {highest} has been in force"
        if self._words is not None:
            raise_word(self._words, KEYS_GENERATION, generation)
        return ""


def raise_word(words: Words, index: int, value: int) -> None:
    """Set a control word to `value` unless it is as high already."""
    while (now := words.word(index)) < value:
        if words.cas_word(index, now, value):
            return


def _signature(path: str) -> _Signature:
    try:
        return _told_apart(os.stat(path))
    except OSError:
        return None


def _told_apart(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str, known: _File) -> _File:
    """Return what is at a path: what is known if that is it still, an empty table if there is no file."""
    signature = _signature(path)
    if signature is not None and signature == known.signature:
        return known
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            signature = _told_apart(found)
            if found.st_size > MAX_TABLE_BYTES:
                return _File(signature, _NOTHING, f"{path}: larger than {MAX_TABLE_BYTES >> 20} MiB")
            return _File(signature, Table(file.read(found.st_size + 1)))
    except FileNotFoundError:
        return _NO_FILE
    except OSError as error:
        return _File(signature, _NOTHING, f"{path}: {error.strerror}")
    except TableError as error:
        return _File(signature, _NOTHING, f"{path}: {error}")
