"""Values that cross layers: what a room returns and another room reads. No behaviour beyond arithmetic on itself."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import msgspec

Header = tuple[bytes, bytes]

DialectName = Literal["openai", "anthropic", "gemini"]

#: A first token takes as long again for every so many tokens of prompt, and an answer in one piece for every so many
#: tokens of answer. Times are divided by that, so that endpoints are compared and not the requests they happen to get.
PROMPT_TOKENS_PER_UNIT: Final = 4000.0
OUTPUT_TOKENS_PER_UNIT: Final = 25.0

#: How a request ended, from the ledger's point of view. A closed vocabulary.
OutcomeName = Literal[
    "ok",  # the client got a complete answer with a 2xx status
    "client_error",  # the provider refused the request itself (4xx other than the ones below)
    "rate_limited",  # the provider answered 429 (or 529) on the last attempt
    "upstream_error",  # connect, TLS, framing or 5xx on the last attempt
    "timeout",  # a deadline of ours passed
    "stream_broken",  # the stream died after its first byte had reached the client
    "cancelled",  # the client left
    "refused",  # we refused before any attempt was made
    "internal_error",  # a fault of fastroute itself
    "hedged",  # not a request: the attempt of one that lost a race, which its provider bills all the same
]


#: What a provider's refusal is about. A closed vocabulary; "" for what is no refusal of this sort.
Scope = Literal[
    "",
    "request",  # requests in a short time, a minute mostly
    "input_token",  # tokens of prompts in a short time
    "output_token",  # tokens of answers in a short time
    "token",  # tokens, both or not said which
    "concurrency",  # requests at one time
    "day",  # a quota of a day or of another long time
    "account",  # everything this account does, whatever the model
    "balance",  # the account's money
    "key",  # the credential itself
    "model",  # the model: nobody has it, or this key may not use it
    "unknown",  # a limit, and the provider does not say which
]

#: Why a key or a model of it is not as it should be. A closed vocabulary, numbered by its order; at most 32 words.
Cause = Literal[
    "",
    "invalid_key",  # the credential is refused
    "no_permission",  # it is known, and may not do this
    "out_of_money",
    "low_balance",
    "switched_off",  # by an operator
    "model_not_found",  # the provider does not have it, or not for this key
    "requests",  # a limit of that scope, and so on
    "tokens",
    "input_tokens",
    "output_tokens",
    "concurrency",
    "day_quota",
    "account_limit",
    "unknown_limit",
    "overloaded",  # the provider has too much to do, whoever asks
    "breaker",  # it has failed too often
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

#: Places of a dimension in an `Allowance`; each has limit, remaining and reset_ms.
REQUESTS_LEFT: Final = 0
TOKENS_LEFT: Final = 1
INPUT_TOKENS_LEFT: Final = 2
OUTPUT_TOKENS_LEFT: Final = 3
DAY_REQUESTS_LEFT: Final = 4
DAY_TOKENS_LEFT: Final = 5
MONTH_LEFT: Final = 6
DIMENSIONS: Final = 7


class Allowance(NamedTuple):
    """What the header fields of an answer say of the limits of a key: for each dimension the limit, what is left of
    it, and the milliseconds until it is renewed; -1 for what is not said.

    Requests and tokens are those of a minute, or of another short time. Whether `reset_ms` is the time to the whole
    limit (token buckets: OpenAI, Groq) or to the end of a window (Azure, Mistral) is the provider's affair. month:
    tokens or requests of a month.
    """

    requests_limit: int = -1
    requests_remaining: int = -1
    requests_reset_ms: int = -1
    tokens_limit: int = -1
    tokens_remaining: int = -1
    tokens_reset_ms: int = -1
    input_tokens_limit: int = -1
    input_tokens_remaining: int = -1
    input_tokens_reset_ms: int = -1
    output_tokens_limit: int = -1
    output_tokens_remaining: int = -1
    output_tokens_reset_ms: int = -1
    day_requests_limit: int = -1
    day_requests_remaining: int = -1
    day_requests_reset_ms: int = -1
    day_tokens_limit: int = -1
    day_tokens_remaining: int = -1
    day_tokens_reset_ms: int = -1
    month_limit: int = -1
    month_remaining: int = -1
    month_reset_ms: int = -1


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Token counts in disjoint buckets: no token is counted in two of them.

    `input_tokens` is the uncached text (and image, document) input; `output_tokens` is the visible text output,
    reasoning and audio excluded. Cached audio counts as cache read.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0

    @property
    def total_input(self) -> int:
        """Return every input token, cached ones included."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.input_audio_tokens
        )

    @property
    def total_output(self) -> int:
        """Return every output token, reasoning and audio included."""
        return self.output_tokens + self.reasoning_tokens + self.output_audio_tokens


