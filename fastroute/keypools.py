"""Keys out of the configuration: which have a row of their own, and which of a pool's endpoints are one provider's."""

from collections.abc import Sequence
from itertools import groupby

from fastroute._core._candidates_gates import NO_KEY
from fastroute._core.attempts import Attempts, Policy
from fastroute._core.counters import Segment
from fastroute.config.schema import Config, Provider, ProviderKey
from fastroute.health.provider_key import ProviderKeyState, key_policy
from fastroute.interfaces import KeyPool
from fastroute.upstream.endpoint import Endpoint


def key_specs(config: Config) -> list[tuple[Provider, ProviderKey]]:
    """Return the keys that have rows of their own: those of pools, and all of them where their status may be asked."""
    return [
        (provider, key)
        for provider in config.providers
        if provider.key_strategy is not None or config.auth.path_tokens
        for key in provider.keys
    ]


def breaker_policy(config: Config) -> Policy:
    """Return the policy of the breakers of endpoints."""
    breaker = config.routing.breaker
    return Policy(
        failure_threshold=breaker.failure_threshold,
        success_threshold=breaker.success_threshold,
        timeout_ms=breaker.timeout_ms,
        half_open_max_calls=breaker.half_open_max_calls,
        failure_rate=breaker.failure_rate,
        min_requests=breaker.min_requests,
        window_ms=breaker.window_ms,
        max_timeout_ms=max(breaker.timeout_ms, breaker.max_timeout_ms),
        slow_start_ms=breaker.slow_start_ms,
        decay_ms=config.routing.options.ewma_decay_ms,
    )


def key_states(
    config: Config, segment: Segment, rows: Sequence[int], policy: Policy
) -> dict[tuple[str, str], ProviderKeyState]:
    """Return the state of every key that has a row, by provider and key. policy: that of endpoints."""
    attempts = Attempts(segment, key_policy(policy))
    return {
        (provider.id, key.id): ProviderKeyState(segment, attempts, row)
        for row, (provider, key) in zip(rows, key_specs(config), strict=True)
    }


def key_rows(endpoints: Sequence[Endpoint]) -> list[int]:
    """Return the row of each endpoint's key, nothing if none has one."""
    if all(endpoint.key is None for endpoint in endpoints):
        return []
    return [endpoint.key.row if endpoint.key is not None else NO_KEY for endpoint in endpoints]


def key_pools(providers: Sequence[Provider]) -> tuple[KeyPool, ...]:
    """Return the key pools of a pool, by the provider of each of its endpoints. A provider's stand side by side."""
    pools: list[KeyPool] = []
    place = 0
    for _, group in groupby(providers, lambda provider: provider.id):
        mine = list(group)
        if mine[0].key_strategy is not None:
            pools.append(KeyPool(mine[0].id, place, place + len(mine), mine[0].key_strategy))
        place += len(mine)
    return tuple(pools)
