"""In-flight permits: the one object that counts an attempt in, and out again on whichever way it ends."""

from fastroute._core._attempts_rules import MARK_SHIFT
from fastroute._core.attempts import Attempts
from fastroute.interfaces import Allowance


class Permit:
    """One attempt in flight at one endpoint. `release` may be called any number of times; the first one counts.

    row: the endpoint's in the segment. ticket: what admission has given. prefill, work: in-flight work, the part of it
    that the first token ends and all of it, in thousandths of a reference request.
    """

    __slots__ = ("_attempts", "_held", "_row", "_ticket", "_work", "_worker")

    def __init__(self, attempts: Attempts, worker: int, row: int, ticket: int, work: int) -> None:
        self._attempts = attempts
        self._worker = worker
        self._row = row
        self._ticket = ticket
        self._work = work
        self._held = True

    def first_token(self, prefill: int, cost_ms: float, now_ms: int) -> None:
        """Give back the work that was the prompt's: the provider has read it. cost_ms: what that took, normalised."""
        if self._held and 0 <= prefill < self._work:
            self._work -= prefill
            self._attempts.first_token(self._worker, self._row, prefill, cost_ms, now_ms)

    def allowed(self, allowance: Allowance, now_ms: int) -> None:
        """Note what the answer's header fields say of the quotas that this attempt was counted in."""
        adaptive = self._attempts.adaptive
        if adaptive is not None:
            adaptive.learn(self._row, self._ticket >> MARK_SHIFT, allowance, now_ms)

    def release(self, verdict: int, cost_ms: float, now_ms: int, bits: int, hint_ms: int) -> None:
        """Count the attempt out and record how it went; see `Attempts.leave`."""
        if self._held:
            self._held = False
            self._attempts.leave(
                self._worker, self._row, self._ticket, verdict, cost_ms, now_ms, bits, hint_ms, self._work
            )
