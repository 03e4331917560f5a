"""Pure half of `adaptive`: the readable reference.

What an endpoint takes, found out from how it answers. A limit on requests in flight: AIMD on its refusals, or Gradient2
(Netflix concurrency-limits) on the normalised time to the first token. And its quotas of requests and tokens, as its
header fields tell them: they order candidates, they remove none. Changes of a cell are compare-and-swap, so with the
compiled half they are exact over all workers; see `counters` for what the pure half can promise, where requests are
counted as sent under the segment's lock.
"""

from collections.abc import Mapping
from operator import itemgetter
from typing import Final

from fastroute._core._adaptive_rules import (
    AIMD,
    ANSWERED,
    COOLDOWN,
    DECREASE,
    DEFAULT_RESET_MS,
    FEW_REQUESTS,
    GRADIENT2,
    LEARNING,
    LOW,
    MARKS,
    MAX_LIMIT,
    MAX_QUOTA,
    MAX_RESET_MS,
    MAX_SAMPLE_MS,
    MAX_SPAN_MS,
    QUIET_MS,
    REFUSED,
    REQUEST_DIMENSIONS,
    ROOMY,
    STABLE,
    STALE_MS,
    TOKEN_DIMENSIONS,
    USED_UP,
    WARM_UP,
    Quota,
    Setting,
    View,
    Word,
    bits_float,
    checked,
    float_bits,
    gradient2,
    grown,
    long_average,
    pack_word,
    unpack_word,
)
from fastroute._core._attempts_rules import OK, RATE_LIMITED
from fastroute._core._counters_file import (
    ADAPTIVE,
    COOLDOWN_UNTIL_MS,
    IN_FLIGHT,
    PACE,
    QUOTA_REQUESTS,
    QUOTA_REQUESTS_TIMES,
    QUOTA_TOKENS,
    QUOTA_TOKENS_TIMES,
)
from fastroute._core._counters_py import Segment
from fastroute.interfaces import Allowance

_LOW_32: Final = (1 << 32) - 1
_MASK_64: Final = (1 << 64) - 1
#: The ADAPTIVE cell, but for its state and its mark, of aimd where all has been answered and there is no limit.
_SETTLED_BITS: Final = 3 << 2 | (REFUSED | ANSWERED) << 4 | _LOW_32 << 32
_SETTLED: Final = AIMD << 2 | ANSWERED << 4
#: Where an Allowance has what remains of the dimensions of a quota; the limit is before it, the time behind.
_REQUESTS_REMAINING: Final = tuple(3 * dimension + 1 for dimension in REQUEST_DIMENSIONS)
_TOKENS_REMAINING: Final = tuple(3 * dimension + 1 for dimension in TOKEN_DIMENSIONS)
_tokens_remaining: Final = itemgetter(*_TOKENS_REMAINING)


