"""The one converter from configuration to runtime objects."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from fastroute._core.adaptive import Adaptive
from fastroute._core.attempts import Attempts
from fastroute._core.candidates import Candidates
from fastroute._core.counters import Segment
from fastroute._core.limits import Limiter
from fastroute.auth.keys import ANONYMOUS, KeyTable, digest, model_pattern
from fastroute.auth.published import PublishedKeys
from fastroute.balance.keyed import keyed
from fastroute.balance.registry import find_strategy
from fastroute.billing.cost import PriceCard
from fastroute.clock import Clock
from fastroute.config.patterns import is_pattern, matches
from fastroute.config.schema import ApiKey, Auth, Capabilities, Config, Model, Price, Provider, ProviderKey
from fastroute.dialects import anthropic, gemini, openai
from fastroute.downstream.heads import HeadReader
from fastroute.downstream.request import read_asked
from fastroute.failover.backoff import Backoff
from fastroute.failover.chain import steps
from fastroute.failover.classify import Classifier
from fastroute.failover.hedge import Hedger
from fastroute.failover.retry_budget import RetryBudget
from fastroute.health.channel import Channels
from fastroute.health.channel_rows import channels_of
from fastroute.health.provider_key import ProviderKeyState
from fastroute.health.window import answered_since
from fastroute.interfaces import Authenticator, DialectName, Header, PoolInfo, Principal, Strategy
from fastroute.keylanes import build_balancer, build_lanes
from fastroute.keypools import breaker_policy, key_pools, key_rows, key_specs, key_states
from fastroute.limits.adaptive import build_adaptive
from fastroute.limits.callers import LimitBook
from fastroute.outgoing import Outbox
from fastroute.routing.plan import CAPABILITY_STREAM, CAPABILITY_TOOLS, CAPABILITY_VISION, Planner
from fastroute.routing.pool import Pool
from fastroute.routing.rules import RuleTable, compile_rules
from fastroute.routing.table import Route, RouteTable
from fastroute.routing.tally import Counts
from fastroute.routing.tenants import compile_tenants
from fastroute.rows import Identity
from fastroute.snapshot import Snapshot
from fastroute.transports import build_transports, transport_key
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.headers import OUR_FIELDS, REQUEST_DROP
from fastroute.upstream.transport import Transport

DIALECTS: Final[dict[DialectName, ModuleType]] = {"openai": openai, "anthropic": anthropic, "gemini": gemini}

#: The echo provider speaks all dialects.
_ALL: Final[tuple[DialectName, ...]] = ("openai", "anthropic", "gemini")


class Surroundings(NamedTuple):
    """What a snapshot is built into: one worker's loop, segment, clock, randomness, environment, counts of rules.

    limiter: by which callers, models and provider keys keep to their ceilings; None where nobody is let in.
    keys: those made at run time. outbox: of the loop.
    """

    loop: asyncio.AbstractEventLoop
    segment: Segment
    clock: Clock
    random_bits: Callable[[], int]
    env: Mapping[str, str]
    rule_counts: Counts | None = None
    limiter: Limiter | None = None
    keys: PublishedKeys | None = None
    outbox: Outbox | None = None


class Spec(NamedTuple):
    """One endpoint as the configuration describes it."""

    provider: Provider
    key: ProviderKey | None
    model: Model
    dialect: DialectName


def endpoint_specs(config: Config) -> list[Spec]:
    """Return every endpoint of the configuration, in its order."""
    return [
        Spec(provider, key, model, dialect)
        for provider in config.providers
        for dialect in (_ALL if provider.type == "echo" else (provider.dialect or "openai",))
        for key in (provider.keys or (None,))
        for model in provider.models
    ]


def identities(config: Config) -> list[Identity]:
    """Return what tells the endpoints of a configuration apart, in the order of `endpoint_specs`, then its keys."""
    endpoints = [
        (spec.provider.id, spec.key.id if spec.key is not None else "", spec.model.name, spec.dialect)
        for spec in endpoint_specs(config)
    ]
    return endpoints + [(provider.id, key.id, "", "") for provider, key in key_specs(config)]


def build_snapshot(
    config: Config,
    around: Surroundings,
    generation: int = 1,
    *,
    rows: Sequence[int] | None = None,
    rule_slots: Sequence[int] | None = None,
    previous: Snapshot | None = None,
) -> Snapshot:
    """Return the runtime bundle of a checked configuration.

    rows: of its endpoints in the segment; None for the order of the configuration. rule_slots: of its rules in the
    counts of `around`, if it has them. previous: the snapshot that this one is to replace; connections, and what has
    been learnt, are carried over.
    """
    specs = endpoint_specs(config)
    if rows is None:
        rows = range(len(identities(config)))
    keys = key_states(config, around.segment, rows[len(specs) :], breaker_policy(config))
    old = previous.transports if previous is not None else {}
    transports = build_transports(config.providers, around.loop, around.clock, around.env, old, around.outbox)
    book = LimitBook(config, around.limiter) if around.limiter is not None else None
    endpoints = tuple(
        _endpoint(row, spec, transports[transport_key(spec.provider)], config, book, keys.get(_key_name(spec)))
        for row, spec in zip(rows[: len(specs)], specs, strict=True)
    )
    providers = [spec.provider for spec in specs]
    adaptive = build_adaptive(around.segment, zip(rows[: len(specs)], providers, strict=True))
    routes = _Routes(config, specs, endpoints, around, book, adaptive).table()
    planner = _planner(config, routes, compile_rules(config, routes.names, rule_slots, around.rule_counts))
    if previous is not None:
        _adopt(planner, previous.planner)
    retry = config.routing.retry
    attempts = build_attempts(config, around.segment, adaptive)
    snapshot = Snapshot(
        generation=generation,
        heads=_heads(config, build_keys(config.auth, around, book)),
        routes=routes,
        planner=planner,
        attempts=attempts,
        channels=Channels(
            around.segment,
            channels_of(specs, rows[: len(specs)]),
            attempts.health,
            answered_since(around.segment, attempts.policy.window_ms),
            several=_several_callers(config.auth, around),
        ),
        endpoints=endpoints,
        transports=transports,
        dialects=DIALECTS,
        classifier=Classifier(frozenset(retry.on_status), retry.max_retry_after_ms),
        retry_budget=_retry_budget(config, previous),
        backoff=Backoff(retry.backoff),
        hedger=_hedger(config, previous),
        max_attempts=retry.max_attempts,
        max_replicas=retry.max_replicas,
        total_ns=config.routing.timeouts.total_ms * 1_000_000,
        health_weights=config.routing.options.health_weights,
    )
    if not config.auth.path_tokens:
        return snapshot
    firsts = [at for at, spec in enumerate(specs) if spec.key is None or spec.key is spec.provider.keys[0]]
    some = [specs[at] for at in firsts], tuple(endpoints[at] for at in firsts)
    alone = _planner(config, _Routes(config, *some, around, book, adaptive).table(), planner.rules)
    balancer = build_balancer(config, snapshot, around.clock.monotonic_ns)
    return msgspec.structs.replace(
        snapshot,
        lanes=build_lanes(
            config.auth.path_tokens,
            msgspec.structs.replace(snapshot, routes=alone.routes, planner=alone),
            msgspec.structs.replace(snapshot, balancer=balancer),
            lambda caller: _heads(config, caller),
            lambda key_id, tenant: book.caller(key_id, tenant, None) if book is not None else None,
        ),
    )


def _heads(config: Config, keys: Authenticator) -> HeadReader:
    limits = config.server.limits
    return HeadReader(keys, REQUEST_DROP, OUR_FIELDS, limits.max_headers, limits.max_header_bytes)


def build_attempts(config: Config, segment: Segment, adaptive: Adaptive | None = None) -> Attempts:
    """Return the admission to endpoints, by the breaker of the configuration. adaptive: learns from every attempt."""
    return Attempts(segment, breaker_policy(config), adaptive)


def _key_name(spec: Spec) -> tuple[str, str]:
    return spec.provider.id, spec.key.id if spec.key is not None else ""


def _planner(config: Config, routes: RouteTable, rules: RuleTable) -> Planner:
    providers = provider_numbers(config)
    breaker = config.routing.breaker
    return Planner(
        routes,
        rules,
        compile_tenants(config, providers),
        providers,
        region_numbers(config),
        panic_percent=breaker.panic_percent,
        panic_min=breaker.panic_min_endpoints,
        slow_start_ms=breaker.slow_start_ms,
        read_asked=read_asked,
    )


def build_keys(auth: Auth, around: Surroundings, book: LimitBook | None = None) -> KeyTable:
    """Return the table of virtual keys, those of the configuration and those made at run time: digests only.

    book: their ceilings.
    """

    def principal(key: ApiKey, until_ns: int = 0) -> Principal:
        limits = book.caller(key.id, key.tenant, key.limits) if book is not None else None
        return Principal(key.id, key.tenant, model_pattern(key.models), limits, until_ns)

    principals: dict[bytes, Principal] = {}
    for key in auth.keys:
        known = digest(key.key.reveal().encode()) if key.key else bytes.fromhex(key.key_sha256 or "")
        principals[known] = principal(key)
    nobody = ANONYMOUS
    if book is not None and not principals:
        nobody = Principal(nobody.key_id, nobody.tenant, None, book.caller(nobody.key_id, nobody.tenant, None))
    closed = bool(auth.path_tokens)
    return KeyTable(
        principals, nobody, around.keys, lambda stored: principal(*stored), around.clock.wall_ns, closed=closed
    )


def _several_callers(auth: Auth, around: Surroundings) -> Callable[[], bool]:
    """Return what tells whether there may be more than one caller. Of virtual keys it is assumed that there are."""
    known, stored = len(auth.keys) + len(auth.path_tokens), around.keys
    return lambda: known > 1 or (stored is not None and stored.closed)


def _adopt(planner: Planner, previous: Planner) -> None:
    """Take over what the planner that is replaced has learnt."""
    before = previous.routes.pools
    for name, pool in planner.routes.pools.items():
        if name in before:
            pool.adopt(before[name])


def _retry_budget(config: Config, previous: Snapshot | None) -> RetryBudget:
    """Return this worker's share of what all workers may retry; one of the same size goes on as it stands."""
    budget = config.routing.retry.budget
    fresh = RetryBudget(budget.percent, budget.min_per_s / config.server.workers, budget.ttl_ms)
    return previous.retry_budget if previous is not None and previous.retry_budget.like(fresh) else fresh


