"""How often each rule has applied, counted by every worker and read by whoever wants to know.

Each worker writes cells of its own, in memory that all processes of a gateway share, so that a count needs no atomic
operation and is exact with either half of the core. A rule keeps its cell, and with it its count, over reloads.
"""

import mmap
from collections.abc import Sequence
from typing import Final, Protocol

#: Cells beyond those of the first configuration's rules, for rules that come with a reload.
SPARE_SLOTS: Final = 4096
#: The slot of a rule for which no cell is left: the last one, whose count means nothing.
UNCOUNTED: Final = -1

_CELL_BYTES: Final = 8
#: Cells of a cache line. Rows begin at a line, so that no two workers write to the same one.
_LINE: Final = 8


class Counts(Protocol):
    """Counts by slot: a list, or cells of a table that is shared."""

    def __getitem__(self, slot: int, /) -> int:
        """Return one count."""

    def __setitem__(self, slot: int, count: int, /) -> None:
        """Change one count."""


class Tally:
    """A table of counts: a row for each worker, a cell for each slot. To be made before the processes are forked."""

    def __init__(self, workers: int, slots: int) -> None:
        """Make a zeroed table. slots: how many rules can be counted."""
        self._workers = workers
        self._width = (slots + 1 + _LINE - 1) // _LINE * _LINE
        # No file: nothing that is counted here is to outlive the processes that share it.
        self._cells = memoryview(mmap.mmap(-1, workers * self._width * _CELL_BYTES)).cast("q")

    def row(self, worker: int) -> Counts:
        """Return the cells of one worker, by slot. Only that worker may write to them."""
        return self._cells[worker * self._width : (worker + 1) * self._width]

    def total(self, slot: int) -> int | None:
        """Return what all workers have counted in a slot, None for UNCOUNTED."""
        if slot == UNCOUNTED:
            return None
        return sum(self._cells[worker * self._width + slot] for worker in range(self._workers))


class Slots:
    """Hands out slots 0..capacity-1 by rule id. A rule that is removed and comes back finds its count as it left it.

    A slot is never given to another rule: a worker that still serves a request of the configuration before may yet
    count in it.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._of: dict[str, int] = {}

    def assign(self, ids: Sequence[str]) -> tuple[int, ...]:
        """Return the slots of a configuration's rules, in their order; UNCOUNTED where none is left."""
        for name in ids:
            if name not in self._of and len(self._of) < self._capacity:
                self._of[name] = len(self._of)
        return tuple(self._of.get(name, UNCOUNTED) for name in ids)
