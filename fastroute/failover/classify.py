"""The only judge of failure: every way an attempt can end becomes an `Outcome`, here and nowhere else."""

from types import ModuleType
from typing import Any, Final

import msgspec

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, RATE_LIMITED
from fastroute._core.attempts import OK as WELL
from fastroute._core.ratelimit import read_allowance
from fastroute.failover.provider_error import ProviderError, read_error
from fastroute.failover.retry_after import retry_after_ms, should_retry
from fastroute.failover.scope import (
    CAUSE_OF_LIMIT,
    cause_of,
    is_moderated,
    is_throttled,
    is_too_large,
    limit_scope,
    renewal_ms,
)
from fastroute.interfaces import Cause, Header, OutcomeName, Scope

#: A provider that is over its limit and does not say for how long is left alone this long.
DEFAULT_COOLDOWN_MS: Final = 1_000


class Outcome(msgspec.Struct, frozen=True):
    """A verdict.

    name: for the ledger. retryable: another endpoint may be tried. verdict: what it says of the endpoint, see
    `_core.attempts`. kind: of a refusal that another model may not share ("context_window", "content_policy"). hint_ms:
    how long the provider wants to be left alone, -1 if it did not say. killer: the request may have brought the
    endpoint down. again: the same endpoint may be tried once more; a provider may say that it will not do better.
    scope: what a refusal is about. cause: what it says of the key or its model, see `health.channel`. said_ms: hint_ms
    as the provider said it, before any cap; -1 if it did not say.
    """

    name: OutcomeName
    retryable: bool
    verdict: int
    kind: str = ""
    hint_ms: int = -1
    killer: bool = False
    again: bool = True
    scope: Scope = ""
    cause: Cause = ""
    said_ms: int = -1

    def but(self, **changes: Any) -> "Outcome":
        """Return the same with other values in the fields named."""
        return msgspec.structs.replace(self, **changes)


OK: Final = Outcome("ok", False, WELL)
CLIENT_ERROR: Final = Outcome("client_error", False, NEUTRAL)
RATE_LIMITED_RETRY: Final = Outcome("rate_limited", True, RATE_LIMITED, scope="unknown", cause="unknown_limit")
RATE_LIMITED_FINAL: Final = RATE_LIMITED_RETRY.but(retryable=False)
UPSTREAM_ERROR: Final = Outcome("upstream_error", True, FAILED)
UPSTREAM_ERROR_FINAL: Final = Outcome("upstream_error", False, FAILED)
REJECTED: Final = Outcome("client_error", True, KEY_REJECTED)
NO_SUCH_MODEL: Final = Outcome("client_error", True, NEUTRAL, scope="model", cause="model_not_found")
TOO_LARGE: Final = Outcome("rate_limited", True, NEUTRAL, again=False, scope="token")
TIMEOUT: Final = Outcome("timeout", True, FAILED, killer=True)
KILLED: Final = Outcome("upstream_error", True, FAILED, killer=True)
#: Too many of ours wait for a connection already: nothing was asked of the endpoint.
OVERFLOW: Final = Outcome("upstream_error", True, NEUTRAL)
STREAM_BROKEN: Final = Outcome("stream_broken", False, FAILED)
#: We ended the answer ourselves, because the request's time was up or the gateway leaves: the endpoint was doing well.
STREAM_ENDED: Final = Outcome("stream_broken", False, NEUTRAL)
CANCELLED: Final = Outcome("cancelled", False, NEUTRAL)


def broken_off(judged: Outcome, end: Outcome) -> Outcome:
    """Return how an attempt ended whose answer broke off: as `end` says, but what it was refused for holds."""
    if judged.verdict != RATE_LIMITED and not judged.cause:
        return end
    return end.but(
        verdict=judged.verdict,
        hint_ms=judged.hint_ms,
        scope=judged.scope,
        cause=judged.cause,
        said_ms=judged.said_ms,
    )


