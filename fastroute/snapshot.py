"""One immutable runtime bundle: what a request started with is what it finishes with."""

from types import ModuleType

import msgspec

from fastroute._core.attempts import Attempts
from fastroute.auth.path_tokens import Lanes
from fastroute.downstream.heads import HeadReader
from fastroute.failover.backoff import Backoff
from fastroute.failover.classify import Classifier
from fastroute.failover.hedge import Hedger
from fastroute.failover.retry_budget import RetryBudget
from fastroute.health.balancer import Balancer
from fastroute.health.channel import Channels
from fastroute.interfaces import DialectName
from fastroute.routing.plan import Planner
from fastroute.routing.table import RouteTable
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.transport import Transport


class Snapshot(msgspec.Struct, frozen=True):
    """Everything a request needs to know."""

    generation: int
    heads: HeadReader
    routes: RouteTable
    planner: Planner
    attempts: Attempts
    channels: Channels
    endpoints: tuple[Endpoint, ...]
    transports: dict[tuple[str, str, str, str, bool, int], Transport]
    dialects: dict[DialectName, ModuleType]
    classifier: Classifier
    retry_budget: RetryBudget
    backoff: Backoff
    hedger: Hedger | None
    max_attempts: int
    max_replicas: int
    total_ns: int
    health_weights: bool
    #: Of paths that begin with a token (`auth.path_tokens`): other snapshots, like this one but for what differs there.
    lanes: Lanes | None = None
    #: Answers for the key pools, in the snapshots of lanes.
    balancer: Balancer | None = None
