"""What became of an attempt, and everybody who learns of it: counts, breakers, keys, models, strategies."""

from collections.abc import Callable, Sized
from typing import Any, Final

from fastroute._core._attempts_rules import NEUTRAL, OK, RATE_LIMITED
from fastroute._core.h1 import UpstreamError
from fastroute._core.ratelimit import read_allowance
from fastroute.admission import Admission
from fastroute.attempt import Attempt
from fastroute.clock import Clock
from fastroute.context import Context
from fastroute.failover import classify
from fastroute.failover.classify import Outcome
from fastroute.health.channel import LONG_REST_MS
from fastroute.interfaces import OUTPUT_TOKENS_PER_UNIT, PROMPT_TOKENS_PER_UNIT, Exchange, Result, Scope
from fastroute.routing.plan import Plan
from fastroute.routing.pool import LEARN_EVERY, Pool
from fastroute.snapshot import Snapshot

#: Limits that fewer requests at a time would not keep to either.
NOT_CONCURRENCY: Final[frozenset[Scope]] = frozenset({"input_token", "output_token", "token", "day", "account"})


class Recorder:
    """Judges the attempts of one corridor and records their ends."""

    def __init__(self, clock: Clock, random_bits: Callable[[], int], admission: Admission | None) -> None:
        self._now = clock.monotonic_ns
        self._wall = clock.wall_ns
        self._random_bits = random_bits
        #: Whoever has ceilings has got them from a limiter, and that one is in here.
        self._admission: Any = admission
        self._crowd: Sized = admission.crowd if admission is not None else ()

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
            cost_ms = -1.0 if attempt.survey.events else self.cost_ms(ctx, attempt, ctx.usage.total_output)
            attempt.release(OK, cost_ms, now_ns // 1_000_000, 0, 0)
            if not ctx.record_id % LEARN_EVERY and ctx.usage_source == "provider":
                pool: Pool = plan.pool
                pool.learn(ctx.request_bytes, ctx.usage.total_input, ctx.usage.total_output)
            if not ctx.record_id % LEARN_EVERY or attempt.trial:
                self._learn(ctx.snapshot, attempt, now_ns // 1_000_000)
        else:
            heed(ctx, outcome.hint_ms)
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

    def cost_ms(self, ctx: Context, attempt: Attempt, output_tokens: int) -> float:
        """Return the time to the first byte, less what is due to the lengths of the prompt and of a whole answer."""
        scale = 1.0 + ctx.prompt_tokens / PROMPT_TOKENS_PER_UNIT + output_tokens / OUTPUT_TOKENS_PER_UNIT
        return (attempt.first_byte_ns - attempt.sent_ns) / 1e6 / scale

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

    def fail(self, attempt: Attempt, exchange: Exchange | None, failure: UpstreamError, ctx: Context) -> None:
        """Note a failure of the transport. An answer that had begun with a limit before it broke off was one."""
        if exchange is not None and exchange.status >= 400:
            self.judge(attempt, exchange, b"", ctx, whole=False)
        judged = attempt.outcome
        attempt.fail(failure, ctx.snapshot.classifier)
        attempt.outcome = classify.broken_off(judged, attempt.outcome)


def heed(ctx: Context, hint_ms: int) -> None:
    """Note how long a provider wants to be left alone, if it does: the client is told the least."""
    if hint_ms < 0:
        return
    ctx.retry_after_ms = hint_ms if ctx.retry_after_ms < 0 else min(ctx.retry_after_ms, hint_ms)


def _ceil_ms(now_ns: int) -> int:
    """Return milliseconds, rounded up: a time to rest that begins there does not end before it is over."""
    return -(-now_ns // 1_000_000)
