"""What is different for each tenant: its providers and their order, its models, its strategy, its price limit."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from fastroute.config.patterns import any_matches, is_pattern
from fastroute.config.references import DEFAULT_TENANT
from fastroute.config.schema import Config, Tenant

_PICO_PER_USD: Final = 1_000_000_000_000
_ORDER_LIMIT: Final = 255


class TenantPolicy(NamedTuple):
    """The overrides of one tenant; the defaults override nothing.

    order: a byte for each provider of the configuration: 0 not allowed, 1 tried first, and so on; None: all the same.
    models: names and patterns of the allowed ones, None for all. max_cost_pico: pico-USD per request, -1 for no limit.
    """

    order: bytes | None = None
    models: tuple[frozenset[str], tuple[str, ...]] | None = None
    strategy: str | None = None
    max_cost_pico: int = -1

    def may_use(self, model: str) -> bool:
        """Return whether the tenant may use the public model name."""
        if self.models is None:
            return True
        names, patterns = self.models
        return model in names or any_matches(patterns, model)


#: The tenant that nothing is said about.
UNRESTRICTED: Final = TenantPolicy()
#: The tenant that nobody knows, although others are known: it may use nothing.
UNKNOWN: Final = TenantPolicy(models=(frozenset(), ()))


class TenantTable(Mapping[str, TenantPolicy]):
    """Policies by tenant. Empty if none is configured; else a tenant that is not there has the policy UNKNOWN.

    `default`, the tenant of keys that name none, is always there.
    """

    def __init__(self, policies: Mapping[str, TenantPolicy]) -> None:
        self._policies = {DEFAULT_TENANT: UNRESTRICTED, **policies} if policies else {}

    def __getitem__(self, tenant: str) -> TenantPolicy:
        return self._policies.get(tenant, UNKNOWN if self._policies else UNRESTRICTED)

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)


def compile_tenants(config: Config, providers: Mapping[str, int]) -> TenantTable:
    """Return the policies of a checked configuration. providers: the place of each in an order."""
    return TenantTable({tenant.id: _policy(tenant, providers) for tenant in config.tenants})


def _policy(tenant: Tenant, providers: Mapping[str, int]) -> TenantPolicy:
    models = tenant.allowed_models
    cost = tenant.max_cost_per_request_usd
    return TenantPolicy(
        order=_order(tenant, providers),
        models=None
        if "*" in models
        else (
            frozenset(name for name in models if not is_pattern(name)),
            tuple(name for name in models if is_pattern(name)),
        ),
        strategy=tenant.strategy,
        max_cost_pico=-1 if cost is None else int(cost * _PICO_PER_USD),
    )


def _order(tenant: Tenant, providers: Mapping[str, int]) -> bytes | None:
    """Return the tenant's order: the preferred providers as they are listed, then the other allowed ones."""
    allowed = set(providers) if "*" in tenant.allowed_providers else set(tenant.allowed_providers)
    allowed -= set(tenant.denied_providers)
    if len(allowed) == len(providers) and not tenant.preferred_providers:
        return None
    rank = {name: place for place, name in enumerate(dict.fromkeys(tenant.preferred_providers), 1)}
    last = len(rank) + 1
    order = bytearray(len(providers))
    for name in allowed:
        order[providers[name]] = min(rank.get(name, last), _ORDER_LIMIT)
    return bytes(order)
