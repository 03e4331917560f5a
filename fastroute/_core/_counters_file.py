"""The file behind a counter segment: its layout, how it is made and opened. Both halves of `counters` use it.

    0     header: magic, layout version, row bytes, workers, endpoints, file size (native byte order)
    1024  64 control words of 8 bytes
    4096  rows of 64 bytes (one cache line, 8 signed 64-bit columns); row = worker * endpoints + endpoint
    then  48 cells of 8 bytes for each endpoint, shared by all workers

The file is shared by processes of one host and one boot only; nothing in it is meant to outlive them.
"""

import mmap
import os
import struct
from typing import Final

from fastroute._core._mapped_file import new_file
from fastroute.errors import FastrouteError

WORDS: Final = 64
COLUMNS: Final = 8
IN_FLIGHT: Final = 0
REQUESTS: Final = 1
FAILURES: Final = 2
INPUT_TOKENS: Final = 3
OUTPUT_TOKENS: Final = 4
LAST_USED_NS: Final = 5
WORK: Final = 6
SPARE_B: Final = 7

#: Cells of an endpoint that all workers share, changed by compare-and-swap.
CELLS: Final = 48
#: The first cache line holds what gates and loads of every candidate are read from.
LINE: Final = 8
BREAKER: Final = 0
QUOTA_REQUESTS: Final = 1
COOLDOWN_UNTIL_MS: Final = 2
COST: Final = 3
KEY_STATE: Final = 4
QUOTA_TOKENS: Final = 5
SLOW_START_MS: Final = 6
ADAPTIVE: Final = 7
BANDIT_TIME_MS: Final = 8
BANDIT: Final = 9
MODEL_STATE: Final = 10
KEY_SINCE_MS: Final = 11
WINDOW_0: Final = 12
WINDOW_BUCKETS: Final = 10
PACE: Final = 23
QUOTA_REQUESTS_TIMES: Final = 24
QUOTA_TOKENS_TIMES: Final = 25
BREAKER_COUNTS: Final = 27
LAST_USED_MS: Final = 28
CLOSED_AT_MS: Final = 29
MODEL_SINCE_MS: Final = 31
LATENCY_0: Final = 32
LATENCY_CELLS: Final = 16
# A row may stand for a provider's key instead, over all its models. There, these mean:
#: Unix time of the last use.
KEY_USED_AT_MS: Final = 24
#: What is to be added to the columns REQUESTS and FAILURES, for what was counted before a restart or a reset.
KEY_REQUESTS_BASE: Final = 25
KEY_FAILURES_BASE: Final = 26

HEADER_BYTES: Final = 4096
WORDS_OFFSET: Final = 1024
ROW_BYTES: Final = 8 * COLUMNS
CELL_BYTES: Final = 8 * CELLS
MAX_WORKERS: Final = 1024
MAX_ENDPOINTS: Final = 65536

_MAGIC: Final = b"FRCOUNTS"
_LAYOUT_VERSION: Final = 4
_HEADER: Final = struct.Struct("=8sIIIIQ")


class SegmentError(FastrouteError, ValueError):
    """A file that is not a usable counter segment, or dimensions no segment can have."""


def segment_bytes(workers: int, endpoints: int) -> int:
    """Return the size of a segment's file; SegmentError for dimensions out of bounds."""
    if not 1 <= workers <= MAX_WORKERS:
        raise SegmentError(f"workers must be 1 to {MAX_WORKERS}, not {workers}")
    if not 1 <= endpoints <= MAX_ENDPOINTS:
        raise SegmentError(f"endpoints must be 1 to {MAX_ENDPOINTS}, not {endpoints}")
    return HEADER_BYTES + workers * endpoints * ROW_BYTES + endpoints * CELL_BYTES


def create_file(path: str, workers: int, endpoints: int) -> mmap.mmap:
    """Make a zeroed segment file at `path`, replacing one that is there (see `new_file`), and return its mapping.

    Raises SegmentError for the dimensions, OSError for the file system.
    """
    size = segment_bytes(workers, endpoints)
    header = _HEADER.pack(_MAGIC, _LAYOUT_VERSION, ROW_BYTES, workers, endpoints, size)
    with new_file(path, header, size) as mapping:
        pass  # zeros are what an empty segment is
    return mapping


def open_file(path: str) -> tuple[mmap.mmap, int, int]:
    """Return (mapping, workers, endpoints) of the segment file at `path`.

    Raises SegmentError if it is not a segment of this layout, OSError if it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        workers, endpoints = _check_header(path, os.pread(fd, _HEADER.size, 0), size)
        return mmap.mmap(fd, size), workers, endpoints
    finally:
        os.close(fd)


def _check_header(path: str, header: bytes, size: int) -> tuple[int, int]:
    """Return (workers, endpoints), or raise SegmentError naming the first thing that is wrong."""
    if len(header) < _HEADER.size or size < HEADER_BYTES:
        raise SegmentError(f"{path}: too short for a counter segment ({size} bytes)")
    magic, version, row_bytes, workers, endpoints, declared = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise SegmentError(f"{path}: not a counter segment (magic {magic!r})")
    if version != _LAYOUT_VERSION or row_bytes != ROW_BYTES:
        raise SegmentError(f"{path}: layout {version}/{row_bytes}, not {_LAYOUT_VERSION}/{ROW_BYTES}")
    try:
        expected = segment_bytes(workers, endpoints)
    except SegmentError as error:
        raise SegmentError(f"{path}: {error}") from None
    if declared != expected or size != expected:
        raise SegmentError(f"{path}: {size} bytes (header: {declared}) where {expected} are expected")
    return workers, endpoints
