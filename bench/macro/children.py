"""Child processes of the rig: each pinned to a core, each with a log, each ended on every way out.

A child leads a session of its own, so what it leaves behind can be found (procstat.tree) and ended by pid.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.macro import procstat

_TERM_WAIT_S: Final = 20.0
_KILL_WAIT_S: Final = 5.0
_TAIL_BYTES: Final = 3000


@dataclass(frozen=True)
class Child:
    """A running process and the file that takes its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process id; also the id of the session it leads."""
        return self.process.pid

    def ended(self) -> bool:
        """Say whether the process has ended."""
        return self.process.poll() is not None

    def log_tail(self) -> str:
        """Return the end of the child's output, at most 3,000 bytes."""
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()


@dataclass
class Children:
    """All processes the rig started; `stop_all` ends what still runs."""

    folder: Path
    running: list[Child] = field(default_factory=list)

    def spawn(self, name: str, command: Sequence[str], *, core: int, env: Mapping[str, str] | None = None) -> Child:
        """Start `command` on one core, its output appended to NAME.log."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=self.folder,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.running.append(child)
        return child

    def stop(self, child: Child) -> list[int]:
        """End a child (SIGTERM, SIGKILL after 20 s); return the pids it left behind, now ended too."""
        if child in self.running:
            self.running.remove(child)
        family = procstat.tree(child.pid)
        child.process.terminate()
        try:
            child.process.wait(_TERM_WAIT_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: nothing more can be done about it
                child.process.wait(_KILL_WAIT_S)
        return _end_remains(child.pid, family)

    def stop_all(self) -> None:
        """End every child, the last started first."""
        for child in reversed(list(self.running)):
            self.stop(child)


def _end_remains(root: int, family: procstat.Tree) -> list[int]:
    deadline = time.monotonic() + 1.0  # a worker may need a moment more than its master
    left = procstat.survivors(root, family)
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = procstat.survivors(root, family)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return left
