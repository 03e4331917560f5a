"""Pure half of `candidates`: the readable reference."""

from collections.abc import Iterator, Sequence
from typing import Final

from fastroute._core._adaptive_py import Adaptive
from fastroute._core._adaptive_rules import FULL_WAIT_MS, ROOMY, same_segment
from fastroute._core._candidates_gates import (
    BREAKER,
    CAPABILITY,
    CONTEXT,
    COOLDOWN,
    COST,
    DRAINED,
    FULL,
    GATE_NAMES,
    KEY,
    KEY_PROBES,
    MODEL,
    NO_KEY,
    OUTPUT,
    PASSED,
    PROBE_WAIT_MS,
    QUOTA,
    REGION,
    REQUEST,
    SLOW_START_FLOOR,
    TRIED,
    checked_factor,
    checked_keys,
    checked_position,
    checked_region,
    checked_row,
    same_length,
)
from fastroute._core._channel_rules import LOOK, MODEL_NOT_FOUND, QUOTA_EXHAUSTED
from fastroute._core._counters_file import (
    ADAPTIVE,
    CELLS,
    COOLDOWN_UNTIL_MS,
    KEY_STATE,
    MODEL_STATE,
    QUOTA_REQUESTS,
    QUOTA_TOKENS,
    SLOW_START_MS,
)
from fastroute._core._counters_file import BREAKER as BREAKER_CELL
from fastroute._core._counters_py import Segment

_GATES: Final = len(GATE_NAMES)
_OPEN: Final = 1
_HALF_OPEN: Final = 2
#: A request is tried at no more endpoints than this.
_MAX_TRIED: Final = 64


class Need:
    """What a request needs of an endpoint. One object is used for one request after another.

    capabilities: bits. prompt_tokens, output_tokens: 0 for unknown. regions: bit r for region r, 0 for any. order: for
    each provider 0 (not allowed), 1 (preferred), 2, ...; None for all alike. stages: for each provider the gate that
    its 0 stands for; None for REQUEST. max_cost_pico: pico-USD, -1 for no ceiling. tried: positions.
    """

    __slots__ = (
        "capabilities",
        "max_cost_pico",
        "now_ms",
        "order",
        "output_tokens",
        "panic_min",
        "panic_percent",
        "prompt_tokens",
        "regions",
        "slow_start_ms",
        "stages",
        "tried",
    )

    def __init__(self) -> None:
        self.capabilities = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.regions = 0
        self.order: bytes | None = None
        self.stages: bytes | None = None
        self.max_cost_pico = -1
        self.now_ms = 0
        self.tried: Sequence[int] = ()
        self.slow_start_ms = 0
        self.panic_percent = 0
        self.panic_min = 1


