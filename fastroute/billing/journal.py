"""The journal writer of one worker: one `write` per request, before the response's last byte.

What is promised: a record whose `append` returned with an empty backlog is in the kernel, so it survives the
death of any process, `kill -9` included. There is no fsync on this path: a power loss may take what the
kernel had not written out yet (seconds). While the disk refuses writes, records wait in a bounded queue in
memory.

A writer holds a lock (flock) on the segment it writes. That is how readers know that a segment is still
alive; the kernel lets go of it when the worker dies.
"""

import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from fastroute.billing.boot import MAX_BOOT
from fastroute.billing.segments import MAX_PAYLOAD_BYTES, encode_line, segment_name
from fastroute.interfaces import Record, Usage

MAX_SEGMENT_BYTES: Final = 64 << 20
#: The queue for records that the disk refused: whichever bound is met first.
MAX_BACKLOG_RECORDS: Final = 100_000
MAX_BACKLOG_BYTES: Final = 64 << 20

_MAX_SEQUENCE: Final = 2**32 - 1
_DRAIN_LINES: Final = 256
_OPEN_TRIES: Final = 8
_MAX_TEXT_CHARS: Final = 256
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


class JournalWriter:
    """Appends records to the segments of one boot number. Belongs to one thread.

    directory: created if need be. boot: from `allocate_boot`, used by no other writer. next_boot: called when
    the 2^32 - 1 ids of a boot number are used up. Raises OSError when no segment can be opened,
    FileExistsError among them: another writer has this boot number.

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
        self._max_backlog = max_backlog
        self._next_boot = next_boot
        self._encode = msgspec.json.Encoder().encode
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._torn = False
        self._size = 0
        self._fd = -1
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
            self._rotate_at = self._size  # Names carry the boot number: the next record opens a new segment.
        self._sequence += 1
        return self._base | self._sequence

    def append(self, record: Record) -> None:
        """Write one record. The disk cannot make it raise: records are queued, or `lost` with a full queue."""
        try:
            payload = self._encode(record)
        except (OverflowError, ValueError):
            payload = self._encode(_storable(record))
        if len(payload) > MAX_PAYLOAD_BYTES:
            payload = self._encode(_storable(record))
        line = encode_line(payload)
        if self._queue or self._fd < 0:
            self._append_queued(line)
            return
        try:
            written = os.write(self._fd, line)
        except OSError:
            self._enqueue(line)
            return
        self._size += written
        if written != len(line):
            self._torn = written > 0
            self._enqueue(line)
        elif self._size >= self._rotate_at:
            self._rotate()

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
        os.close(self._fd)
        self._fd = -1

    def _start_boot(self, boot: int) -> None:
        if not 0 < boot <= MAX_BOOT:
            raise ValueError(f"a boot number is between 1 and {MAX_BOOT}")
        self._boot = boot
        self._base = boot << 32
        self._sequence = 0
        self._number = 0
        self._rotate_at = self._max_segment_bytes

    def _open_segment(self) -> int:
        """Create the next segment and lock it; return its descriptor."""
        for _ in range(_OPEN_TRIES):
            self._number += 1
            path = os.path.join(self._directory, segment_name(self._boot, self._number))
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _lock_segment(fd):
                return fd
            os.close(fd)
        raise OSError(errno.EAGAIN, "no journal segment could be locked")

    def _rotate(self) -> None:
        try:
            fd = self._open_segment()
        except OSError:
            # An oversized segment is better than a lost record; do not retry at every request.
            self._rotate_at = self._size + self._max_segment_bytes // 16
            return
        os.close(self._fd)
        self._fd = fd
        self._size = 0
        self._torn = False
        self._rotate_at = self._max_segment_bytes

    def _is_full(self, line: bytes) -> bool:
        return len(self._queue) >= self._max_backlog or self._queue_bytes + len(line) > MAX_BACKLOG_BYTES

    def _enqueue(self, line: bytes) -> None:
        if self._fd < 0 or self._is_full(line):
            self.lost += 1
            self.healthy = False
            return
        self._queue.append(line)
        self._queue_bytes += len(line)

    def _append_queued(self, line: bytes) -> None:
        """Queue behind the backlog and write one batch of it, so that no request pays for all."""
        if self._is_full(line):
            self._drain()
        self._enqueue(line)
        self._drain()

    def _drain(self) -> bool:
        """Write one batch of the backlog; return whether the disk took all of it."""
        if self._fd < 0:
            return False
        lines = list(islice(self._queue, _DRAIN_LINES))
        # A torn line is ended first, so that it spoils nothing but itself.
        data = (b"\n" if self._torn else b"") + b"".join(lines)
        try:
            written = os.write(self._fd, data)
        except OSError:
            return False
        self._size += written
        rest = written
        if self._torn and rest:
            self._torn = False
            rest -= 1
        for line in lines:
            if rest < len(line):
                break
            self._queue.popleft()
            self._queue_bytes -= len(line)
            rest -= len(line)
        self._torn = self._torn or rest > 0
        if not self._queue:
            self.healthy = True
        if written == len(data) and self._size >= self._rotate_at:
            self._rotate()
        return written == len(data)


def _lock_segment(fd: int) -> bool:
    """Lock a segment just created; False if a reader took it for an abandoned one meanwhile."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _storable(record: Record) -> Record:
    """Return `record` made to fit: integers within 64 bits, no lone surrogates, no long text."""
    changes: dict[str, object] = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str):
            changes[name] = value[:_MAX_TEXT_CHARS].encode("utf-8", "replace").decode()
        elif isinstance(value, int) and not isinstance(value, bool):
            changes[name] = _clamped(value)
    usage = msgspec.structs.astuple(record.usage)
    changes["usage"] = Usage(*(_clamped(tokens) for tokens in usage))
    return msgspec.structs.replace(record, **changes)


def _clamped(value: int) -> int:
    return min(max(value, _INT64_MIN), _INT64_MAX)
