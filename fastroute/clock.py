"""The only module that knows what time it is, and the only source of randomness.

Everything else takes a `Clock` or an RNG as an argument, so that tests run on time they control.
"""

import random
import time
from collections.abc import Callable
from typing import NamedTuple


class Clock(NamedTuple):
    """Two clocks: `monotonic_ns` for durations and deadlines, `wall_ns` (Unix epoch, UTC) for records only."""

    monotonic_ns: Callable[[], int]
    wall_ns: Callable[[], int]


SYSTEM_CLOCK = Clock(time.monotonic_ns, time.time_ns)


def system_rng(seed: int | None = None) -> random.Random:
    """Return a generator of its own, seeded by the operating system unless `seed` is given."""
    return random.Random(seed)
