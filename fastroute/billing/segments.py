"""Journal segments as files: their names, the form of a line, and how to read them back.

A line is 8 hex digits of CRC-32, a space, one `Record` as a JSON array, a newline. The checksum tells a line
that was torn by a crash or a full disk from a whole one; JSON has no raw newline, so a reader finds its feet
again at the next line whatever came before.
"""

import os
import re
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from fastroute.interfaces import Record

#: Longest payload a writer produces.
MAX_PAYLOAD_BYTES: Final = 65_536
#: Bytes read at once: the bound on a reader's memory and, at some 270 bytes a line, on a ledger transaction.
#: As no line is this long, a read that is full and has no newline is garbage and skipped.
READ_BYTES: Final = 1 << 20

_PREFIX_BYTES: Final = 9
_NAME = re.compile(r"([0-9a-f]{8})-([0-9]{6,})\.journal")
_DECODER = msgspec.json.Decoder(Record)


class Segment(NamedTuple):
    """One segment file; sorts in the order of writing within a boot."""

    boot: int
    number: int
    name: str
    path: str


class Chunk(NamedTuple):
    """What one read yielded. `next_offset` equals the offset asked for when no complete line was there."""

    payloads: list[bytes]
    next_offset: int
    bad_lines: int


def journal_directory(state_dir: str) -> str:
    """Return where the journals of a state directory live."""
    return os.path.join(state_dir, "journal")


def segment_name(boot: int, number: int) -> str:
    """Return the file name of a segment, such as "0000002a-000001.journal"."""
    return f"{boot:08x}-{number:06d}.journal"


def list_segments(directory: str) -> list[Segment]:
    """Return the segments in `directory`, oldest boot first; none when the directory does not exist.

    Raises OSError when the directory is there but cannot be read.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.append(Segment(int(match[1], 16), int(match[2]), name, os.path.join(directory, name)))
    return sorted(found)


def encode_line(payload: bytes) -> bytes:
    """Return the journal line of one encoded record."""
    return b"%08x %b\n" % (crc32(payload), payload)


def read_chunk(fd: int, offset: int, *, final: bool = False, limit: int = READ_BYTES) -> Chunk:
    """Read the complete, intact lines in at most `limit` bytes from `offset` of an open segment.

    final: nobody will write to the segment again, so what stands after the last newline is a line too.
    Torn and garbage lines are counted and skipped. Raises OSError when the file cannot be read.
    """
    data = os.pread(fd, limit, offset)
    end = data.rfind(b"\n") + 1
    full = len(data) == limit
    if (final and not full) or (full and not end):
        end = len(data)
    if not end:
        return Chunk([], offset, 0)
    payloads = []
    bad_lines = 0
    for line in data[:end].split(b"\n"):
        payload = line[_PREFIX_BYTES:]
        if line[:_PREFIX_BYTES] == b"%08x " % crc32(payload) and payload:
            payloads.append(payload)
        elif line:
            bad_lines += 1
    return Chunk(payloads, offset + end, bad_lines)


def decode_records(payloads: list[bytes]) -> tuple[list[Record], int]:
    """Return the records in `payloads` and how many of them are none.

    An intact line that is no `Record` was written by another version of the program.
    """
    try:
        return _DECODER.decode_lines(b"\n".join(payloads)), 0
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # At least one is bad: find out which.
    records = []
    for payload in payloads:
        try:
            records.append(_DECODER.decode(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return records, len(payloads) - len(records)


def read_segment(path: str, offset: int, *, limit: int = READ_BYTES) -> tuple[list[Record], int, int]:
    """Read at most `limit` bytes of the segment at `path` from `offset` (bytes).

    Returns the records of the complete lines, the offset to go on from (equal to `offset` when nothing more
    is complete), and the number of torn or garbage lines skipped. Raises OSError when the file cannot be
    read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunk = read_chunk(fd, offset, limit=limit)
    finally:
        os.close(fd)
    records, undecodable = decode_records(chunk.payloads)
    return records, chunk.next_offset, chunk.bad_lines + undecodable
