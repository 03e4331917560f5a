"""CPU time and memory of a process tree, read from /proc (proc(5)).

A tree is every descendant of a root process plus every member of the session the root leads, so that a child
whose parent died is still found.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024


class Process(NamedTuple):
    """One line of /proc/PID/stat. CPU in seconds, user and system together; memory in bytes.

    `reaped_cpu_s` is the CPU of children that ended and were waited for, theirs included.
    """

    pid: int
    parent: int
    session: int
    start_ticks: int
    own_cpu_s: float
    reaped_cpu_s: float
    rss_bytes: int


class Memory(NamedTuple):
    """Memory of a whole tree in MiB; `pss_mib` counts shared pages once, None where unreadable."""

    rss_mib: float
    pss_mib: float | None


Tree = dict[int, Process]


def _parse(pid: int, line: str) -> Process:
    # The name may hold spaces and parentheses: count fields from the last one (proc(5), field 3 on).
    fields = line.rpartition(")")[2].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        own_cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        reaped_cpu_s=(int(fields[13]) + int(fields[14])) / _TICKS_PER_S,
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def _everything() -> Tree:
    found: Tree = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = _parse(int(name), Path(f"/proc/{name}/stat").read_text())
            except OSError:  # ended between the listing and the read
                continue
    return found


def tree(root: int) -> Tree:
    """Return the processes of the tree under `root`, by pid; empty when none is left."""
    everything = _everything()
    members = {pid for pid, process in everything.items() if pid == root or process.session == root}
    while True:
        more = {pid for pid, process in everything.items() if process.parent in members} - members
        if not more:
            return {pid: everything[pid] for pid in members}
        members |= more


def survivors(root: int, family: Tree) -> list[int]:
    """Return who still lives of a tree read earlier, its root aside, and of the session the root led."""
    everything = _everything()
    alive = {pid for pid, process in everything.items() if process.session == root}
    for pid, process in family.items():
        now = everything.get(pid)
        # A pid with another start time was given to somebody else since.
        if now is not None and now.start_ticks == process.start_ticks:
            alive.add(pid)
    return sorted(alive - {root})


def cpu_s(processes: Tree) -> float:
    """Return the CPU seconds spent by a tree since it began.

    A child that ended moves, with all it spent, into its parent's `reaped_cpu_s`: the sum keeps growing.
    """
    return sum(process.own_cpu_s + process.reaped_cpu_s for process in processes.values())


def rss_mib(processes: Tree) -> float:
    """Return resident memory summed over a tree; shared pages are counted once per process."""
    return sum(process.rss_bytes for process in processes.values()) / _MIB


def _proc_field_kib(path: str, field: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def memory(processes: Tree) -> Memory:
    """Return resident and proportional memory of a tree now."""
    shares = [_proc_field_kib(f"/proc/{pid}/smaps_rollup", "Pss") for pid in processes]
    known = [share for share in shares if share is not None]
    return Memory(rss_mib(processes), sum(known) / 1024 if known else None)


def peak_rss_mib(pid: int) -> float:
    """Return the highest resident memory process `pid` ever had; 0 when it is gone."""
    return (_proc_field_kib(f"/proc/{pid}/status", "VmHWM") or 0) / 1024


def busy(before: Tree, after: Tree) -> list[int]:
    """Return the pids that did the work between two readings: half the CPU of the busiest or more.

    That is how a worker is told from a supervisor without knowing any system's process layout.
    """
    spent = {}
    for pid, process in after.items():
        earlier = before.get(pid)
        same = earlier is not None and earlier.start_ticks == process.start_ticks
        spent[pid] = process.own_cpu_s - (earlier.own_cpu_s if earlier is not None and same else 0.0)
    most = max(spent.values(), default=0.0)
    return sorted((pid for pid, s in spent.items() if s >= most / 2 and s > 0), key=lambda pid: -spent[pid])
