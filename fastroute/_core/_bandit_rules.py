"""What both halves of `bandit` agree on: numbers, and the ziggurat that normal variates are drawn from.

    BANDIT          successes as a 32-bit float << 32 | failures as a 32-bit float, as of BANDIT_TIME_MS
    BANDIT_TIME_MS  monotonic milliseconds

The ziggurat (Marsaglia & Tsang 2000) covers the right half of exp(-x^2 / 2) with layers of one area, EDGES[i] wide: the
lowest with the tail beyond TAIL, the others boxes. A variate within INNER[i] of its layer's width needs no second look.
"""

import math
from typing import Final

#: The share of picks that each candidate has whatever it has shown, and the most that all of them have together.
FLOOR: Final = 0.01
MAX_FLOOR: Final = 0.2

LAYERS: Final = 256
#: Where the lowest of 256 layers begins its tail: with it the topmost one ends at the peak.
TAIL: Final = 3.6541528853610088

#: A gamma variate made of the normal variate x is accepted at once with probability 1 - SQUEEZE c^2 x^4. For d = 2/3
#: that is Marsaglia and Tsang's 1 - 0.0331 x^4. The exact bound is the exponential of d times a function of c x, so it
#: stays above a line through 1 that it is above at d = 2/3; and c^2 x^4 is d times a function of c x.
SQUEEZE: Final = 0.0331 * 6.0


def _density(x: float) -> float:
    return math.exp(-0.5 * x * x)


def _edges() -> tuple[float, ...]:
    area = TAIL * _density(TAIL) + math.sqrt(math.pi / 2.0) * math.erfc(TAIL / math.sqrt(2.0))
    edges = [area / _density(TAIL), TAIL]
    while len(edges) < LAYERS:
        edges.append(math.sqrt(-2.0 * math.log(area / edges[-1] + _density(edges[-1]))))
    return (*edges, 0.0)


#: The width of each layer, from the lowest up; at the end the peak.
EDGES: Final = _edges()
INNER: Final = tuple(EDGES[i + 1] / EDGES[i] for i in range(LAYERS))


def checked_shape(a: float, b: float) -> None:
    """Raise ValueError unless both are numbers above 0."""
    if not (0.0 < a < math.inf and 0.0 < b < math.inf):
        raise ValueError(f"a and b must be above 0, not {a} and {b}")
