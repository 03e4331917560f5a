"""Values that cross layers: what a room returns and another room reads. No behaviour beyond arithmetic on itself."""

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

Header = tuple[bytes, bytes]

DialectName = Literal["openai", "anthropic", "gemini"]

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
]


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


class Principal(msgspec.Struct, frozen=True):
    """Who is calling and what they may use. models: None for every model, else a pattern of allowed names."""

    key_id: str
    tenant: str
    models: re.Pattern[str] | None = None

    def may_use(self, model: str) -> bool:
        """Return whether this principal may use the public model name."""
        return self.models is None or self.models.fullmatch(model) is not None


class Authenticator(Protocol):
    """Knows callers by their credentials."""

    def identify(self, fields: Mapping[bytes, bytes], query: bytes) -> Principal:
        """Return the caller, by header fields or query. Raises GatewayError 401, whatever was wrong."""


class Strategy(Protocol):
    """Chooses one endpoint among candidates that every gate has let through."""

    name: str

    def pick(self, candidates: Sequence[int]) -> int:
        """Return the chosen position, -1 if there are no candidates."""


class Exchange(Protocol):
    """An answer under way from a provider. `status` and `headers` are those of the final head.

    `read` returns what has come since the last call; `wait` is awaited when that was nothing and `complete` is not
    set. `wait` raises UpstreamError. `close` may be called at any time and any number of times: a complete exchange
    gives its connection back, any other one drops it.
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

    def read(self) -> bytes:
        """Return the body bytes received since the last call."""

    def wait(self) -> Awaitable[None]:
        """Return an awaitable that ends when more has come."""

    def close(self) -> None:
        """Give the connection back, or drop it."""