def _hedger(config: Config, previous: Snapshot | None) -> Hedger | None:
    """Return this worker's share of the hedging; what one of the same parameters has learnt and spent is kept."""
    hedge = config.routing.retry.hedge
    if not hedge.enabled:
        return None
    if previous is not None and previous.hedger is not None and previous.hedger.config == hedge:
        return previous.hedger
    return Hedger(hedge, config.server.workers)


def _endpoint(
    index: int,
    spec: Spec,
    transport: Transport,
    config: Config,
    book: LimitBook | None,
    key_state: ProviderKeyState | None,
) -> Endpoint:
    provider, key, model, dialect_name = spec
    dialect = DIALECTS[dialect_name]
    url = urlsplit(provider.base_url)
    fixed: list[Header] = [(b"accept-encoding", b"identity")]
    if key is not None:
        fixed += dialect.auth_headers(key.key.reveal())
    fixed += [(name.lower().encode(), value.reveal().encode()) for name, value in provider.headers.items()]
    set_already = {name for name, _ in fixed}
    return Endpoint(
        index=index,
        provider=provider.id,
        key_id=key.id if key is not None else "none",
        model=model.name,
        upstream_model=model.upstream or "",
        weight=provider.weight * model.weight * (key.weight if key is not None else 1),
        dialect=dialect,
        authority=url.netloc.encode(),
        base_path=url.path.rstrip("/").encode(),
        fixed=fixed,
        default_headers=tuple(pair for pair in getattr(dialect, "DEFAULT_HEADERS", ()) if pair[0] not in set_already),
        include_usage=bool(provider.include_usage),
        timeouts=provider.timeouts or config.routing.timeouts,
        transport=transport,
        card=_card(model.price),
        limits=book.provider_key(provider.id, key) if book is not None else None,
        key=key_state,
        secret=key.key.reveal().encode() if key is not None else b"",
    )


