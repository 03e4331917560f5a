"""The gates of a pool in the order they stand in, and the numbers that both halves of `candidates` call them by.

What a request cannot have from an endpoint comes before what it cannot have now, so that a candidate which falls at
KEY or beyond would have served.
"""

from collections.abc import Sequence
from typing import Final

PASSED: Final = 0
TRIED: Final = 1
REQUEST: Final = 2
TENANT: Final = 3
RULE: Final = 4
DRAINED: Final = 5
CAPABILITY: Final = 6
CONTEXT: Final = 7
OUTPUT: Final = 8
REGION: Final = 9
COST: Final = 10
KEY: Final = 11
MODEL: Final = 12
QUOTA: Final = 13
BREAKER: Final = 14
COOLDOWN: Final = 15
FULL: Final = 16

GATE_NAMES: Final = (
    "",
    "tried",
    "request",
    "tenant",
    "rule",
    "drained",
    "capability",
    "context_window",
    "max_output_tokens",
    "region",
    "cost",
    "key",
    "model",
    "quota",
    "breaker",
    "cooldown",
    "concurrency",
)

MAX_ENDPOINTS: Final = 65_536
#: Regions are bits of a 64-bit word.
REGIONS: Final = 64
#: The share of its weight that an endpoint has at the beginning of a slow start (Envoy's min_weight_percent).
SLOW_START_FLOOR: Final = 0.1

#: Of an endpoint that uses no key with a row of its own.
NO_KEY: Final = -1
#: However many an endpoint may have, a key is probed by one request at a time.
KEY_PROBES: Final = 1
#: While others probe an endpoint, this is when it may be asked for again: its probes' deadline says when they are lost.
PROBE_WAIT_MS: Final = 1_000


def same_length(rows: Sequence[int], *others: Sequence[object]) -> int:
    """Return the number of endpoints, or raise ValueError if the sequences do not agree on it."""
    if len(rows) > MAX_ENDPOINTS:
        raise ValueError(f"a pool has at most {MAX_ENDPOINTS} endpoints")
    if any(len(other) != len(rows) for other in others):
        raise ValueError("all sequences must be of one length")
    return len(rows)


def checked_position(position: int, size: int) -> int:
    """Return the position, or raise IndexError for one that the pool does not have."""
    if not 0 <= position < size:
        raise IndexError(f"position {position} is not in 0..{size - 1}")
    return position


def checked_factor(factor: float) -> float:
    """Return what a weight may be multiplied by, or raise ValueError: only the configuration makes a weight 0."""
    if not 0.0 < factor <= 1.0:
        raise ValueError("a factor must be above 0 and at most 1")
    return factor


def checked_region(region: int) -> int:
    """Return the region, or raise ValueError for one that no bit can stand for."""
    if not 0 <= region < REGIONS:
        raise ValueError(f"a region must be 0 to {REGIONS - 1}, not {region}")
    return region


def checked_row(row: int, endpoints: int) -> int:
    """Return the row, or raise IndexError for one that the segment does not have."""
    if not 0 <= row < endpoints:
        raise IndexError(f"endpoint {row} is not in 0..{endpoints - 1}")
    return row


def checked_keys(key_rows: Sequence[int], size: int, endpoints: int) -> list[int]:
    """Return the row of each endpoint's key. Raises ValueError for too few or many, IndexError for one out of range."""
    if not len(key_rows):
        return [NO_KEY] * size
    if len(key_rows) != size:
        raise ValueError("all sequences must be of one length")
    return [NO_KEY if row == NO_KEY else checked_row(row, endpoints) for row in key_rows]
