"""Pure half of `attempts`: the readable reference.

Breaker: Nygard, Release It!, as linkerd has it (consecutive failures, or a rate over an exact window; one probe at a
time). Cost: peak EWMA (twitter/finagle PeakEwma.scala), where a failure counts as a long time (linkerd load-biaser), so
that an endpoint which fails fast does not look idle. Changes of a cell are compare-and-swap, so with the compiled half
they are exact over all workers; see `counters` for what the pure half can promise.
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
    IN_FLIGHT,
    LATENCY_0,
    LATENCY_CELLS,
    REQUESTS,
    SLOW_START_MS,
    WINDOW_0,
    WINDOW_BUCKETS,
    WORK,
)
from fastroute._core._counters_py import Segment

_TWO_64: Final = 1 << 64
_TWO_63: Final = 1 << 63
_EPOCHS: Final = 1 << 24
_FULL: Final = (1 << 20) - 1
_CELL: Final = struct.Struct("=If")


class Attempts:
    """Admission to endpoints and the one record of each attempt's end. Times are monotonic milliseconds."""

    def __init__(self, segment: Segment, policy: Policy = DEFAULT_POLICY, adaptive: Adaptive | None = None) -> None:
        """Raises ValueError for a policy out of bounds, and for limits of another segment."""
        self.policy = checked(policy)
        same_segment(adaptive, segment)
        self.adaptive = adaptive
        self._segment = segment
        self._bucket_ms = max(1, policy.window_ms // WINDOW_BUCKETS)

    def enter(self, worker: int, row: int, work: int, now_ms: int) -> int:
        """Admit an attempt and count it in; return its ticket, -1 if the breaker refuses it (nothing is counted)."""
        ticket = self._admit(row, now_ms)
        if ticket >= 0:
            ticket |= self._count_in(worker, row, work, now_ms)
        return ticket

    def enter_anyway(self, worker: int, row: int, work: int, now_ms: int) -> int:
        """Count an attempt in that no breaker is asked about, nor told of."""
        return 2 | self._count_in(worker, row, work, now_ms)

    def first_token(self, worker: int, row: int, work: int, cost_ms: float, now_ms: int) -> None:
        """Give back the part of the work that the first token ends, and note what that token took (-1: nothing)."""
        self._segment.add(worker, row, WORK, -work)
        if cost_ms >= 0.0:
            self._measured(row, cost_ms, now_ms)
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
        hint_ms = min(hint_ms, MAX_HINT_MS)
        if self.adaptive is not None:
            self.adaptive.leave(row, ticket >> MARK_SHIFT, verdict, cost_ms, hint_ms, now_ms)
        segment.add(worker, row, IN_FLIGHT, -1)
        segment.add(worker, row, WORK, -work)
        segment.add(worker, row, REQUESTS, 1)
        if verdict == OK:
            self._count(row, 1 << 20, now_ms)
            if cost_ms >= 0.0:
                self._measured(row, cost_ms, now_ms)
        elif verdict == NEUTRAL:
            if cost_ms >= 0.0:
                self._observe(row, cost_ms, now_ms, True)
        else:
            self._punish(worker, row, verdict, hint_ms, now_ms)
        if not ticket & 2:
            self._judge(row, ticket, verdict, hint_ms, now_ms, bits)

    def state(self, row: int, now_ms: int) -> tuple[int, int, int, int]:
        """Return (state, generation, probes in flight, until_ms) of a breaker."""
        word = self._load(row, BREAKER)
        return word & 3, word >> 10 & 0x3FFF, word >> 2 & 0xFF, word >> 24

    def cost(self, row: int, now_ms: int) -> float:
        """Return the cost of an endpoint in normalised milliseconds, decayed to now; 0 for one nobody has measured."""
        value, stamp = _unpack(self._load(row, COST))
        return _decayed(value, stamp, now_ms, self.policy.decay_ms)

    def load(self, row: int, now_ms: int) -> float:
        """Return cost x (in-flight work + 1): what the p2c strategy compares."""
        return expected_load(self.cost(row, now_ms), self._segment.total(row, WORK) / 1000.0)

    def health(self, row: int, now_ms: int) -> tuple[int, int]:
        """Return (good, failed) attempts in the window."""
        good = failed = 0
        epoch = now_ms // self._bucket_ms
        for i in range(WINDOW_BUCKETS):
            word = self._load(row, WINDOW_0 + i)
            if word and 0 <= (epoch - (word >> 40)) % _EPOCHS < WINDOW_BUCKETS:
                good += word >> 20 & _FULL
                failed += word & _FULL
        return good, failed

    def latencies(self, row: int, now_ms: int) -> list[int]:
        """Return how many good answers of late there were by their time to the first token; see `latency_quantile`."""
        words = [self._load(row, LATENCY_0 + i) for i in range(LATENCY_CELLS)]
        return latency_counts(words, now_ms // self.policy.window_ms & 0xFFFF)

    # --- in

    def _count_in(self, worker: int, row: int, work: int, now_ms: int) -> int:
        """Count an attempt in; return its mark where a ticket has it."""
        self._segment.add(worker, row, IN_FLIGHT, 1)
        self._segment.add(worker, row, WORK, work)
        return self.adaptive.enter(row, now_ms) << MARK_SHIFT if self.adaptive is not None else 0

    def _admit(self, row: int, now_ms: int) -> int:
        lost_ms = max(PROBE_LOST_MS, self.policy.timeout_ms)
        while True:
            word = self._load(row, BREAKER)
            state, probes, generation, until_ms = word & 3, word >> 2 & 0xFF, word >> 10 & 0x3FFF, word >> 24
            if state == CLOSED:
                return generation << 2
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
            if self._cas(row, BREAKER, word, _word(HALF_OPEN, probes, generation, now_ms + lost_ms)):
                if state == OPEN:
                    self._set_counts(row, 0, 0, self._counts(row)[2])
                return generation << 2 | 1

    # --- out

    def _punish(self, worker: int, row: int, verdict: int, hint_ms: int, now_ms: int) -> None:
        if verdict != RATE_LIMITED:
            self._segment.add(worker, row, FAILURES, 1)
        if verdict == FAILED:
            self._count(row, 1, now_ms)
        if hint_ms > 0 and verdict == RATE_LIMITED:
            self._raise_cell(row, COOLDOWN_UNTIL_MS, now_ms + hint_ms)
        self._observe(row, float(max(hint_ms, self.policy.penalty_ms)), now_ms, True)

    def _judge(self, row: int, ticket: int, verdict: int, hint_ms: int, now_ms: int, bits: int) -> None:
        """Move the breaker. A result of another generation than the present one comes too late to matter."""
        word = self._load(row, BREAKER)
        if word >> 10 & 0x3FFF != ticket >> 2 & 0x3FFF:
            return
        if word & 3 == CLOSED:
            self._judge_closed(row, word, verdict, now_ms, bits)
        elif word & 3 == HALF_OPEN and ticket & 1:
            self._judge_probe(row, ticket, verdict, hint_ms, now_ms, bits)

    def _judge_closed(self, row: int, word: int, verdict: int, now_ms: int, bits: int) -> None:
        if verdict == OK:
            if self._load(row, BREAKER_COUNTS) & MAX_SATURATED:
                self._set_consecutive(row, 0)
        elif verdict == FAILED:
            in_a_row = self._set_consecutive(row, None)
            good, failed = self.health(row, now_ms)
            total = good + failed
            too_many = total >= self.policy.min_requests and failed + RATE_SLACK >= self.policy.failure_rate * total
            if in_a_row >= self.policy.failure_threshold or too_many:
                self._open(row, word, 0, now_ms, bits)

    def _judge_probe(self, row: int, ticket: int, verdict: int, hint_ms: int, now_ms: int, bits: int) -> None:
        well = self._add_success(row) if verdict == OK else 0
        while True:
            word = self._load(row, BREAKER)
            if word >> 10 & 0x3FFF != ticket >> 2 & 0x3FFF or word & 3 != HALF_OPEN:
                return
            if verdict in (FAILED, RATE_LIMITED):
                if self._open(row, word, hint_ms, now_ms, bits):
                    return
                continue
            if well >= self.policy.success_threshold:
                if self._close(row, word, now_ms):
                    return
                continue
            probes = max(0, (word >> 2 & 0xFF) - 1)
            if self._cas(row, BREAKER, word, _word(HALF_OPEN, probes, word >> 10 & 0x3FFF, word >> 24)):
                return

    def _open(self, row: int, word: int, hint_ms: int, now_ms: int, bits: int) -> bool:
        """Open the breaker that is in the state `word`; False if another worker has changed that meanwhile."""
        trips = self._counts(row)[2]
        closed_at = self._load(row, CLOSED_AT_MS)
        if word & 3 == CLOSED and closed_at and now_ms - closed_at > self.policy.window_ms:
            trips = 0
        longest = min(self.policy.timeout_ms << trips, self.policy.max_timeout_ms)
        open_ms = max(int(longest * (1.0 + JITTER * ((bits & 0xFFFFFFFF) / 4294967296.0))), hint_ms)
        generation = (word >> 10) + 1 & 0x3FFF
        if not self._cas(row, BREAKER, word, _word(OPEN, 0, generation, now_ms + open_ms)):
            return False
        self._set_counts(row, 0, 0, min(trips + 1, MAX_TRIPS))
        return True

    def _close(self, row: int, word: int, now_ms: int) -> bool:
        generation = (word >> 10) + 1 & 0x3FFF
        if not self._cas(row, BREAKER, word, _word(CLOSED, 0, generation, 0)):
            return False
        self._set_counts(row, 0, 0, self._counts(row)[2])
        self._segment.set_cell(row, CLOSED_AT_MS, now_ms)
        self._segment.set_cell(row, SLOW_START_MS, now_ms)
        for i in range(WINDOW_BUCKETS):
            self._segment.set_cell(row, WINDOW_0 + i, 0)
        return True

    # --- cells

    def _load(self, row: int, cell: int) -> int:
        """Return a cell as an unsigned number."""
        return self._segment.cell(row, cell) % _TWO_64

    def _cas(self, row: int, cell: int, expect: int, new: int) -> bool:
        return self._segment.cas_cell(row, cell, _signed(expect), _signed(new))

    def _raise_cell(self, row: int, cell: int, value: int) -> None:
        while True:
            old = self._load(row, cell)
            if old >= value or self._cas(row, cell, old, value):
                return

    def _counts(self, row: int) -> tuple[int, int, int]:
        word = self._load(row, BREAKER_COUNTS)
        return word & MAX_SATURATED, word >> 16 & MAX_SATURATED, word >> 32 & MAX_SATURATED

    def _set_counts(self, row: int, in_a_row: int, well: int, trips: int) -> None:
        self._segment.set_cell(row, BREAKER_COUNTS, in_a_row | well << 16 | trips << 32)

    def _set_consecutive(self, row: int, value: int | None) -> int:
        """Set the number of failures in a row, or add one to it (None); return it."""
        while True:
            old = self._load(row, BREAKER_COUNTS)
            new = min(MAX_SATURATED, (old & MAX_SATURATED) + 1) if value is None else value
            if self._cas(row, BREAKER_COUNTS, old, old & ~MAX_SATURATED | new):
                return new

    def _add_success(self, row: int) -> int:
        while True:
            old = self._load(row, BREAKER_COUNTS)
            well = min(MAX_SATURATED, (old >> 16 & MAX_SATURATED) + 1)
            if self._cas(row, BREAKER_COUNTS, old, old & ~(MAX_SATURATED << 16) | well << 16):
                return well

    def _count(self, row: int, what: int, now_ms: int) -> None:
        """Add to the window's bucket of now; one that is of an earlier time starts anew."""
        epoch = now_ms // self._bucket_ms
        cell = WINDOW_0 + epoch % WINDOW_BUCKETS
        epoch %= _EPOCHS
        while True:
            old = self._load(row, cell)
            base = old if old >> 40 == epoch else epoch << 40
            full = base & _FULL if what == 1 else base >> 20 & _FULL
            if full == _FULL or self._cas(row, cell, old, base + what):
                return

    def _measured(self, row: int, cost_ms: float, now_ms: int) -> None:
        """Note the time to the first token of a good answer: in the cost, and among the latencies."""
        self._observe(row, cost_ms, now_ms, False)
        place, lane = latency_place(cost_ms)
        while True:
            old = self._load(row, LATENCY_0 + place)
            epoch, counts = aged_latencies(old, now_ms // self.policy.window_ms & 0xFFFF)
            full = counts >> 16 * lane & MAX_SATURATED == MAX_SATURATED
            if full or self._cas(row, LATENCY_0 + place, old, epoch << 48 | counts + (1 << 16 * lane)):
                return

    def _observe(self, row: int, sample: float, now_ms: int, only_if_above: bool) -> None:
        """Take a sample into the peak EWMA. only_if_above: leave it be if it has a worse opinion already."""
        while True:
            old = self._load(row, COST)
            value, stamp = _unpack(old)
            kept = math.exp(-_age_ms(stamp, now_ms) / self.policy.decay_ms)
            if only_if_above and sample <= value * kept:
                return
            new = sample if sample > value else value * kept + sample * (1.0 - kept)
            if self._cas(row, COST, old, _pack(new, now_ms)):
                return


def expected_load(cost_ms: float, work: float) -> float:
    """Return what one more request would meet: cost x (work + 1); an unmeasured idle endpoint costs nothing to try."""
    if cost_ms < FORGOTTEN_MS:
        return SEED_COST_MS * (work + 1.0) if work > 0.0 else 0.0
    return cost_ms * (max(work, 0.0) + 1.0)


def _word(state: int, probes: int, generation: int, until_ms: int) -> int:
    return state | probes << 2 | generation << 10 | (until_ms & (1 << 40) - 1) << 24


def _signed(value: int) -> int:
    return value - _TWO_64 if value >= _TWO_63 else value


def _pack(value: float, now_ms: int) -> int:
    return int.from_bytes(_CELL.pack(now_ms & 0xFFFFFFFF, min(value, 3e38)), "little")


def _unpack(cell: int) -> tuple[float, int]:
    """Return (value, time in ms modulo 2**32)."""
    stamp, value = _CELL.unpack(cell.to_bytes(8, "little"))
    return value, stamp


def _age_ms(stamp: int, now_ms: int) -> int:
    """Return how long ago a stamp was; 0 for one that lies ahead."""
    age = (now_ms - stamp) & 0xFFFFFFFF
    return age if age <= 0xFFFFFFFF - MAX_AHEAD_MS else 0


def _decayed(value: float, stamp: int, now_ms: int, decay_ms: int) -> float:
    return value * math.exp(-_age_ms(stamp, now_ms) / decay_ms) if value > 0.0 else 0.0
