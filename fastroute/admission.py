"""Ceilings in the corridor: what a request is let in by, what it is thought to use, and what it has used."""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastroute._core._limits_file import CONCURRENCY, DAY_NS, PER_MINUTE_REQUESTS
from fastroute._core.counters import COOLDOWN_UNTIL_MS, Segment
from fastroute._core.jsonscan import KIND_NUMBER
from fastroute._core.limits import Ceilings, Grant, Limiter
from fastroute.attempt import Attempt
from fastroute.clock import Clock
from fastroute.config.ceilings import Queue
from fastroute.context import WAIT, Context
from fastroute.downstream.request import COUNT, MAX_TOKENS
from fastroute.errors import GatewayError
from fastroute.interfaces import Header, Usage
from fastroute.limits.queue import LEVELS, POLL_NS, FairQueue, Waiting, subject_names
from fastroute.limits.refusal import over_limit, queue_full
from fastroute.routing.plan import Plan
from fastroute.routing.refusals import exhausted
from fastroute.upstream.endpoint import Endpoint

log = logging.getLogger("fastroute")

#: How often to look whether somebody's ceilings have found no place in the table.
LOST_CHECK_S: Final = 30.0
#: Gates know of so many endpoints that they have been tried.
MAX_TRIED: Final = 64
#: A prompt has at least one token in so many bytes, whatever it is made of.
BYTES_PER_TOKEN_AT_MOST: Final = 50
#: No answer is debited by more than this, unless that much was asked for: the largest context window there is. What a
#: provider reports by mistake must not keep a caller out for a day.
MAX_DEBIT: Final = 10_000_000
#: For so many kinds of requests that wait for endpoints is room looked for in vain at a time,
MAX_LOOKS: Final = 64
#: and after an attempt has ended not again before this many times as long has passed as the last look has taken.
LOOK_REST: Final = 4
_GEMINI_CEILING: Final = re.compile(rb'"max_?[oO]utput_?[tT]okens"\s*:\s*([0-9]{1,9})')
_GEMINI_COUNT: Final = re.compile(rb'"candidate_?[cC]ount"\s*:\s*([0-9]{1,3})')


