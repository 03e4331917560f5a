"""One attempt of a request at one endpoint: what it sends, and what became of it."""

from typing import Any, NamedTuple

from fastroute._core._attempts_rules import GENERATIONS
from fastroute._core.attempts import FAILED, Attempts
from fastroute._core.h1 import UpstreamError
from fastroute.context import Context
from fastroute.dialects.splice import Edit, model_edit, splice, usage_edit
from fastroute.downstream.operations import Operation
from fastroute.downstream.request import MODEL, OPEN, STREAM_OPTIONS
from fastroute.failover import classify
from fastroute.failover.classify import Classifier, Outcome
from fastroute.interfaces import Exchange, Header
from fastroute.load.inflight import Permit
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.headers import QUERY_DROP
from fastroute.upstream.survey import NO_SURVEY, Survey
from fastroute.upstream.transport import UpstreamRequest


class Held(NamedTuple):
    """A provider's error answer, kept in case no other attempt does better. The connection it came on is not."""

    status: int
    headers: list[Header]
    body: bytes
    outcome: Outcome
    endpoint: Endpoint
    survey: Survey


class Attempt(Permit):
    """One request to one endpoint, in flight until it is released.

    outcome: what is known of it so far. held: an error answer that was read. first: the bytes of the answer that came
    with its head. strip: the usage event is ours, not the client's. grant: what it holds of the ceilings of its key.
    """

    __slots__ = (
        "endpoint",
        "exchange",
        "failure",
        "first",
        "first_byte_ns",
        "grant",
        "held",
        "outcome",
        "position",
        "sent_ns",
        "strip",
        "survey",
    )

    def __init__(
        self,
        attempts: Attempts,
        worker: int,
        ticket: int,
        work: int,
        endpoint: Endpoint,
        position: int,
        sent_ns: int,
    ) -> None:
        # What Permit.__init__ does, without a call of its own: there is one of these for every attempt.
        self._attempts = attempts
        self._worker = worker
        self._row = endpoint.index
        self._ticket = ticket
        self._work = work
        self._held = True
        self.endpoint = endpoint
        self.position = position
        self.sent_ns = sent_ns
        self.exchange: Exchange | None = None
        self.outcome = classify.CANCELLED
        self.failure: UpstreamError | None = None
        self.held: Held | None = None
        self.grant: Any = None
        self.first = b""
        self.first_byte_ns = -1
        self.strip = False
        self.survey: Survey = NO_SURVEY

    def fail(self, failure: UpstreamError, classifier: Classifier) -> None:
        """Note a failure of the transport, before or after the answer had begun."""
        self.failure = failure
        self.outcome = classifier.transport(failure.kind, failure.sent)


class KeyedAttempt(Attempt):
    """An attempt with a key that has a state of its own, which is told how it ended as well."""

    __slots__ = ("_key_ticket",)

    def admit(self, now_ms: int, wall_ns: int) -> bool:
        """Ask the key to let the attempt through, which the endpoint has done. If it refuses, nothing is counted."""
        key = self.endpoint.key
        self._key_ticket: int = key.enter(self._worker, now_ms, wall_ns)
        if self._key_ticket >= 0:
            return True
        self._held = False
        key.withdraw(self._attempts, self._worker, self._row, self._ticket, self._work, now_ms)
        return False

    def release(self, verdict: int, cost_ms: float, now_ms: int, bits: int, hint_ms: int) -> None:
        """Count the attempt out and record how it went, at the key and at the endpoint."""
        if self._held:
            # A ticket with this bit has no generation: no breaker was asked.
            judged = verdict == FAILED and not self._ticket & 2
            late = judged and self._attempts.state(self._row, now_ms)[1] != self._ticket >> 2 & GENERATIONS
            self.endpoint.key.leave(
                self._worker, self._key_ticket, verdict, now_ms, bits=bits, hint_ms=hint_ms, late=late
            )
        super().release(verdict, cost_ms, now_ms, bits, hint_ms)


def encode(ctx: Context, attempt: Attempt, model: str) -> UpstreamRequest:
    """Return an attempt's request; note in the attempt whether the usage it asks for is to be taken out again."""
    endpoint = attempt.endpoint
    operation: Operation = ctx.operation
    name = endpoint.upstream_name(model)
    body = ctx.body
    target = endpoint.target(operation, name, _upstream_query(ctx.query) if ctx.query else b"")
    if not operation.model_in_path:
        edits: list[Edit] = []
        if name != ctx.called:
            edits.append(model_edit(ctx.scan[MODEL + 1], ctx.scan[MODEL + 2], name.encode()))
        if ctx.stream and operation.include_usage and endpoint.include_usage:
            scan = ctx.scan
            edit = usage_edit(
                body, scan[STREAM_OPTIONS], scan[STREAM_OPTIONS + 1], scan[STREAM_OPTIONS + 2], scan[OPEN]
            )
            if edit is not None:
                edits.append(edit)
                attempt.strip = True
        if edits:
            body = splice(body, edits)
    extra = endpoint.missing_defaults(ctx.headers) if endpoint.default_headers else b""
    return UpstreamRequest(
        target,
        endpoint.head_start(operation, target),
        ctx.head_lines,
        extra,
        body,
        endpoint.connect_ns,
        endpoint.first_byte_ns,
    )


def _upstream_query(query: bytes) -> bytes:
    """Return the query less the client's credential and whatever would choose the destination."""
    if b"key=" not in query and b"base" not in query and b"host" not in query:
        return query
    return b"&".join(pair for pair in query.split(b"&") if pair.partition(b"=")[0].lower() not in QUERY_DROP)


def close_exchange(exchange: Exchange | None) -> None:
    """Close an exchange, if there is one."""
    if exchange is not None:
        exchange.close()
