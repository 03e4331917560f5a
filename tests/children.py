"""What child processes of the tests need: the fastroute that is under test, and the tests' own modules."""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import fastroute


def with_paths(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with a PYTHONPATH on which the fastroute of this process comes before that of the checkout."""
    paths = [str(Path(fastroute.__file__).parents[1]), str(Path(__file__).parents[1])]
    return {**env, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [env.get("PYTHONPATH")])])}


#: Reads which process groups there are to be, and kills those that are left when nobody is there to write any more.
_WATCHER: Final = """
import contextlib, os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
"""


class Watcher:
    """Kills the process groups that this process has started, should it end without having done so: by SIGKILL, too.

    They are sessions of their own, so that a Ctrl-C reaches the tests alone, and nothing else would end them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        """Kill a process group when this process ends, until it is forgotten."""
        self._write(b"+%d\n" % group)

    def forget(self, group: int) -> None:
        """Leave a process group alone from now on: its id may soon be another's."""
        self._write(b"-%d\n" % group)

    def _write(self, line: bytes) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _WATCHER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,
                )
                atexit.register(self._end, self._process)
            assert self._process.stdin is not None
            self._process.stdin.write(line)

    @staticmethod
    def _end(process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


WATCHER: Final = Watcher()
