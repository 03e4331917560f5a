"""The journal writer of one worker: one copy into a mapped file per request, before the response's last byte.

What is promised: a record whose `write` returned with an empty backlog is in the kernel, so it survives the
death of any process, `kill -9` included. There is no fsync on this path: a power loss may take what the
kernel had not written out yet (the last 30 seconds or so). Room is made ahead, a window at a time, by allocating
blocks: a full disk shows there, as an error, and not in the middle of a line. While the disk refuses room,
records wait in a bounded queue in memory.

A writer holds a lock (flock) on the segment it writes. That is how readers know that a segment is still
alive; the kernel lets go of it when the worker dies.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable
from typing import Final
from zlib import crc32

import msgspec

from fastroute._core._mapped_file import CANNOT_RESERVE
from fastroute._core.lines import put
from fastroute.billing.boot import MAX_BOOT
from fastroute.billing.segments import MAX_PAYLOAD_BYTES, segment_name
from fastroute.interfaces import Entry, Kind, Record, Usage

MAX_SEGMENT_BYTES: Final = 64 << 20
#: How much room is made at once.
WINDOW_BYTES: Final = 1 << 20
#: The queue for records that the disk refused: whichever bound is met first.
MAX_BACKLOG_RECORDS: Final = 100_000
MAX_BACKLOG_BYTES: Final = 64 << 20

_MAX_SEQUENCE: Final = 2**32 - 1
_MAX_KINDS: Final = 4096
_DRAIN_LINES: Final = 256
_OPEN_TRIES: Final = 8
_MAX_TEXT_CHARS: Final = 256
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


class JournalWriter:
    """Appends records to the segments of one boot number. Belongs to one thread.

    directory: created if need be. boot: from `allocate_boot`, used by no other writer. max_segment_bytes: at least one
    page; a segment is begun anew at the first window's end behind it. next_boot: called when the 2^32 - 1 ids of a boot
    number are used up. Raises OSError when no segment can be opened, FileExistsError among them: another writer has
    this boot number.

    backlog: records waiting in memory. lost: records that found the queue full, ever. healthy: False from the
    first record lost until the queue has drained; what to do about it is the caller's policy.
    """

    def __init__(
        self,
        directory: str,
        boot: int,
        *,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        max_backlog: int = MAX_BACKLOG_RECORDS,
        next_boot: Callable[[], int] | None = None,
    ) -> None:
        self._directory = directory
        self._max_segment_bytes = max_segment_bytes
        self._window_bytes = min(WINDOW_BYTES, _whole_pages(max_segment_bytes))
        self._max_backlog = max_backlog
        self._next_boot = next_boot
        self._encode = msgspec.json.Encoder().encode
        self._kinds: dict[Kind, tuple[bytes, int]] = {}
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._fd = -1
        # Of the present window: its mapping, where in the file it begins, and how much of it is written.
        self._window: mmap.mmap | None = None
        self._start = 0
        self._filled = 0
        self.lost = 0
        self.healthy = True
        self._start_boot(boot)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._fd = self._open_segment()

    @property
    def backlog(self) -> int:
        """Return how many records wait in memory for the disk."""
        return len(self._queue)

    def next_id(self) -> int:
        """Return an id that no other request of this state directory has: (boot << 32) | sequence.

        Raises RuntimeError when the boot number's ids are used up and there is no `next_boot`.
        """
        if self._sequence == _MAX_SEQUENCE:
            if self._next_boot is None:
                raise RuntimeError(f"boot number {self._boot} has no ids left")
            self._start_boot(self._next_boot())
            self._stale = True  # Names carry the boot number: the next record opens a new segment.
        self._sequence += 1
        return self._base | self._sequence

    def append(self, record: Record) -> None:
        """Write one record; see `write`."""
        self.write(record.kind, record.entry)

    def write(self, kind: Kind, entry: Entry) -> None:
        """Write one record. The disk cannot make it raise: records are queued, or `lost` with a full queue."""
        head, checksum = self._kinds.get(kind) or self._learn(kind)
        try:
            text = self._encode(entry)
        except (OverflowError, ValueError):
            text = self._encode(_storable(entry))
        if len(text) + len(head) > MAX_PAYLOAD_BYTES:
            text = self._encode(_storable(entry))
        if self._window is not None and not self._queue and not self._stale:
            end = put(self._window, self._filled, head, checksum, text)
            if end >= 0:
                self._filled = end
                return
        self._write_slowly(b"%08x %b%b\n" % (crc32(text, checksum), head, text))

    def flush(self) -> bool:
        """Try to write the whole backlog; return whether none is left."""
        while self._queue and self._fd >= 0:
            if not self._drain():
                return False
        return not self._queue

    def close(self) -> None:
        """Write what can be written, let go of the segment. What the disk still refuses counts as `lost`."""
        if self._fd < 0:
            return
        if not self.flush():
            self.lost += len(self._queue)
            self.healthy = False
            self._queue.clear()
        self._close_segment()
        self._fd = -1

    def _start_boot(self, boot: int) -> None:
        if not 0 < boot <= MAX_BOOT:
            raise ValueError(f"a boot number is between 1 and {MAX_BOOT}")
        self._boot = boot
        self._base = boot << 32
        self._sequence = 0
        self._number = 0
        self._stale = False

    def _learn(self, kind: Kind) -> tuple[bytes, int]:
        """Return a kind's text with the tab behind it, and the checksum of both."""
        try:
            text = self._encode(kind)
        except (UnicodeEncodeError, ValueError):
            text = self._encode(tuple(map(_shortened, kind)))
        if len(text) > MAX_PAYLOAD_BYTES // 2:
            text = self._encode(tuple(map(_shortened, kind)))
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        known = self._kinds[kind] = (text + b"\t", crc32(text + b"\t"))
        return known

    # --- segments and windows

    def _open_segment(self) -> int:
        """Create the next segment and lock it; return its descriptor."""
        for _ in range(_OPEN_TRIES):
            self._number += 1
            path = os.path.join(self._directory, segment_name(self._boot, self._number))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _lock_segment(fd):
                return fd
            os.close(fd)
        raise OSError(errno.EAGAIN, "no journal segment could be locked")

    def _close_segment(self) -> None:
        """Let go of the segment, without the room that was not needed."""
        size = self._start + self._filled
        if self._window is not None:
            self._window.close()
            self._window = None
        # Whatever keeps it from shrinking, readers know that zeros are nothing.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, size)
        os.close(self._fd)
        self._start = self._filled = 0

    def _next_window(self, needed: int) -> mmap.mmap:
        """Make room for so many bytes: the next window of this segment, or the first of the next. Raises OSError."""
        start = self._start + len(self._window) if self._window is not None else 0
        if self._stale or start >= self._max_segment_bytes:
            self._rotate()
            start = self._start + len(self._window) if self._window is not None else 0
        size = max(self._window_bytes, _whole_pages(needed))
        _reserve(self._fd, start, size)
        window = mmap.mmap(self._fd, size, offset=start)
        if self._window is not None:
            # No line runs over the border; empty ones are nothing.
            self._window[self._filled :] = b"\n" * (len(self._window) - self._filled)
            self._window.close()
        self._window = window
        self._start = start
        self._filled = 0
        return window

    def _rotate(self) -> None:
        try:
            fd = self._open_segment()
        except OSError:
            # An oversized segment is better than a lost record.
            return
        self._close_segment()
        self._fd = fd
        self._stale = False

    def _place(self, line: bytes) -> bool:
        """Write a line, if there is room for it or room can be made."""
        if self._fd < 0:
            return False
        window = self._window
        if window is None or self._stale or self._filled + len(line) > len(window):
            try:
                window = self._next_window(len(line))
            except (OSError, ValueError):
                return False
        end = self._filled + len(line)
        window[self._filled : end] = line
        self._filled = end
        return True

    # --- the queue

    def _is_full(self, line: bytes) -> bool:
        return len(self._queue) >= self._max_backlog or self._queue_bytes + len(line) > MAX_BACKLOG_BYTES

    def _enqueue(self, line: bytes) -> None:
        if self._fd < 0 or self._is_full(line):
            self.lost += 1
            self.healthy = False
            return
        self._queue.append(line)
        self._queue_bytes += len(line)

    def _write_slowly(self, line: bytes) -> None:
        """Write a line for which room has to be made, or that has to wait behind others."""
        if not self._queue:
            if not self._place(line):
                self._enqueue(line)
            return
        # One batch of the backlog with every record, so that no request pays for all.
        if self._is_full(line):
            self._drain()
        self._enqueue(line)
        self._drain()

    def _drain(self) -> bool:
        """Write one batch of the backlog; return whether the disk took all of it."""
        for _ in range(min(_DRAIN_LINES, len(self._queue))):
            if not self._place(self._queue[0]):
                return False
            self._queue_bytes -= len(self._queue.popleft())
        if not self._queue:
            self.healthy = True
        return True


def _lock_segment(fd: int) -> bool:
    """Lock a segment just created; False if a reader took it for an abandoned one meanwhile."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _reserve(fd: int, start: int, size: int) -> None:
    """Give the file blocks ahead of their use: a hole met on a full disk is a SIGBUS, not an OSError."""
    try:
        os.posix_fallocate(fd, start, size)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise
        os.pwrite(fd, bytes(size), start)


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _storable(entry: Entry) -> Entry:
    """Return `entry` made to fit: integers within 64 bits, no lone surrogates, no long text."""
    changes: dict[str, object] = {
        name: _clamped(value) for name in entry.__struct_fields__ if isinstance(value := getattr(entry, name), int)
    }
    changes["request_id"] = _shortened(entry.request_id)
    changes["usage"] = Usage(*map(_clamped, msgspec.structs.astuple(entry.usage)))
    return msgspec.structs.replace(entry, **changes)


def _shortened(text: str) -> str:
    return text[:_MAX_TEXT_CHARS].encode("utf-8", "replace").decode()


def _clamped(value: int) -> int:
    return min(max(value, _INT64_MIN), _INT64_MAX)
