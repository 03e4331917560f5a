"""How long to wait before the same failure domain is tried again; another one is tried at once.

Jitter: Brooker, "Exponential backoff and jitter" (AWS Architecture Blog, 2015). At jitter 1 the wait is drawn from
nothing up to the whole delay.
"""

from typing import Final

from fastroute.config.schema import Backoff as BackoffConfig

#: Growth stops here: every delay is at its ceiling long before.
_MAX_STEP: Final = 64


class Backoff:
    """Delays of one configuration. Milliseconds."""

    def __init__(self, config: BackoffConfig) -> None:
        self._config = config
        self._ceilings = tuple(_ceiling_ms(config, step) for step in range(_MAX_STEP + 1))

    def ceiling_ms(self, attempt: int) -> int:
        """Return the delay after the given number of failed attempts (from 1), before jitter."""
        return self._ceilings[max(0, min(attempt - 1, _MAX_STEP))]

    def delay_ms(self, attempt: int, bits: int) -> int:
        """Return how long to wait after the given number of failed attempts. bits: 64 random bits."""
        ceiling = self.ceiling_ms(attempt)
        drawn = (bits & 0xFFFFFFFF) / 4294967296.0
        return int(ceiling * (1.0 - self._config.jitter * drawn))


def _ceiling_ms(config: BackoffConfig, step: int) -> int:
    """Return the delay of a step (from 0), at most `max_ms`."""
    if config.kind == "none":
        return 0
    if config.kind == "linear":
        delay: float = config.base_ms * (step + 1)
    elif config.kind == "exponential":
        # A multiplier of up to 100 leaves the range of floats within the steps there are.
        delay = config.base_ms * min(config.multiplier**step, 1e18)
    else:
        delay = config.base_ms * _fibonacci(step + 1)
    return int(min(delay, config.max_ms))


def _fibonacci(n: int) -> int:
    """Return 1, 1, 2, 3, 5, ... for 1, 2, 3, 4, 5, ..."""
    previous, current = 0, 1
    for _ in range(n - 1):
        previous, current = current, previous + current
    return current
