"""Which state of the virtual keys is published, and whether another one has been.

Two files in the state directory (see `table`): the keys of some time, and what has changed since. Whoever makes or
revokes a key replaces the second, which is small, and now and then the first. What cannot be read, or is older than
what has been in force, changes nothing: the last good state stays, and who has none knows nobody.
"""

import logging
import os
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple, Protocol

from fastroute.auth.files import recent_path, store_path, table_path
from fastroute.auth.table import MAX_TABLE_BYTES, Outline, Table, TableError, encode_table
from fastroute.words import KEYS_GENERATION

#: After a file that could not be used, this many looks are passed over.
_PATIENCE: Final = 10
_PIECE_BYTES: Final = 1 << 16

_LOG: Final = logging.getLogger("fastroute")
_NOTHING: Final = Table(encode_table([], 0, closed=False))

#: What tells one file at a path from the next: device, inode, size and times; None where there is none.
Signature = tuple[int, ...] | None


class Words(Protocol):
    """The control words of the shared segment."""

    def word(self, index: int, /) -> int:
        """Return a word."""

    def cas_word(self, index: int, expected: int, value: int, /) -> bool:
        """Set a word if it is what was expected; return whether it was."""


def count_published(state_dir: str) -> int:
    """Return about how many keys are published in a state directory; 0 if that cannot be read."""
    publication = Publication(state_dir)
    publication.refresh()
    return publication.count


class File(NamedTuple):
    """What is at a path. table: an empty one if there is no file. fault: why it cannot be used, "" if it can."""

    signature: Signature
    table: Outline
    fault: str = ""


_NO_FILE: Final = File(None, _NOTHING)


class Reading(NamedTuple):
    """What was found in both files. recent: those changes that are not in the table."""

    recent_file: File
    table_file: File
    recent: Outline
    fault: str

    @property
    def signatures(self) -> tuple[Signature, Signature]:
        """Return what tells these files from others."""
        return self.recent_file.signature, self.table_file.signature


class Publication:
    """What is published in a state directory, without the keys. words: shared by all workers; None for who is none.

    fault: why the files cannot be used as they are now, "" while they can.
    `read` may run in a thread; everything else belongs to one thread.
    """

    def __init__(self, state_dir: str, words: Words | None = None) -> None:
        self._paths = (recent_path(state_dir), table_path(state_dir))
        self._store = store_path(state_dir)
        self._words = words
        self._recent: Outline = _NOTHING
        self._table: Outline = _NOTHING
        self._files = (_NO_FILE, _NO_FILE)
        self._signatures: tuple[Signature, Signature] | None = None
        self._unusable: tuple[Signature, Signature] | None = None
        self._patience = 0
        self._doubtful = False
        self.fault = ""

    def load(self, file: BinaryIO, size: int) -> Outline:
        """Return the table in a file. Raises TableError."""
        return Outline(_pieces(file), size)

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

    @property
    def count(self) -> int:
        """Return about how many keys there are: changes are counted as if all of them were new ones."""
        return self._table.count + self._recent.count

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
        recent_file = self._read(self._paths[0], self._files[0])
        table_file = self._read(self._paths[1], self._files[1])
        recent, table = recent_file.table, table_file.table
        fault = recent_file.fault or table_file.fault
        if recent.generation <= table.generation:
            recent = _NOTHING
        elif recent.base != table.generation:
            fault = fault or f"{self._paths[0]}: does not belong to {self._paths[1]}"
        return Reading(recent_file, table_file, recent, fault)

    def take(self, reading: Reading) -> bool:
        """Put a reading in force if it is usable; return whether what is known is other than before."""
        was = self.generation, self.closed
        fault = reading.fault or self._outdated(reading)
        if fault:
            self._unusable, self._patience = reading.signatures, _PATIENCE
            self._signatures = None
            self._doubtful = True
            if fault != self.fault:
                _LOG.error("%s; the virtual keys stay as they are", fault)
        else:
            if self.fault:
                _LOG.info("the virtual keys can be read again")
            self._signatures = reading.signatures
            # What is as bad once more is no longer known to be: whoever can mend it is to do so at once.
            self._unusable = None
            # Without a table the store may still have keys that nobody has published yet.
            self._doubtful = reading.signatures == (None, None) and os.path.exists(self._store)
            self._files = (reading.recent_file, reading.table_file)
            self._recent, self._table = reading.recent, reading.table_file.table
        self.fault = fault
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

    def _read(self, path: str, known: File) -> File:
        """Return what is at a path: what is known if that is it still, an empty table if there is no file."""
        signature = _signature(path)
        if signature is not None and signature == known.signature:
            return known
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                signature = _told_apart(found)
                if found.st_size > MAX_TABLE_BYTES:
                    return File(signature, _NOTHING, f"{path}: larger than {MAX_TABLE_BYTES >> 20} MiB")
                return File(signature, self.load(file, found.st_size))
        except FileNotFoundError:
            return _NO_FILE
        except OSError as error:
            return File(signature, _NOTHING, f"{path}: {error.strerror}")
        except TableError as error:
            return File(signature, _NOTHING, f"{path}: {error}")


def raise_word(words: Words, index: int, value: int) -> None:
    """Set a control word to `value` unless it is as high already."""
    while (now := words.word(index)) < value:
        if words.cas_word(index, now, value):
            return


def _signature(path: str) -> Signature:
    try:
        return _told_apart(os.stat(path))
    except OSError:
        return None


def _told_apart(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
