"""What a caller is told when the gates have left no endpoint: the gate that took the last of them, no names."""

from typing import Final

from fastroute._core._candidates_gates import (
    BREAKER,
    CAPABILITY,
    CONTEXT,
    COOLDOWN,
    COST,
    DRAINED,
    FULL,
    KEY,
    MODEL,
    OUTPUT,
    QUOTA,
    REGION,
    REQUEST,
    RULE,
    TENANT,
)
from fastroute.errors import Fault, GatewayError, ceil_seconds

#: (status, code, message, parameter, who erred) by the gate that removed the last candidate.
_REFUSALS: Final[dict[int, tuple[int, str, str, str | None, Fault]]] = {
    REQUEST: (
        400,
        "invalid_request_error",
        "x-fastroute-exclude leaves no provider for this model",
        "x-fastroute-exclude",
        "downstream",
    ),
    TENANT: (403, "provider_not_allowed", "no provider you may use serves this model", "model", "downstream"),
    RULE: (403, "provider_not_allowed", "a routing rule leaves no provider for this model", "model", "downstream"),
    CAPABILITY: (
        400,
        "unsupported_capability",
        "no provider of this model can do what the request asks for (streaming, tools or images)",
        None,
        "downstream",
    ),
    CONTEXT: (
        400,
        "context_length_exceeded",
        "the request is longer than the context window of this model",
        "messages",
        "downstream",
    ),
    OUTPUT: (
        400,
        "invalid_request_error",
        "the request asks for more output tokens than this model can give",
        "max_tokens",
        "downstream",
    ),
    REGION: (
        403,
        "region_not_available",
        "this model is not available in the region asked for",
        "x-fastroute-region",
        "downstream",
    ),
    COST: (
        402,
        "budget_exceeded",
        "the request would cost more than a single request may",
        "x-fastroute-max-cost-usd",
        "downstream",
    ),
    MODEL: (404, "model_not_found", "no provider has this model any more", "model", "upstream"),
}
_UNAVAILABLE: Final = {
    KEY: "no credential for a provider of this model is accepted for now",
    BREAKER: "no provider of this model is healthy for now",
    DRAINED: "every provider of this model is drained",
}
_LIMITED: Final = {
    COOLDOWN: "every provider of this model is rate limited for now",
    QUOTA: "the quota for this model is used up at every provider of it",
    FULL: "every provider of this model has as many requests under way as it takes",
}


def refusal(gate: int, wait_ms: int) -> GatewayError:
    """Return the refusal for a pool that `gate` has emptied. wait_ms: until the first of its endpoints may be back."""
    if gate in _LIMITED:
        return GatewayError(
            429,
            "rate_limit_exceeded",
            _LIMITED[gate],
            retry_after_s=whole_seconds(wait_ms),
            fault="upstream",
            retry_safe=True,
        )
    known = _REFUSALS.get(gate)
    if known is not None:
        status, code, message, param, fault = known
        return GatewayError(status, code, message, param=param, fault=fault)
    return GatewayError(
        503,
        "no_healthy_provider",
        _UNAVAILABLE.get(gate, "no provider is available for this model"),
        retry_after_s=whole_seconds(wait_ms) if gate in (BREAKER, KEY) else 1,
        fault="gateway",
        retry_safe=True,
    )


def exhausted(wait_ms: int) -> GatewayError:
    """Return the refusal where every provider is over a limit. wait_ms: until the first of them is back."""
    error = GatewayError(
        429,
        "rate_limit_exceeded",
        _LIMITED[COOLDOWN],
        retry_after_s=whole_seconds(wait_ms),
        fault="upstream",
        retry_safe=True,
    )
    error.headers = ((b"retry-after-ms", b"%d" % wait_ms),)
    return error


def whole_seconds(wait_ms: int) -> int:
    """Return whole seconds to wait, at least one and at most a day."""
    return min(86_400, max(1, ceil_seconds(wait_ms)))
