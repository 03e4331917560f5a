"""Ceilings in the corridor: what a request is let in by, what it is thought to use, and what it has used."""

import re
from collections.abc import Callable
from typing import Final

from fastroute._core.jsonscan import KIND_NUMBER
from fastroute._core.limits import Grant, Limiter
from fastroute.attempt import Attempt
from fastroute.context import Context
from fastroute.downstream.request import COUNT, MAX_TOKENS
from fastroute.errors import GatewayError
from fastroute.interfaces import Header
from fastroute.limits.refusal import over_limit
from fastroute.routing.plan import Plan
from fastroute.routing.refusals import whole_seconds
from fastroute.upstream.endpoint import Endpoint

#: A prompt has at least one token in so many bytes, whatever it is made of.
BYTES_PER_TOKEN_AT_MOST: Final = 50
#: Operations that answer without tokens of their own.
_SILENT: Final = frozenset({"embeddings", "embedContent", "batchEmbedContents"})
_GEMINI_CEILING: Final = re.compile(rb'"max_?[oO]utput_?[tT]okens"\s*:\s*([0-9]{1,9})')
_GEMINI_COUNT: Final = re.compile(rb'"candidate_?[cC]ount"\s*:\s*([0-9]{1,3})')


class Admission:
    """One worker's limits, for the requests of all its snapshots."""

    def __init__(self, limiter: Limiter, monotonic_ns: Callable[[], int], wall_ns: Callable[[], int]) -> None:
        self.limiter = limiter
        self._now = monotonic_ns
        self._wall = wall_ns

    async def admit(self, ctx: Context, plan: Plan) -> None:
        """Let a request in by the ceilings of its caller and its model. Raises GatewayError 429.

        A request that is refused leaves no record: it would cost more than the refusal, and be worth less.
        """
        caller, model = ctx.principal.limits, plan.route.limits
        counts = (caller is not None and caller.counts_tokens) or (model is not None and model.counts_tokens)
        least, tokens = measure(ctx, plan) if counts else (0, 0)
        ctx.grant = self.limiter.admit(caller, model, least, tokens, self._now(), self._wall())
        if ctx.grant is None:
            ctx.admitted = False
            raise over_limit(self.limiter)

    def settle(self, ctx: Context) -> None:
        """End a request's grant with what it has used."""
        usage = ctx.usage
        ctx.grant.settle(0 if ctx.usage_source == "none" else usage.total_input + usage.total_output)

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
            wait_ms = max(1, -(-limiter.wait_ns // 1_000_000))
            plan.wait_ms = wait_ms if plan.wait_ms < 0 else min(plan.wait_ms, wait_ms)
            if plan.refusal is None or plan.refusal.code == "rate_limit_exceeded":
                plan.refusal = _exhausted(plan.wait_ms)
        return grant

    def settle_attempt(self, ctx: Context, attempt: Attempt) -> None:
        """End an attempt's grant with what the answer to the client has used, or with nothing if there was none."""
        usage = ctx.usage
        used = attempt.first_byte_ns >= 0 and ctx.usage_source != "none"
        attempt.grant.settle(usage.total_input + usage.total_output if used else 0)

    def fields(self, ctx: Context) -> list[Header]:
        """Return the fields that tell the caller how much is left to it."""
        return self.limiter.fields(ctx.principal.limits, self._now(), self._wall())

    def instead(self, ctx: Context, headers: list[Header]) -> list[Header]:
        """Return an answer's fields with the caller's own limits in place of the provider's."""
        return self.limiter.instead(headers, ctx.principal.limits, self._now(), self._wall())


def is_limited(plan: Plan, endpoint: Endpoint) -> bool:
    """Whether an attempt has to be let in by ceilings that have not let the request in already."""
    return endpoint.limits is not None or (plan.route is not plan.asked and plan.route.limits is not None)


def measure(ctx: Context, plan: Plan) -> tuple[int, int]:
    """Return (least, likely): the tokens a request has asked for and may well use, and those it is thought to use.

    What the prompt comes to is an estimate. What the answer comes to is the ceiling that the request sets for it, times
    the answers it wants; without one, what answers of this model have been like.
    """
    operation = ctx.operation
    if not operation.metered:
        return 0, 0
    sure = ctx.request_bytes // BYTES_PER_TOKEN_AT_MOST
    if operation.name in _SILENT:
        return sure, ctx.prompt_tokens
    ceiling, count = _asked(ctx)
    if ceiling:
        return sure + ceiling * count, ctx.prompt_tokens + ceiling * count
    return sure, ctx.prompt_tokens + int(plan.pool.output_tokens) * count


def _asked(ctx: Context) -> tuple[int, int]:
    """Return (ceiling of an answer in tokens, 0 for none; number of answers)."""
    body, scan = ctx.body, ctx.scan
    if ctx.operation.dialect == "gemini":
        wanted, several = _GEMINI_CEILING.search(body), _GEMINI_COUNT.search(body)
        return int(wanted[1]) if wanted else 0, max(1, int(several[1])) if several else 1
    ceilings = [_number(body, scan, at) for at in MAX_TOKENS if scan[at] == KIND_NUMBER]
    count = _number(body, scan, COUNT) if scan[COUNT] == KIND_NUMBER else 1
    return max(ceilings, default=0), max(1, count)


def _number(body: bytes, scan: tuple[int, ...], at: int) -> int:
    digits = body[scan[at + 1] : scan[at + 2]]
    return int(digits) if digits.isdigit() and len(digits) <= 9 else 0


def _exhausted(wait_ms: int) -> GatewayError:
    error = GatewayError(
        429,
        "rate_limit_exceeded",
        "every provider of this model is rate limited for now",
        retry_after_s=whole_seconds(wait_ms),
        fault="upstream",
        retry_safe=True,
    )
    error.headers = ((b"retry-after-ms", b"%d" % wait_ms),)
    return error
