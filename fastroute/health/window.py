"""When an endpoint has last answered well, as far as its window tells: by buckets, see `_core.attempts`."""

from collections.abc import Callable
from typing import Final

from fastroute._core.counters import WINDOW_0, WINDOW_BUCKETS, Segment

_EPOCHS: Final = 1 << 24
_GOOD: Final = 0xFFFFF << 20


def answered_since(segment: Segment, window_ms: int) -> Callable[[int, int, int], bool]:
    """Return what tells whether a row has answered well since a time, as (row, since_ms, now_ms).

    The bucket in which that time lies counts whole, and what is older than the window is not known.
    """
    bucket_ms = max(1, window_ms // WINDOW_BUCKETS)

    def answered(row: int, since_ms: int, now_ms: int) -> bool:
        epoch = now_ms // bucket_ms
        oldest = max(since_ms // bucket_ms, epoch - WINDOW_BUCKETS + 1)
        for at in range(max(0, oldest), epoch + 1):
            word = segment.cell(row, WINDOW_0 + at % WINDOW_BUCKETS) & (1 << 64) - 1
            if word >> 40 == at % _EPOCHS and word & _GOOD:
                return True
        return False

    return answered
