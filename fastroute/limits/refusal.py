"""What a caller is told who is over a ceiling: which, whose, and when to come back. Never a name."""

from typing import Final

from fastroute._core._limits_file import DIMENSIONS, duration
from fastroute._core.limits import Limiter, Subject
from fastroute.errors import GatewayError

_WHOSE: Final = {"key": "this key", "tenant": "this tenant", "model": "this model", "provider-key": "the provider"}
_WHAT: Final = {
    "rpm": "requests per minute",
    "tpm": "tokens per minute",
    "concurrency": "requests at a time",
    "rpd": "requests per day",
    "tpd": "tokens per day",
}


def over_limit(limiter: Limiter, least_ns: int = 0) -> GatewayError:
    """Return the refusal for what the limiter has just not let in. least_ns: what others before it will take."""
    wait_ns = max(limiter.wait_ns, least_ns)
    return refusal(limiter.refused or Subject(""), limiter.dimension, wait_ns, hopeless=limiter.hopeless)


def queue_full(wait_ns: int) -> GatewayError:
    """Return the refusal for a request that had to make room in the queue, found none there, or waited in vain.

    wait_ns: until those who wait will have been let in, as far as that is known.
    """
    message = "rate limit reached: too many requests are waiting already"
    seconds = max(1, -(-wait_ns // 1_000_000_000))
    return GatewayError(429, "rate_limit_exceeded", message, retry_after_s=seconds, retry_safe=True)


def refusal(subject: Subject, dimension: int, wait_ns: int, *, hopeless: bool) -> GatewayError:
    """Return a 429 that says how long to wait, twice: `Retry-After` has whole seconds, `retry-after-ms` is exact."""
    whose = _WHOSE.get(subject.name.partition(":")[0], "this caller")
    name = DIMENSIONS[dimension]
    message = f"rate limit reached: {subject[1 + dimension]} {_WHAT[name]} for {whose}"
    if hopeless:
        message += "; this request alone needs more: shorten the prompt, or lower the limit of its answer"
    elif name == "concurrency":
        message += "; try again when one of them has ended"
    else:
        message += f"; try again in {duration(wait_ns)}"
    wait_ms = max(1, -(-wait_ns // 1_000_000))
    error = GatewayError(
        429, "rate_limit_exceeded", message, retry_after_s=-(-wait_ms // 1000), retry_safe=not hopeless
    )
    error.headers = ((b"retry-after-ms", b"%d" % wait_ms),)
    if hopeless:
        # The SDKs of OpenAI and Anthropic heed it.
        error.headers += ((b"x-should-retry", b"false"),)
    return error
