"""Why a request would go where it goes: every candidate, the gate that removes it or its load, and the choice."""

from statistics import median
from typing import Any, Final

from fastroute._core._attempts_rules import FORGOTTEN_MS, latency_quantile
from fastroute._core._candidates_gates import GATE_NAMES, PASSED
from fastroute._core.adaptive import describe
from fastroute._core.attempts import Attempts
from fastroute.errors import GatewayError
from fastroute.interfaces import PROMPT_TOKENS_PER_UNIT
from fastroute.routing.plan import Plan, Planner
from fastroute.routing.pool import Pool

STATES: Final = ("closed", "open", "half_open")
#: Below this share of good answers an endpoint is degraded, and unhealthy below the second; for display only.
DEGRADED_BELOW: Final = 0.95
UNHEALTHY_BELOW: Final = 0.5
# One answer's worth of good will: an endpoint that nobody has used is healthy.
_PRIOR_GOOD: Final = 4
_PRIOR_ALL: Final = 5

Document = dict[str, Any]


def health_score(ok: int, failed: int) -> float:
    """Return the share of good answers in the window, from 0 to 1, with a prior for the few (Beta-binomial mean)."""
    return (ok + _PRIOR_GOOD) / (ok + failed + _PRIOR_ALL)


def health_state(ok: int, failed: int, breaker: int) -> str:
    """Return healthy, degraded or unhealthy, for display. breaker: its state, 0 closed."""
    if breaker == 1:
        return "unhealthy"
    score = health_score(ok, failed) if ok + failed else 1.0
    if score < UNHEALTHY_BELOW:
        return "unhealthy"
    return "degraded" if breaker or (failed and score < DEGRADED_BELOW) else "healthy"


def latency_share(median_ms: float, reference_ms: float) -> float:
    """Return what latency is worth in a score, above 0 to 1: the pool's median over the endpoint's own.

    Negative: nothing is known.
    """
    if median_ms <= 0.0 or reference_ms <= 0.0:
        return 1.0
    return min(1.0, reference_ms / median_ms)


def explain(planner: Planner, plan: Plan, attempts: Attempts, now_ms: int) -> Document:
    """Return, for a plan that has not been tried yet, what `choose` sees and what it would choose."""
    pool: Pool = plan.pool
    position = planner.peek(plan, now_ms)
    refusal = planner.refuse(plan, now_ms) if position < 0 else None
    medians = (latency_quantile(attempts.latencies(row, now_ms), 0.5) for row in pool.info.rows)
    known = [median_ms for median_ms in medians if median_ms >= 0.0]
    reference_ms = median(known) if known else -1.0
    return {
        "model": plan.model,
        "strategy": plan.chooser.label,
        "rules": list(plan.terms.decision.rule_ids),
        "prompt_tokens": plan.prompt_tokens,
        "panicking": bool(pool.candidates.panicking),
        "choice": pool.endpoints[position].id if position >= 0 else None,
        "refusal": refusal_document(refusal) if refusal is not None else None,
        "candidates": [
            _candidate(planner, plan, attempts, at, now_ms, reference_ms) | {"chosen": at == position}
            for at in range(len(pool.endpoints))
        ],
        "fallbacks": [
            {"providers": list(step.providers) or None, "strategy": step.strategy, "model": step.model}
            for step in plan.chain
        ],
    }


def refusal_document(error: GatewayError) -> Document:
    """Return what the caller would be told."""
    return {
        "status": error.status,
        "code": error.code,
        "message": error.message,
        "retry_after_s": error.retry_after_s,
    }


def _candidate(planner: Planner, plan: Plan, attempts: Attempts, at: int, now_ms: int, reference_ms: float) -> Document:
    pool: Pool = plan.pool
    endpoint = pool.endpoints[at]
    need = planner.need(plan, now_ms)
    gate = pool.candidates.why(at, need)
    load = attempts.load(endpoint.index, now_ms)
    return {
        "endpoint": endpoint.id,
        "provider": endpoint.provider,
        "upstream_model": endpoint.upstream_model or plan.model,
        "weight": endpoint.weight,
        "weight_in_force": round(pool.candidates.weight(at, now_ms), 4),
        "removed_by": GATE_NAMES[gate] if gate != PASSED else None,
        "chosen": False,
        "load": load,
        "expected_ttft_ms": _expected_ttft_ms(attempts.cost(endpoint.index, now_ms), plan.prompt_tokens),
        "estimated_cost_nano_usd": _cost(pool, at, plan.prompt_tokens, plan.output_tokens),
        **endpoint_state(attempts, endpoint.index, now_ms, reference_ms, plan.prompt_tokens),
        "adaptive": _adaptive(attempts, endpoint.index, now_ms),
    }


def _adaptive(attempts: Attempts, row: int, now_ms: int) -> Document | None:
    view = attempts.adaptive.view(row, now_ms) if attempts.adaptive is not None else None
    return describe(view) if view is not None else None


def endpoint_state(attempts: Attempts, row: int, now_ms: int, reference_ms: float, prompt_tokens: int = 0) -> Document:
    """Return the health of the endpoint in one row of the segment.

    reference_ms: the median of its pool's median times to the first token, -1 if not known. prompt_tokens: of the
    prompt that times are told for.
    """
    state, _, probes, open_until_ms = attempts.state(row, now_ms)
    ok, failed = attempts.health(row, now_ms)
    counts = attempts.latencies(row, now_ms)
    median_ms, late_ms = latency_quantile(counts, 0.5), latency_quantile(counts, 0.95)
    score = health_score(ok, failed) * latency_share(median_ms, reference_ms)
    return {
        "health": health_state(ok, failed, state),
        "health_score": round(score, 4),
        "window": {"ok": ok, "failed": failed},
        "ttft_ms": {
            "p50": _for_prompt(median_ms, prompt_tokens),
            "p95": _for_prompt(late_ms, prompt_tokens),
            "samples": sum(counts),
        },
        "breaker": {
            "state": STATES[state],
            "probes": probes,
            "retry_in_ms": max(0, open_until_ms - now_ms) if state == 1 else 0,
        },
    }


def _expected_ttft_ms(cost_ms: float, prompt_tokens: int) -> float | None:
    """Return the time to the first token by what has been measured; None where nothing has, or it is long forgotten."""
    return _for_prompt(cost_ms if cost_ms >= FORGOTTEN_MS else -1.0, prompt_tokens)


def _for_prompt(cost_ms: float, prompt_tokens: int) -> float | None:
    """Return a normalised time for a prompt of that length, None for a negative one."""
    return round(cost_ms * (1.0 + prompt_tokens / PROMPT_TOKENS_PER_UNIT), 3) if cost_ms >= 0.0 else None


def _cost(pool: Pool, at: int, prompt_tokens: int, output_tokens: int) -> int | None:
    prices = pool.info.prices[at]
    if prices is None:
        return None
    return (prompt_tokens * prices[0] + output_tokens * prices[2]) // 1000
