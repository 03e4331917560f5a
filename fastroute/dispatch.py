"""Which endpoint a request goes to next, and whether there is a next one: admission, failover, waiting for room."""

import asyncio
from collections.abc import Callable, Sized
from typing import Any

from fastroute._core._attempts_rules import FAILED
from fastroute.admission import Admission, has_tried_enough, is_limited
from fastroute.attempt import Attempt, KeyedAttempt
from fastroute.context import WAIT, Context
from fastroute.failover.classify import Outcome
from fastroute.limits.refusal import queue_full
from fastroute.recorder import Recorder
from fastroute.routing.plan import Plan
from fastroute.snapshot import Snapshot
from fastroute.upstream.endpoint import Endpoint


class Dispatcher:
    """Admits the requests of one corridor to endpoints."""

    def __init__(
        self,
        worker: int,
        monotonic_ns: Callable[[], int],
        random_bits: Callable[[], int],
        admission: Admission | None,
        recorder: Recorder,
    ) -> None:
        self._worker = worker
        self._now = monotonic_ns
        self._random_bits = random_bits
        #: Whoever has ceilings has got them from a limiter, and that one is in here.
        self._admission: Any = admission
        self._recorder = recorder
        #: Who waits for endpoints: while there is anybody, new requests do not overtake them.
        self.crowd: Sized = admission.crowd if admission is not None else ()

    def choose(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
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

    def choose_in_turn(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Like `_choose`, while requests wait for endpoints: a new one does not overtake those before it."""
        if ctx.attempts == 0 and self._admission.is_behind(ctx, plan):
            return None
        return self.choose(ctx, plan, snapshot)

    async def wait_for_room(self, ctx: Context, plan: Plan, snapshot: Snapshot) -> Attempt | None:
        """Wait in the queue, if there is one, for who is full or over a limit; None if that is of no use."""
        refusal = plan.refusal
        if self._admission is None or not self._admission.queues or (refusal is not None and refusal.status != 429):
            return None
        wait_ms = plan.wait_ms if not plan.unsure else -1

        def find() -> bool:
            snapshot.planner.rewind(plan, ctx)
            plan.attempt = self.choose(ctx, plan, snapshot)
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
        self._recorder.record(ctx, plan, attempt)

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

    def has_others(self, ctx: Context, plan: Plan, snapshot: Snapshot, outcome: Outcome) -> bool:
        """Whether there is somebody to try who has not been tried, so that this answer need not be the client's."""
        if not outcome.retryable or ctx.attempts >= snapshot.max_attempts:
            return False
        return plan.step < len(plan.chain) or snapshot.planner.gate(plan, self._now() // 1_000_000) > 0

    def goes_on(self, ctx: Context, plan: Plan, snapshot: Snapshot, outcome: Outcome) -> bool:
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

    async def revisit(self, ctx: Context, plan: Plan, snapshot: Snapshot, outcome: Outcome) -> bool:
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


def _take_back(snapshot: Snapshot, endpoint: Endpoint, trial: int, grant: Any, now_ms: int) -> None:
    """Take back what was given to an attempt that will not be made."""
    if grant is not None:
        grant.withdraw()
    if trial:
        snapshot.channels.give_back(endpoint.index, trial, now_ms)
