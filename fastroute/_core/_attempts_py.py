"""Pure half of `attempts`: the readable reference.

Breaker: Nygard, Release It!, as linkerd has it (consecutive failures, or a rate over an exact window; one probe at a
time). Cost: peak EWMA (twitter/finagle PeakEwma.scala), where a failure counts as a long time (linkerd load-biaser), so
that an endpoint which fails fast does not look idle. Changes of a cell are compare-and-swap in the compiled half, and
exact over all workers; here only those of a breaker are, and counts and costs change under the segment's lock. See
`counters` for what the pure half can promise.

`at`: where the cells of an endpoint begin that all workers share, as `Segment.shared_at` says, which checks the row.
"""

import math
import struct
from typing import Final

from fastroute._core._adaptive_py import Adaptive
from fastroute._core._adaptive_rules import same_segment
from fastroute._core._attempts_rules import (
    CLOSED,
    DEFAULT_POLICY,
    FAILED,
    FORGOTTEN_MS,
    HALF_OPEN,
    JITTER,
    MARK_SHIFT,
    MAX_AHEAD_MS,
    MAX_HINT_MS,
    MAX_SATURATED,
    MAX_TRIPS,
    NEUTRAL,
    OK,
    OPEN,
    PROBE_LOST_MS,
    RATE_LIMITED,
    RATE_SLACK,
    REFUSED,
    SEED_COST_MS,
    Policy,
    aged_latencies,
    checked,
    latency_counts,
    latency_place,
)
from fastroute._core._counters_file import (
    BREAKER,
    BREAKER_COUNTS,
    CLOSED_AT_MS,
    COOLDOWN_UNTIL_MS,
    COST,
    FAILURES,
    LATENCY_0,
    LATENCY_CELLS,
    SLOW_START_MS,
    WINDOW_0,
    WINDOW_BUCKETS,
    WORK,
)
from fastroute._core._counters_py import Segment

_EPOCHS: Final = 1 << 24
_FULL: Final = (1 << 20) - 1
_CELL: Final = struct.Struct("=If")
_parts: Final = _CELL.unpack
_MASK_64: Final = (1 << 64) - 1
_MAX_AGE_MS: Final = 0xFFFFFFFF - MAX_AHEAD_MS


