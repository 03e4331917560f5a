"""A rolling median of a stream of positive numbers, in two words of memory."""

import math
from typing import Final

#: The least relative step: the median follows a change by a factor e within 1 / this many numbers on one side of it.
_LEAST_STEP: Final = 0.01


class RollingMedian:
    """Stochastic approximation on a logarithmic scale: a number above moves the estimate up, one below down.

    The steps shrink like 1 / n to a constant, so that it is right soon and goes on following (Robbins & Monro 1951).
    """

    __slots__ = ("_seen", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._seen = 0

    def add(self, number: float) -> None:
        """Take in one number. What is not positive is passed over."""
        if not 0.0 < number < math.inf:
            return
        self._seen += 1
        if self._seen == 1:
            self.value = number
        elif number != self.value:
            step = math.exp(max(_LEAST_STEP, 1.0 / self._seen))
            moved = self.value * step if number > self.value else self.value / step
            # Never past the number itself: equal numbers have themselves for a median.
            self.value = min(moved, number) if number > self.value else max(moved, number)

    def adopt(self, other: "RollingMedian") -> None:
        """Go on where another one is."""
        self.value = other.value
        self._seen = other._seen
