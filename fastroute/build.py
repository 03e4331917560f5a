"""The one converter from configuration to runtime objects."""

import asyncio
import importlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from fastroute._core._h1_errors import READ_BUFFER_BYTES
from fastroute._core.counters import Segment
from fastroute.auth.keys import KeyTable, digest, model_pattern
from fastroute.balance.registry import find_strategy
from fastroute.billing.cost import PriceCard
from fastroute.clock import Clock
from fastroute.config.patterns import is_pattern, matches
from fastroute.config.schema import Auth, Config, Model, Price, Provider, ProviderKey
from fastroute.dialects import anthropic, gemini, openai
from fastroute.downstream.heads import HeadReader
from fastroute.failover.classify import Classifier
from fastroute.interfaces import DialectName, Header, Principal, Strategy
from fastroute.routing.table import Route, RouteTable, Tier
from fastroute.snapshot import Snapshot
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.headers import OUR_FIELDS, REQUEST_DROP
from fastroute.upstream.pool import Origin, Pool
from fastroute.upstream.tls import client_context
from fastroute.upstream.transport import FastTransport, Transport
from fastroute.upstream.transport_echo import EchoTransport

DIALECTS: Final[dict[DialectName, ModuleType]] = {"openai": openai, "anthropic": anthropic, "gemini": gemini}

#: The echo provider speaks all dialects.
_ALL: Final[tuple[DialectName, ...]] = ("openai", "anthropic", "gemini")

#: Used when a strategy of the configuration is not in this version; `serve` has said so.
_DEFAULT_STRATEGY: Final = "p2c"


class Surroundings(NamedTuple):
    """What a snapshot is built into: one worker's loop, segment, clock, randomness and environment."""

    loop: asyncio.AbstractEventLoop
    segment: Segment
    clock: Clock
    random_bits: Callable[[], int]
    env: Mapping[str, str]


class Spec(NamedTuple):
    """One endpoint as the configuration describes it."""

    provider: Provider
    key: ProviderKey | None
    model: Model
    dialect: DialectName


def endpoint_specs(config: Config) -> list[Spec]:
    """Return every endpoint of the configuration, in its order; their number is that of the segment's rows."""
    return [
        Spec(provider, key, model, dialect)
        for provider in config.providers
        for dialect in (_ALL if provider.type == "echo" else (provider.dialect or "openai",))
        for key in (provider.keys or (None,))
        for model in provider.models
    ]


def build_snapshot(config: Config, around: Surroundings, generation: int = 1) -> Snapshot:
    """Return the runtime bundle of a checked configuration."""
    transports = {provider.id: transport for provider, transport in _transports(config, around)}
    specs = endpoint_specs(config)
    endpoints = tuple(_endpoint(index, spec, transports[spec.provider.id], config) for index, spec in enumerate(specs))
    return Snapshot(
        generation=generation,
        heads=HeadReader(
            build_keys(config.auth),
            REQUEST_DROP,
            OUR_FIELDS,
            config.server.limits.max_headers,
            config.server.limits.max_header_bytes,
        ),
        routes=_Routes(config, specs, endpoints, around).table(),
        endpoints=endpoints,
        cards=tuple(_card(spec.model.price) for spec in specs),
        transports=tuple(transports.values()),
        dialects=DIALECTS,
        classifier=Classifier(frozenset(config.routing.retry.on_status)),
        max_attempts=config.routing.retry.max_attempts,
        total_ns=config.routing.timeouts.total_ms * 1_000_000,
    )


def build_keys(auth: Auth) -> KeyTable:
    """Return the table of virtual keys: digests only."""
    principals: dict[bytes, Principal] = {}
    for key in auth.keys:
        known = digest(key.key.reveal().encode()) if key.key else bytes.fromhex(key.key_sha256 or "")
        principals[known] = Principal(key.id, key.tenant, model_pattern(key.models))
    return KeyTable(principals)


def _transports(config: Config, around: Surroundings) -> Iterable[tuple[Provider, Transport]]:
    """Yield one transport for each provider. All connections of the loop share one read buffer."""
    buffer = bytearray(READ_BUFFER_BYTES)
    tls = client_context(around.env)
    for provider in config.providers:
        if provider.type == "echo":
            yield provider, EchoTransport(around.clock.wall_ns)
            continue
        url = urlsplit(provider.base_url)
        context = tls if url.scheme == "https" else None
        if provider.transport == "httpx":
            # Imported only where it is chosen: it costs every worker several megabytes.
            module = importlib.import_module("fastroute.upstream.transport_httpx")
            base = f"{url.scheme}://{url.netloc}"
            yield (
                provider,
                module.HttpxTransport(base, tls, http2=provider.http2, max_connections=provider.max_connections),
            )
            continue
        origin = Origin(url.hostname or "", url.port or (443 if context else 80), context)
        pool = Pool(around.loop, origin, buffer, around.clock.monotonic_ns, provider.max_connections)
        yield provider, FastTransport(pool, around.clock.monotonic_ns)


def _endpoint(index: int, spec: Spec, transport: Transport, config: Config) -> Endpoint:
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
        self, config: Config, specs: list[Spec], endpoints: tuple[Endpoint, ...], around: Surroundings
    ) -> None:
        self._config = config
        self._specs = specs
        self._around = around
        self._weights = [endpoint.weight for endpoint in endpoints]
        self._by_route = {route.model: route for route in config.routes}

    def table(self) -> RouteTable:
        names = list(dict.fromkeys(spec.model.name for spec in self._specs))
        names += [name for name in self._by_route if name not in names]
        exact = {name: self._route(name, name) for name in names if not is_pattern(name)}
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
        strategy_name = (wanted.strategy if wanted else None) or self._config.routing.strategy
        tiers: dict[DialectName, tuple[Tier, ...]] = {}
        for dialect in _ALL:
            groups = self._groups(listed, dialect, wanted.tiers if wanted else None)
            if groups:
                tiers[dialect] = tuple(Tier(group, self._strategy(strategy_name)) for group in groups)
        return Route(name, self._strategy(strategy_name).name, tiers)

    def _groups(
        self, listed: str, dialect: DialectName, tiers: tuple[tuple[str, ...], ...] | None
    ) -> list[tuple[int, ...]]:
        """Return endpoint positions per tier; endpoints of weight 0 are draining and get nothing."""
        serving = [
            (position, spec.provider.id)
            for position, spec in enumerate(self._specs)
            if spec.dialect == dialect and self._serves(spec.model.name, listed)
        ]
        if not serving:
            return []
        wanted = tiers if tiers is not None else (tuple({provider for _, provider in serving}),)
        groups = [
            tuple(position for position, provider in serving if provider in tier and self._weights[position])
            for tier in wanted
        ]
        return [group for group in groups if group] or [()]

    def _serves(self, model: str, listed: str) -> bool:
        if model == listed:
            return True
        return listed in self._by_route and is_pattern(model) and matches(model, listed)

    def _strategy(self, name: str) -> Strategy:
        try:
            factory = find_strategy(name)
        except KeyError:
            factory = find_strategy(_DEFAULT_STRATEGY)
        return factory(self._weights, self._around.segment, self._around.random_bits)
