"""The only judge of failure: every way an attempt can end becomes an `Outcome`, here and nowhere else."""

from types import ModuleType
from typing import Final, NamedTuple

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, RATE_LIMITED
from fastroute._core.attempts import OK as WELL
from fastroute.failover.retry_after import retry_after_ms, should_retry
from fastroute.interfaces import Header, OutcomeName

#: A provider that is over its limit and does not say for how long is left alone this long.
DEFAULT_COOLDOWN_MS: Final = 1_000


class Outcome(NamedTuple):
    """A verdict.

    name: for the ledger. retryable: another endpoint may be tried. verdict: what it says of the endpoint, see
    `_core.attempts`. kind: of a refusal that another model may not share ("context_window", "content_policy"). hint_ms:
    how long the provider wants to be left alone, -1 if it did not say. killer: the request may have brought the
    endpoint down. again: the same endpoint may be tried once more; a provider may say that it will not do better.
    """

    name: OutcomeName
    retryable: bool
    verdict: int
    kind: str = ""
    hint_ms: int = -1
    killer: bool = False
    again: bool = True


OK: Final = Outcome("ok", False, WELL)
CLIENT_ERROR: Final = Outcome("client_error", False, NEUTRAL)
RATE_LIMITED_RETRY: Final = Outcome("rate_limited", True, RATE_LIMITED)
RATE_LIMITED_FINAL: Final = Outcome("rate_limited", False, RATE_LIMITED)
UPSTREAM_ERROR: Final = Outcome("upstream_error", True, FAILED)
UPSTREAM_ERROR_FINAL: Final = Outcome("upstream_error", False, FAILED)
REJECTED: Final = Outcome("client_error", True, KEY_REJECTED)
TIMEOUT: Final = Outcome("timeout", True, FAILED, killer=True)
KILLED: Final = Outcome("upstream_error", True, FAILED, killer=True)
#: Too many of ours wait for a connection already: nothing was asked of the endpoint.
OVERFLOW: Final = Outcome("upstream_error", True, NEUTRAL)
STREAM_BROKEN: Final = Outcome("stream_broken", False, FAILED)
#: We ended the answer ourselves, because the request's time was up or the gateway leaves: the endpoint was doing well.
STREAM_ENDED: Final = Outcome("stream_broken", False, NEUTRAL)
CANCELLED: Final = Outcome("cancelled", False, NEUTRAL)


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
            return CLIENT_ERROR._replace(kind=kind)
        if kind == "quota":
            # The money has run out: waiting does not help, another key may.
            return REJECTED._replace(name=outcome.name)
        hint_ms = retry_after_ms(headers, body, wall_ns)
        if outcome.verdict == RATE_LIMITED or (status == 503 and hint_ms is not None):
            hint_ms = DEFAULT_COOLDOWN_MS if hint_ms is None else min(hint_ms, self._max_retry_after_ms)
            outcome = outcome._replace(verdict=RATE_LIMITED, hint_ms=hint_ms)
        if should_retry(headers) is False:
            outcome = outcome._replace(again=False)
        return outcome

    def transport(self, kind: str, sent: bool = False) -> Outcome:
        """Judge an attempt that got no complete answer. kind, sent: those of the UpstreamError."""
        if kind == "timeout":
            return TIMEOUT if sent else TIMEOUT._replace(killer=False)
        if kind == "overflow":
            return OVERFLOW
        return KILLED if sent else UPSTREAM_ERROR
