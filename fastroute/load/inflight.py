"""In-flight permits: the one object that counts an attempt in, and out again on whichever way it ends."""

import msgspec

from fastroute._core._attempts_rules import MARK_SHIFT
from fastroute._core.attempts import Attempts
from fastroute.interfaces import Allowance


class Permit(msgspec.Struct, eq=False):
    """One attempt in flight at one endpoint. `release` may be called any number of times; the first one counts.

    row: the endpoint's in the segment. ticket: what admission has given. work: its in-flight work, in thousandths of a
    reference request; less what the first token ends, once that is here.
    """

    attempts: Attempts
    worker: int
    row: int
    ticket: int
    work: int
    in_flight: bool = True

    def first_token(self, prefill: int, cost_ms: float, now_ms: int) -> None:
        """Give back the work that was the prompt's: the provider has read it. cost_ms: what that took, normalised."""
        if self.in_flight and 0 <= prefill < self.work:
            self.work -= prefill
            self.attempts.first_token(self.worker, self.row, prefill, cost_ms, now_ms)

    def allowed(self, allowance: Allowance, now_ms: int) -> None:
        """Note what the answer's header fields say of the quotas that this attempt was counted in."""
        adaptive = self.attempts.adaptive
        if adaptive is not None:
            adaptive.learn(self.row, self.ticket >> MARK_SHIFT, allowance, now_ms)

    def excused(self) -> None:
        """Note that the refusal it is about to be released with is about something else than concurrency."""
        if self.attempts.adaptive is not None:
            self.attempts.adaptive.excuse(self.row)

    def release(self, verdict: int, cost_ms: float, now_ms: int, bits: int, hint_ms: int) -> None:
        """Count the attempt out and record how it went; see `Attempts.leave`."""
        if self.in_flight:
            self.in_flight = False
            self.attempts.leave(self.worker, self.row, self.ticket, verdict, cost_ms, now_ms, bits, hint_ms, self.work)
