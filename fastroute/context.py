"""What one request carries from room to room: a typed record, made by the downstream lane, ended by the corridor."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, Literal

from fastroute.interfaces import NO_USAGE, OutcomeName, Usage

if TYPE_CHECKING:
    from fastroute.errors import GatewayError

# Where a request is, for the watch: which limit applies and what its passing means.
READ_BODY: Final = "read_body"
CONNECT: Final = "connect"
FIRST_BYTE: Final = "first_byte"
STREAM: Final = "stream"
SEND: Final = "send"
WAIT: Final = "wait"

# Why the watch interrupted a request.
TOTAL: Final = "total"
CLIENT_GONE: Final = "client_gone"
DRAIN: Final = "drain"


class Context:
    """State of one request.

    Times are monotonic nanoseconds unless the name says otherwise. `progress` grows whenever bytes move; the watch
    compares it instead of reading the clock at every chunk. `limit_ns` is how long it may stand still in `phase`.
    `called` is the model as the client named it, `model` the route it stands for. `admitted`: the request has a route
    and will leave a record; `settled`: it has left it. `first`: bytes of the answer that were read but not passed on.
    `retry_after_ms`: the least that a provider asked for, -1 if none did. `grant`: what it holds of its ceilings.
    """

    __slots__ = (
        "admitted",
        "arrived_wall_ns",
        "attempts",
        "body",
        "called",
        "cost_nano_usd",
        "deadline_ns",
        "departure",
        "dialect",
        "downstream",
        "endpoint",
        "error",
        "first",
        "first_byte_ns",
        "grant",
        "head_lines",
        "interrupted",
        "limit_ns",
        "marked_ns",
        "model",
        "model_end",
        "model_start",
        "operation",
        "outcome",
        "phase",
        "plan",
        "principal",
        "progress",
        "prompt_tokens",
        "query",
        "record_id",
        "request_bytes",
        "request_id",
        "response_bytes",
        "retry_after_ms",
        "scan",
        "seen_progress",
        "settled",
        "snapshot",
        "started_ns",
        "status",
        "stream",
        "survey",
        "task",
        "upstream_ns",
        "usage",
        "usage_source",
        "wishes",
    )

    def __init__(
        self,
        snapshot: Any,
        downstream: Any,
        record_id: int,
        request_id: str,
        started_ns: int,
        wall_ns: int,
        task: "asyncio.Task[Any] | None",
    ) -> None:
        self.snapshot = snapshot
        self.downstream = downstream
        self.record_id = record_id
        self.request_id = request_id
        self.started_ns = started_ns
        self.arrived_wall_ns = wall_ns
        self.task = task
        self.admitted = False
        self.settled = False
        self.dialect: Any = None
        self.operation: Any = None
        self.head_lines = b""
        self.query = b""
        self.principal: Any = None
        self.body = b""
        self.scan: tuple[int, ...] = ()
        self.called = ""
        self.model = ""
        self.model_start = 0
        self.model_end = 0
        self.stream = False
        self.wishes: Any = None
        self.plan: Any = None
        self.grant: Any = None
        self.prompt_tokens = 0
        self.retry_after_ms = -1
        self.cost_nano_usd = -1
        self.endpoint: Any = None
        self.attempts = 0
        self.status = 0
        self.outcome: OutcomeName = "internal_error"
        self.error: GatewayError | None = None
        self.usage: Usage = NO_USAGE
        self.usage_source: Literal["provider", "estimated", "none"] = "none"
        self.upstream_ns = 0
        self.first_byte_ns = -1
        self.first = b""
        self.survey: Any = None
        self.request_bytes = 0
        self.response_bytes = 0
        self.phase = READ_BODY
        self.progress = 0
        self.seen_progress = -1
        self.marked_ns = started_ns
        self.limit_ns = 0
        self.deadline_ns = 0
        self.interrupted: str | None = None
        self.departure: asyncio.Task[None] | None = None

    def enter(self, phase: str, limit_ns: int) -> None:
        """Begin a phase that may stand still for at most `limit_ns`."""
        self.phase = phase
        self.limit_ns = limit_ns
        self.progress += 1

    def interrupt(self, reason: str) -> None:
        """Stop waiting, wherever the request is. The corridor reads `interrupted` to learn why."""
        if self.interrupted is None:
            self.interrupted = reason
            if self.task is not None:
                self.task.cancel()

    def resume(self) -> str:
        """Take back an interruption that the corridor has dealt with; return its reason."""
        reason = self.interrupted or ""
        self.interrupted = None
        if self.task is not None:
            self.task.uncancel()
        return reason
