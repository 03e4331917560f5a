"""How a file is made that processes map: whole and with all its blocks before anyone can find it at its path."""

import contextlib
import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import Final

#: What a file system answers that cannot reserve blocks ahead of their use.
CANNOT_RESERVE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


@contextlib.contextmanager
def new_file(path: str, header: bytes, size: int) -> Iterator[mmap.mmap]:
    """Make a file of `size` bytes, `header` and then zeros, for the block to fill; it is at `path` after the block.

    The old file there is unlinked, never truncated: a process that has it mapped would die of SIGBUS.
    Raises OSError; then, and when the block fails, the old file stays.
    """
    folder, name = os.path.split(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        _reserve(fd, size)
        os.pwrite(fd, header, 0)
        yield mmap.mmap(fd, size)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def _reserve(fd: int, size: int) -> None:
    """Give the file its size and its blocks now: a hole met on a full disk is a SIGBUS, not an OSError."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise
        os.ftruncate(fd, size)