class Attempts:
    """Admission to endpoints and the one record of each attempt's end. Times are monotonic milliseconds."""

    def __init__(self, segment: Segment, policy: Policy = DEFAULT_POLICY, adaptive: Adaptive | None = None) -> None:
        """Raises ValueError for a policy out of bounds, and for limits of another segment."""
        self.policy = checked(policy)
        same_segment(adaptive, segment)
        self.adaptive = adaptive
        self._segment = segment
        self._words = segment.words
        self._lock = segment.lock
        self._window_ms = policy.window_ms
        self._bucket_ms = max(1, policy.window_ms // WINDOW_BUCKETS)
        self._decay_ms = policy.decay_ms
        #: After so long, a breaker's probes are given up for lost.
        self._lost_ms = max(PROBE_LOST_MS, policy.timeout_ms)

    def enter(self, worker: int, row: int, work: int, now_ms: int) -> int:
        """Admit an attempt and count it in; return its ticket, -1 if the breaker refuses it (nothing is counted)."""
        segment = self._segment
        own_at, at = segment.places(worker, row)
        word = self._words[at + BREAKER]
        ticket = self._admit(at, now_ms) if word & 3 != CLOSED else (word >> 10 & 0x3FFF) << 2
        if ticket >= 0:
            segment.move(own_at, 1, work, 0)
            if self.adaptive is not None:
                ticket |= self.adaptive.enter(row, now_ms) << MARK_SHIFT
        return ticket

    def enter_anyway(self, worker: int, row: int, work: int, now_ms: int) -> int:
        """Count an attempt in that no breaker is asked about, nor told of."""
        self._segment.move(self._segment.own_at(worker, row), 1, work, 0)
        return 2 | (self.adaptive.enter(row, now_ms) << MARK_SHIFT if self.adaptive is not None else 0)

    def first_token(self, worker: int, row: int, work: int, cost_ms: float, now_ms: int) -> None:
        """Give back the part of the work that the first token ends, and note what that token took (-1: nothing)."""
        segment = self._segment
        segment.move(segment.own_at(worker, row), 0, -work, 0)
        if cost_ms >= 0.0:
            with self._lock:
                self._measured(segment.shared_at(row), cost_ms, now_ms)
            if self.adaptive is not None:
                self.adaptive.first_token(row, cost_ms, now_ms)

    def leave(
        self,
        worker: int,
        row: int,
        ticket: int,
        verdict: int,
        cost_ms: float,
        now_ms: int,
        bits: int,
        hint_ms: int,
        work: int,
    ) -> None:
        """Count an attempt out and record how it ended. To be called exactly once for each ticket.

        cost_ms: normalised time to the first token, -1 if there is none. hint_ms: how long the provider wants to be
        left alone, 0 if it did not say. bits: 64 random bits.
        """
        segment = self._segment
        own_at, at = segment.places(worker, row)
        if hint_ms > MAX_HINT_MS:
            hint_ms = MAX_HINT_MS
        if self.adaptive is not None:
            self.adaptive.leave(row, ticket >> MARK_SHIFT, verdict, cost_ms, hint_ms, now_ms)
        segment.move(own_at, -1, -work, 1)
        with self._lock:
            if verdict == OK:
                self._count(at, 1 << 20, now_ms)
                if cost_ms >= 0.0:
                    self._measured(at, cost_ms, now_ms)
            elif verdict != NEUTRAL:
                self._punish(own_at, at, verdict, hint_ms, now_ms)
            elif cost_ms >= 0.0:
                self._observe(at, cost_ms, now_ms, True)
        if not ticket & 2:
            self._judge(at, ticket, verdict, hint_ms, now_ms, bits)

    def state(self, row: int, now_ms: int) -> tuple[int, int, int, int]:
        """Return (state, generation, probes in flight, until_ms) of a breaker."""
        word = self._words[self._segment.shared_at(row) + BREAKER]
        return word & 3, word >> 10 & 0x3FFF, word >> 2 & 0xFF, word >> 24

    def cost(self, row: int, now_ms: int) -> float:
        """Return the cost of an endpoint in normalised milliseconds, decayed to now; 0 for one nobody has measured."""
        return decayed_cost(self._words[self._segment.shared_at(row) + COST], now_ms, self._decay_ms)

    def load(self, row: int, now_ms: int) -> float:
        """Return cost x (in-flight work + 1): what the p2c strategy compares."""
        return expected_load(self.cost(row, now_ms), self._segment.total(row, WORK) / 1000.0)

    def health(self, row: int, now_ms: int) -> tuple[int, int]:
        """Return (good, failed) attempts in the window."""
        return self._health(self._segment.shared_at(row), now_ms)

    def latencies(self, row: int, now_ms: int) -> list[int]:
        """Return how many good answers of late there were by their time to the first token; see `latency_quantile`."""
        first = self._segment.shared_at(row) + LATENCY_0
        return latency_counts(self._words[first : first + LATENCY_CELLS].tolist(), now_ms // self._window_ms & 0xFFFF)

    # --- in

    def _admit(self, at: int, now_ms: int) -> int:
        while True:
            word = self._words[at + BREAKER]
            state, generation = word & 3, word >> 10 & 0x3FFF
            if state == CLOSED:
                return generation << 2
            probes, until_ms = word >> 2 & 0xFF, word >> 24
            if state == HALF_OPEN and until_ms > now_ms:
                if probes >= self.policy.half_open_max_calls:
                    return REFUSED
                probes += 1
            elif until_ms > now_ms:
                return REFUSED
            else:
                # The open time is over: a new generation, whose first probe this is. Or the probes out there seem to be
                # lost: the generation stays, for one that was only slow has not lost its say.
                probes = 1
                if state == OPEN:
                    generation = generation + 1 & 0x3FFF
            if self._segment.swap(at + BREAKER, word, _word(HALF_OPEN, probes, generation, now_ms + self._lost_ms)):
                if state == OPEN:
                    self._set_counts(at, self._trips(at))
                return generation << 2 | 1

    # --- out

    def _punish(self, own_at: int, at: int, verdict: int, hint_ms: int, now_ms: int) -> None:
        """Note what speaks against an endpoint. The lock is held."""
        if verdict != RATE_LIMITED:
            self._words[own_at + FAILURES] = self._words[own_at + FAILURES] + 1 & _MASK_64
        if verdict == FAILED:
            self._count(at, 1, now_ms)
        if hint_ms > 0 and verdict == RATE_LIMITED:
            numbers = self._segment.numbers
            numbers[at + COOLDOWN_UNTIL_MS] = max(numbers[at + COOLDOWN_UNTIL_MS], now_ms + hint_ms)
        self._observe(at, float(max(hint_ms, self.policy.penalty_ms)), now_ms, True)

    def _judge(self, at: int, ticket: int, verdict: int, hint_ms: int, now_ms: int, bits: int) -> None:
        """Move the breaker. A result of another generation than the present one comes too late to matter."""
        word = self._words[at + BREAKER]
        if word >> 10 & 0x3FFF != ticket >> 2 & 0x3FFF:
            return
        if word & 3 == CLOSED:
            self._judge_closed(at, word, verdict, now_ms, bits)
        elif word & 3 == HALF_OPEN and ticket & 1:
            self._judge_probe(at, ticket, verdict, hint_ms, now_ms, bits)

    def _judge_closed(self, at: int, word: int, verdict: int, now_ms: int, bits: int) -> None:
        if verdict == OK:
            if self._words[at + BREAKER_COUNTS] & MAX_SATURATED:
                self._set_consecutive(at, 0)
        elif verdict == FAILED:
            in_a_row = self._set_consecutive(at, None)
            good, failed = self._health(at, now_ms)
            total = good + failed
            too_many = total >= self.policy.min_requests and failed + RATE_SLACK >= self.policy.failure_rate * total
            if in_a_row >= self.policy.failure_threshold or too_many:
                self._open(at, word, 0, now_ms, bits)

    def _judge_probe(self, at: int, ticket: int, verdict: int, hint_ms: int, now_ms: int, bits: int) -> None:
        well = self._add_success(at) if verdict == OK else 0
        while True:
            word = self._words[at + BREAKER]
            if word >> 10 & 0x3FFF != ticket >> 2 & 0x3FFF or word & 3 != HALF_OPEN:
                return
            if verdict in (FAILED, RATE_LIMITED):
                if self._open(at, word, hint_ms, now_ms, bits):
                    return
                continue
            if well >= self.policy.success_threshold:
                if self._close(at, word, now_ms):
                    return
                continue
            probes = max(0, (word >> 2 & 0xFF) - 1)
            if self._segment.swap(at + BREAKER, word, _word(HALF_OPEN, probes, word >> 10 & 0x3FFF, word >> 24)):
                return

    def _open(self, at: int, word: int, hint_ms: int, now_ms: int, bits: int) -> bool:
        """Open the breaker that is in the state `word`; False if another worker has changed that meanwhile."""
        trips = self._trips(at)
        closed_at = self._words[at + CLOSED_AT_MS]
        if word & 3 == CLOSED and closed_at and now_ms - closed_at > self.policy.window_ms:
            trips = 0
        longest = min(self.policy.timeout_ms << trips, self.policy.max_timeout_ms)
        open_ms = max(int(longest * (1.0 + JITTER * ((bits & 0xFFFFFFFF) / 4294967296.0))), hint_ms)
        generation = (word >> 10) + 1 & 0x3FFF
        if not self._segment.swap(at + BREAKER, word, _word(OPEN, 0, generation, now_ms + open_ms)):
            return False
        self._set_counts(at, min(trips + 1, MAX_TRIPS))
        return True

    def _close(self, at: int, word: int, now_ms: int) -> bool:
        generation = (word >> 10) + 1 & 0x3FFF
        if not self._segment.swap(at + BREAKER, word, _word(CLOSED, 0, generation, 0)):
            return False
        self._set_counts(at, self._trips(at))
        self._words[at + CLOSED_AT_MS] = self._words[at + SLOW_START_MS] = now_ms & _MASK_64
        for bucket in range(at + WINDOW_0, at + WINDOW_0 + WINDOW_BUCKETS):
            self._words[bucket] = 0
        return True

    # --- cells

    def _trips(self, at: int) -> int:
        return self._words[at + BREAKER_COUNTS] >> 32 & MAX_SATURATED

    def _set_counts(self, at: int, trips: int) -> None:
        """Set the trips in a row; failures in a row and probes that went well begin at 0 again."""
        self._words[at + BREAKER_COUNTS] = trips << 32

    def _set_consecutive(self, at: int, value: int | None) -> int:
        """Set the number of failures in a row, or add one to it (None); return it."""
        with self._lock:
            old = self._words[at + BREAKER_COUNTS]
            new = min(MAX_SATURATED, (old & MAX_SATURATED) + 1) if value is None else value
            self._words[at + BREAKER_COUNTS] = old & ~MAX_SATURATED | new
            return new

    def _add_success(self, at: int) -> int:
        with self._lock:
            old = self._words[at + BREAKER_COUNTS]
            well = min(MAX_SATURATED, (old >> 16 & MAX_SATURATED) + 1)
            self._words[at + BREAKER_COUNTS] = old & ~(MAX_SATURATED << 16) | well << 16
            return well

    def _health(self, at: int, now_ms: int) -> tuple[int, int]:
        good = failed = 0
        epoch = now_ms // self._bucket_ms
        for word in self._words[at + WINDOW_0 : at + WINDOW_0 + WINDOW_BUCKETS]:
            if word and (epoch - (word >> 40)) % _EPOCHS < WINDOW_BUCKETS:
                good += word >> 20 & _FULL
                failed += word & _FULL
        return good, failed

    # For these the lock is held: a count or a cost is changed by what it was.

    def _count(self, at: int, what: int, now_ms: int) -> None:
        """Add to the window's bucket of now; one that is of an earlier time starts anew."""
        words = self._words
        epoch = now_ms // self._bucket_ms
        at += WINDOW_0 + epoch % WINDOW_BUCKETS
        epoch %= _EPOCHS
        old = words[at]
        base = old if old >> 40 == epoch else epoch << 40
        if (base & _FULL if what == 1 else base >> 20 & _FULL) != _FULL:
            words[at] = base + what

    def _measured(self, at: int, cost_ms: float, now_ms: int) -> None:
        """Note the time to the first token of a good answer: in the cost, and among the latencies."""
        self._observe(at, cost_ms, now_ms, False)
        words = self._words
        place, lane = latency_place(cost_ms)
        at += LATENCY_0 + place
        epoch, counts = aged_latencies(words[at], now_ms // self._window_ms & 0xFFFF)
        lane *= 16
        if counts >> lane & MAX_SATURATED != MAX_SATURATED:
            words[at] = epoch << 48 | counts + (1 << lane)

    def _observe(self, at: int, sample: float, now_ms: int, only_if_above: bool) -> None:
        """Take a sample into the peak EWMA. only_if_above: leave it be if it has a worse opinion already."""
        words = self._words
        value, kept = _unpacked(words[at + COST], now_ms, self._decay_ms)
        if only_if_above and sample <= value * kept:
            return
        new = sample if sample > value else value * kept + sample * (1.0 - kept)
        words[at + COST] = _pack(new, now_ms)


def expected_load(cost_ms: float, work: float) -> float:
    """Return what one more request would meet: cost x (work + 1); an unmeasured idle endpoint costs nothing to try."""
    if cost_ms < FORGOTTEN_MS:
        return SEED_COST_MS * (work + 1.0) if work > 0.0 else 0.0
    return cost_ms * (work + 1.0) if work > 0.0 else cost_ms


def _word(state: int, probes: int, generation: int, until_ms: int) -> int:
    return state | probes << 2 | generation << 10 | (until_ms & (1 << 40) - 1) << 24


def _pack(value: float, now_ms: int) -> int:
    return int.from_bytes(_CELL.pack(now_ms & 0xFFFFFFFF, min(value, 3e38)), "little")


def _unpacked(cell: int, now_ms: int, decay_ms: int) -> tuple[float, float]:
    """Return (value, the share of it that time has left); all of it where its stamp lies ahead."""
    stamp, value = _parts(cell.to_bytes(8, "little"))
    age_ms = (now_ms - stamp) & 0xFFFFFFFF
    return value, math.exp(-age_ms / decay_ms) if age_ms <= _MAX_AGE_MS else 1.0


def decayed_cost(cell: int, now_ms: int, decay_ms: int) -> float:
    """Return what a COST cell, without a sign, has come down to."""
    if not cell >> 32:
        return 0.0
    value, kept = _unpacked(cell, now_ms, decay_ms)
    return value * kept if value > 0.0 else 0.0