class Candidates:
    """Endpoints at positions 0..n-1 and, after `gate`, those of them that a request may go to: a sequence of positions.

    rows: in the segment. ranks: tiers, 0 first. providers, regions: numbers. capabilities: bits. context_windows,
    max_outputs: tokens, 0 for unknown, which keeps nothing away. Prices: pico-USD per token, -1 for unknown, which no
    ceiling lets through. key_rows: the row of the key that an endpoint uses, whose breaker stands before it as well,
    and which is what `time_window` claims; -1 for none; empty: for none at all.
    """

    def __init__(
        self,
        segment: Segment,
        rows: Sequence[int],
        weights: Sequence[float],
        *,
        ranks: Sequence[int],
        providers: Sequence[int],
        regions: Sequence[int],
        capabilities: Sequence[int],
        context_windows: Sequence[int],
        max_outputs: Sequence[int],
        input_prices: Sequence[int],
        output_prices: Sequence[int],
        key_rows: Sequence[int] = (),
        half_open_max_calls: int = 1,
        adaptive: Adaptive | None = None,
    ) -> None:
        """Raises ValueError for sequences of different lengths, for a region that is not 0..63 and for limits of
        another segment, IndexError for a row that is not in the segment.
        """
        self.size = same_length(
            rows, weights, ranks, providers, regions, capabilities, context_windows, max_outputs, input_prices,
            output_prices,
        )  # fmt: skip
        self.segment = segment
        same_segment(adaptive, segment)
        self.adaptive = adaptive
        self.rows = [checked_row(row, segment.endpoints) for row in rows]
        #: Where in the segment the cells of their rows begin; whoever goes there asks first whether it is open.
        self.starts = [segment.first_shared + row * CELLS for row in self.rows]
        self.weights = [float(weight) for weight in weights]
        self.max_weight = max(self.weights, default=0.0)
        self._ranks = list(ranks)
        self._providers = list(providers)
        self._regions = [checked_region(region) for region in regions]
        self._capabilities = list(capabilities)
        self._context_windows = list(context_windows)
        self._max_outputs = list(max_outputs)
        #: Those that are unsuitable for nobody who has no wish in particular.
        self._boundless = [
            weight > 0.0 and not window and not ceiling
            for weight, window, ceiling in zip(self.weights, context_windows, max_outputs, strict=True)
        ]
        self._input_prices = list(input_prices)
        self._output_prices = list(output_prices)
        self.key_rows = checked_keys(key_rows, self.size, segment.endpoints)
        self._half_open_max_calls = half_open_max_calls
        self._factors = [1.0] * self.size
        self._slow_start_ms = 0
        self._removed = [0] * _GATES
        self.positions: list[int] = []
        self.panicking = False
        self.retry_at_ms = 0
        #: Somebody is let through of whom only one request is to find out whether it may be used again.
        self.on_trial = False

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, at: int) -> int:
        return self.positions[at]

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    @property
    def removed(self) -> tuple[int, ...]:
        """How many each gate removed, by the gates' numbers, at the last `gate`."""
        return tuple(self._removed)

    @property
    def emptied_by(self) -> int:
        """The last gate that removed anyone: where nobody is left, the one that took the last."""
        return max((gate for gate in range(_GATES) if self._removed[gate]), default=PASSED)

    def gate(self, need: Need) -> int:
        """Find the candidates of the best order and rank that have any, those with headroom if there are such; return
        their number.
        """
        self.segment.check_open()
        self._slow_start_ms = need.slow_start_ms
        self.panicking = False
        passed = self._through(need)
        waiting = self._removed[BREAKER]
        fit = passed + waiting
        if waiting and fit >= need.panic_min and passed * 100 < need.panic_percent * fit:
            self.panicking = True
            self._through(need)
        return len(self.positions)

    def narrow(self, first: int, end: int) -> int:
        """Keep only the candidates at positions first..end-1, until the next `gate`; return their number."""
        self.positions = [position for position in self.positions if first <= position < end]
        return len(self.positions)

    def why(self, position: int, need: Need) -> int:
        """Return the number of the gate that removes an endpoint, PASSED if none does."""
        fate = self._unsuitable(checked_position(position, self.size), need)
        return fate or self._unavailable(position, self.segment.shared_at(self.rows[position]), need.now_ms)

    def set_factor(self, position: int, factor: float) -> None:
        """Multiply an endpoint's weight, until further notice, by what its health is worth: above 0, at most 1."""
        self._factors[checked_position(position, self.size)] = checked_factor(factor)

    def weight(self, position: int, now_ms: int) -> float:
        """Return the weight in force: less than the configured one in a slow start or in poor health."""
        checked_position(position, self.size)
        self.segment.check_open()
        return self.weight_of(position, now_ms)

    def weight_of(self, position: int, now_ms: int) -> float:
        """Return what `weight` does, of a candidate, without a look at whether it is one."""
        weight = self.weights[position] * self._factors[position]
        slow_start_ms = self._slow_start_ms
        if slow_start_ms:
            began = self.segment.numbers[self.starts[position] + SLOW_START_MS]
            if began and now_ms - began < slow_start_ms:
                weight *= max(SLOW_START_FLOOR, (now_ms - began) / slow_start_ms)
        return weight

    def _through(self, need: Need) -> int:
        """Fill `positions`; return how many passed every gate, of whatever order and rank."""
        self._removed = [0] * _GATES
        self.retry_at_ms = 0
        self.on_trial = False
        positions: list[int] = []
        best: tuple[int, int, int] | None = None
        passed = 0
        now_ms, orders, adaptive = need.now_ms, need.order, self.adaptive
        numbers, starts, boundless = self.segment.numbers, self.starts, self._boundless
        plain = orders is None and not (need.tried or need.capabilities or need.regions) and need.max_cost_pico < 0
        for position in range(self.size):
            at = starts[position]
            fate = PASSED if plain and boundless[position] else self._unsuitable(position, need)
            if fate == PASSED:
                fate = self._unavailable(position, at, now_ms)
            if fate != PASSED:
                self._removed[fate] += 1
                if fate >= KEY:
                    self._note_return(position, fate, now_ms)
                continue
            passed += 1
            order = orders[self._providers[position]] if orders is not None else 1
            headroom = ROOMY
            if adaptive is not None and (numbers[at + QUOTA_REQUESTS] or numbers[at + QUOTA_TOKENS]):
                headroom = adaptive.headroom(self.rows[position], now_ms)
            group = (order, self._ranks[position], headroom)
            if group == best:
                positions.append(position)
            elif best is None or group < best:
                best = group
                positions = [position]
        self.positions = positions
        return passed

    def _unsuitable(self, position: int, need: Need) -> int:
        """Return the first of the gates that a request cannot pass at any time, PASSED if there is none."""
        if need.tried and position in need.tried[:_MAX_TRIED]:
            return TRIED
        orders = need.order
        if orders is not None:
            provider = self._providers[position]
            if orders[provider] == 0:
                return need.stages[provider] if need.stages is not None else REQUEST
        if not self.weights[position] > 0.0:
            return DRAINED
        if need.capabilities & ~self._capabilities[position]:
            return CAPABILITY
        output_tokens = need.output_tokens
        window = self._context_windows[position]
        if window and need.prompt_tokens + output_tokens > window:
            return CONTEXT
        ceiling = self._max_outputs[position]
        if ceiling and output_tokens > ceiling:
            return OUTPUT
        if need.regions and not need.regions >> self._regions[position] & 1:
            return REGION
        if need.max_cost_pico >= 0 and not self._affordable(position, need):
            return COST
        return PASSED

    def _unavailable(self, position: int, at: int, now_ms: int) -> int:
        """Return the first of the gates that it cannot pass now, PASSED if there is none.

        at: where the cells of its row begin; nearly always, nothing is known there.
        """
        numbers = self.segment.numbers
        if numbers[at + KEY_STATE] >= LOOK:
            fate = self._channel(self.rows[position], now_ms)
            if fate != PASSED:
                return fate
        if (numbers[at + BREAKER_CELL] or self.key_rows[position] != NO_KEY) and self._back_ms(position, now_ms):
            return BREAKER
        if numbers[at + COOLDOWN_UNTIL_MS] > now_ms:
            return COOLDOWN
        limits = self.adaptive
        if limits is None or not (limits.begins_limited or numbers[at + ADAPTIVE] >> 32):
            return PASSED
        return FULL if limits.full(self.rows[position], now_ms) else PASSED

    def _affordable(self, position: int, need: Need) -> bool:
        inward, outward = self._input_prices[position], self._output_prices[position]
        if inward < 0 or outward < 0:
            return False
        return need.prompt_tokens * inward + need.output_tokens * outward <= need.max_cost_pico

    def _channel(self, row: int, now_ms: int) -> int:
        """Return the gate at which the state of the key, or of its model, removes an endpoint; PASSED if none does."""
        word = self.segment.cell(row, KEY_STATE)
        if word >> 24 > now_ms:
            return KEY
        if word & LOOK:
            model = self.segment.cell(row, MODEL_STATE)
            status = model & 7
            if status in (QUOTA_EXHAUSTED, MODEL_NOT_FOUND):
                if model >> 24 > now_ms:
                    return QUOTA if status == QUOTA_EXHAUSTED else MODEL
                self.on_trial = True
        if word >> 24:
            self.on_trial = True
        return PASSED

    def _back_ms(self, position: int, now_ms: int) -> int:
        """Return when the breakers may let a request through, 0 if they do now.

        Panic is about endpoints: that many fail at once. A key that fails is out, whatever becomes of its siblings.
        """
        back_ms = 0 if self.panicking else self._opens_ms(self.rows[position], self._half_open_max_calls, now_ms)
        key_row = self.key_rows[position]
        if key_row == NO_KEY:
            return back_ms
        return max(back_ms, self._opens_ms(key_row, KEY_PROBES, now_ms))

    def _opens_ms(self, row: int, probes: int, now_ms: int) -> int:
        word = self.segment.words[self.segment.shared_at(row) + BREAKER_CELL]
        state = word & 3
        if state not in (_OPEN, _HALF_OPEN) or word >> 24 <= now_ms:
            return 0
        if state == _OPEN:
            return word >> 24
        return now_ms + PROBE_WAIT_MS if word >> 2 & 0xFF >= probes else 0

    def _note_return(self, position: int, fate: int, now_ms: int) -> None:
        if fate == FULL:
            at_ms = now_ms + FULL_WAIT_MS
        elif fate == COOLDOWN:
            at_ms = self.segment.cell(self.rows[position], COOLDOWN_UNTIL_MS)
        elif fate < BREAKER:
            at_ms = self.segment.cell(self.rows[position], KEY_STATE if fate == KEY else MODEL_STATE) >> 24
        else:
            at_ms = self._back_ms(position, now_ms)
        if not self.retry_at_ms or at_ms < self.retry_at_ms:
            self.retry_at_ms = at_ms