class Admission:
    """One worker's limits, for the requests of all its snapshots, and the queue before them."""

    def __init__(self, limiter: Limiter, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.limiter = limiter
        self._now = clock.monotonic_ns
        self._wall = clock.wall_ns
        self._loop = loop
        self._queue = FairQueue(limiter, 0)
        self._max_wait_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lost = 0
        #: Those who wait for an endpoint. Mostly nobody: that is all that a request in passing has to look at.
        self.crowd: set[_Place] = set()
        self._looks = 0
        self._next_look_ns = 0

    @property
    def queues(self) -> bool:
        """Whether requests may wait."""
        return self._queue.capacity > 0

    def configure(self, queue: Queue | None) -> None:
        """Go by another configuration of the queue from now on. Who waits already goes on waiting."""
        self._queue.resize(queue.max if queue is not None else 0)
        self._max_wait_ns = queue.max_wait_ms * 1_000_000 if queue is not None else 0

    def watch_table(self) -> None:
        """Say so when there are more subjects than the table has room for, now and from time to time."""
        lost = self.limiter.table.lost
        if lost > self._lost:
            log.warning(
                "the table of limits is full: %d times a subject was let through without its ceilings; a restart makes"
                " one that has room for all keys",
                lost,
            )
            self._lost = lost
        self._loop.call_later(LOST_CHECK_S, self.watch_table)

    def admit(self, ctx: Context, plan: Plan) -> Coroutine[Any, Any, None] | None:
        """Let a request in by the ceilings of its caller and its model. Raises GatewayError 429.

        None: it has been let in. Otherwise it has to wait in the queue, and what is returned is to be awaited; that may
        end in a GatewayError 429 too.

        A request that is refused leaves no record: it would cost more than the refusal, and be worth less.
        """
        caller, model = ctx.principal.limits, plan.route.limits
        counts = (caller is not None and caller.counts_tokens) or (model is not None and model.counts_tokens)
        least, tokens = measure(ctx, plan) if counts else (0, 0)
        queue = self._queue
        level = _level(ctx, plan) if queue.capacity else 0
        if not len(queue) or not queue.is_ahead(level, subject_names(caller, model)):
            ctx.grant = self.limiter.admit(caller, model, least, tokens, self._now(), ctx.arrived_wall_ns)
            if ctx.grant is not None:
                return None
            if not queue.capacity or self.limiter.hopeless:
                raise self._refused(ctx)
        if not counts:
            # Turns in the queue are counted in tokens, whatever the ceilings count.
            least, tokens = measure(ctx, plan)
        return self._wait(_Seat(self._loop, ctx, level, caller, model, least, tokens))

    async def _wait(self, seat: "_Seat") -> None:
        """Wait in the queue until there is room. Raises GatewayError 429 at once if that would take too long."""
        ctx, queue = seat.ctx, self._queue
        now_ns = self._now()
        seat.deadline_ns = min(ctx.deadline_ns, now_ns + self._max_wait_ns)
        estimate_ns = queue.estimate_ns(seat, now_ns, self._wall())
        if now_ns + estimate_ns >= seat.deadline_ns or not queue.join(seat):
            raise self._refused(ctx, seat, estimate_ns)
        await self._sit(seat, now_ns)
        if ctx.grant is None:
            raise self._refused(ctx, seat, queue.estimate_ns(seat, self._now(), self._wall()))

    async def _sit(self, seat: "_Seat", now_ns: int) -> None:
        """Wait until a seat is let in or turned away, at its deadline at the latest."""
        self.pump()
        seat.ctx.enter(WAIT, 0)
        patience = self._loop.call_later((seat.deadline_ns - now_ns) / 1e9, seat.turn_away)
        try:
            await seat.future
        finally:
            patience.cancel()
            self._queue.leave(seat)

    def _refused(self, ctx: Context, seat: "_Seat | None" = None, least_ns: int = 0) -> GatewayError:
        """Return the refusal of a request. least_ns: what those who wait before it will take."""
        ctx.admitted = False
        limiter = self.limiter
        if seat is not None:
            # Whoever was looked at last may have been another; and if there is room now, others are to have it.
            grant = limiter.admit(seat.caller, seat.model, seat.least, seat.tokens, self._now(), self._wall())
            if grant is not None:
                grant.withdraw()
                return queue_full(least_ns)
        return over_limit(limiter, least_ns)

    def pump(self, looks: int = MAX_LOOKS) -> None:
        """Let in whoever can be, and look again when the next one may be. looks: for endpoints, see `MAX_LOOKS`."""
        # Who has not been looked at must not wait for longer: such calls may come without a pause.
        due_s = math.inf
        if self._timer is not None:
            due_s = due_s if looks else self._timer.when()
            self._timer.cancel()
            self._timer = None
        self._looks = looks
        again_ns = self._queue.pump(self._now(), self._wall())
        if again_ns >= 0:
            self._timer = self._loop.call_at(min(due_s, self._loop.time() + again_ns / 1e9), self.pump)

    def attempt_ended(self) -> None:
        """Look for room for those who wait for an endpoint, unless it takes so long that others would wait for that."""
        began_ns = self._now()
        if began_ns >= self._next_look_ns:
            self.pump()
            ended_ns = self._now()
            self._next_look_ns = ended_ns + LOOK_REST * (ended_ns - began_ns)

    def settle(self, ctx: Context) -> None:
        """End a request's grant with what it has used."""
        ctx.grant.settle(0 if ctx.usage_source == "none" else _debit(ctx.grant, ctx.usage))
        if len(self._queue):
            # Its endpoint has room when its attempt has ended.
            self.pump(looks=0)

    def is_behind(self, ctx: Context, plan: Plan) -> bool:
        """Whether somebody waits for an endpoint whom a new request must not overtake."""
        return self._queue.is_ahead(_level(ctx, plan), (_place_name(plan),))

    async def wait_for_room(self, ctx: Context, plan: Plan, find: Callable[[], bool]) -> None:
        """Wait in the queue until an endpoint has room, or for nothing, if that would take too long.

        The plan is at its beginning; `wait_ms` is until somebody will have room, -1 where nobody knows. find: admits
        the request to an endpoint, if that can be done now.
        """
        queue = self._queue
        _, tokens = measure(ctx, plan)

        def look() -> bool:
            if not self._looks:
                return False
            found = find()
            if not found:
                self._looks -= 1
                if self._is_in_vain(plan, seat):
                    seat.turn_away()
            return found

        seat = _Place(self._loop, ctx, _level(ctx, plan), tokens, _place_name(plan), look)
        now_ns = self._now()
        seat.deadline_ns = min(ctx.deadline_ns, now_ns + self._max_wait_ns)
        least_ns = max(plan.wait_ms * 1_000_000, queue.estimate_ns(seat, now_ns, self._wall()))
        if now_ns + least_ns >= seat.deadline_ns or not queue.join(seat):
            return
        self.crowd.add(seat)
        try:
            await self._sit(seat, now_ns)
        finally:
            self.crowd.discard(seat)

    def _is_in_vain(self, plan: Plan, seat: "_Place") -> bool:
        """Whether what has been found is nothing to wait for: nobody is healthy any more, or all rest for too long."""
        if plan.refusal is not None and plan.refusal.status != 429:
            return True
        return not plan.unsure and self._now() + plan.wait_ms * 1_000_000 >= seat.deadline_ns

    def at_endpoint(self, ctx: Context, plan: Plan, endpoint: Endpoint) -> Grant | None:
        """Let an attempt in by the ceilings of the endpoint's key; None, and the plan knows how long to wait.

        To be called where `is_limited` says so.
        """
        own = endpoint.limits
        # The model's own has let the request in already, but for one that a failover chain has led to.
        model = plan.route.limits if plan.route is not plan.asked else None
        counts = (own is not None and own.counts_tokens) or (model is not None and model.counts_tokens)
        least, tokens = measure(ctx, plan) if counts else (0, 0)
        limiter = self.limiter
        grant = limiter.admit(own, model, least, tokens, self._now(), self._wall())
        if grant is None:
            # What can never fit is not to be waited for.
            wait_ms = max(1, -(-(DAY_NS if limiter.hopeless else limiter.wait_ns) // 1_000_000))
            if limiter.dimension == CONCURRENCY:
                plan.unsure = True
            if limiter.dimension == PER_MINUTE_REQUESTS and model is None:
                # Nobody else can use it before then either: it need not be offered to them.
                _rest(plan.pool.info.segment, endpoint.index, self._now() // 1_000_000 + wait_ms)
            plan.wait_ms = wait_ms if plan.wait_ms < 0 else min(plan.wait_ms, wait_ms)
            if plan.refusal is None or plan.refusal.code == "rate_limit_exceeded":
                plan.refusal = exhausted(plan.wait_ms)
        return grant

    def settle_attempt(self, ctx: Context, attempt: Attempt) -> None:
        """End an attempt's grant with what the answer to the client has used, or with nothing if there was none."""
        used = attempt.first_byte_ns >= 0 and ctx.usage_source != "none"
        attempt.grant.settle(_debit(attempt.grant, ctx.usage) if used else 0)

    def fields(self, ctx: Context) -> list[Header]:
        """Return the fields that tell the caller how much is left to it."""
        return self.limiter.fields(ctx.principal.limits, self._now(), ctx.arrived_wall_ns)

    def instead(self, ctx: Context, headers: list[Header]) -> list[Header]:
        """Return an answer's fields with the caller's own limits in place of the provider's."""
        return self.limiter.instead(headers, ctx.principal.limits, self._now(), ctx.arrived_wall_ns)


class _Seat(Waiting):
    """A request of this worker in the queue; `future` is done when its waiting is over, whichever way."""

    __slots__ = ("ctx", "future")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ctx: Context,
        level: int,
        caller: Ceilings | None,
        model: Ceilings | None,
        least: int,
        tokens: int,
    ) -> None:
        super().__init__(ctx.principal.tenant, level, caller, model, least, tokens, 0)
        self.ctx = ctx
        self.future: asyncio.Future[None] = loop.create_future()

    def let_in(self, grant: Grant) -> None:
        if self.future.done():
            # Its client has left, or it has been interrupted, and it has not yet had the time to leave the queue.
            grant.withdraw()
            return
        # With the request at once: whatever happens to it from here on, its end settles this too.
        self.ctx.grant = grant
        self.future.set_result(None)

    def turn_away(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Place(_Seat):
    """A request for which no endpoint has room. Behind it wait those who could go to the same ones: see `_place_name`.

    find: admits it to an endpoint, which the request then has; whether there was one.
    """

    __slots__ = ("_find",)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ctx: Context,
        level: int,
        tokens: int,
        name: str,
        find: Callable[[], bool],
    ) -> None:
        super().__init__(loop, ctx, level, None, None, 0, tokens)
        self.names = (name,)
        self._find = find

    @property
    def paced(self) -> tuple[str, ...]:
        return self.names

    def admit(self, limiter: Limiter, now_ns: int, wall_ns: int) -> Any:
        """Go to an endpoint, unless the waiting is over and the request has not yet had the time to leave."""
        return None if self.future.done() or not self._find() else self

    def obstacle(self, limiter: Limiter) -> tuple[str, int]:
        return self.names[0], POLL_NS

    def let_in(self, grant: Any) -> None:
        # `admit` has done it, to one that still waits.
        self.future.set_result(None)


def _place_name(plan: Plan) -> str:
    """Return what a request has in common with all who could go to the same endpoints. The plan is at its beginning."""
    terms = plan.terms
    name = f"place {id(plan.pool):x} {terms.order!r} {terms.regions} {terms.max_cost_pico.bit_length()}"
    if plan.pool.limited:
        # Sizes roughly: what is too long for some must not hold up what is not.
        name += f" {terms.capabilities} {plan.prompt_tokens.bit_length()} {terms.asked_tokens.bit_length()}"
    return name


def _debit(grant: Grant, usage: Usage) -> int:
    """Return what a grant is to be settled with: what was used, as far as one answer may have used that."""
    return min(usage.total_input + usage.total_output, max(MAX_DEBIT, grant.tokens))


def _level(ctx: Context, plan: Plan) -> int:
    """Return a request's priority: what a rule says, else what its caller asks for."""
    name = plan.terms.decision.priority or ctx.wishes.priority
    return LEVELS.index(name) if name else LEVELS.index("normal")


def has_tried_enough(plan: Plan) -> bool:
    """Whether so many endpoints had no room that the gates could not tell any more who has been tried."""
    return len(plan.tried) >= MAX_TRIED


def is_limited(plan: Plan, endpoint: Endpoint) -> bool:
    """Whether an attempt has to be let in by ceilings that have not let the request in already."""
    return endpoint.limits is not None or (plan.route is not plan.asked and plan.route.limits is not None)


def measure(ctx: Context, plan: Plan) -> tuple[int, int]:
    """Return (least, likely): the tokens a request has asked for and may well use, and those it is thought to use.

    What the prompt comes to is an estimate. What the answer comes to is the ceiling that the request sets for it, times
    the answers it wants; without one, what answers of this model have been like. Worked out once for each pool.
    """
    if plan.estimate is None:
        plan.estimate = _measured(ctx, plan)
    return plan.estimate


def _measured(ctx: Context, plan: Plan) -> tuple[int, int]:
    operation = ctx.operation
    if not operation.metered:
        return 0, 0
    sure = ctx.request_bytes // BYTES_PER_TOKEN_AT_MOST
    if operation.silent:
        return sure, ctx.prompt_tokens
    count = 1
    if operation.dialect == "gemini":
        ceiling, count = _asked_of_gemini(ctx.body)
    else:
        scan = ctx.scan
        ceiling = 0
        for at in MAX_TOKENS:
            if scan[at] == KIND_NUMBER:
                ceiling = max(ceiling, _whole(ctx.body[scan[at + 1] : scan[at + 2]]))
        if scan[COUNT] == KIND_NUMBER:
            count = max(1, _whole(ctx.body[scan[COUNT + 1] : scan[COUNT + 2]]))
    if ceiling:
        return sure + ceiling * count, ctx.prompt_tokens + ceiling * count
    return sure, ctx.prompt_tokens + int(plan.pool.output_tokens) * count


def _asked_of_gemini(body: bytes) -> tuple[int, int]:
    """Return (ceiling of an answer in tokens, 0 for none; number of answers): they stand in an object of their own."""
    wanted, several = _GEMINI_CEILING.search(body), _GEMINI_COUNT.search(body)
    return int(wanted[1]) if wanted else 0, max(1, int(several[1])) if several else 1


def _whole(number: bytes) -> int:
    """Return a number of a JSON document; 0 for one that is no whole number written in digits alone."""
    try:
        return int(number)
    except ValueError:
        return 0


def _rest(segment: Segment, row: int, until_ms: int) -> None:
    """Let an endpoint rest until then, as if its provider had asked for it."""
    while (old := segment.cell(row, COOLDOWN_UNTIL_MS)) < until_ms:
        if segment.cas_cell(row, COOLDOWN_UNTIL_MS, old, until_ms):
            return
