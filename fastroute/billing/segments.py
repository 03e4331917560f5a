"""Journal segments as files: their names, the form of a line, and how to read them back.

A line is 8 hex digits of CRC-32, a space, a record's kind as a JSON array, a tab, the rest of it as a JSON array, a
newline. The checksum tells a line that was torn by a crash from a whole one; JSON has no raw newline, so a reader finds
its feet again at the next line whatever came before. A segment that is being written, or whose writer was killed, ends
in zeros: room that was made in advance.
"""

import os
import re
from typing import Final, Literal, NamedTuple
from zlib import crc32

import msgspec

from fastroute._core.lines import split
from fastroute.interfaces import Kind, OutcomeName, Record, Usage

#: Longest payload a writer produces.
MAX_PAYLOAD_BYTES: Final = 65_536
#: Bytes read at once: the bound on a reader's memory and, at some 200 bytes a line, on a ledger transaction.
#: As no line is this long, a read that is full and has no newline is garbage and skipped.
READ_BYTES: Final = 1 << 20

_ZEROS: Final = bytes(4096)
_NAME = re.compile(r"([0-9a-f]{8})-([0-9]{6,})\.journal")
_Entry = tuple[
    int, int, str, int, int, int, int, int, int, int, int, int, tuple[int, int, int, int, int, int, int, int]
]
_ENTRIES = msgspec.json.Decoder(_Entry)
_KIND = msgspec.json.Decoder(
    tuple[str, str, str, str, str, str, str, str, OutcomeName, Literal["provider", "estimated", "none"]]
)
_ENCODE = msgspec.json.Encoder().encode


class Segment(NamedTuple):
    """One segment file; sorts in the order of writing within a boot."""

    boot: int
    number: int
    name: str
    path: str


class Chunk(NamedTuple):
    """What one read yielded: of each intact line its kind as JSON, and all that is behind the kinds, a line each.

    `next_offset` equals the offset asked for when no complete line was there.
    """

    kinds: list[bytes]
    entries: bytes
    next_offset: int
    bad_lines: int


class Batch(NamedTuple):
    """Entries with their kinds. undecodable: intact lines that are no record, written by another version."""

    kinds: list[bytes]
    entries: list[_Entry]
    undecodable: int


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


def encode_record(record: Record) -> bytes:
    """Return the payload of a record's line."""
    return b"%b\t%b" % (_ENCODE(record.kind), _ENCODE(record.entry))


def read_chunk(fd: int, offset: int, *, final: bool = False, limit: int = READ_BYTES) -> Chunk:
    """Read the complete, intact lines in at most `limit` bytes from `offset` of an open segment.

    final: nobody will write to the segment again, so what stands after the last newline is a line too. Torn and
    garbage lines are counted and skipped; in a segment that is being written, only once an intact one follows.
    Raises OSError when the file cannot be read.
    """
    data = os.pread(fd, limit, offset)
    full = len(data) == limit
    written = data[: _written_bytes(data)]
    if not written:
        # Room made in advance; or, if nobody writes any more, what a power loss has left of a page.
        return Chunk([], b"", offset + (len(data) if final else 0), 0)
    if full and len(written) == len(data):
        # The line that the read has cut in two is for the next one.
        written = data[: data.rfind(b"\n") + 1]
        heads, bodies, end, bad = split(written, final)
        if not end:
            # Nothing but garbage as far as one can see: nobody is in the middle of writing that.
            return Chunk([], b"", offset + (len(written) or len(data)), max(1, split(written, True)[3]))
    else:
        heads, bodies, end, bad = split(written, final)
    return Chunk(heads, bodies, offset + end, bad)


def _written_bytes(data: bytes) -> int:
    """Return the length of `data` without the zeros at its end, most of which are passed over a page at a time."""
    end = len(data)
    while end >= len(_ZEROS) and data[end - len(_ZEROS) : end] == _ZEROS:
        end -= len(_ZEROS)
    start = max(0, end - len(_ZEROS))
    return start + len(data[start:end].rstrip(b"\0"))


def decode_entries(chunk: Chunk) -> Batch:
    """Decode what a chunk holds, less what is no record."""
    try:
        return Batch(chunk.kinds, _ENTRIES.decode_lines(chunk.entries), 0)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # At least one is bad: find out which.
    kinds, entries = [], []
    for kind, line in zip(chunk.kinds, chunk.entries.split(b"\n"), strict=False):
        try:
            entries.append(_ENTRIES.decode(line))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        kinds.append(kind)
    return Batch(kinds, entries, len(chunk.kinds) - len(kinds))


def decode_kind(text: bytes) -> Kind | None:
    """Return a kind, None if that is none."""
    try:
        return _KIND.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def decode_records(chunk: Chunk) -> tuple[list[Record], int]:
    """Return the records of a chunk and how many intact lines are none."""
    batch = decode_entries(chunk)
    kinds = {text: decode_kind(text) for text in set(batch.kinds)}
    records = []
    for text, entry in zip(batch.kinds, batch.entries, strict=True):
        kind = kinds[text]
        if kind is not None:
            records.append(_record(kind, entry))
    return records, len(chunk.kinds) - len(records)


def _record(kind: Kind, entry: _Entry) -> Record:
    key_id, tenant, dialect, operation, model, provider, endpoint, upstream_model, outcome, source = kind
    return Record(
        id=entry[0],
        at_ns=entry[1],
        request_id=entry[2],
        key_id=key_id,
        tenant=tenant,
        dialect=dialect,
        operation=operation,
        model=model,
        provider=provider,
        endpoint=endpoint,
        upstream_model=upstream_model,
        stream=bool(entry[3]),
        status=entry[4],
        outcome=outcome,  # type: ignore[arg-type] # checked as it was decoded
        attempts=entry[5],
        usage=Usage(*entry[12]),
        usage_source=source,  # type: ignore[arg-type]
        priced=bool(entry[6]),
        cost_nano_usd=entry[7],
        first_byte_us=entry[8],
        total_us=entry[9],
        request_bytes=entry[10],
        response_bytes=entry[11],
    )


def read_segment(
    path: str, offset: int, *, final: bool = False, limit: int = READ_BYTES
) -> tuple[list[Record], int, int]:
    """Read at most `limit` bytes of the segment at `path` from `offset` (bytes).

    Returns the records of the complete lines, the offset to go on from (equal to `offset` when nothing more
    is complete), and the number of torn or garbage lines skipped. Raises OSError when the file cannot be
    read. final: see `read_chunk`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunk = read_chunk(fd, offset, final=final, limit=limit)
    finally:
        os.close(fd)
    records, undecodable = decode_records(chunk)
    return records, chunk.next_offset, chunk.bad_lines + undecodable
