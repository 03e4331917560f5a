"""One immutable runtime bundle: what a request started with is what it finishes with."""

from types import ModuleType

import msgspec

from fastroute.billing.cost import PriceCard
from fastroute.downstream.heads import HeadReader
from fastroute.failover.classify import Classifier
from fastroute.interfaces import DialectName
from fastroute.routing.table import RouteTable
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.transport import Transport


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """Everything a request needs to know. `cards` stands beside `endpoints`; None is an unknown price."""

    generation: int
    heads: HeadReader
    routes: RouteTable
    endpoints: tuple[Endpoint, ...]
    cards: tuple[PriceCard | None, ...]
    transports: tuple[Transport, ...]
    dialects: dict[DialectName, ModuleType]
    classifier: Classifier
    max_attempts: int
    total_ns: int
