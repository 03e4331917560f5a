"""Boot numbers: a counter in the state directory that never gives the same number twice."""

import errno
import fcntl
import os
from typing import Final

from fastroute.billing.segments import journal_directory, list_segments
from fastroute.errors import FastrouteError

MAX_BOOT: Final = 2**31 - 1

_COUNTER: Final = "boot"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class BootError(FastrouteError):
    """The boot counter cannot be trusted: going on could give two requests the same id."""


def allocate_boot(state_dir: str) -> int:
    """Return the next boot number (1 to 2^31 - 1), on disk before it is returned.

    Creates `state_dir` if need be. Any number of processes may call this at once. Raises BootError when the
    counter file holds no number or the numbers are used up, OSError when it cannot be written.
    """
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(state_dir, _COUNTER + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Held for one small write; freed by the kernel if we die.
        boot = _last_boot(state_dir) + 1
        if boot > MAX_BOOT:
            raise BootError("all boot numbers of this state directory are used up; start with a new one")
        _store(state_dir, boot)
        return boot
    finally:
        os.close(lock)


def _last_boot(state_dir: str) -> int:
    path = os.path.join(state_dir, _COUNTER)
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
    except FileNotFoundError:
        # A counter that was deleted must not make the journals still waiting here collide with new ones.
        return max((segment.boot for segment in list_segments(journal_directory(state_dir))), default=0)
    if not text.isdigit():
        raise BootError(f"{path} is damaged; write into it a number larger than any boot number used so far")
    return int(text)


def _store(state_dir: str, boot: int) -> None:
    path = os.path.join(state_dir, _COUNTER)
    try:
        _replace(path, b"%d\n" % boot)
    except OSError as error:
        if error.errno not in _NO_ROOM or not os.path.exists(path):
            raise
        _overwrite(path, b"%d\n" % boot)
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _replace(path: str, data: bytes) -> None:
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_whole(fd, data, path + ".new")
    finally:
        os.close(fd)
    os.replace(path + ".new", path)


def _overwrite(path: str, data: bytes) -> None:
    """Write into the block that the file has, where the disk has no other: a worker that died must come back.

    The write is so short that nobody sees half of it. Numbers do not become shorter, and what somebody may have put
    behind the old one is blanked.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_whole(fd, data.ljust(os.fstat(fd).st_size, b"\n"), path)
    finally:
        os.close(fd)


def _write_whole(fd: int, data: bytes, path: str) -> None:
    if os.write(fd, data) != len(data):
        raise OSError(f"{path} could not be written whole")
    os.fsync(fd)
