"""The virtual keys made at run time, as a worker sees them: published tables in memory, no database."""

import logging
import struct
from typing import BinaryIO, Final, NamedTuple

from fastroute.auth.publication import Publication, Reading, Words
from fastroute.auth.table import Row, Table, encode_table
from fastroute.auth.terms import Terms, decode_terms
from fastroute.config.schema import ApiKey

LOOK_S: Final = 0.1
#: Terms that are kept decoded.
_MAX_TERMS: Final = 1024

_LOG: Final = logging.getLogger("fastroute")
_NOTHING: Final = Table(encode_table([], 0, closed=False))


class StoredKey(NamedTuple):
    """A known key, as if it stood in the configuration. until_ns: Unix time at which it expires, 0 for never."""

    key: ApiKey
    until_ns: int


class PublishedKeys(Publication):
    """The published keys of a state directory."""

    def __init__(self, state_dir: str, words: Words | None = None) -> None:
        super().__init__(state_dir, words)
        self._terms: dict[bytes, Terms] = {}
        self._tables = (_NOTHING, _NOTHING)

    def load(self, file: BinaryIO, size: int) -> Table:
        """Return the table in a file, with its keys. Raises TableError."""
        return Table(file.read(size + 1))

    def take(self, reading: Reading) -> bool:
        """Put a reading in force if it is usable; return whether what is known is other than before."""
        new = super().take(reading)
        assert isinstance(self._recent, Table)
        assert isinstance(self._table, Table)
        self._tables = (self._recent, self._table)
        return new

    def find(self, known: bytes) -> StoredKey | None:
        """Return the key with this digest, expired or not; None if it is unknown or was revoked."""
        try:
            found = self._tables[0].find(known) or self._tables[1].find(known)
            if found is None or found.revoked:
                return None
            return StoredKey(self._decoded(found.terms).key(found.id), found.expires_ms * 1_000_000)
        except (ValueError, struct.error) as error:
            # Terms of a newer fastroute, say: a ceiling that is not understood must not become none.
            _LOG.error("a virtual key is refused, because it cannot be read: %s", error)
            return None

    def _decoded(self, terms: bytes) -> Terms:
        """Return terms; many keys have the same."""
        known = self._terms.get(terms)
        if known is None:
            if len(self._terms) >= _MAX_TERMS:
                self._terms.clear()
            known = self._terms[terms] = decode_terms(terms)
        return known

    def rows(self) -> list[Row]:
        """Return every key that is known, in the order of the digests."""
        changed = {row.digest: row for row in self._tables[0].rows()}
        rows = {row.digest: row for row in self._tables[1].rows()} | changed
        return sorted(row for row in rows.values() if not row.revoked)
