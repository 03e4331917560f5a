"""Hedging: two attempts of one request under way at a time, until the answer of one has begun."""

import asyncio
import math
from typing import TYPE_CHECKING

from fastroute.attempt import Attempt, close_exchange, encode
from fastroute.billing.cost import cost_nano_usd
from fastroute.billing.estimate import estimate_usage
from fastroute.context import FIRST_BYTE, Context
from fastroute.failover.hedge import Hedger
from fastroute.routing.plan import Plan
from fastroute.snapshot import Snapshot
from fastroute.upstream.transport import UpstreamRequest

if TYPE_CHECKING:
    from fastroute.gateway import Gateway


class Leg(Context):
    """What an attempt in a race has for the request's context: phases and deadlines of its own.

    One attempt that cannot connect, or whose first byte does not come, must not end the other one.
    """

    __slots__ = ("_loop", "_timer")

    def __init__(self, ctx: Context, now_ns: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(ctx.snapshot, None, ctx.record_id, ctx.request_id, now_ns, ctx.arrived_wall_ns, None)
        # What the embedded provider answers by.
        self.operation = ctx.operation
        self.dialect = ctx.dialect
        self.model = ctx.model
        self.stream = ctx.stream
        self.query = ctx.query
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, phase: str, limit_ns: int) -> None:
        """Begin a phase that may stand still for at most `limit_ns`."""
        super().enter(phase, limit_ns)
        self._arm()

    def end(self, task: "asyncio.Task[None]") -> None:
        """Forget the deadline: the attempt's task has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.seen_progress = self.progress
        self._timer = self._loop.call_later(self.limit_ns / 1e9, self._look) if self.limit_ns else None

    def _look(self) -> None:
        if self.progress != self.seen_progress:
            self._arm()
        else:
            self.interrupt(self.phase)


class Race:
    """An attempt that another one may overtake while its answer has not begun."""

    __slots__ = ("_ctx", "_gateway", "_plan", "_running", "_snapshot")

    def __init__(self, gateway: "Gateway", ctx: Context, plan: Plan, snapshot: Snapshot) -> None:
        self._gateway = gateway
        self._ctx = ctx
        self._plan = plan
        self._snapshot = snapshot
        self._running: dict[asyncio.Task[None], tuple[Attempt, Leg]] = {}

    async def run(self, request: UpstreamRequest) -> None:
        """Send the plan's attempt, and a second one if it takes long; the plan's attempt is then the one to go on with.

        Whatever else was sent has been recorded and closed when this returns or raises.
        """
        hedger = self._snapshot.hedger
        assert hedger is not None  # by the caller
        delay_ms = hedger.delay_ms(self._plan.pool.model, self._ctx.prompt_tokens)
        began_ns = self._gateway.now()
        # The attempts have deadlines of their own. The request has its last one still, and its client may leave.
        self._ctx.enter(FIRST_BYTE, 0)
        first = self._start(request, self._plan.attempt)
        best: Attempt | None = None
        try:
            done, _ = await asyncio.wait({first}, timeout=delay_ms / 1000 if math.isfinite(delay_ms) else None)
            if not done:
                self._second(hedger)
            while self._running:
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    # One that has failed inside the gateway is ended with what is under way.
                    task.result()
                    attempt, _ = self._running.pop(task)
                    best = self._better(best, attempt)
                if best is not None and best.exchange is not None and best.exchange.status < 400:
                    return
        finally:
            self._ctx.upstream_ns += self._gateway.now() - began_ns
            if best is not None:
                self._plan.attempt = best
            self._ctx.endpoint = self._plan.attempt.endpoint
            self._stop()

    def _start(self, request: UpstreamRequest, attempt: Attempt) -> asyncio.Task[None]:
        gateway = self._gateway
        leg = Leg(self._ctx, gateway.now(), gateway.loop)
        task = leg.task = gateway.loop.create_task(gateway.send(request, attempt, leg, self._snapshot))
        task.add_done_callback(leg.end)
        self._running[task] = attempt, leg
        return task

    def _second(self, hedger: Hedger) -> None:
        """Start a second attempt, if there is somebody for it and the caps allow it."""
        ctx, plan, snapshot = self._ctx, self._plan, self._snapshot
        if ctx.attempts >= snapshot.max_attempts:
            return
        now_ms = self._gateway.now() // 1_000_000
        loser = cost_nano_usd(plan.attempt.endpoint.card, estimate_usage(ctx.request_bytes, 0, 0, None))
        if snapshot.planner.gate(plan, now_ms) == 0 or not hedger.allow(-1 if loser is None else loser, now_ms):
            return
        attempt = self._gateway.dispatcher.admit(ctx, plan, snapshot)
        if attempt is not None:
            self._start(encode(ctx, attempt, plan.model), attempt)

    def _better(self, best: Attempt | None, other: Attempt) -> Attempt:
        """Return which of two attempts that have ended to go on with; the other one is recorded and closed."""
        if best is None:
            return other
        begun = other.exchange is not None and (best.exchange is None or other.exchange.status < best.exchange.status)
        winner, loser = (other, best) if begun else (best, other)
        self._lose(loser, billed=loser.exchange is not None)
        return winner

    def _stop(self) -> None:
        """End what is still under way, but for the plan's attempt."""
        for task, (attempt, leg) in list(self._running.items()):
            # It closes what it has opened when it runs next.
            task.cancel()
            if attempt is not self._plan.attempt:
                # Before that phase nothing was sent.
                self._lose(attempt, billed=leg.phase == FIRST_BYTE and attempt.failure is None)
        self._running.clear()

    def _lose(self, attempt: Attempt, *, billed: bool) -> None:
        """Record an attempt that nobody needs, and close it. billed: its provider bills it, unless it was refused."""
        gateway, exchange = self._gateway, attempt.exchange
        if exchange is not None and exchange.status >= 400:
            body = attempt.first + exchange.read()
            gateway.recorder.judge(attempt, exchange, body, self._ctx, whole=exchange.complete)
        elif billed:
            gateway.bill_loser(self._ctx, attempt.endpoint)
        gateway.recorder.record(self._ctx, self._plan, attempt)
        close_exchange(exchange)
