"""When a second attempt may be sent while the first has not begun to answer (Dean and Barroso, The Tail at Scale).

The delay is the 95th percentile of the time to the first token, so that about one request in twenty is a candidate; the
caps bound what that may come to.
"""

import math
from collections import deque
from typing import Final

from fastroute.config.schema import Hedge
from fastroute.failover.retry_budget import RetryBudget

QUANTILE: Final = 0.95
#: Prompts up to this many tokens, and longer ones, are told apart: the time to the first token grows with the prompt.
BUCKETS: Final = (1_000, 10_000, 100_000)
#: A percentile of fewer samples than this is not worth acting on.
MIN_SAMPLES: Final = 40
_STEP: Final = 0.05
_BUDGET_TTL_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_NANO: Final = 10**9


class Percentile:
    """A running estimate of a quantile of positive values, in constant space.

    Each sample moves the estimate's logarithm up by `QUANTILE` steps or down by `1 - QUANTILE` (stochastic
    approximation: Robbins and Monro 1951); it follows a change, and forgets at the pace of the samples.
    """

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0

    def add(self, sample: float) -> None:
        """Note a sample; one that is not positive is none."""
        if sample <= 0.0:
            return
        self.count += 1
        if self.count == 1:
            self.value = sample
            return
        # Long steps at first, to get to where the values are.
        step = max(_STEP, 1.0 / self.count)
        self.value *= math.exp(step * (QUANTILE if sample > self.value else QUANTILE - 1.0))


class Hedger:
    """One worker's share of the hedging that all workers may do."""

    def __init__(self, config: Hedge, workers: int) -> None:
        self.config = config
        self._delay_ms = config.delay_ms
        self._budget = RetryBudget(config.max_percent, 0.0, _BUDGET_TTL_MS)
        self._limit_nano = int(config.max_usd_per_hour * _NANO) // workers
        self._spent: deque[tuple[int, int]] = deque()
        self._sum_nano = 0
        self._percentiles: dict[tuple[str, int], Percentile] = {}

    def request(self, now_ms: int) -> None:
        """Note a request: hedges are a share of them."""
        self._budget.deposit(now_ms)

    def observe(self, model: str, prompt_tokens: int, ttft_ms: float) -> None:
        """Note the time to the first token of an attempt. `model` is a route's name: one of the configuration's."""
        key = (model, _bucket(prompt_tokens))
        percentile = self._percentiles.get(key)
        if percentile is None:
            percentile = self._percentiles[key] = Percentile()
        percentile.add(ttft_ms)

    def delay_ms(self, model: str, prompt_tokens: int) -> float:
        """Return how long to wait before a second attempt; infinity while nobody knows."""
        if self._delay_ms:
            return float(self._delay_ms)
        percentile = self._percentiles.get((model, _bucket(prompt_tokens)))
        if percentile is None or percentile.count < MIN_SAMPLES:
            return math.inf
        return percentile.value

    def allow(self, nano_usd: int, now_ms: int) -> bool:
        """Whether one more hedge, whose loser is expected to cost this much, is within both caps; takes it out of them.

        A negative cost is an unknown one, which no ceiling lets through.
        """
        while self._spent and now_ms - self._spent[0][0] >= _HOUR_MS:
            self._sum_nano -= self._spent.popleft()[1]
        if nano_usd < 0 or self._sum_nano + nano_usd > self._limit_nano or not self._budget.withdraw(now_ms):
            return False
        if nano_usd:
            self._spent.append((now_ms, nano_usd))
            self._sum_nano += nano_usd
        return True


def _bucket(prompt_tokens: int) -> int:
    return sum(prompt_tokens > bound for bound in BUCKETS)
