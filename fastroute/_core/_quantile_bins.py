"""The logarithmic bins of `quantile`, which both halves use, and the numbers they agree on.

A bin holds (GAMMA^(i-1), GAMMA^i]; its estimate is off by at most ERROR, as in DDSketch (Masson et al. 2019). The last
one ends above an hour; bin 0 holds everything up to 1.
"""

import math
from typing import Final

BINS: Final = 384
WINDOWS: Final = 6
WINDOW_MS: Final = 10_000
#: How long an estimate stands.
CACHE_MS: Final = 250

ERROR: Final = 0.02
GAMMA: Final = (1.0 + ERROR) / (1.0 - ERROR)
LOG_GAMMA: Final = math.log(GAMMA)
ESTIMATES: Final = tuple(2.0 * GAMMA**i / (GAMMA + 1.0) for i in range(BINS))

#: A quantile q needs this many observations for each one that lies beyond it, or it is blended with the prior.
ENOUGH: Final = 5.0
#: The prior where nothing at all is known: any positive number does, for it is the same for all.
FIRST_PRIOR: Final = 1_000.0
#: The share of picks that may go to a candidate with too few observations.
EXPLORED: Final = 0.05

MAX_POSITIONS: Final = 65_536
# Caches and windows of different positions expire at different times, lest one pick have to renew them all.
_PHASE_STEP: Final = 61


def checked_count(n: int) -> int:
    """Return `n`, or raise ValueError if no pool can have that many positions."""
    if not 0 <= n <= MAX_POSITIONS:
        raise ValueError(f"n must be 0 to {MAX_POSITIONS}, not {n}")
    return n


def checked_quantile(q: float) -> float:
    """Return `q`, or raise ValueError if it is not at least 0 and less than 1."""
    if not 0.0 <= q < 1.0:
        raise ValueError(f"q must be at least 0 and less than 1, not {q}")
    return q


def phase_ms(position: int) -> int:
    """Return by how much a position's cache expires early: 0 to CACHE_MS - 1."""
    return position * _PHASE_STEP % CACHE_MS