NO_USAGE: Final = Usage()


#: What repeats from request to request: key id, tenant, dialect, operation, model, provider, endpoint, upstream model,
#: outcome, usage source.
Kind = tuple[str, str, str, str, str, str, str, str, str, str]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The part of a `Record` that is of its own kind; 0 and 1 for False and True."""

    id: int
    at_ns: int
    request_id: str
    stream: int
    status: int
    attempts: int
    priced: int
    cost_nano_usd: int
    first_byte_us: int
    total_us: int
    request_bytes: int
    response_bytes: int
    usage: Usage


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request as the journal and the ledger keep it: exactly one per request, whatever its end.

    `id` is unique for the life of a state directory: (worker boot number << 32) | sequence number.
    Times: `at_ns` is Unix time at arrival, durations are microseconds, -1 where the point was never reached.
    """

    id: int
    at_ns: int
    request_id: str
    key_id: str
    tenant: str
    dialect: str
    operation: str
    model: str
    provider: str
    endpoint: str
    upstream_model: str
    stream: bool
    status: int
    outcome: OutcomeName
    attempts: int
    usage: Usage
    usage_source: Literal["provider", "estimated", "none"]
    priced: bool
    cost_nano_usd: int
    first_byte_us: int
    total_us: int
    request_bytes: int
    response_bytes: int

    @property
    def kind(self) -> Kind:
        """Return what the record has in common with others."""
        return (
            self.key_id,
            self.tenant,
            self.dialect,
            self.operation,
            self.model,
            self.provider,
            self.endpoint,
            self.upstream_model,
            self.outcome,
            self.usage_source,
        )

    @property
    def entry(self) -> Entry:
        """Return what is the record's own."""
        return Entry(
            self.id,
            self.at_ns,
            self.request_id,
            int(self.stream),
            self.status,
            self.attempts,
            int(self.priced),
            self.cost_nano_usd,
            self.first_byte_us,
            self.total_us,
            self.request_bytes,
            self.response_bytes,
            self.usage,
        )


class Principal(msgspec.Struct, frozen=True):
    """Who is calling and what they may use.

    models: None for every model, else a pattern of allowed names. limits: the ceilings of key and tenant together
    (`_core.limits.Ceilings`), None if there are none. until_ns: Unix time at which the key expires, 0 for never.
    """

    key_id: str
    tenant: str
    models: re.Pattern[str] | None = None
    limits: Any = None
    until_ns: int = 0

    def may_use(self, model: str) -> bool:
        """Return whether this principal may use the public model name."""
        return self.models is None or self.models.fullmatch(model) is not None


class Authenticator(Protocol):
    """Knows callers by their credentials."""

    def identify(self, fields: Mapping[bytes, bytes], query: bytes) -> Principal:
        """Return the caller, by header fields or query. Raises GatewayError 401, whatever was wrong."""

    def expired(self, principal: Principal) -> bool:
        """Return whether a caller's key has expired."""

    def forget(self) -> None:
        """Remember nothing that was found: keys may have been revoked."""


class Ask(msgspec.Struct, eq=False):
    """What a strategy may know of the request it chooses for.

    now_ms: monotonic milliseconds. prompt_tokens, output_tokens: estimates. session: what keeps requests together (a
    header or the user), b"" for none. prompt: the body; its conversation is prompt[prompt_start:prompt_end]; preamble:
    where in it stands what comes before that for the model, tools and system prompt. latency_target_ms: 0 for none.
    """

    now_ms: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    session: bytes = b""
    tenant: str = ""
    prompt: bytes = b""
    prompt_start: int = 0
    prompt_end: int = 0
    latency_target_ms: int = 0
    stream: bool = False
    preamble: tuple[tuple[int, int], ...] = ()


