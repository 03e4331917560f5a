"""A provider's key over all its models: the breaker that stands before all of them, and what it was used for.

It has a row of its own in the segment, so that a worker's count of it is exact and one request in all probes it. The
breakers of its endpoints, one for each model, are not replaced: they know about a model that is broken, this one about
a key that is.
"""

from typing import Final, NamedTuple

from fastroute._core._attempts_rules import MAX_SATURATED
from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, RATE_LIMITED, Attempts, Policy
from fastroute._core.counters import (
    FAILURES,
    KEY_FAILURES_BASE,
    KEY_REQUESTS_BASE,
    KEY_USED_AT_MS,
    REQUESTS,
    Segment,
)

#: More than a rate is this much more: as little as can be told from the rate itself, see RATE_SLACK.
ABOVE: Final = 1e-5


def key_policy(endpoints: Policy) -> Policy:
    """Return the policy of keys, by that of endpoints: out when more than its rate fail, back after one that does not.

    How many in a row have failed says little of a key: they may all be of one model, whose own breaker counts them.
    """
    return endpoints._replace(
        failure_threshold=MAX_SATURATED,
        success_threshold=1,
        half_open_max_calls=1,
        # At the rate itself it stays.
        failure_rate=min(1.0, endpoints.failure_rate + ABOVE),
    )


class KeyCounts(NamedTuple):
    """What a key was used for. failures: of its requests. used_at_ms: Unix time of the last one, 0 for never."""

    requests: int
    failures: int
    used_at_ms: int


class ProviderKeyState:
    """One key. row: its own. attempts: over the rows of keys, with a policy for keys."""

    __slots__ = ("_attempts", "_segment", "row")

    def __init__(self, segment: Segment, attempts: Attempts, row: int) -> None:
        self._segment = segment
        self._attempts = attempts
        self.row = row

    def enter(self, worker: int, now_ms: int, wall_ns: int) -> int:
        """Admit an attempt; return its ticket, -1 if the key is out. wall_ns: Unix time, noted as its last use."""
        ticket: int = self._attempts.enter(worker, self.row, 0, now_ms)
        if ticket >= 0:
            self._segment.set_cell(self.row, KEY_USED_AT_MS, wall_ns // 1_000_000)
        return ticket

    def withdraw(self, attempts: Attempts, worker: int, row: int, ticket: int, work: int, now_ms: int) -> None:
        """Take back that an endpoint has admitted an attempt, which the key refuses: nobody was asked."""
        attempts.leave(worker, row, ticket, NEUTRAL, -1.0, now_ms, 0, 0, work)
        self._segment.add(worker, row, REQUESTS, -1)

    def leave(
        self,
        worker: int,
        ticket: int,
        verdict: int,
        now_ms: int,
        *,
        bits: int = 0,
        hint_ms: int = 0,
        excused: bool = False,
    ) -> None:
        """Record how an attempt ended, once for each ticket; see `Attempts.leave`.

        excused: the key is not to blame, though the attempt has failed. Its endpoint's breaker has opened since it was
        sent, and what one broken model has under way then must not take the key away from its other models; or it was
        refused in a way that may be a matter of the request, and no one caller may take it away from the others.
        """
        counted = FAILED if verdict == KEY_REJECTED else verdict
        if counted == FAILED and excused:
            counted = NEUTRAL
        self._attempts.leave(worker, self.row, ticket, counted, -1.0, now_ms, bits, hint_ms, 0)
        if counted == RATE_LIMITED or (counted == NEUTRAL and verdict != NEUTRAL):
            # The breaker has no use for these, the counts have.
            self._segment.add(worker, self.row, FAILURES, 1)

    @property
    def out(self) -> bool:
        """Whether its breaker lets nobody but a probe through."""
        return self._attempts.state(self.row, 0)[0] != 0

    def counts(self) -> KeyCounts:
        """Return what it was used for by all workers, since the last `reset`."""
        segment, row = self._segment, self.row
        return KeyCounts(
            segment.total(row, REQUESTS) + segment.cell(row, KEY_REQUESTS_BASE),
            segment.total(row, FAILURES) + segment.cell(row, KEY_FAILURES_BASE),
            segment.cell(row, KEY_USED_AT_MS),
        )

    def reset(self) -> None:
        """Begin to count anew, for all workers. Nobody's turn and no breaker is touched."""
        restore_counts(self._segment, self.row, KeyCounts(0, 0, 0))


def restore_counts(segment: Segment, row: int, counts: KeyCounts) -> None:
    """Go on counting a key from `counts`. What workers have counted stays theirs: it is made up for."""
    segment.set_cell(row, KEY_REQUESTS_BASE, counts.requests - segment.total(row, REQUESTS))
    segment.set_cell(row, KEY_FAILURES_BASE, counts.failures - segment.total(row, FAILURES))
    segment.set_cell(row, KEY_USED_AT_MS, counts.used_at_ms)
