"""The corridor: one request from its first byte to its ledger row, in the order it happens.

Rooms return values; only this file and ``downstream`` touch the client. See docs/request.md.
"""

import asyncio
import logging
from collections.abc import Callable, Sized
from typing import Any, Final

from fastroute._core._attempts_rules import FAILED, NEUTRAL, OK, RATE_LIMITED
from fastroute._core.h1 import UpstreamError
from fastroute._core.heads import request_head
from fastroute._core.ratelimit import read_allowance
from fastroute.admission import Admission, has_tried_enough, is_limited
from fastroute.attempt import Attempt, Held, KeyedAttempt, close_exchange, encode
from fastroute.billing.journal import JournalWriter
from fastroute.books import Books
from fastroute.clock import Clock
from fastroute.context import CLIENT_GONE, CONNECT, DRAIN, FIRST_BYTE, SEND, STREAM, TOTAL, WAIT, Context
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
from fastroute.health.channel import LONG_REST_MS
from fastroute.interfaces import (
    NO_WISHES,
    OUTPUT_TOKENS_PER_UNIT,
    PROMPT_TOKENS_PER_UNIT,
    DialectName,
    Exchange,
    Header,
    Result,
    Scope,
)
from fastroute.limits.refusal import queue_full
from fastroute.observe.access import AccessLog
from fastroute.race import Race
from fastroute.relay import ATTEMPTS, HOLD_BYTES, PARSE_IN_THREAD_BYTES, Relay, collect, is_held
from fastroute.routing.listing import model_document
from fastroute.routing.plan import Plan
from fastroute.routing.pool import LEARN_EVERY, Pool
from fastroute.routing.refusals import exhausted
from fastroute.routing.table import Route, unknown_model
from fastroute.snapshot import Snapshot
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.headers import REQUEST_DROP, without_connection_fields
from fastroute.upstream.survey import survey
from fastroute.upstream.transport import UpstreamRequest

log = logging.getLogger("fastroute")


