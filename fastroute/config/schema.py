"""What can be configured: one frozen Struct per mechanism, whose field names are the names in the file.

Bounds stand in the annotations and are checked by `shape`; what one field means for another is checked by
`crosscheck`. docs/configuration.md explains every field, and a test holds the two together.
"""

from decimal import Decimal
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from fastroute.config.ceilings import Limits, Queue
from fastroute.config.fields import (
    AtOnce,
    DelayMilliseconds,
    HeaderText,
    Identifier,
    KeyStrategy,
    Label,
    Level,
    Milliseconds,
    ModelName,
    PerDay,
    Period,
    PerMinute,
    Port,
    RejectReason,
    Sha256Hex,
    Text,
    TokenCount,
    Usd,
    UsdPerMtok,
    Weekday,
    Weight,
)
from fastroute.config.secret import Secret
from fastroute.config.watching import AdaptiveLimit, Probe
from fastroute.interfaces import DialectName


class Admin(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The admin listener. `port` None: the data port + 1 (see `Server.admin_port`). `key` None: no admin calls."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Port | None = None
    key: Secret | None = None


class ServerLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one client connection or request may cost us before it is refused."""

    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 10 * 1024 * 1024
    max_header_bytes: Annotated[int, Meta(ge=1024, le=1 << 20)] = 32768
    max_headers: Annotated[int, Meta(ge=8, le=10_000)] = 100
    max_uri_bytes: Annotated[int, Meta(ge=256, le=65536)] = 8192
    max_json_depth: Annotated[int, Meta(ge=4, le=1000)] = 64
    header_timeout_ms: Milliseconds = 10_000
    body_timeout_ms: Milliseconds = 30_000
    min_body_rate_bytes_s: Annotated[int, Meta(ge=0, le=1 << 30)] = 1024
    write_timeout_ms: Milliseconds = 30_000
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 16384


class Drain(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a worker leaves: unready for `readiness_delay_ms`, then up to `grace_ms` for requests under way."""

    readiness_delay_ms: DelayMilliseconds = 0
    grace_ms: DelayMilliseconds = 30_000


class Server(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The data listener and what belongs to the process group as a whole.

    access_log: a file, "-" for the standard output, None for no access log. lane: who reads the clients' HTTP.
    """

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    state_dir: Annotated[str, Meta(min_length=1, max_length=4096)] = "./.fastroute"
    admin: Admin = Admin()
    limits: ServerLimits = ServerLimits()
    drain: Drain = Drain()
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 4096
    access_log: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    lane: Literal["direct", "granian"] = "direct"

    @property
    def admin_port(self) -> int:
        """Return the admin port in force: `admin.port`, else the data port + 1, else 0 (choose) if that is 0."""
        if self.admin.port is not None:
            return self.admin.port
        return self.port + 1 if self.port else 0


class Budget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Money one key or tenant may spend in a period (UTC calendar periods; `total` never starts anew)."""

    usd: Usd
    per: Period = "month"


class ApiKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential of a client: the key itself or its SHA-256, never both."""

    id: Identifier
    key: Secret | None = None
    key_sha256: Sha256Hex | None = None
    tenant: Identifier = "default"
    limits: Limits | None = None
    budget: Budget | None = None
    models: tuple[ModelName, ...] = ("*",)


class Auth(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may call. No keys: open, which is refused on any address but loopback."""

    path_tokens: tuple[Secret, ...] = ()
    keys: tuple[ApiKey, ...] = ()


class ProviderKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential at a provider. Without an id it is called k1, k2, ... by its place in the list.

    quota_group: keys of one group share an account's limits, at whichever provider they are listed.
    """

    key: Secret
    id: Identifier = ""
    weight: Weight = 1
    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    concurrency: AtOnce | None = None
    rpd: PerDay | None = None
    tpd: PerDay | None = None
    quota_group: Identifier | None = None


class Price(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Price of a model in USD per million tokens, decimal as written. Without that of input: unpriced."""

    input_usd_per_mtok: UsdPerMtok | None = None
    output_usd_per_mtok: UsdPerMtok | None = None
    cached_input_usd_per_mtok: UsdPerMtok | None = None
    cache_write_usd_per_mtok: UsdPerMtok | None = None
    cache_write_1h_usd_per_mtok: UsdPerMtok | None = None
    reasoning_usd_per_mtok: UsdPerMtok | None = None
    audio_input_usd_per_mtok: UsdPerMtok | None = None
    audio_output_usd_per_mtok: UsdPerMtok | None = None


class Capabilities(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model can do; true unless said otherwise."""

    stream: bool = True
    tools: bool = True
    vision: bool = True


class Model(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model a provider serves. `name` may be a glob; `upstream` None: sent under the name it was asked by.

    context_window, max_output_tokens: None is unknown, and keeps no request away.
    """

    name: ModelName
    upstream: ModelName | None = None
    weight: Weight = 1
    price: Price | None = None
    context_window: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    capabilities: Capabilities = Capabilities()


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Deadlines of one attempt, except `total_ms`, which spans all attempts of a request."""

    connect_ms: Milliseconds = 2000
    first_byte_ms: Milliseconds = 60_000
    idle_ms: Milliseconds = 60_000
    total_ms: Milliseconds = 600_000


class Provider(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An account at a vendor. After loading, `base_url` is complete and canonical ("" for echo) and keys have ids.

    key_strategy: how one of its keys is chosen once the route's strategy has chosen the provider; None: its keys are
    endpoints like any other, and the route's strategy chooses among them.
    """

    id: Identifier
    type: Annotated[str, Meta(min_length=1, max_length=64)]
    base_url: Annotated[str, Meta(max_length=2048)] = ""
    keys: tuple[ProviderKey, ...] = ()
    models: tuple[Model, ...] = ()
    weight: Weight = 100
    region: Annotated[str, Meta(max_length=64)] = ""
    tags: tuple[Label, ...] = ()
    transport: Literal["fast", "httpx"] = "fast"
    dialect: DialectName | None = None
    headers: dict[str, Secret] = {}
    include_usage: bool | None = None
    http2: bool = False
    max_connections: Annotated[int, Meta(ge=1, le=65536)] = 512
    timeouts: Timeouts | None = None
    probe: Probe | None = None
    adaptive: AdaptiveLimit | None = None
    key_strategy: KeyStrategy | None = None
    key_window_ms: Milliseconds = 300_000


class Fallback(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step of a failover chain: a provider, a pool with its own strategy, or whatever serves another model."""

    provider: Identifier | None = None
    pool: Annotated[tuple[Identifier, ...], Meta(min_length=1)] | None = None
    strategy: Label | None = None
    model: ModelName | None = None


Chain = Annotated[tuple[Fallback, ...], Meta(max_length=16)]


class Route(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which providers serve a model, in tiers: the first is tried first. No tiers: every provider that lists it.

    fallbacks: where to go when all of these have failed. on_context_window, on_content_policy: where to go when the
    provider refused the request for its length or its content; empty: the refusal is the answer.
    """

    model: ModelName
    tiers: Annotated[tuple[Annotated[tuple[Identifier, ...], Meta(min_length=1)], ...], Meta(min_length=1)] | None = (
        None
    )
    strategy: Label | None = None
    fallbacks: Chain = ()
    on_context_window: Chain = ()
    on_content_policy: Chain = ()


class Breaker(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Circuit breaker of an endpoint.

    Opens after `failure_threshold` failures in a row, or when `failure_rate` of at least `min_requests` within
    `window_ms` have failed. Stays open for `timeout_ms`, doubled each time in a row up to `max_timeout_ms`. After it
    has closed, the endpoint's weight grows back over `slow_start_ms`. In a pool of at least `panic_min_endpoints`,
    when fewer than `panic_percent` of them are let through, first attempts ignore breakers.
    """

    failure_threshold: Annotated[int, Meta(ge=1, le=10_000)] = 5
    success_threshold: Annotated[int, Meta(ge=1, le=10_000)] = 3
    timeout_ms: Milliseconds = 60_000
    half_open_max_calls: Annotated[int, Meta(ge=1, le=200)] = 1
    failure_rate: Annotated[float, Meta(ge=0.001, le=1)] = 0.5
    min_requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    window_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 30_000
    max_timeout_ms: Milliseconds = 600_000
    slow_start_ms: DelayMilliseconds = 10_000
    panic_percent: Annotated[int, Meta(ge=0, le=100)] = 50
    panic_min_endpoints: Annotated[int, Meta(ge=1, le=65536)] = 5


class Backoff(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Waiting time before the same failure domain is tried again; another one is tried at once.

    jitter: the share of it that is drawn at random.
    """

    kind: Literal["none", "linear", "exponential", "fibonacci"] = "exponential"
    base_ms: DelayMilliseconds = 100
    multiplier: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_ms: DelayMilliseconds = 10_000
    jitter: Annotated[float, Meta(ge=0, le=1)] = 1.0


class RetryBudget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many retries there may be in all: a share of the requests of the last `ttl_ms`, and some at low traffic."""

    percent: Annotated[float, Meta(ge=0, le=1000)] = 20.0
    min_per_s: Annotated[float, Meta(ge=0, le=100_000)] = 10.0
    ttl_ms: Annotated[int, Meta(ge=1000, le=3_600_000)] = 10_000


class Hedge(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A second attempt while the first has not begun to answer; whichever begins first is the answer, both are billed.

    delay_ms: 0 waits for the P95 of the endpoint's time to first token. max_percent: of the requests.
    max_usd_per_hour: what the losers may cost.
    """

    enabled: bool = False
    delay_ms: DelayMilliseconds = 0
    max_percent: Annotated[float, Meta(ge=0.01, le=100)] = 2.0
    max_usd_per_hour: Usd = Decimal("1")


class Retry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When and how often a request is sent again.

    max_retry_after_ms: a provider that asks for more is tried again after this. max_replicas: a request that has broken
    the connection to, or timed out at, this many endpoints is not sent to another.
    """

    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    on_status: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = (408, 429, 500, 502, 503, 504, 529)
    backoff: Backoff = Backoff()
    budget: RetryBudget = RetryBudget()
    max_retry_after_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 86_400_000
    max_replicas: Annotated[int, Meta(ge=1, le=10)] = 2
    hedge: Hedge = Hedge()


class StrategyOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of strategies, by the strategy's name.

    health_weights: whether endpoints in poor health get less than their weights.
    """

    health_weights: bool = True
    ewma_decay_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 10_000
    least_latency_quantile: Annotated[float, Meta(ge=0.01, le=0.99)] = 0.5
    adaptive_latency_weight: Annotated[float, Meta(ge=0, le=1)] = 0.7
    adaptive_tau_ms: Annotated[int, Meta(ge=1000, le=86_400_000)] = 300_000
    adaptive_cap: Annotated[int, Meta(ge=10, le=100_000)] = 200
    cost_band: Annotated[float, Meta(ge=0, le=1)] = 0.05
    time_window_ms: Milliseconds = 60_000
    hash_balance: Annotated[float, Meta(ge=1.01, le=100)] = 1.25
    prefix_block_bytes: Annotated[int, Meta(ge=16, le=4096)] = 64
    prefix_table: Annotated[int, Meta(ge=1024, le=4_194_304)] = 65_536


class Routing(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Defaults for every route."""

    strategy: Label = "p2c"
    breaker: Breaker = Breaker()
    retry: Retry = Retry()
    timeouts: Timeouts = Timeouts()
    options: StrategyOptions = StrategyOptions()


class When(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition: every matcher present must hold; no matcher at all always holds. Lists match any of theirs.

    model: the name the client asked for, or the one it stands for. header: values by field name, in which `*` stands
    for any text; a field that is absent matches none. Both bounds of the prompt's size are included.
    """

    all: Annotated[tuple["When", ...], Meta(min_length=1)] | None = None
    any: Annotated[tuple["When", ...], Meta(min_length=1)] | None = None
    not_: "When | None" = field(default=None, name="not")
    model: Annotated[tuple[ModelName, ...], Meta(min_length=1)] | None = None
    tenant: Annotated[tuple[Identifier, ...], Meta(min_length=1)] | None = None
    key: Annotated[tuple[Identifier, ...], Meta(min_length=1)] | None = None
    region: Annotated[tuple[Label, ...], Meta(min_length=1)] | None = None
    tags: Annotated[tuple[Label, ...], Meta(min_length=1)] | None = None
    header: dict[HeaderText, Annotated[tuple[HeaderText, ...], Meta(min_length=1)]] | None = None
    priority: Annotated[tuple[Level, ...], Meta(min_length=1)] | None = None
    min_priority: Level | None = None
    stream: bool | None = None
    min_prompt_tokens: TokenCount | None = None
    max_prompt_tokens: TokenCount | None = None
    hours: (
        Annotated[
            str,
            Meta(
                pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)\Z",
                extra={"form": 'of the form "HH:MM-HH:MM", 00:00 to 23:59 (24:00 as the end)'},
            ),
        ]
        | None
    ) = None
    days: Annotated[tuple[Weekday, ...], Meta(min_length=1)] | None = None
    tz: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class Reject(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Refuse the request. What is None follows from the reason."""

    reason: RejectReason = "custom"
    status: Literal[400, 403, 429, 503] | None = None
    message: Text | None = None
    retry_after_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None


class Action(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done to a request; whatever is not set is left as it was.

    tags: added to those of the request. headers: set on the request that goes upstream.
    """

    provider: Identifier | None = None
    pool: Annotated[tuple[Identifier, ...], Meta(min_length=1)] | None = None
    strategy: Label | None = None
    priority: Level | None = None
    tags: Annotated[tuple[Label, ...], Meta(min_length=1)] | None = None
    headers: dict[HeaderText, HeaderText] | None = None
    reject: Reject | None = None


class Then(Action, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a matching rule does: its own action and those of the chain together. None is set twice."""

    chain: Annotated[tuple[Action, ...], Meta(min_length=1, max_length=16)] | None = None


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A routing rule: higher `priority` first, equal ones by id.

    A match that routes (provider, pool) or rejects ends the reading; any other is noted, and reading goes on.
    """

    id: Identifier
    then: Then
    when: When = When()
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    enabled: bool = True


class Tenant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Overrides for one tenant. `*` in a provider list stands for all of them."""

    id: Identifier
    allowed_providers: Annotated[tuple[Label, ...], Meta(min_length=1)] = ("*",)
    denied_providers: tuple[Identifier, ...] = ()
    preferred_providers: tuple[Identifier, ...] = ()
    allowed_models: Annotated[tuple[ModelName, ...], Meta(min_length=1)] = ("*",)
    max_cost_per_request_usd: Usd | None = None
    strategy: Label | None = None
    limits: Limits | None = None
    budget: Budget | None = None


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ceilings of models, whoever asks for them, and what becomes of a request that is over one.

    queue: None refuses it at once.
    """

    models: dict[ModelName, Limits] = {}
    queue: Queue | None = None


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be configured.

    `given` is not a field of the file: it names the fields that were written there (dotted, list positions left
    out), for those who must tell a default from the same value on purpose.
    """

    server: Server = Server()
    auth: Auth = Auth()
    providers: tuple[Provider, ...] = ()
    aliases: dict[ModelName, ModelName] = {}
    routes: tuple[Route, ...] = ()
    routing: Routing = Routing()
    rules: tuple[Rule, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    limits: LimitSettings = LimitSettings()
    given: frozenset[str] = frozenset()


def path_token_id(at: int) -> str:
    """Return what callers of the path token at place `at` are called, wherever keys are named by id."""
    return f"path-token-{at + 1}"


#: Fields of Config that a file cannot set.
INTERNAL_FIELDS: Final = frozenset({"given"})
#: Structs that may be written as a string, and the field the string stands for.
SHORTHANDS: Final = {ProviderKey: "key", Model: "name"}