class Adaptive:
    """Limits and quotas of endpoints. Times are monotonic milliseconds."""

    def __init__(self, segment: Segment, settings: Mapping[int, Setting]) -> None:
        """settings: by row; an endpoint without one has no limit and no quotas.

        Raises IndexError for a row that the segment does not have, ValueError for a setting out of bounds.
        """
        self.segment = segment
        self._numbers = segment.numbers
        self._settings = dict(checked(settings, segment.endpoints))
        #: Whether any of them has a limit before anything is learnt.
        self.begins_limited = any(setting.initial or setting.maximum for setting in settings.values())

    def enter(self, row: int, now_ms: int) -> int:
        """Count a request as sent; return its mark, which `leave` and `learn` want to have."""
        if row not in self._settings:
            return 0
        segment = self.segment
        at = segment.shared_at(row)
        words = segment.words
        with segment.lock:
            sent = words[at + PACE] + 1
            words[at + PACE] = sent & _MASK_64
            if words[at + QUOTA_REQUESTS] & _LOW_32:
                words[at + QUOTA_REQUESTS] -= 1  # what remains, until an answer says better
        cell = self._numbers[at + ADAPTIVE]
        if cell & 3 == COOLDOWN and self._numbers[at + COOLDOWN_UNTIL_MS] <= now_ms:
            # One that fails has been forestalled by another worker.
            self.segment.cas_cell(row, ADAPTIVE, cell, cell & ~3 | LEARNING)
        return sent % MARKS

    def leave(self, row: int, mark: int, verdict: int, cost_ms: float, hint_ms: int, now_ms: int) -> None:
        """Learn how a request ended, which is still counted as in flight. See `Attempts.leave`."""
        setting = self._settings.get(row)
        if setting is None:
            return
        if verdict == RATE_LIMITED:
            self._refused(row, setting, mark, hint_ms, now_ms)
        elif verdict == OK and setting.kind == AIMD:
            self._answered(row, setting, mark, now_ms)
        elif verdict == OK and cost_ms >= 0.0:
            self._sample(row, setting, cost_ms, now_ms)

    def first_token(self, row: int, cost_ms: float, now_ms: int) -> None:
        """Learn what the first token of a stream took, normalised."""
        setting = self._settings.get(row)
        if setting is not None and setting.kind == GRADIENT2 and cost_ms >= 0.0:
            self._sample(row, setting, cost_ms, now_ms)

    def learn(self, row: int, mark: int, allowance: Allowance, now_ms: int) -> None:
        """Learn what the header fields of an answer say of the quotas: of requests the one of which least is left, and
        of tokens.

        The requests that were sent after the one that is answered are not in what remains, so they are taken off.
        """
        if row not in self._settings:
            return
        at = self.segment.shared_at(row)
        since = (self._numbers[at + PACE] - mark) % MARKS
        if since >= MARKS // 2:
            since = 0
        self._note(at + QUOTA_REQUESTS, at + QUOTA_REQUESTS_TIMES, _REQUESTS_REMAINING, allowance, since, now_ms)
        if max(_tokens_remaining(allowance)) >= 0:
            self._note(at + QUOTA_TOKENS, at + QUOTA_TOKENS_TIMES, _TOKENS_REMAINING, allowance, 0, now_ms)

    def excuse(self, row: int) -> None:
        """Note that the next refusal is not the fault of concurrency, because the provider says what it is about."""
        if row not in self._settings:
            return
        while True:
            cell = self.segment.cell(row, ADAPTIVE)
            word = unpack_word(cell)
            if word.kind != AIMD or not word.seen & ANSWERED:
                return
            if self._cas(row, cell, word._replace(seen=word.seen & REFUSED)):
                return

    def full(self, row: int, now_ms: int) -> bool:
        """Return whether as many requests are in flight at the endpoint as it takes."""
        setting = self._settings.get(row)
        if setting is None:
            return False
        limit = int(self._word(row, setting, now_ms).limit)
        return limit > 0 and self.segment.total(row, IN_FLIGHT) >= limit

    def headroom(self, row: int, now_ms: int) -> int:
        """Return ROOMY, LOW or USED_UP: what is left of the endpoint's quotas."""
        setting = self._settings.get(row)
        if setting is None:
            return ROOMY
        at = self.segment.shared_at(row)
        percent = setting.headroom_percent
        requests = self._left(at + QUOTA_REQUESTS, at + QUOTA_REQUESTS_TIMES, FEW_REQUESTS, percent, now_ms)
        if not self._numbers[at + QUOTA_TOKENS]:
            return requests
        tokens = self._left(at + QUOTA_TOKENS, at + QUOTA_TOKENS_TIMES, 1, percent, now_ms)
        return requests if requests > tokens else tokens

    def view(self, row: int, now_ms: int) -> View | None:
        """Return what is known of an endpoint, None for one without a setting."""
        setting = self._settings.get(row)
        if setting is None:
            return None
        at = self.segment.shared_at(row)
        word = self._word(row, setting, now_ms)
        until_ms = self.segment.cell(row, COOLDOWN_UNTIL_MS)
        state = word.state
        if until_ms > now_ms:
            state = COOLDOWN
        elif state == COOLDOWN:
            state = LEARNING
        pace = self._pace(row) if word.seen & REFUSED or (setting.kind == GRADIENT2 and word.seen) else 0.0
        return View(
            state,
            setting.kind,
            word.limit,
            self.segment.total(row, IN_FLIGHT),
            pace if setting.kind == AIMD else 0.0,
            pace if setting.kind == GRADIENT2 else 0.0,
            max(0, until_ms - now_ms),
            self.headroom(row, now_ms),
            Quota(*self._quota(at + QUOTA_REQUESTS, at + QUOTA_REQUESTS_TIMES, now_ms)),
            Quota(*self._quota(at + QUOTA_TOKENS, at + QUOTA_TOKENS_TIMES, now_ms)),
        )

    # --- the limit

    def _word(self, row: int, setting: Setting, now_ms: int) -> Word:
        """Return the ADAPTIVE cell; a new one for what another kind has written, and for a limit to be forgotten."""
        return self._fresh_if(unpack_word(self.segment.cell(row, ADAPTIVE)), row, setting, now_ms)

    def _fresh_if(self, word: Word, row: int, setting: Setting, now_ms: int) -> Word:
        forgotten = (
            word.kind == AIMD
            and word.seen & REFUSED
            and now_ms - self.segment.cell(row, COOLDOWN_UNTIL_MS) >= setting.forget_ms
        )
        if word.kind != setting.kind or forgotten:
            return Word(LEARNING, setting.kind, 0, 0, float(setting.initial or setting.maximum))
        return word

    def _answered(self, row: int, setting: Setting, mark: int, now_ms: int) -> None:
        """Let the limit of aimd grow, if it is in use."""
        while True:
            cell = self.segment.cell(row, ADAPTIVE)
            if cell & _SETTLED_BITS == _SETTLED:
                return
            old = unpack_word(cell)
            word = self._fresh_if(old, row, setting, now_ms)
            late = word.state == COOLDOWN or (
                word is old and word.seen & REFUSED and self._is_stale(row, mark, word, now_ms)
            )
            known = too_much = remembered = self._pace(row) if word.seen & REFUSED else 0.0
            state, limit = word.state, word.limit
            if limit and not late and self.segment.total(row, IN_FLIGHT) * 2 >= limit:
                if state == STABLE and now_ms - self.segment.cell(row, COOLDOWN_UNTIL_MS) >= QUIET_MS:
                    state, known = LEARNING, 0.0
                state, limit, too_much = grown(state, limit, known, setting.maximum)
            elif word is old and word.seen & ANSWERED:
                return
            # Where a limit was to be forgotten, it is for good: a cooldown that somebody else begins does not bring
            # it back.
            if self._cas(row, cell, word._replace(state=state, seen=word.seen | ANSWERED, limit=limit)):
                if too_much != remembered:
                    self._set_pace(row, too_much)
                return

    def _refused(self, row: int, setting: Setting, mark: int, hint_ms: int, now_ms: int) -> None:
        """Begin a cooldown, after which the limit is half of what was too much."""
        before_ms = self.segment.cell(row, COOLDOWN_UNTIL_MS)
        while True:
            cell = self.segment.cell(row, ADAPTIVE)
            old = unpack_word(cell)
            word = self._fresh_if(old, row, setting, now_ms)
            if (word.state == COOLDOWN and before_ms > now_ms) or (
                word is old and self._is_stale(row, mark, word, now_ms)
            ):
                break
            in_flight = self.segment.total(row, IN_FLIGHT)
            too_much = float(int(word.limit) or in_flight)
            limit = word.limit
            # A request alone was not one too many; where a quota has run out, it was that; and if nobody at all is
            # answered, fewer will not be either.
            learns = in_flight >= 2 and self.headroom(row, now_ms) != USED_UP
            learns = learns and (setting.kind == GRADIENT2 or word.seen & ANSWERED > 0)
            if learns:
                limit = min(max(float(setting.minimum), too_much * DECREASE), float(setting.maximum or MAX_LIMIT))
            count = REFUSED if setting.kind == AIMD else word.seen
            sent = self.segment.cell(row, PACE) % MARKS
            if self._cas(row, cell, Word(COOLDOWN, setting.kind, count, sent, limit)):
                if setting.kind == AIMD and (learns or not word.seen & REFUSED):
                    self._set_pace(row, too_much if learns else 0.0)
                break
        self._raise_cooldown(row, now_ms + hint_ms)

    def _is_stale(self, row: int, mark: int, word: Word, now_ms: int) -> bool:
        """Return whether a request was sent before the last decrease, and so says nothing of the limit since."""
        if now_ms - self.segment.cell(row, COOLDOWN_UNTIL_MS) >= STALE_MS:
            return False
        return not 0 < (mark - word.mark) % MARKS <= MARKS // 2

    def _sample(self, row: int, setting: Setting, short_ms: float, now_ms: int) -> None:
        """Take a time to the first token into the long average and the limit of gradient2."""
        short_ms = min(short_ms, MAX_SAMPLE_MS)
        while True:
            pace = self.segment.cell(row, PACE)
            old = unpack_word(self.segment.cell(row, ADAPTIVE))
            long_ms = bits_float(pace >> 32 & _LOW_32) if old.kind == GRADIENT2 and old.seen else 0.0
            longer = long_average(long_ms, short_ms, old.seen)
            if self.segment.cas_cell(row, PACE, pace, pace & _LOW_32 | float_bits(longer) << 32):
                break
        while True:
            cell = self.segment.cell(row, ADAPTIVE)
            word = self._fresh_if(unpack_word(cell), row, setting, now_ms)
            limit, state = word.limit, word.state
            if state != COOLDOWN:
                limit = gradient2(limit, longer, short_ms, self.segment.total(row, IN_FLIGHT))
                limit = min(max(limit, float(setting.minimum)), float(setting.maximum or MAX_LIMIT))
            count = min(WARM_UP, word.seen + 1)
            if state == LEARNING and count == WARM_UP and short_ms <= longer:
                state = STABLE
            if self._cas(row, cell, Word(state, GRADIENT2, count, word.mark, limit)):
                return

    def _cas(self, row: int, cell: int, word: Word) -> bool:
        return self.segment.cas_cell(row, ADAPTIVE, cell, pack_word(word))

    def _pace(self, row: int) -> float:
        return bits_float(self.segment.cell(row, PACE) >> 32 & _LOW_32)

    def _set_pace(self, row: int, value: float) -> None:
        while True:
            old = self.segment.cell(row, PACE)
            if self.segment.cas_cell(row, PACE, old, old & _LOW_32 | float_bits(value) << 32):
                return

    def _raise_cooldown(self, row: int, until_ms: int) -> None:
        while True:
            old = self.segment.cell(row, COOLDOWN_UNTIL_MS)
            if old >= until_ms or self.segment.cas_cell(row, COOLDOWN_UNTIL_MS, old, until_ms):
                return

    # --- quotas

    def _note(
        self, at: int, times_at: int, places: tuple[int, ...], allowance: Allowance, since: int, now_ms: int
    ) -> None:
        """Note the quota of which least is left, in proportion."""
        numbers = self._numbers
        least_limit = least = -1
        reset_ms = 0
        for place in places:
            remaining = allowance[place]
            if remaining < 0:
                continue
            limit = allowance[place - 1]
            if remaining > MAX_QUOTA:
                remaining = MAX_QUOTA
            if limit < 0:
                limit = max(remaining, numbers[at] >> 32)
            elif limit > MAX_QUOTA:
                limit = MAX_QUOTA
            if remaining > limit:
                remaining = limit
            if least < 0 or remaining * least_limit < least * limit:
                least_limit, least, reset_ms = limit, remaining, allowance[place + 1]
        if least < 0:
            return
        if not 0 <= reset_ms <= MAX_RESET_MS:
            reset_ms = DEFAULT_RESET_MS if reset_ms < 0 else MAX_RESET_MS
        numbers[at] = least_limit << 32 | (least - since if least > since else 0)
        numbers[times_at] = now_ms + reset_ms << 24 | (reset_ms if reset_ms < MAX_SPAN_MS else MAX_SPAN_MS)

    def _quota(self, at: int, times_at: int, now_ms: int) -> tuple[int, int, int]:
        """Return a `Quota` as it is now: what remained, and what has come back since at an even pace."""
        cell = self._numbers[at]
        limit, remaining = cell >> 32, cell & _LOW_32
        times = self._numbers[times_at]
        left_ms = (times >> 24) - now_ms
        if not limit or left_ms <= 0:
            return limit, limit, 0
        span_ms = times & MAX_SPAN_MS
        if left_ms < span_ms:
            remaining += (limit - remaining) * (span_ms - left_ms) // span_ms
        return limit, remaining, left_ms

    def _left(self, at: int, times_at: int, few: int, percent: int, now_ms: int) -> int:
        cell = self._numbers[at]
        limit, remaining = cell >> 32, cell & _LOW_32
        if not limit or (remaining >= few and remaining * 100 >= limit * percent):
            return ROOMY  # with what has come back since, all the more
        limit, remaining, full_in_ms = self._quota(at, times_at, now_ms)
        if remaining < 1:
            return USED_UP
        return LOW if remaining * 100 < limit * percent or (remaining < few and full_in_ms > 0) else ROOMY
