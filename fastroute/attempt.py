"""One attempt of a request at one endpoint: what it sends, and what became of it."""

from typing import Any, Final, NamedTuple

from fastroute._core._attempts_rules import GENERATIONS
from fastroute._core.attempts import FAILED, KEY_REJECTED
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
from fastroute.upstream.headers import upstream_query
from fastroute.upstream.survey import NO_SURVEY, Survey
from fastroute.upstream.transport import UpstreamRequest

#: Causes for which a key that is refused is to blame, whatever was asked of it.
KEY_FAULTS: Final = frozenset({"invalid_key", "out_of_money"})
#: A shorter credential is a word that may stand in a message for other reasons.
MIN_MASKED_BYTES: Final = 12


class Held(NamedTuple):
    """A provider's error answer, kept in case no other attempt does better. The connection it came on is not."""

    status: int
    headers: list[Header]
    body: bytes
    outcome: Outcome
    endpoint: Endpoint
    survey: Survey


def hold(exchange: Exchange, body: bytes, attempt: "Attempt") -> Held:
    """Keep an attempt's error answer. Where it quotes the credential that was used, that is masked, in its length."""
    headers = exchange.headers
    secret: bytes = attempt.endpoint.secret
    if len(secret) >= MIN_MASKED_BYTES:
        mask = b"*" * len(secret)
        body = body.replace(secret, mask)
        headers = [(name, value.replace(secret, mask)) for name, value in headers]
    return Held(exchange.status, headers, body, attempt.outcome, attempt.endpoint, attempt.survey)


class Attempt(Permit, eq=False):
    """One request to one endpoint, in flight until it is released.

    outcome: what is known of it so far. held: an error answer that was read. first: the bytes of the answer that came
    with its head. strip: the usage event is ours, not the client's. grant: what it holds of the ceilings of its key.
    trial: what it is to find out about its key or model, see `health.channel`. judged: the outcome is that of the whole
    error answer, as far as it will be read.
    """

    # Never None: an attempt is made with it, but what follows a field with a default must have one too.
    endpoint: Endpoint = None  # type: ignore[assignment]
    position: int = -1
    sent_ns: int = 0
    grant: Any = None
    exchange: Exchange | None = None
    outcome: Outcome = classify.CANCELLED
    failure: UpstreamError | None = None
    held: Held | None = None
    first: bytes = b""
    first_byte_ns: int = -1
    strip: bool = False
    survey: Survey = NO_SURVEY
    trial: int = 0
    judged: bool = False

    def fail(self, failure: UpstreamError, classifier: Classifier) -> None:
        """Note a failure of the transport, before or after the answer had begun."""
        # What was raised knows where, and that leads back to here: a circle that would wait for the collector.
        self.failure = UpstreamError(failure.kind, failure.message, sent=failure.sent)
        self.outcome = classifier.transport(failure.kind, failure.sent)


class KeyedAttempt(Attempt, eq=False):
    """An attempt with a key that has a state of its own, which is told how it ended as well."""

    key_ticket: int = -1

    def admit(self, now_ms: int, wall_ns: int) -> bool:
        """Ask the key to let the attempt through, which the endpoint has done. If it refuses, nothing is counted."""
        key = self.endpoint.key
        self.key_ticket = key.enter(self.worker, now_ms, wall_ns)
        if self.key_ticket >= 0:
            return True
        self.in_flight = False
        key.withdraw(self.attempts, self.worker, self.row, self.ticket, self.work, now_ms)
        return False

    def release(self, verdict: int, cost_ms: float, now_ms: int, bits: int, hint_ms: int) -> None:
        """Count the attempt out and record how it went, at the key and at the endpoint."""
        if self.in_flight:
            self.endpoint.key.leave(
                self.worker,
                self.key_ticket,
                verdict,
                now_ms,
                bits=bits,
                hint_ms=hint_ms,
                excused=self._key_is_excused(verdict, now_ms),
            )
        super().release(verdict, cost_ms, now_ms, bits, hint_ms)

    def _key_is_excused(self, verdict: int, now_ms: int) -> bool:
        """Whether the key is not to blame for a failure, see `ProviderKeyState.leave`."""
        if verdict == KEY_REJECTED:
            return self.outcome.cause not in KEY_FAULTS
        # A ticket with this bit has no generation: no breaker was asked.
        if verdict != FAILED or self.ticket & 2:
            return False
        generation: int = self.attempts.state(self.row, now_ms)[1]
        return generation != self.ticket >> 2 & GENERATIONS


def encode(ctx: Context, attempt: Attempt, model: str) -> UpstreamRequest:
    """Return an attempt's request; note in the attempt whether the usage it asks for is to be taken out again."""
    endpoint = attempt.endpoint
    operation: Operation = ctx.operation
    name = endpoint.upstream_model or model
    body: bytes = ctx.body
    target, start = endpoint.begin(operation, name, upstream_query(ctx.query) if ctx.query else b"")
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
    extra = endpoint.missing_defaults(ctx.downstream.headers) if endpoint.default_headers else b""
    return UpstreamRequest(
        target,
        start,
        ctx.head_lines,
        extra,
        body,
        endpoint.connect_ns,
        endpoint.first_byte_ns,
    )


def close_exchange(exchange: Exchange | None) -> None:
    """Close an exchange, if there is one."""
    if exchange is not None:
        exchange.close()
