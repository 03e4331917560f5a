"""How many retries there may be in all, so that a struggling provider does not get its failures multiplied.

A leaky bucket over a sliding window (twitter/finagle RetryBudget.scala): each request deposits, each retry withdraws
what 100 / percent requests deposit, and a reserve keeps retries possible at low traffic.
"""

from typing import Final

#: The window is kept in this many slots; one at a time falls out of it.
SLOTS: Final = 10
_DEPOSIT: Final = 1000


class RetryBudget:
    """One worker's share. percent: of the requests of the last `ttl_ms`. min_per_s: retries per second on top."""

    def __init__(self, percent: float, min_per_s: float, ttl_ms: int) -> None:
        self._size = (percent, min_per_s, ttl_ms)
        self._price = int(_DEPOSIT * 100 / percent) if percent > 0 else 0
        self._slot_ms = max(1, ttl_ms // SLOTS)
        # Without a share of requests to spend, a retry costs one unit of the reserve alone.
        self._cost = self._price or _DEPOSIT
        # A worker's share of a small reserve rounds to nothing; then not even the only request could be tried again.
        self._reserve = max(int(min_per_s * ttl_ms / 1000), min_per_s > 0) * self._cost
        self._share = _DEPOSIT if self._price else 0
        self._slots = [0] * SLOTS
        self._sum = 0
        # The slot under way: its number, when it ends, and what requests have deposited in it so far.
        self._epoch = 0
        self._ends_ms = 0
        self._new = 0

    def like(self, other: "RetryBudget") -> bool:
        """Whether the other one was made with the same parameters."""
        return self._size == other._size

    def deposit(self, now_ms: int) -> None:
        """Note a request."""
        if now_ms >= self._ends_ms:
            self._advance(now_ms)
        self._new += self._share

    def withdraw(self, now_ms: int) -> bool:
        """Take one retry out; False if there is none."""
        self._advance(now_ms)
        if self._sum + self._reserve < self._cost:
            return False
        self._slots[self._epoch % SLOTS] -= self._cost
        self._sum -= self._cost
        return True

    def balance(self, now_ms: int) -> int:
        """Return how many retries there are now."""
        self._advance(now_ms)
        return max(0, (self._sum + self._reserve) // self._cost)

    def _advance(self, now_ms: int) -> None:
        """Count what is new, and let the slots go that have left the window. A clock that went back moves nothing."""
        self._slots[self._epoch % SLOTS] += self._new
        self._sum += self._new
        self._new = 0
        epoch = now_ms // self._slot_ms
        steps = epoch - self._epoch
        if steps <= 0:
            return
        for step in range(1, min(steps, SLOTS) + 1):
            at = (self._epoch + step) % SLOTS
            self._sum -= self._slots[at]
            self._slots[at] = 0
        self._epoch = epoch
        self._ends_ms = (epoch + 1) * self._slot_ms
