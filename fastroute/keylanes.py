"""Paths that begin with a token, out of the configuration: who comes by them, and what is told of the keys there."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fastroute._core.candidates import Candidates
from fastroute.auth.keys import digest
from fastroute.auth.path_tokens import Lane, Lanes, PathCaller
from fastroute.config.schema import Config, path_token_id
from fastroute.config.secret import Secret
from fastroute.downstream.heads import HeadReader
from fastroute.health.balancer import Balancer, PooledKey, mask
from fastroute.interfaces import Authenticator, Principal
from fastroute.keypools import key_specs
from fastroute.snapshot import Snapshot

#: What is said of the strategy where providers have several.
MIXED = "mixed"


def build_lanes(
    tokens: Sequence[Secret],
    single: Snapshot,
    pooled: Snapshot,
    heads: Callable[[Authenticator], HeadReader],
    ceilings: Callable[[str, str], Any],
) -> Lanes:
    """Return the lanes of the tokens. heads: a reader for a caller. ceilings: of a key id and tenant, or None.

    Callers are called path-token-1, path-token-2, ... in logs and ledger, by their tokens' places.
    """
    lanes: dict[bytes, Lane] = {}
    for at, token in enumerate(tokens):
        key_id, tenant = path_token_id(at), "default"
        reader = heads(PathCaller(Principal(key_id, tenant, None, ceilings(key_id, tenant))))
        lanes[digest(token.reveal().encode())] = Lane(
            msgspec.structs.replace(single, heads=reader), msgspec.structs.replace(pooled, heads=reader)
        )
    return Lanes(lanes)


def build_balancer(config: Config, snapshot: Snapshot, monotonic_ns: Callable[[], int]) -> Balancer:
    """Return what answers for all keys of the snapshot."""
    places: dict[int, list[tuple[Candidates, int]]] = {}
    states = {(one.provider, one.key_id): one.key for one in snapshot.endpoints}
    for pool in snapshot.routes.pools.values():
        for position, endpoint in enumerate(pool.endpoints):
            if endpoint.key is not None:
                places.setdefault(endpoint.key.row, []).append((pool.candidates, position))
    keys = [
        PooledKey(
            mask(key.key.reveal(), f"{provider.id}/{key.id}"),
            provider.id,
            key.weight,
            states[provider.id, key.id],
            tuple(places.get(states[provider.id, key.id].row, ())),
        )
        for provider, key in key_specs(config)
    ]
    pools = [provider for provider in config.providers if provider.keys]
    strategies = {provider.key_strategy or config.routing.strategy for provider in pools}
    strategy = strategies.pop() if len(strategies) == 1 else MIXED if strategies else config.routing.strategy
    window_ms = max((provider.key_window_ms for provider in pools), default=0)
    return Balancer(keys, snapshot.attempts, strategy, window_ms, monotonic_ns)
