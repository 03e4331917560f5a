"""A published table of virtual keys: one flat file that is checked as a whole, then read without being decoded.

    0    header, 128 bytes: magic, version, flags, generation, base, count, bits, size, SHA-256 of everything else
    128  directory: 2^bits + 1 numbers of 4 bytes; bucket b holds the keys from directory[b] to directory[b + 1]
    ...  digests of 32 bytes in rising order; a digest's first `bits` bits are its bucket
    ...  facts of 16 bytes, in the same order: when the key expires, where its id and its terms are in the texts
    then texts, each behind its length; terms that several keys share stand there once

Little-endian. A lookup reads one bucket of about eight digests, however many keys there are.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple

from fastroute.errors import FastrouteError

DIGEST_BYTES: Final = 32
#: Larger files are not read.
MAX_TABLE_BYTES: Final = 1 << 30

_MAGIC: Final = b"FRKEYTAB"
_VERSION: Final = 1
_CLOSED: Final = 1
_HEADER: Final = struct.Struct("<8sIIQQIIQ32s")
_HEADER_BYTES: Final = 128
_SUM_OFFSET: Final = _HEADER.size - 32
_FACTS: Final = struct.Struct("<QII")
_BOUNDS: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")
_FIRST: Final = struct.Struct(">I28x")
_KEYS_PER_BUCKET: Final = 8
_MAX_BITS: Final = 24
#: In place of a key's terms: it was revoked.
_REVOKED: Final = 0xFFFFFFFF


class TableError(FastrouteError, ValueError):
    """A file that is no usable table of keys, or rows no table can hold."""


class Row(NamedTuple):
    """One key of a table. terms: opaque. expires_ms: Unix time, 0 for never."""

    digest: bytes
    id: str
    terms: bytes
    expires_ms: int
    revoked: bool


class Found(NamedTuple):
    """What a table says about a digest; of a revoked key, only that."""

    id: str
    terms: bytes
    expires_ms: int
    revoked: bool


REVOKED: Final = Found("", b"", 0, True)


def encode_table(rows: Iterable[Row], generation: int, *, base: int = 0, closed: bool = True) -> bytes:
    """Return the file of `rows`, which must be in the order of their digests, each there once.

    generation: counts the changes. base: of the table that this one has the changes since, 0 if it stands alone.
    closed: a key has been made at some time. Raises TableError if it gets too large.
    """
    texts = _Texts()
    digests, facts = bytearray(), bytearray()
    for row in rows:
        digests += row.digest
        terms = _REVOKED if row.revoked else texts.shared(row.terms)
        facts += _FACTS.pack(row.expires_ms, texts.add(row.id.encode()), terms)
        if len(texts.data) > MAX_TABLE_BYTES:
            break
    count = len(digests) // DIGEST_BYTES
    bits = min(_MAX_BITS, (count // _KEYS_PER_BUCKET).bit_length())
    body = b"".join([_directory(digests, bits), digests, facts, texts.data])
    size = _HEADER_BYTES + len(body)
    if size > MAX_TABLE_BYTES:
        raise TableError(f"the keys take more than {MAX_TABLE_BYTES >> 20} MiB")
    fields = _MAGIC, _VERSION, _CLOSED * closed, generation, base, count, bits, size
    header = bytearray(_HEADER_BYTES)
    _HEADER.pack_into(header, 0, *fields, b"")
    checksum = hashlib.sha256(header)
    checksum.update(body)
    _HEADER.pack_into(header, 0, *fields, checksum.digest())
    return bytes(header) + body


def _directory(digests: bytearray, bits: int) -> bytes:
    """Return the places at which the buckets begin, and the end."""
    sizes = [0] * (1 << bits)
    shift = 32 - bits
    for (first,) in _FIRST.iter_unpack(digests):
        sizes[first >> shift] += 1
    return struct.pack(f"<{len(sizes) + 1}I", 0, *accumulate(sizes))


class Outline:
    """Which table it is, without its keys."""

    __slots__ = ("_bits", "base", "closed", "count", "generation")

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        """Check a table of so many bytes that comes in pieces, the first of them at least as long as the header.

        Raises TableError, saying what is wrong.
        """
        begun = iter(pieces)
        first = next(begun, b"")
        if len(first) < _HEADER_BYTES:
            raise TableError(f"too short for a table of keys ({size} bytes)")
        magic, version, flags, generation, base, count, bits, declared, told = _HEADER.unpack_from(first)
        if magic != _MAGIC:
            raise TableError("not a table of keys")
        if version != _VERSION:
            raise TableError(f"version {version} of the table of keys is not known, only {_VERSION}")
        if declared != size:
            raise TableError(f"{size} bytes where {declared} are expected")
        header = bytearray(first[:_HEADER_BYTES])
        header[_SUM_OFFSET : _HEADER.size] = bytes(32)
        checksum = hashlib.sha256(header)
        checksum.update(memoryview(first)[_HEADER_BYTES:])
        for piece in begun:
            checksum.update(piece)
        if not hmac.compare_digest(told, checksum.digest()):
            raise TableError("the checksum does not match")
        self.generation: int = generation
        self.base: int = base
        self.count: int = count
        self.closed = bool(flags & _CLOSED)
        self._bits: int = bits


class Table(Outline):
    """A table that has been checked. Holds its own copy: what becomes of the file does not matter to it."""

    __slots__ = ("_data", "_digests", "_facts", "_shift", "_texts")

    def __init__(self, data: bytes) -> None:
        """Raises TableError, saying what is wrong."""
        super().__init__([data], len(data))
        self._data = data
        self._shift = 32 - self._bits
        self._digests = _HEADER_BYTES + _LENGTH.size * ((1 << self._bits) + 1)
        self._facts = self._digests + DIGEST_BYTES * self.count
        self._texts = self._facts + _FACTS.size * self.count

    def find(self, known: bytes) -> Found | None:
        """Return what is known of a digest, None if nothing is."""
        data = self._data
        bucket = int.from_bytes(known[:4], "big") >> self._shift
        first, last = _BOUNDS.unpack_from(data, _HEADER_BYTES + _LENGTH.size * bucket)
        start, end = self._digests + DIGEST_BYTES * first, self._digests + DIGEST_BYTES * last
        at = data.find(known, start, end)
        while at >= 0 and (at - start) % DIGEST_BYTES:
            # Parts of two neighbours that look like it.
            at = data.find(known, at + 1, end)
        if at < 0 or not hmac.compare_digest(data[at : at + DIGEST_BYTES], known):
            return None
        return self._found((at - self._digests) // DIGEST_BYTES)

    def rows(self) -> list[Row]:
        """Return everything that is in it, in the order of the digests."""
        found = []
        for number in range(self.count):
            at = self._digests + DIGEST_BYTES * number
            fact = self._found(number)
            found.append(Row(self._data[at : at + DIGEST_BYTES], *fact))
        return found

    def _found(self, number: int) -> Found:
        expires_ms, id_at, terms_at = _FACTS.unpack_from(self._data, self._facts + _FACTS.size * number)
        if terms_at == _REVOKED:
            return REVOKED
        return Found(self._text(id_at).decode(), self._text(terms_at), expires_ms, False)

    def _text(self, at: int) -> bytes:
        at += self._texts
        (length,) = _LENGTH.unpack_from(self._data, at)
        return self._data[at + _LENGTH.size : at + _LENGTH.size + length]


class _Texts:
    """The texts of a table under construction."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._known: dict[bytes, int] = {}

    def add(self, text: bytes) -> int:
        at = len(self.data)
        self.data += _LENGTH.pack(len(text)) + text
        return at

    def shared(self, text: bytes) -> int:
        at = self._known.get(text)
        if at is None:
            at = self._known[text] = self.add(text)
        return at
