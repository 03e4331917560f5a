"""Pure half of `time_window`: the readable reference.

    LAST_USED_MS    monotonic milliseconds << 20 | number of the claim within that millisecond

A claim's stamp is greater than every one it has seen, so that claims of one millisecond are in order too, and a worker
that is behind in time does not make what it claims look unused. What is claimed is the key that an endpoint uses, where
keys have rows of their own, so that one key's models are used in turn and not side by side; else the endpoint.
"""

from typing import Final

from fastroute._core._candidates_gates import NO_KEY
from fastroute._core._candidates_py import Candidates
from fastroute._core._counters_file import LAST_USED_MS
from fastroute._core._selection_py import _Random

_NUMBER_BITS: Final = 20


def least_recently_used(candidates: Candidates, bits: int, now_ms: int, window_ms: int) -> int:
    """Return the candidate that was used the longest ago, and mark it as used now, for all workers.

    Use is forgotten after `window_ms`: those not used since are alike, and come before the others. Equals are drawn by
    weight. If another worker claims the same candidate at the same time, one of the two looks again.
    """
    random = _Random(bits)
    candidates.segment.check_open()
    segment = candidates.segment
    while True:
        best, seen, least, latest, tied = -1, 0, 0, 0, 0.0
        for position in candidates.positions:
            stamp = segment.cell(_claimed(candidates, position), LAST_USED_MS)
            latest = max(latest, stamp)
            key = stamp if stamp and now_ms - (stamp >> _NUMBER_BITS) < window_ms else 0
            if best < 0 or key < least:
                best, seen, least = position, stamp, key
                tied = candidates.weight_of(position, now_ms)
            elif key == least:
                weight = candidates.weight_of(position, now_ms)
                tied += weight
                if random.unit() * tied < weight:
                    best, seen = position, stamp
        if best < 0:
            return -1
        claimed = max(now_ms << _NUMBER_BITS, latest + 1)
        if segment.cas_cell(_claimed(candidates, best), LAST_USED_MS, seen, claimed):
            return best


def _claimed(candidates: Candidates, position: int) -> int:
    """Return the row that a claim of an endpoint is made in."""
    key_row = candidates.key_rows[position]
    return candidates.rows[position] if key_row == NO_KEY else key_row
