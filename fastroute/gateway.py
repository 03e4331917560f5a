"""The corridor: one request from its first byte to its ledger row, in the order it happens.

Rooms return values; only this file and ``downstream`` touch the client. See docs/request.md.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from fastroute._core._attempts_rules import RATE_LIMITED
from fastroute._core.h1 import UpstreamError
from fastroute._core.heads import request_head
from fastroute._core.ratelimit import read_allowance
from fastroute.admission import Admission
from fastroute.attempt import Attempt, Held, close_exchange, encode, hold
from fastroute.billing.journal import JournalWriter
from fastroute.books import Books
from fastroute.clock import Clock
from fastroute.context import CLIENT_GONE, CONNECT, DRAIN, FIRST_BYTE, READ_BODY, SEND, STREAM, TOTAL, Context
from fastroute.dispatch import Dispatcher
from fastroute.downstream.heads import Fields
from fastroute.downstream.lane import AnswerCutError, Downstream
from fastroute.downstream.operations import find_operation, guess_dialect
from fastroute.downstream.reply import JSON_TYPE, error_reply
from fastroute.downstream.request import SCAN_IN_THREAD_BYTES, RequestReader
from fastroute.downstream.watch import Watch
from fastroute.downstream.wishes import read_wishes, trace_header
from fastroute.errors import GatewayError
from fastroute.failover import classify
from fastroute.failover.classify import Outcome
from fastroute.interfaces import (
    NO_WISHES,
    DialectName,
    Exchange,
    Header,
)
from fastroute.observe.access import AccessLog
from fastroute.race import Race
from fastroute.recorder import Recorder, heed
from fastroute.relay import ATTEMPTS, HOLD_BYTES, PARSE_IN_THREAD_BYTES, Relay, collect, has_event, is_held
from fastroute.routing.listing import Offer, model_document
from fastroute.routing.plan import Plan
from fastroute.routing.refusals import exhausted
from fastroute.routing.table import Route, unknown_model
from fastroute.snapshot import Snapshot
from fastroute.upstream.headers import REQUEST_DROP, without_connection_fields
from fastroute.upstream.survey import survey
from fastroute.upstream.transport import UpstreamRequest

log = logging.getLogger("fastroute")


#: Of an error answer that is about to be retried, this much is kept in case every other attempt fails too.
HOLD_ERROR_BYTES: Final = 1 << 16


class Gateway:
    """One worker's corridor. `snapshot` may be replaced at any time; a request keeps the one it began with."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        random_bits: Callable[[], int],
        reader: RequestReader,
        worker: int,
        journal: JournalWriter,
        watch: Watch,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        id_prefix: str,
        access: AccessLog | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.snapshot = snapshot
        self._reader = reader
        self._journal = journal
        self._watch = watch
        self.now = self._now = clock.monotonic_ns
        self._wall = clock.wall_ns
        self._id_prefix = id_prefix
        self.access = access
        self.loop = loop
        #: Whoever has ceilings has got them from a limiter, and that one is in here.
        self._admission: Any = admission
        self.recorder = Recorder(clock, random_bits, admission)
        self.dispatcher = Dispatcher(worker, self._now, random_bits, admission, self.recorder)
        books = Books(journal, self._now, admission)
        self._settle = books.settle
        self.bill_loser = books.bill_loser
        self._relay = Relay(loop, self._now, books.settle, admission)

    async def handle(self, downstream: Downstream) -> None:
        """Serve one request, whatever its end: answer, refusal, failure or departure of the client."""
        snapshot = self.snapshot
        snapshot = snapshot if snapshot.lanes is None else snapshot.lanes.enter(downstream) or snapshot
        # Called where it is looked up, what is no method of its class takes the interpreter a detour.
        monotonic_ns, wall_ns = self._now, self._wall
        record_id = self._journal.next_id()
        ctx = Context(
            snapshot,
            downstream,
            record_id,
            f"{self._id_prefix}{record_id & 0xFFFFFFFF:x}",
            monotonic_ns(),
            wall_ns(),
            asyncio.current_task(self.loop),
        )
        ctx.deadline_ns = ctx.started_ns + snapshot.total_ns
        self._watch.enter(ctx)
        # Whatever is to be said to the client is said behind the handlers: a compiled coroutine must not wait in one.
        refusal: GatewayError | None = None
        try:
            try:
                operation, model = find_operation(downstream.method, downstream.path)
                ctx.operation = operation
                ctx.dialect = snapshot.dialects[operation.dialect]
                ctx.query = downstream.query
                self._reader.check_target(downstream)
                head, length = snapshot.heads.read(downstream)
                ctx.principal = head.principal
                ctx.head_lines = head.lines
                ctx.wishes = NO_WISHES
                if head.ours:
                    _read_our_fields(ctx, head.fields)
                if operation.local:
                    await self._answer_here(downstream, ctx, model, head.fields)
                    return
                body = self._reader.at_once(downstream)
                if body is None:
                    body = await self._reader.expect(downstream, ctx, length)
                if len(body) <= SCAN_IN_THREAD_BYTES:
                    self._reader.take_body(ctx, body)
                else:
                    await self._reader.take_large(ctx, body)
                route = _resolve(snapshot, ctx, model)
                ctx.admitted = True
                plan = snapshot.planner.plan(ctx, route)
                ctx.plan = plan
                limited = ctx.principal.limits is not None or route.limits is not None
                waiting = self._admission.admit(ctx, plan) if limited else None
                if waiting is not None:
                    await waiting
                await self._serve(downstream, ctx, snapshot, plan)
            except asyncio.CancelledError:
                refusal = _interruption(ctx)
            except AnswerCutError:
                raise
            except Exception as error:  # noqa: BLE001 - a fault of ours must still answer, settle and leave a trace
                refusal = _refusal(ctx, error)
            if refusal is not None:
                await self._refuse(downstream, ctx, refusal)
        finally:
            self._watch.leave(ctx)
            if not ctx.settled:
                self._settle(ctx)
            if self.access is not None:
                self.access.note(ctx)
            # Where it was raised leads back to here: a circle that would wait for the collector.
            ctx.error = refusal = None

    async def _answer_here(self, downstream: Downstream, ctx: Context, model: bytes, fields: Fields) -> None:
        balancer = ctx.snapshot.balancer
        if ctx.operation.name == "models":
            body = _list_models(ctx, model, fields)
        elif balancer is not None:
            body = balancer.answer(ctx.operation.name.removeprefix("load_balancer."))
        else:
            raise GatewayError(404, "not_found", "unknown path")
        headers = [JSON_TYPE, (b"content-length", b"%d" % len(body)), (b"x-request-id", ctx.request_id.encode())]
        if ctx.principal.limits is not None:
            headers += self._admission.fields(ctx)
        ctx.status = 200
        await downstream.respond(200, headers, body)

    # --- attempts

    async def _serve(self, downstream: Downstream, ctx: Context, snapshot: Snapshot, plan: Plan) -> None:
        """Try endpoints until one's answer goes to the client. Raises GatewayError when none did."""
        if plan.terms.decision.headers:
            _set_headers(ctx, plan.terms.decision.headers)
        now_ms = ctx.started_ns // 1_000_000
        snapshot.retry_budget.deposit(now_ms)
        if snapshot.hedger is not None:
            snapshot.hedger.request(now_ms)
        dispatcher = self.dispatcher
        held: Held | None = None
        attempt: Attempt | None = None
        while ctx.attempts < snapshot.max_attempts:
            choose = dispatcher.choose if not dispatcher.crowd else dispatcher.choose_in_turn
            chosen = choose(ctx, plan, snapshot)
            if chosen is None and attempt is None:
                chosen = await dispatcher.wait_for_room(ctx, plan, snapshot)
            if chosen is None:
                if attempt is not None and await dispatcher.revisit(ctx, plan, snapshot, attempt.outcome):
                    continue
                break
            plan.attempt = chosen
            try:
                answered = await self._try(downstream, ctx, plan, snapshot)
            finally:
                attempt = plan.attempt
                self.recorder.record(ctx, plan, attempt)
                if attempt.exchange is not None:
                    attempt.exchange.close()
            if answered:
                if not downstream.finished:
                    # Not an event stream: nothing that could be appended would be true. Cutting it off is.
                    raise AnswerCutError
                return
            held = attempt.held or held
            if not dispatcher.goes_on(ctx, plan, snapshot, attempt.outcome):
                break
        if held is None:
            raise _nothing(ctx, plan, attempt)
        ctx.endpoint = held.endpoint
        ctx.survey = held.survey
        await self._relay.whole(downstream, ctx, held, held.body, held.outcome)

    async def _try(self, downstream: Downstream, ctx: Context, plan: Plan, snapshot: Snapshot) -> bool:
        """Make the plan's attempt; return whether the client has been answered. Its outcome is in the attempt."""
        attempt = plan.attempt
        request = encode(ctx, attempt, plan.model)
        if snapshot.hedger is None:
            await self.send(request, attempt, ctx, snapshot)
        else:
            await Race(self, ctx, plan, snapshot).run(request)
            attempt = plan.attempt
        exchange = attempt.exchange
        if exchange is None:
            return False
        ctx.survey = attempt.survey
        ctx.first = attempt.first
        ctx.first_byte_ns = attempt.first_byte_ns
        ctx.enter(STREAM, attempt.endpoint.idle_ns)
        if exchange.status >= 400:
            if await self._hold(exchange, attempt, ctx, snapshot):
                return False
        elif is_held(ctx, exchange):
            body: bytes | None
            failure = None
            if exchange.complete:
                body = attempt.first + exchange.read()
            else:
                body, failure = await collect(exchange, ctx, HOLD_BYTES)
            if body is not None:
                if len(body) > PARSE_IN_THREAD_BYTES:
                    await self._relay.meter_large(ctx, body)
                await self._relay.whole(downstream, ctx, exchange, body, attempt.outcome)
                return True
            if failure is not None:
                attempt.fail(failure, snapshot.classifier)
                return False
        if attempt.outcome is classify.OK:
            # How fast it is to refuse says nothing of its answers.
            attempt.first_token(plan.prefill_work, self.recorder.cost_ms(ctx, attempt, 0), self._now() // 1_000_000)
        await self._relay.stream(downstream, ctx, exchange, attempt)
        return True

    async def send(self, request: UpstreamRequest, attempt: Attempt, ctx: Context, snapshot: Snapshot) -> None:
        """Send an attempt and wait until its answer has begun, or it has failed; the attempt knows which.

        The first bytes of the body are awaited too: until they are here another endpoint can still be tried.
        """
        monotonic_ns = self._now
        sent_ns = monotonic_ns()
        exchange: Exchange | None = None
        try:
            exchange = await attempt.endpoint.transport.send(request, ctx)
            first = exchange.read()
            while not first and not exchange.complete:
                await exchange.wait()
                first = exchange.read()
            attempt.survey = survey(exchange.headers, first)
            if ctx.stream and exchange.error is not None and not has_event(attempt.survey, first):
                # It has broken off with nothing in it for the client.
                raise exchange.error
        except UpstreamError as error:
            self.recorder.fail(attempt, exchange, error, ctx)
            close_exchange(exchange)
            return
        except asyncio.CancelledError:
            if ctx.interrupted not in (CONNECT, FIRST_BYTE):
                close_exchange(exchange)
                raise
            reason = ctx.resume()
            what = "connect" if reason == CONNECT else "answer"
            failure = UpstreamError("timeout", f"the provider did not {what} in time", sent=reason != CONNECT)
            self.recorder.fail(attempt, exchange, failure, ctx)
            close_exchange(exchange)
            return
        finally:
            now = monotonic_ns()
            ctx.upstream_ns += now - sent_ns
        attempt.exchange = exchange
        attempt.first = first
        attempt.first_byte_ns = now
        attempt.outcome = snapshot.classifier.status(exchange.status)
        if exchange.status >= 400:
            self.recorder.judge(attempt, exchange, first, ctx, whole=exchange.complete)
        if attempt.survey.has_limits and snapshot.attempts.adaptive is not None:
            allowance = read_allowance(exchange.headers, self._wall() // 1_000_000)
            if allowance is not None:
                attempt.allowed(allowance, now // 1_000_000)

    async def _hold(self, exchange: Exchange, attempt: Attempt, ctx: Context, snapshot: Snapshot) -> bool:
        """Read an error answer, which another attempt may make unnecessary, and judge it.

        False: it is too large to be held, nobody else is left to be tried, and so it is the answer.
        """
        body, failure = await collect(exchange, ctx, HOLD_ERROR_BYTES)
        if failure is not None:
            self.recorder.fail(attempt, exchange, failure, ctx)
            return True
        self.recorder.judge(attempt, exchange, ctx.first if body is None else body, ctx, whole=True)
        outcome = attempt.outcome
        if body is None:
            if not self.dispatcher.has_others(ctx, ctx.plan, snapshot, outcome):
                heed(ctx, outcome.hint_ms)
                return False
            attempt.failure = UpstreamError("malformed", "the provider's error was too large to be kept", sent=True)
            return True
        attempt.held = hold(exchange, body, attempt)
        return True

    # --- ends

    async def _refuse(self, downstream: Downstream, ctx: Context, error: GatewayError) -> None:
        ctx.error = error
        if ctx.attempts == 0:
            ctx.outcome = "refused" if error.fault != "gateway" or error.status == 503 else "internal_error"
        elif error.status == 500:
            ctx.outcome = "internal_error"
        ctx.status = error.status
        if downstream.started:
            raise AnswerCutError(error.code)
        dialect = ctx.dialect or ctx.snapshot.dialects[guess_dialect(downstream.path)]
        if ctx.dialect is not None and ctx.operation.name == "models":
            dialect = ctx.snapshot.dialects[_shape_of_models(ctx, dict(downstream.headers))]
        status, headers, body = error_reply(error, dialect, ctx.request_id)
        if ctx.attempts:
            headers.append(ATTEMPTS[ctx.attempts])
        if ctx.principal is not None and ctx.principal.limits is not None:
            headers += self._admission.fields(ctx)
        self._settle(ctx)
        await downstream.respond(status, headers, body)

    def reject(self, error: GatewayError, path: bytes) -> tuple[int, list[Header], bytes]:
        """Return (status, headers, body) of the answer to what came to a lane and is no request.

        path: as far as one can be read. The access log has a line for it.
        """
        record_id = self._journal.next_id()
        request_id = f"{self._id_prefix}{record_id & 0xFFFFFFFF:x}"
        if self.access is not None:
            ctx = Context(self.snapshot, None, record_id, request_id, self._now(), self._wall(), None)
            ctx.error = error
            ctx.status = error.status
            ctx.outcome = "refused"
            self.access.note(ctx)
        return error_reply(error, self.snapshot.dialects[guess_dialect(path)], request_id)


def _refusal(ctx: Context, error: Exception) -> GatewayError:
    """Return what to tell the client of a request that was refused, or failed for whatever reason."""
    if isinstance(error, GatewayError):
        return error
    log.error("request %s failed inside the gateway", ctx.request_id, exc_info=error)
    return GatewayError(500, "internal_error", "internal error", fault="gateway")


def _interruption(ctx: Context) -> GatewayError | None:
    """Return what to tell the client of a request that the watch has cut short, None where nobody is left to be told.

    Raises CancelledError for one that was cut short by what serves it, AnswerCutError for an answer that nobody takes.
    """
    reason = ctx.interrupted
    if reason is None:
        ctx.outcome = "cancelled"
        raise asyncio.CancelledError
    ctx.resume()
    if reason == CLIENT_GONE:
        ctx.outcome = "cancelled"
        return None
    if reason == SEND:
        ctx.outcome = "timeout"
        raise AnswerCutError(reason)
    if reason == TOTAL and ctx.phase == READ_BODY and not ctx.body:
        # It is the client who is late.
        reason = READ_BODY
    if ctx.attempts:
        ctx.outcome = "timeout"
    return _REFUSALS[reason]()


_REFUSALS: Final = {
    READ_BODY: lambda: GatewayError(408, "request_timeout", "the request body did not arrive in time", close=True),
    CONNECT: lambda: GatewayError(504, "deadline_exceeded", "the provider did not connect in time"),
    FIRST_BYTE: lambda: GatewayError(504, "deadline_exceeded", "the provider did not answer in time"),
    STREAM: lambda: GatewayError(504, "deadline_exceeded", "the provider stopped in the middle of its answer"),
    TOTAL: lambda: GatewayError(504, "deadline_exceeded", "the request's deadline passed"),
    DRAIN: lambda: GatewayError(
        503, "shutting_down", "the gateway is shutting down", retry_after_s=1, fault="gateway", retry_safe=True
    ),
}


def _nothing(ctx: Context, plan: Plan, attempt: Attempt | None) -> GatewayError:
    """Return what a client is told for which there is no answer of anybody's."""
    if attempt is not None and attempt.failure is not None:
        return _bad_gateway(attempt.failure, attempt.outcome, ctx.retry_after_ms)
    # What is raised leads back to the plan.
    refusal, plan.refusal = plan.refusal, None
    return refusal or _nobody()


def _nobody() -> GatewayError:
    return GatewayError(
        503,
        "no_healthy_provider",
        "no provider is available for this model",
        retry_after_s=1,
        fault="gateway",
        retry_safe=True,
    )


def _bad_gateway(failure: UpstreamError, outcome: Outcome, retry_after_ms: int) -> GatewayError:
    if outcome.verdict == RATE_LIMITED:
        return exhausted(retry_after_ms)
    if failure.kind == "timeout":
        return GatewayError(504, "deadline_exceeded", failure.message, fault="upstream")
    if failure.kind == "overflow":
        return GatewayError(503, "overloaded", failure.message, retry_after_s=1, fault="gateway", retry_safe=True)
    return GatewayError(502, "upstream_error", failure.message, fault="upstream", retry_safe=not failure.sent)


def _list_models(ctx: Context, model: bytes, fields: Fields) -> bytes:
    return model_document(Offer(ctx.snapshot.planner, ctx.principal), _shape_of_models(ctx, fields), model)


def _shape_of_models(ctx: Context, fields: Fields) -> DialectName:
    """Return whose list of models is asked for: one path is that of several dialects."""
    shape: DialectName = ctx.operation.dialect
    if shape == "openai" and (b"anthropic-version" in fields or b"x-api-key" in fields):
        shape = "anthropic"
    elif b"x-goog-api-key" in fields:
        shape = "gemini"
    return shape


def _read_our_fields(ctx: Context, fields: Fields) -> None:
    """Read what the caller asks of us in header fields, and take them out of what goes upstream."""
    wishes = read_wishes(fields)
    ctx.wishes = wishes
    if wishes.request_id:
        ctx.request_id = wishes.request_id
    if wishes.timeout_ns:
        ctx.deadline_ns = min(ctx.deadline_ns, ctx.started_ns + wishes.timeout_ns)
    headers = without_connection_fields(ctx.downstream.headers, fields.get(b"connection", b""))
    ctx.head_lines = request_head(headers, REQUEST_DROP)
    if wishes.trace is not None:
        state = fields.get(b"tracestate", b"")
        onward = [trace_header(wishes.trace, ctx.record_id), *([(b"tracestate", state)] if state else [])]
        ctx.head_lines += request_head(onward, frozenset())


def _set_headers(ctx: Context, headers: tuple[Header, ...]) -> None:
    """Set fields of the request that goes upstream, in place of the client's of the same names."""
    names = {name for name, _ in headers}
    lines = ctx.head_lines.splitlines(keepends=True)
    kept = b"".join(line for line in lines if line.partition(b":")[0] not in names)
    ctx.head_lines = kept + request_head(list(headers), frozenset())


def _resolve(snapshot: Snapshot, ctx: Context, path_model: bytes) -> Route:
    """Find the route of the model named by path or body, for this caller."""
    if path_model:
        named, start, end = path_model, 0, len(path_model)
    elif ctx.model_end:
        named, start, end = ctx.body, ctx.model_start, ctx.model_end
    else:
        named = ctx.model.encode()
        start, end = 0, len(named)
    model, route = snapshot.routes.resolve(named, start, end, ctx.operation.dialect)
    ctx.called = model
    ctx.model = route.name or model
    if not ctx.principal.may_use(model):
        raise unknown_model(named[start:end])
    return route