class Classifier:
    """Judges by status and by kind of transport failure. on_status: the statuses the configuration retries."""

    def __init__(self, on_status: frozenset[int], max_retry_after_ms: int) -> None:
        self._on_status = on_status
        self._max_retry_after_ms = max_retry_after_ms

    def status(self, status: int) -> Outcome:
        """Judge an answer by its status."""
        if 200 <= status < 300:
            return OK
        if status < 400:
            # Redirects are passed on, never followed: the provider's key goes nowhere else.
            return UPSTREAM_ERROR_FINAL
        retry = status in self._on_status
        if status in (429, 529):
            return RATE_LIMITED_RETRY if retry else RATE_LIMITED_FINAL
        if status in (401, 402, 403):
            # The key refused is ours, not the caller's: a sibling may do.
            return REJECTED
        if status >= 500 or status == 408:
            return UPSTREAM_ERROR if retry else UPSTREAM_ERROR_FINAL
        return UPSTREAM_ERROR if retry else CLIENT_ERROR

    def answer(self, status: int, headers: list[Header], body: bytes, dialect: ModuleType, wall_ns: int) -> Outcome:
        """Judge an error answer that has been read. wall_ns: Unix time now, for dates in it."""
        outcome = self.status(status)
        kind: str = dialect.error_kind(status, body)
        if kind in ("context_window", "content_policy"):
            # Every endpoint of this model would refuse it; the chain for this kind knows of others.
            return CLIENT_ERROR.but(kind=kind)
        error = read_error(headers, body)
        if is_moderated(status, error):
            return CLIENT_ERROR.but(kind="content_policy")
        if is_too_large(status, error):
            return TOO_LARGE.but(name=outcome.name)
        cause = cause_of(status, error)
        if cause == "model_not_found":
            return NO_SUCH_MODEL
        if cause or (kind == "quota" and status != 400):
            # The money has run out, or the key is refused: waiting does not help, another key may. A 400 has to say so
            # where no caller is quoted.
            scope: Scope = "key" if cause in ("invalid_key", "no_permission") else "balance"
            outcome = REJECTED.but(name=outcome.name, scope=scope, cause=cause)
        elif is_throttled(status, error):
            outcome = self.status(429)
        if outcome.verdict != KEY_REJECTED:
            outcome = self._limited(status, outcome, headers, body, error, wall_ns)
        if should_retry(headers) is False:
            outcome = outcome.but(again=False)
        return outcome

    def _limited(
        self,
        status: int,
        outcome: Outcome,
        headers: list[Header],
        body: bytes,
        error: ProviderError,
        wall_ns: int,
    ) -> Outcome:
        """Return the outcome with the time and the scope of a limit, if the answer is about one."""
        said_ms = retry_after_ms(headers, body, wall_ns)
        if outcome.verdict != RATE_LIMITED and (status != 503 or said_ms is None):
            return outcome
        if (status != 429 and outcome.name != "rate_limited") or status == 529:
            scope: Scope = "model"
            cause: Cause = "overloaded"
        else:
            allowance = read_allowance(headers, wall_ns // 1_000_000)
            scope = limit_scope(headers, error, allowance)
            cause = CAUSE_OF_LIMIT[scope]
            if said_ms is None:
                said_ms = renewal_ms(allowance)
        hint_ms = DEFAULT_COOLDOWN_MS if said_ms is None else min(said_ms, self._max_retry_after_ms)
        said_ms = -1 if said_ms is None else said_ms
        return outcome.but(verdict=RATE_LIMITED, hint_ms=hint_ms, scope=scope, cause=cause, said_ms=said_ms)

    def transport(self, kind: str, sent: bool = False) -> Outcome:
        """Judge an attempt that got no complete answer. kind, sent: those of the UpstreamError."""
        if kind == "timeout":
            return TIMEOUT if sent else TIMEOUT.but(killer=False)
        if kind == "overflow":
            return OVERFLOW
        return KILLED if sent else UPSTREAM_ERROR
