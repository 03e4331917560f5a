"""Time window: the endpoint, or key, that was not used for the longest time, over all workers.

Whoever was not used within the window is free, and drawn by weight; if everybody was, the least recently used one.
"""

from typing import Final

from fastroute._core._candidates_gates import NO_KEY
from fastroute._core.candidates import Candidates
from fastroute._core.counters import LAST_USED_MS
from fastroute._core.time_window import least_recently_used
from fastroute.balance.base import BaseStrategy
from fastroute.interfaces import Ask, PoolInfo

#: Longer than anything was running: no use is forgotten.
FOR_EVER_MS: Final = 1 << 62


class TimeWindow(BaseStrategy):
    """A pick is a claim: no two workers make the same one."""

    name = "time_window"

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._window_ms: int = info.options.time_window_ms

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return least_recently_used(candidates, self._bits(), ask.now_ms, self._window_ms)

    def peek(self, candidates: Candidates, ask: Ask) -> int:
        """Return what `pick` would, and give the claim back."""
        segment = candidates.segment
        rows = [
            row if key_row == NO_KEY else key_row
            for row, key_row in zip(candidates.rows, candidates.key_rows, strict=True)
        ]
        before = {position: segment.cell(rows[position], LAST_USED_MS) for position in candidates}
        position = self.pick(candidates, ask)
        if position >= 0:
            segment.cas_cell(rows[position], LAST_USED_MS, segment.cell(rows[position], LAST_USED_MS), before[position])
        return position


class LeastRecentlyUsed(TimeWindow):
    """Of a key pool: whoever was not used for the longest time, whether its window has passed or not.

    So the free ones come first, the longest free before the others; and when nobody is free, whose window ends first.
    Weights only tell those apart that were never used.
    """

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        self._window_ms = FOR_EVER_MS