#: Of an error answer that is about to be retried, this much is kept in case every other attempt fails too.
HOLD_ERROR_BYTES: Final = 1 << 16
#: Limits that fewer requests at a time would not keep to either.
NOT_CONCURRENCY: Final[frozenset[Scope]] = frozenset({"input_token", "output_token", "token", "day", "account"})


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
        self._random_bits = random_bits
        self._reader = reader
        self._worker = worker
        self._journal = journal
        self._watch = watch
        self.now = self._now = clock.monotonic_ns
        self._wall = clock.wall_ns
        self._id_prefix = id_prefix
        self.access = access
        self.loop = loop
        #: Whoever has ceilings has got them from a limiter, and that one is in here.
        self._admission: Any = admission
        self._crowd: Sized = admission.crowd if admission is not None else ()
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
        except GatewayError as error:
            await self._refuse(downstream, ctx, error)
        except asyncio.CancelledError:
            await self._interrupted(downstream, ctx)
        except AnswerCutError:
            raise
        except Exception:  # a fault of ours must still answer, settle and leave a trace
            log.exception("request %s failed inside the gateway", ctx.request_id)
            await self._refuse(downstream, ctx, GatewayError(500, "internal_error", "internal error", fault="gateway"))
        finally:
            self._watch.leave(ctx)
            if not ctx.settled:
                self._settle(ctx)
            if self.access is not None:
                self.access.note(ctx)

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
        held: Held | None = None
        attempt: Attempt | None = None
        while ctx.attempts < snapshot.max_attempts:
            chosen = self._choose(ctx, plan, snapshot) if not self._crowd else self._choose_in_turn(ctx, plan, snapshot)
            if chosen is None and attempt is None:
                chosen = await self._wait_for_room(ctx, plan, snapshot)
            if chosen is None:
                if attempt is not None and await self._revisit(ctx, plan, snapshot, attempt.outcome):
                    continue
                break
            plan.attempt = chosen
            try:
                answered = await self._try(downstream, ctx, plan, snapshot)
            finally:
                attempt = plan.attempt
                self.record(ctx, plan, attempt)
                if attempt.exchange is not None:
                    attempt.exchange.close()
            if answered:
                if not downstream.finished:
                    # Not an event stream: nothing that could be appended would be true. Cutting it off is.
                    raise AnswerCutError
                return
            held = attempt.held or held
            if not self._goes_on(ctx, plan, snapshot, attempt.outcome):
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
            attempt.first_token(plan.prefill_work, self._cost_ms(ctx, attempt, 0), self._now() // 1_000_000)
        await self._relay.stream(downstream, ctx, exchange, attempt)
        return True

    def _choose(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Admit the request to an endpoint; None when nobody along the plan is left."""
        return self.admit(ctx, plan, snapshot) or self._choose_further(ctx, plan, snapshot)

    def _choose_further(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Admit the request to an endpoint further along the plan, whose present pool had none; None if nobody has."""
        attempt: Attempt | None = None
        while attempt is None:
            snapshot.planner.refuse(plan, self._now() // 1_000_000)
            if plan.route.on_context_window and not plan.diverted and snapshot.planner.too_long(plan):
                plan.diverted = True
                snapshot.planner.divert(plan, plan.route.on_context_window)
            if not snapshot.planner.advance(plan, ctx):
                return None
            attempt = self.admit(ctx, plan, snapshot)
        return attempt

    def _choose_in_turn(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Like `_choose`, while requests wait for endpoints: a new one does not overtake those before it."""
        if ctx.attempts == 0 and self._admission.is_behind(ctx, plan):
            return None
        return self._choose(ctx, plan, snapshot)

    async def _wait_for_room(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Wait in the queue, if there is one, for who is full or over a limit; None if that is of no use."""
        refusal = plan.refusal
        if self._admission is None or not self._admission.queues or (refusal is not None and refusal.status != 429):
            return None
        wait_ms = plan.wait_ms if not plan.unsure else -1

        def find() -> bool:
            snapshot.planner.rewind(plan, ctx)
            plan.attempt = self._choose(ctx, plan, snapshot)
            return plan.attempt is not None

        snapshot.planner.rewind(plan, ctx)
        plan.wait_ms = wait_ms
        try:
            await self._admission.wait_for_room(ctx, plan, find)
        except asyncio.CancelledError:
            if plan.attempt is not None:
                self._unsent(ctx, plan)
            raise
        if plan.attempt is None:
            plan.refusal = plan.refusal or refusal or queue_full(0)
        chosen: Attempt | None = plan.attempt
        return chosen

    def _unsent(self, ctx: Context, plan: Plan) -> None:
        """Take back an attempt that a request was let in with, which has been stopped before it could go on."""
        attempt: Attempt = plan.attempt
        if attempt.grant is not None:
            attempt.grant.withdraw()
            attempt.grant = None
        ctx.attempts -= 1
        ctx.endpoint = None
        self.record(ctx, plan, attempt)

    def admit(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Admit the request to an endpoint of the plan's present pool, `ctx.endpoint`; None when none is left there."""
        attempts, monotonic_ns = snapshot.attempts, self._now
        while True:
            now_ms = monotonic_ns() // 1_000_000
            position = snapshot.planner.choose(plan, now_ms)
            if position < 0:
                return None
            plan.tried.append(position)
            endpoint: Endpoint = plan.pool.endpoints[position]
            trial = 0
            if plan.pool.candidates.on_trial:
                trial = snapshot.channels.claim(endpoint.index, now_ms)
                if trial < 0:
                    # Another request is finding out about this key, or its model.
                    continue
            grant = None
            if (endpoint.limits is not None or plan.route is not plan.asked) and is_limited(plan, endpoint):
                grant = self._admission.at_endpoint(ctx, plan, endpoint)
                if grant is None:
                    _take_back(snapshot, endpoint, trial, grant, now_ms)
                    if has_tried_enough(plan):
                        return None
                    continue
            enter = attempts.enter_anyway if plan.pool.candidates.panicking else attempts.enter
            ticket = enter(self._worker, endpoint.index, plan.work, now_ms)
            if ticket < 0:
                # Another worker was faster to take the last probe.
                _take_back(snapshot, endpoint, trial, grant, now_ms)
                continue
            sent_ns = now_ms * 1_000_000
            row, work = endpoint.index, plan.work
            if endpoint.key is None:
                attempt = Attempt(attempts, self._worker, row, ticket, work, True, endpoint, position, sent_ns, grant)
            else:
                attempt = keyed = KeyedAttempt(
                    attempts, self._worker, row, ticket, work, True, endpoint, position, sent_ns, grant
                )
                if not keyed.admit(now_ms, ctx.arrived_wall_ns):
                    _take_back(snapshot, endpoint, trial, grant, now_ms)
                    continue
            ctx.endpoint = endpoint
            ctx.attempts += 1
            ctx.first_byte_ns = -1
            if trial:
                attempt.trial = trial
            return attempt

    def _has_others(self, ctx: Context, plan: Plan, snapshot: Snapshot, outcome: Outcome) -> bool:
        """Whether there is somebody to try who has not been tried, so that this answer need not be the client's."""
        if not outcome.retryable or ctx.attempts >= snapshot.max_attempts:
            return False
        return plan.step < len(plan.chain) or snapshot.planner.gate(plan, self._now() // 1_000_000) > 0

    def _goes_on(self, ctx: Context, plan: Plan, snapshot: Snapshot, outcome: Outcome) -> bool:
        """Whether an attempt that ended so may be followed by another; turns the plan to where that may be."""
        if outcome.kind == "context_window" or outcome.kind == "content_policy":
            route = plan.route
            chain = route.on_context_window if outcome.kind == "context_window" else route.on_content_policy
            if chain and not plan.diverted:
                plan.diverted = True
                snapshot.planner.divert(plan, chain)
                return snapshot.planner.advance(plan, ctx)
        if not outcome.retryable or ctx.attempts >= snapshot.max_attempts:
            return False
        if outcome.killer:
            plan.killed += 1
            if plan.killed >= snapshot.max_replicas:
                return False
        now_ms = self._now() // 1_000_000
        return now_ms * 1_000_000 < ctx.deadline_ns and snapshot.retry_budget.withdraw(now_ms)

    async def _revisit(self, ctx: Context, plan: Plan, snapshot: Snapshot, outcome: Outcome) -> bool:
        """Wait until endpoints that have failed may be tried again; False if that makes no sense.

        Only faults of an endpoint are waited out. Who is over a rate limit tells its client when to come back.
        """
        if not ctx.attempts or outcome.verdict != FAILED or not outcome.retryable or plan.revisited == ctx.attempts:
            return False
        if not outcome.again:
            return False
        plan.revisited = ctx.attempts
        wait_ns = snapshot.backoff.delay_ms(ctx.attempts, self._random_bits()) * 1_000_000
        if self._now() + wait_ns >= ctx.deadline_ns:
            return False
        ctx.enter(WAIT, 0)
        await asyncio.sleep(wait_ns / 1e9)
        plan.tried.clear()
        return True

    def record(self, ctx: Context, plan: Plan, attempt: Attempt) -> None:
        """Record the end of an attempt, once: in-flight count, load, breaker, health and what strategies learn."""
        outcome = attempt.outcome
        ctx.outcome = outcome.name
        if attempt.grant is not None:
            self._admission.settle_attempt(ctx, attempt)
        monotonic_ns = self._now
        now_ns = monotonic_ns()
        if outcome is classify.OK:
            # The one that nearly all of them are: what a good answer has no use for is not looked at.
            cost_ms = -1.0 if attempt.survey.events else self._cost_ms(ctx, attempt, ctx.usage.total_output)
            attempt.release(OK, cost_ms, now_ns // 1_000_000, 0, 0)
            if not ctx.record_id % LEARN_EVERY and ctx.usage_source == "provider":
                pool: Pool = plan.pool
                pool.learn(ctx.request_bytes, ctx.usage.total_input, ctx.usage.total_output)
            if not ctx.record_id % LEARN_EVERY or attempt.trial:
                self._learn(ctx.snapshot, attempt, now_ns // 1_000_000)
        else:
            _heed(ctx, outcome.hint_ms)
            self._release(attempt, outcome, now_ns)
            if outcome.cause or attempt.trial:
                self._tell_channel(ctx, attempt, now_ns)
        if self._crowd:
            self._admission.attempt_ended()
        if plan.chooser.learns or ctx.snapshot.hedger is not None:
            self._teach(ctx, plan, attempt, (now_ns - attempt.sent_ns) / 1e6)

    def _tell_channel(self, ctx: Context, attempt: Attempt, now_ns: int) -> None:
        """Let the channel know of a refusal. Who is to be left alone is so for no less than it has asked for."""
        outcome = attempt.outcome
        doubtful = outcome.cause == "no_permission"
        request = hash((ctx.called, ctx.body)) if doubtful else 0
        caller = ctx.principal.key_id
        ctx.snapshot.channels.ended(attempt.endpoint.index, attempt.trial, outcome, _ceil_ms(now_ns), request, caller)

    def _learn(self, snapshot: Snapshot, attempt: Attempt, now_ms: int) -> None:
        """Take in what a good answer says of its key: that it is good, and what is left of its limits."""
        row = attempt.endpoint.index
        if attempt.trial:
            snapshot.channels.ended(row, attempt.trial, attempt.outcome, now_ms)
        if attempt.exchange is not None:
            snapshot.channels.learn(row, read_allowance(attempt.exchange.headers, self._wall() // 1_000_000), now_ms)

    def _release(self, attempt: Attempt, outcome: Outcome, now_ns: int) -> None:
        cost_ms = -1.0
        if outcome.verdict == NEUTRAL and attempt.first_byte_ns < 0:
            # It may have been slow to refuse, or its client may have tired of waiting: that much is known.
            cost_ms = (now_ns - attempt.sent_ns) / 1e6
        hint_ms = max(0, outcome.hint_ms)
        if outcome.scope in NOT_CONCURRENCY:
            attempt.excused()
        attempt.release(outcome.verdict, cost_ms, _ceil_ms(now_ns), self._random_bits(), hint_ms)

    def _teach(self, ctx: Context, plan: Plan, attempt: Attempt, total_ms: float) -> None:
        begun = attempt.first_byte_ns >= 0
        ttft_ms = (attempt.first_byte_ns - attempt.sent_ns) / 1e6 if begun else -1.0
        if plan.chooser.learns:
            result = Result(attempt.outcome.verdict, ttft_ms, total_ms, ctx.cost_nano_usd, ctx.usage.total_output)
            plan.chooser.strategy.observe(attempt.position, plan, result)
        hedger = ctx.snapshot.hedger
        if hedger is not None and attempt.outcome.verdict == OK:
            hedger.observe(plan.pool.model, ctx.prompt_tokens, ttft_ms)

    def _cost_ms(self, ctx: Context, attempt: Attempt, output_tokens: int) -> float:
        """Return the time to the first byte, less what is due to the lengths of the prompt and of a whole answer."""
        scale = 1.0 + ctx.prompt_tokens / PROMPT_TOKENS_PER_UNIT + output_tokens / OUTPUT_TOKENS_PER_UNIT
        return (attempt.first_byte_ns - attempt.sent_ns) / 1e6 / scale

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
        except UpstreamError as error:
            self._fail(attempt, exchange, error, ctx)
            close_exchange(exchange)
            return
        except asyncio.CancelledError:
            if ctx.interrupted not in (CONNECT, FIRST_BYTE):
                close_exchange(exchange)
                raise
            reason = ctx.resume()
            what = "connect" if reason == CONNECT else "answer"
            failure = UpstreamError("timeout", f"the provider did not {what} in time", sent=reason != CONNECT)
            self._fail(attempt, exchange, failure, ctx)
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
            self.judge(attempt, exchange, first, ctx, whole=exchange.complete)
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
            self._fail(attempt, exchange, failure, ctx)
            return True
        self.judge(attempt, exchange, ctx.first if body is None else body, ctx, whole=True)
        outcome = attempt.outcome
        if body is None:
            if not self._has_others(ctx, ctx.plan, snapshot, outcome):
                _heed(ctx, outcome.hint_ms)
                return False
            attempt.failure = UpstreamError("malformed", "the provider's error was too large to be kept", sent=True)
            return True
        attempt.held = Held(exchange.status, exchange.headers, body, outcome, attempt.endpoint, attempt.survey)
        return True

    def judge(self, attempt: Attempt, exchange: Exchange, body: bytes, ctx: Context, *, whole: bool) -> None:
        """Judge an error answer by all that is known of it, once.

        whole: there will be no more of its body than this. While there may be, it is a limit at most: that stands in
        its head. What is wrong with a key is in the words of the body.
        """
        if attempt.judged:
            return
        attempt.judged = whole
        snapshot = ctx.snapshot
        outcome = snapshot.classifier.answer(exchange.status, exchange.headers, body, ctx.dialect, self._wall())
        if outcome.hint_ms > LONG_REST_MS:
            outcome = outcome.but(hint_ms=snapshot.channels.rest_ms(attempt.endpoint.index, outcome))
        if whole or outcome.verdict == RATE_LIMITED:
            attempt.outcome = outcome

    def _fail(self, attempt: Attempt, exchange: Exchange | None, failure: UpstreamError, ctx: Context) -> None:
        """Note a failure of the transport. An answer that had begun with a limit before it broke off was one."""
        if exchange is not None and exchange.status >= 400:
            self.judge(attempt, exchange, b"", ctx, whole=False)
        judged = attempt.outcome
        attempt.fail(failure, ctx.snapshot.classifier)
        attempt.outcome = classify.broken_off(judged, attempt.outcome)

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
        status, headers, body = error_reply(error, dialect, ctx.request_id)
        if ctx.attempts:
            headers.append(ATTEMPTS[ctx.attempts])
        if ctx.principal is not None and ctx.principal.limits is not None:
            headers += self._admission.fields(ctx)
        self._settle(ctx)
        await downstream.respond(status, headers, body)

    async def _interrupted(self, downstream: Downstream, ctx: Context) -> None:
        """End a request that the watch, or the server below, cut short."""
        reason = ctx.interrupted
        if reason is None:
            ctx.outcome = "cancelled"
            raise asyncio.CancelledError
        ctx.resume()
        if reason in (CLIENT_GONE, SEND):
            ctx.outcome = "cancelled" if reason == CLIENT_GONE else "timeout"
            if reason == SEND:
                raise AnswerCutError(reason)
            return
        if ctx.attempts:
            ctx.outcome = "timeout"
        await self._refuse(downstream, ctx, _REFUSALS[reason]())


_REFUSALS: Final = {
    "read_body": lambda: GatewayError(408, "request_timeout", "the request body did not arrive in time", close=True),
    CONNECT: lambda: GatewayError(504, "deadline_exceeded", "the provider did not connect in time"),
    FIRST_BYTE: lambda: GatewayError(504, "deadline_exceeded", "the provider did not answer in time"),
    STREAM: lambda: GatewayError(504, "deadline_exceeded", "the provider stopped in the middle of its answer"),
    TOTAL: lambda: GatewayError(504, "deadline_exceeded", "the request's deadline passed"),
    DRAIN: lambda: GatewayError(
        503, "shutting_down", "the gateway is shutting down", retry_after_s=1, fault="gateway", retry_safe=True
    ),
}


def _take_back(snapshot: Snapshot, endpoint: Endpoint, trial: int, grant: Any, now_ms: int) -> None:
    """Take back what was given to an attempt that will not be made."""
    if grant is not None:
        grant.withdraw()
    if trial:
        snapshot.channels.give_back(endpoint.index, trial, now_ms)


def _nothing(ctx: Context, plan: Plan, attempt: Attempt | None) -> GatewayError:
    """Return what a client is told for which there is no answer of anybody's."""
    if attempt is not None and attempt.failure is not None:
        return _bad_gateway(attempt.failure, attempt.outcome, ctx.retry_after_ms)
    return plan.refusal or _nobody()


def _nobody() -> GatewayError:
    return GatewayError(
        503,
        "no_healthy_provider",
        "no provider is available for this model",
        retry_after_s=1,
        fault="gateway",
        retry_safe=True,
    )


def _heed(ctx: Context, hint_ms: int) -> None:
    """Note how long a provider wants to be left alone, if it does: the client is told the least."""
    if hint_ms < 0:
        return
    ctx.retry_after_ms = hint_ms if ctx.retry_after_ms < 0 else min(ctx.retry_after_ms, hint_ms)


def _ceil_ms(now_ns: int) -> int:
    """Return milliseconds, rounded up: a time to rest that begins there does not end before it is over."""
    return -(-now_ns // 1_000_000)


def _bad_gateway(failure: UpstreamError, outcome: Outcome, retry_after_ms: int) -> GatewayError:
    if outcome.verdict == RATE_LIMITED:
        return exhausted(retry_after_ms)
    if failure.kind == "timeout":
        return GatewayError(504, "deadline_exceeded", failure.message, fault="upstream")
    if failure.kind == "overflow":
        return GatewayError(503, "overloaded", failure.message, retry_after_s=1, fault="gateway", retry_safe=True)
    return GatewayError(502, "upstream_error", failure.message, fault="upstream", retry_safe=not failure.sent)


def _list_models(ctx: Context, model: bytes, fields: Fields) -> bytes:
    names = [name for name in ctx.snapshot.routes.names if ctx.principal.may_use(name)]
    shape: DialectName = ctx.operation.dialect
    if shape == "openai" and (b"anthropic-version" in fields or b"x-api-key" in fields):
        shape = "anthropic"
    elif b"x-goog-api-key" in fields:
        shape = "gemini"
    return model_document(names, shape, model)


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
