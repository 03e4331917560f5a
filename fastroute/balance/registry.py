"""Strategies by name. A third party adds one by the entry point group ``fastroute.strategies``."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points

from fastroute.balance.adaptive import Adaptive
from fastroute.balance.consistent_hash import ConsistentHash
from fastroute.balance.cost_optimized import CostOptimized
from fastroute.balance.guarded import Guarded
from fastroute.balance.least_connections import LeastConnections
from fastroute.balance.least_latency import LeastLatency
from fastroute.balance.p2c import PowerOfTwoChoices
from fastroute.balance.prefix import Prefix
from fastroute.balance.round_robin import RoundRobinStrategy
from fastroute.balance.time_window import TimeWindow
from fastroute.balance.weighted_random import WeightedRandom
from fastroute.balance.weighted_round_robin import WeightedRoundRobin
from fastroute.interfaces import PoolInfo, Strategy

ENTRY_POINT_GROUP = "fastroute.strategies"

Factory = Callable[[PoolInfo], Strategy]

BUILT_IN: dict[str, Factory] = {
    "p2c": PowerOfTwoChoices,
    "round_robin": RoundRobinStrategy,
    "weighted_round_robin": WeightedRoundRobin,
    "least_connections": LeastConnections,
    "least_latency": LeastLatency,
    "cost_optimized": CostOptimized,
    "adaptive": Adaptive,
    "random": WeightedRandom,
    "time_window": TimeWindow,
    "consistent_hash": ConsistentHash,
    "prefix": Prefix,
}


def find_strategy(name: str) -> Factory:
    """Return the factory of a strategy, guarded if it is not ours. Raises KeyError for an unregistered name."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return partial(Guarded, name, point.load)
    raise KeyError(name)
