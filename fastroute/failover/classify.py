"""The only judge of failure: every way an attempt can end becomes an `Outcome`, here and nowhere else."""

from typing import Final, NamedTuple

from fastroute.interfaces import OutcomeName


class Outcome(NamedTuple):
    """A verdict. name: for the ledger. retryable: another endpoint may be tried. blames: the endpoint is at fault."""

    name: OutcomeName
    retryable: bool
    blames: bool


OK: Final = Outcome("ok", False, False)
CLIENT_ERROR: Final = Outcome("client_error", False, False)
RATE_LIMITED: Final = Outcome("rate_limited", True, False)
RATE_LIMITED_FINAL: Final = Outcome("rate_limited", False, False)
UPSTREAM_ERROR: Final = Outcome("upstream_error", True, True)
UPSTREAM_ERROR_FINAL: Final = Outcome("upstream_error", False, True)
KEY_REJECTED: Final = Outcome("client_error", True, True)
TIMEOUT: Final = Outcome("timeout", True, True)
STREAM_BROKEN: Final = Outcome("stream_broken", False, True)
CANCELLED: Final = Outcome("cancelled", False, False)


class Classifier:
    """Judges by status and by kind of transport failure. on_status: the statuses the configuration retries."""

    def __init__(self, on_status: frozenset[int]) -> None:
        self._on_status = on_status

    def status(self, status: int) -> Outcome:
        """Judge an answer by its status."""
        if 200 <= status < 300:
            return OK
        if status < 400:
            # Redirects are passed on, never followed: the provider's key goes nowhere else.
            return UPSTREAM_ERROR_FINAL
        retry = status in self._on_status
        if status in (429, 529):
            return RATE_LIMITED if retry else RATE_LIMITED_FINAL
        if status in (401, 403):
            # The key refused is ours, not the caller's: a sibling may do.
            return KEY_REJECTED
        if status >= 500 or status == 408:
            return UPSTREAM_ERROR if retry else UPSTREAM_ERROR_FINAL
        return UPSTREAM_ERROR if retry else CLIENT_ERROR

    def transport(self, kind: str) -> Outcome:
        """Judge an attempt that got no complete answer: `kind` is that of the UpstreamError."""
        return TIMEOUT if kind == "timeout" else UPSTREAM_ERROR
