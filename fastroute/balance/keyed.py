"""Key pools: which of a provider's keys to use, once a strategy has chosen the provider.

A provider's keys are endpoints, so the route's strategy chooses one of them. Where the provider has a key strategy,
what has been chosen is the provider, and the key strategy deals anew among those of its keys that every gate lets
through. In a pool that is nothing but one provider's keys there is nothing left for the route's strategy to choose.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastroute._core.candidates import Candidates
from fastroute.balance.base import BaseStrategy
from fastroute.balance.round_robin import RoundRobinStrategy
from fastroute.balance.time_window import LeastRecentlyUsed, TimeWindow
from fastroute.balance.weighted_round_robin import WeightedRoundRobin
from fastroute.interfaces import Ask, PoolInfo, Result, Strategy

_KEY_STRATEGIES: Final[dict[str, Callable[[PoolInfo], Strategy]]] = {
    "round_robin": RoundRobinStrategy,
    "time_window": LeastRecentlyUsed,
    "weighted": WeightedRoundRobin,
}


def keyed(route: Strategy, info: PoolInfo) -> Strategy:
    """Return a strategy that chooses as `route` does, and then among the keys of the provider it has chosen."""
    pools = info.key_pools
    if not pools:
        return route
    if pools[0].first == 0 and pools[0].end == len(info.rows):
        return OneKeyPool(info)
    learns = not getattr(type(route).observe, "does_nothing", False)
    return LearningKeyPools(info, route) if learns else KeyPools(info, route)


class OneKeyPool(BaseStrategy):
    """The keys of one provider, and nobody else."""

    route: Strategy | None = None

    def __init__(self, info: PoolInfo) -> None:
        super().__init__(info)
        [pool] = info.key_pools
        self.name = self.label = pool.strategy
        self.keys = [_KEY_STRATEGIES[pool.strategy](info)]
        self._pick = self.keys[0].pick

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self._pick(candidates, ask)

    def peek(self, candidates: Candidates, ask: Ask) -> int:
        """Return what `pick` would, without a claim."""
        return _peek(self.keys[0], candidates, ask)

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over where the keys' turns stood."""
        _adopt(self, previous, positions)


class KeyPools(BaseStrategy):
    """The keys of some providers, among endpoints of others. route: the strategy that chooses among all of them."""

    def __init__(self, info: PoolInfo, route: Strategy) -> None:
        super().__init__(info)
        self.route = route
        self.name = route.name
        self.reads_prompt = getattr(route, "reads_prompt", True)
        self.keys = [_KEY_STRATEGIES[pool.strategy](info) for pool in info.key_pools]
        # A route's claim must be of the key that is used in the end.
        self._claims = isinstance(route, TimeWindow)
        self._pool_of = [-1] * len(info.rows)
        for number, pool in enumerate(info.key_pools):
            self._pool_of[pool.first : pool.end] = [number] * (pool.end - pool.first)

    def pick(self, candidates: Candidates, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        position = _peek(self.route, candidates, ask) if self._claims else self.route.pick(candidates, ask)
        strategy = self._narrowed(candidates, position)
        if strategy is not None:
            position = strategy.pick(candidates, ask)
        if self._claims and not isinstance(strategy, TimeWindow):
            candidates.narrow(position, position + 1)
            position = self.route.pick(candidates, ask)
        return position

    def peek(self, candidates: Candidates, ask: Ask) -> int:
        """Return what `pick` would, without the claims of either strategy."""
        position = _peek(self.route, candidates, ask)
        strategy = self._narrowed(candidates, position)
        return position if strategy is None else _peek(strategy, candidates, ask)

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over what the route's strategy had learnt, and where the keys' turns stood."""
        before = getattr(previous, "route", previous)
        if before is not None:
            self.route.adopt(before, positions)
        _adopt(self, previous, positions)

    def _narrowed(self, candidates: Candidates, position: int) -> Strategy | None:
        """Leave only the siblings of a position; return the strategy to choose among them, None if it has none."""
        number = self._pool_of[position] if position >= 0 else -1
        if number < 0:
            return None
        pool = self._info.key_pools[number]
        candidates.narrow(pool.first, pool.end)
        return self.keys[number]


class LearningKeyPools(KeyPools):
    """The same over a strategy that learns: of the key that was chosen in the end."""

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Let the route's strategy learn how the attempt went."""
        self.route.observe(position, ask, result)


def _peek(strategy: Any, candidates: Candidates, ask: Ask) -> int:
    position: int = getattr(strategy, "peek", strategy.pick)(candidates, ask)
    return position


def _adopt(mine: OneKeyPool | KeyPools, previous: Any, positions: Sequence[int]) -> None:
    """Take over from the pools of the same provider and strategy."""
    if not isinstance(previous, OneKeyPool | KeyPools):
        return
    before = {
        (pool.provider, pool.strategy): strategy
        for pool, strategy in zip(previous._info.key_pools, previous.keys, strict=True)
    }
    for pool, strategy in zip(mine._info.key_pools, mine.keys, strict=True):
        if (pool.provider, pool.strategy) in before:
            strategy.adopt(before[pool.provider, pool.strategy], positions)