class Wishes:
    """What a caller asks of the gateway in header fields. Absent ones have the value that wishes nothing.

    preferred: providers in order of preference. max_cost_pico: pico-USD, -1 for no ceiling. timeout_ns: 0 for none.
    trace: (trace id, flags) of a valid traceparent, as hexadecimal digits. features: flags by name.
    """

    __slots__ = (
        "excluded",
        "features",
        "latency_target_ms",
        "max_cost_pico",
        "preferred",
        "priority",
        "regions",
        "request_id",
        "session",
        "tags",
        "timeout_ns",
        "trace",
    )

    def __init__(self) -> None:
        self.preferred: tuple[str, ...] = ()
        self.excluded: tuple[str, ...] = ()
        self.priority = ""
        self.regions: tuple[str, ...] = ()
        self.session = b""
        self.tags: frozenset[str] = frozenset()
        self.features: dict[str, bool] = {}
        self.max_cost_pico = -1
        self.timeout_ns = 0
        self.latency_target_ms = 0
        self.request_id = ""
        self.trace: tuple[bytes, bytes] | None = None


#: Of a caller who asks for nothing.
NO_WISHES: Final = Wishes()


class Asked(NamedTuple):
    """What a body says that routing may ask about.

    max_tokens: the ceiling it sets for the answer, 0 for none. has_tools: it declares tools. user: for whom it is, b""
    for nobody. span: where in the body the conversation stands. preamble: where what comes before it for the model.
    """

    max_tokens: int
    has_tools: bool
    user: bytes
    span: tuple[int, int]
    preamble: tuple[tuple[int, int], ...] = ()


class Result(NamedTuple):
    """How an attempt went, for strategies that learn.

    verdict: one of `_core.attempts`. Times are milliseconds, -1 where they were not measured; cost is nano-USD, -1
    unknown.
    """

    verdict: int
    ttft_ms: float = -1.0
    total_ms: float = -1.0
    cost_nano_usd: int = -1
    output_tokens: int = 0


class Step(NamedTuple):
    """One step of a failover chain. providers: () for all. model: None for the one that was asked for."""

    providers: tuple[str, ...]
    strategy: str | None
    model: str | None


class KeyPool(NamedTuple):
    """One provider's keys among the endpoints of a pool, at positions first..end-1, and how one of them is chosen."""

    provider: str
    first: int
    end: int
    strategy: str


class PoolInfo(NamedTuple):
    """What a strategy is made for: interchangeable endpoints, by position.

    rows: their rows in the segment. prices: pico-USD per token of (input, cached input, output), None if unknown.
    random_bits: a source of 64 random bits. options: `routing.options` of the configuration. window_ms: the breaker's,
    over which the segment counts what went well. key_pools: in order; endpoints outside of them are chosen by the
    strategy alone.
    """

    segment: Any
    rows: tuple[int, ...]
    weights: tuple[float, ...]
    ids: tuple[str, ...]
    prices: tuple[tuple[int, int, int] | None, ...]
    random_bits: Callable[[], int]
    options: Any
    window_ms: int = 30_000
    key_pools: tuple[KeyPool, ...] = ()


class Strategy(Protocol):
    """Chooses one endpoint among candidates that every gate has let through."""

    name: str

    def pick(self, candidates: Any, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates. `candidates` is a sequence of positions."""

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Learn how an attempt at the endpoint went."""

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take over what a strategy of the same name had learnt, after a reload.

        positions[i] is the position in `previous` of my position i, -1 if that endpoint is new.
        """


class Exchange(Protocol):
    """An answer under way from a provider. `status` and `headers` are those of the final head.

    `read` returns what has come since the last call; `wait` is awaited when that was nothing and `complete` is not
    set. `wait` raises UpstreamError; where it is known before, it is in `error`. `close` may be called at any time and
    any number of times: a complete exchange gives its connection back, any other one drops it.
    """

    @property
    def status(self) -> int:
        """Return the status of the final head."""

    @property
    def headers(self) -> list[Header]:
        """Return the end-to-end fields, names in lower case."""

    @property
    def length(self) -> int:
        """Return the declared length of the body, negative if there is none."""

    @property
    def complete(self) -> bool:
        """Return whether the whole answer has been received."""

    @property
    def error(self) -> Exception | None:
        """Return the UpstreamError for which no more of the answer will come, None while none is known."""

    def read(self) -> bytes:
        """Return the body bytes received since the last call."""

    def wait(self) -> Awaitable[None]:
        """Return an awaitable that ends when more has come."""

    def close(self) -> None:
        """Give the connection back, or drop it."""