def _card(price: Price | None) -> PriceCard | None:
    """Return the price card of a model; None while its price is unknown."""
    if price is None or price.input_usd_per_mtok is None:
        return None
    return PriceCard.from_usd_per_mtok(
        input=price.input_usd_per_mtok,
        output=price.output_usd_per_mtok,
        cached_input=price.cached_input_usd_per_mtok,
        cache_write=price.cache_write_usd_per_mtok,
        cache_write_1h=price.cache_write_1h_usd_per_mtok,
        reasoning=price.reasoning_usd_per_mtok,
        input_audio=price.audio_input_usd_per_mtok,
        output_audio=price.audio_output_usd_per_mtok,
    )


class _Routes:
    """Turns models, routes and aliases into the route table."""

    def __init__(
        self,
        config: Config,
        specs: list[Spec],
        endpoints: tuple[Endpoint, ...],
        around: Surroundings,
        book: LimitBook | None,
        adaptive: Adaptive | None,
    ) -> None:
        self._book = book
        self._config = config
        self._specs = specs
        self._endpoints = endpoints
        self._around = around
        self._adaptive = adaptive
        self._by_route = {route.model: route for route in config.routes}
        self._providers = provider_numbers(config)
        self._regions = region_numbers(config)

    def table(self) -> RouteTable:
        names = list(dict.fromkeys(spec.model.name for spec in self._specs))
        names += [name for name in self._by_route if name not in names]
        exact = {name: self._route(name, name) for name in names if not is_pattern(name)}
        for name in self._config.limits.models:
            # One that only a pattern lists is limited by itself, not together with the others.
            if name not in exact and not is_pattern(name):
                exact[name] = self._route(self._glob_of(name), name)
        globs = [(name, self._route(name, "")) for name in names if is_pattern(name)]
        for alias in self._config.aliases:
            target = self._target(alias)
            exact[alias] = exact[target] if target in exact else self._route(self._glob_of(target), target)
        return RouteTable(exact, globs)

    def _target(self, alias: str) -> str:
        """Follow aliases to the model they stand for. Cycles were refused when the configuration was read."""
        name = alias
        while name in self._config.aliases:
            name = self._config.aliases[name]
        return name

    def _glob_of(self, name: str) -> str:
        for spec in self._specs:
            if is_pattern(spec.model.name) and matches(spec.model.name, name):
                return spec.model.name
        return name

    def _route(self, listed: str, name: str) -> Route:
        """Return the route of a model listed as `listed` and called `name` ("" where the client's name stays)."""
        wanted = self._by_route.get(listed)
        strategy = self._config.routing.strategy
        limits = self._book.model(name or listed) if self._book is not None else None
        if wanted is None:
            return Route(name, strategy, self._pools(listed, None), limits=limits)
        pools = self._pools(listed, wanted.tiers)
        chains = steps(wanted.fallbacks), steps(wanted.on_context_window), steps(wanted.on_content_policy)
        named = any(step.providers for chain in chains for step in chain)
        reserves = self._pools(listed, None) if named and wanted.tiers is not None else None
        return Route(name, wanted.strategy or strategy, pools, *chains, reserves, limits)

    def _pools(self, listed: str, tiers: tuple[tuple[str, ...], ...] | None) -> dict[DialectName, Pool]:
        """Return the pools of a model by dialect; nothing for one that nobody serves it in."""
        found = {dialect: self._pool(listed, dialect, tiers) for dialect in _ALL}
        return {dialect: pool for dialect, pool in found.items() if pool is not None}

    def _pool(self, listed: str, dialect: DialectName, tiers: tuple[tuple[str, ...], ...] | None) -> Pool | None:
        """Return the pool of a model in one dialect, None if nobody serves it there."""
        ranks = {provider: rank for rank, tier in enumerate(tiers) for provider in tier} if tiers is not None else None
        places = [
            at
            for at, spec in enumerate(self._specs)
            if spec.dialect == dialect
            and self._serves(spec.model.name, listed)
            and (ranks is None or spec.provider.id in ranks)
        ]
        if not places:
            return None
        specs = [self._specs[at] for at in places]
        endpoints = tuple(self._endpoints[at] for at in places)
        rows = tuple(endpoint.index for endpoint in endpoints)
        weights = tuple(float(endpoint.weight) for endpoint in endpoints)
        candidates = Candidates(
            self._around.segment,
            rows,
            weights,
            ranks=[ranks[spec.provider.id] if ranks is not None else 0 for spec in specs],
            providers=[self._providers[spec.provider.id] for spec in specs],
            regions=[self._regions.get(spec.provider.region, 0) for spec in specs],
            capabilities=[_capabilities(spec.model) for spec in specs],
            context_windows=[spec.model.context_window or 0 for spec in specs],
            max_outputs=[spec.model.max_output_tokens or 0 for spec in specs],
            input_prices=[_price(endpoint.card, "input") for endpoint in endpoints],
            output_prices=[_price(endpoint.card, "output") for endpoint in endpoints],
            key_rows=key_rows(endpoints),
            half_open_max_calls=self._config.routing.breaker.half_open_max_calls,
            adaptive=self._adaptive,
        )
        info = PoolInfo(
            self._around.segment,
            rows,
            weights,
            tuple(endpoint.id for endpoint in endpoints),
            tuple(_prices(endpoint.card) for endpoint in endpoints),
            self._around.random_bits,
            self._config.routing.options,
            self._config.routing.breaker.window_ms,
            key_pools([spec.provider for spec in specs]),
        )
        models = [spec.model for spec in specs]
        return Pool(
            listed,
            dialect,
            endpoints,
            candidates,
            info,
            _make_strategy,
            limited=any(m.context_window or m.max_output_tokens or m.capabilities != Capabilities() for m in models),
            blind=any(not m.capabilities.vision for m in models),
        )

    def _serves(self, model: str, listed: str) -> bool:
        if model == listed:
            return True
        return listed in self._by_route and is_pattern(model) and matches(model, listed)


def provider_numbers(config: Config) -> dict[str, int]:
    """Return the place of each provider in the orders that rules and tenants are compiled to."""
    return {provider.id: number for number, provider in enumerate(config.providers)}


def region_numbers(config: Config) -> dict[str, int]:
    """Return a bit for each region that a provider is in; bit 0 is no region."""
    regions = dict.fromkeys(provider.region for provider in config.providers if provider.region)
    return {region: number for number, region in enumerate(regions, 1)}


def _capabilities(model: Model) -> int:
    can = model.capabilities
    return can.stream * CAPABILITY_STREAM | can.tools * CAPABILITY_TOOLS | can.vision * CAPABILITY_VISION


def _price(card: PriceCard | None, part: str) -> int:
    """Return a price in pico-USD per token, -1 if it is unknown."""
    price = getattr(card, part) if card is not None else None
    return -1 if price is None else int(price)


def _prices(card: PriceCard | None) -> tuple[int, int, int] | None:
    if card is None or card.output is None:
        return None
    return card.input, card.cache_read, card.output


def _make_strategy(name: str, info: PoolInfo) -> Strategy:
    return keyed(find_strategy(name)(info), info)
