"""Channels: the keys of providers and their models, as all workers see them. See docs/channels.md.

What is known of a key stands in the rows of all its endpoints, so that a gate has to look at one number of the row that
it is about; so it is with a model of a key. The first of the rows decides: it is changed by compare-and-swap, and what
it holds then is copied to the others. Where that has not been done yet, the copies are of a moment ago.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from fastroute._core._channel_rules import GATED, LOOK, State, pack_state, unpack_state
from fastroute._core.attempts import OK
from fastroute._core.counters import (
    COOLDOWN_UNTIL_MS,
    KEY_SINCE_MS,
    KEY_STATE,
    MODEL_SINCE_MS,
    MODEL_STATE,
    Segment,
)
from fastroute.health.channel_states import (
    Event,
    KeyEventName,
    ModelEventName,
    is_model_out,
    is_out,
    key_after,
    model_after,
)
from fastroute.interfaces import CAUSES, Allowance, Cause

log = logging.getLogger("fastroute.channel")

#: What `claim` returns: nothing was out; the attempt is a trial of its key, of its model (or both); somebody else's is.
FREE: Final = 0
KEY_TRIAL: Final = 1
MODEL_TRIAL: Final = 2
TAKEN: Final = -1

#: Of a limit of a month, what is left when the balance is low, and when it no longer is.
LOW_SHARE: Final = 0.05
FINE_SHARE: Final = 0.10
#: A refusal that does not say what is wrong with the key is believed once another request was refused like that, no
#: longer than this ago; where there are several callers another one's, or one caller's for longer than this,
DOUBT_MS: Final = 60_000
#: and if the key has answered nobody well for so long; for a lone caller's, not since it began.
QUIET_MS: Final = 10_000

#: What stands for many models rests no longer than this for a limit that may be of one of them alone.
LONG_REST_MS: Final = 600_000

_LIMITS: Final[frozenset[Cause]] = frozenset(
    {"requests", "tokens", "input_tokens", "output_tokens", "concurrency", "account_limit", "unknown_limit"}
)


class Channel(NamedTuple):
    """One endpoint's place among the keys and models.

    key_rows, model_rows: of the endpoints of its key, and of those that are also of its model, in the same order in
    every process. peers: of the keys of the same account, this one's included, the rows of each. peer_rows: of its
    model, of all of them. key_mark, model_mark: 1 to 511, others for another credential or another upstream name.
    many: it stands for many models, so that no fault of one of them says anything of the others.
    """

    row: int
    provider: str
    key_id: str
    model: str
    key_rows: tuple[int, ...]
    model_rows: tuple[int, ...]
    peers: tuple[tuple[int, ...], ...]
    peer_rows: tuple[int, ...]
    key_mark: int
    model_mark: int
    many: bool


class Ended(Protocol):
    """How an attempt ended, as `failover.classify` judges it; see there."""

    @property
    def verdict(self) -> int:
        """Return what it says of the endpoint."""

    @property
    def cause(self) -> Cause:
        """Return what it says of the key or its model."""

    @property
    def hint_ms(self) -> int:
        """Return how long the endpoint is left alone, -1 for not at all."""

    @property
    def said_ms(self) -> int:
        """Return how long the provider has asked for, -1 if it did not say."""


class Doubt(NamedTuple):
    """The first doubtful refusal of a key, and when the last one was. request, caller: whose it was."""

    first_ms: int
    last_ms: int
    request: int
    caller: str


class Alert(NamedTuple):
    """A change that somebody may want to know of. what: key_out, key_back, model_out, model_back or balance_low.

    model: "" where the whole key is meant. out_ms: for how long, 0 where that is no matter.
    """

    what: str
    provider: str
    key_id: str
    model: str
    cause: Cause
    out_ms: int


def log_alert(alert: Alert) -> None:
    """Write an alert to the log. Only the process that has made the change does, so that there is one line of it."""
    level = logging.INFO if alert.what.endswith("_back") else logging.WARNING
    log.log(
        level,
        "%s provider=%s key=%s model=%s cause=%s for_s=%d",
        alert.what,
        alert.provider,
        alert.key_id,
        alert.model or "*",
        alert.cause or "none",
        alert.out_ms // 1000,
    )


class Channels:
    """The channels of one configuration. Times are monotonic milliseconds.

    health: returns (good, failed) attempts at a row, lately. answered: whether a row has answered well since a time;
    see `window`. several: whether there may be more than one caller.
    """

    def __init__(
        self,
        segment: Segment,
        channels: Iterable[Channel],
        health: Callable[[int, int], tuple[int, int]],
        answered: Callable[[int, int, int], bool],
        alert: Callable[[Alert], None] = log_alert,
        several: Callable[[], bool] = lambda: False,
    ) -> None:
        self._segment = segment
        self._of = {channel.row: channel for channel in channels}
        self._health = health
        self._answered = answered
        self._alert = alert
        self._several = several
        # Of each key, by row, as far as this process knows.
        self._doubts: dict[int, Doubt] = {}

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._of.values())

    # --- trials

    def claim(self, row: int, now_ms: int) -> int:
        """Claim the trial of what is out at a row and whose time is over. TAKEN: it may not be used."""
        channel = self._of[row]
        claimed = FREE
        if is_out(self.key_state(row)):
            if self._key(channel, "claimed", Event(now_ms, mark=channel.key_mark)):
                claimed |= KEY_TRIAL
            elif is_out(self._heal(channel.key_rows, KEY_STATE, KEY_SINCE_MS)):
                return TAKEN
        if is_model_out(self.model_state(row)):
            if self._model(channel, "claimed", Event(now_ms, mark=channel.model_mark)):
                claimed |= MODEL_TRIAL
            elif is_model_out(self._heal(channel.model_rows, MODEL_STATE, MODEL_SINCE_MS)):
                self.give_back(row, claimed, now_ms)
                return TAKEN
        return claimed

    def give_back(self, row: int, trial: int, now_ms: int) -> None:
        """Let another request have a trial that was not made, or that told nothing."""
        channel = self._of[row]
        if trial & KEY_TRIAL:
            self._key(channel, "returned", Event(now_ms, on_trial=True, mark=channel.key_mark))
        if trial & MODEL_TRIAL:
            self._model(channel, "returned", Event(now_ms, on_trial=True, mark=channel.model_mark))

    # --- what attempts tell

    def ended(self, row: int, trial: int, outcome: Ended, now_ms: int, request: int = 0, caller: str = "") -> None:
        """Take in how an attempt ended that has a cause, or was a trial. request, caller: tell them apart."""
        channel = self._of.get(row)
        if channel is None:
            return
        on_trial = bool(trial & KEY_TRIAL)
        if outcome.cause == "no_permission":
            self._ended_doubtfully(channel, on_trial, now_ms, request, caller)
        else:
            self._ended_key(channel, on_trial, outcome, now_ms)
        self._ended_model(channel, bool(trial & MODEL_TRIAL), outcome, now_ms)

    def rest_ms(self, row: int, outcome: Ended) -> int:
        """Return how long a row is to be left alone: as long as is said, but where others would have to rest, too."""
        channel = self._of.get(row)
        if channel is None or not channel.many or outcome.cause in ("account_limit", "unknown_limit"):
            return outcome.hint_ms
        return min(outcome.hint_ms, LONG_REST_MS)

    def _ended_key(self, channel: Channel, on_trial: bool, outcome: Ended, now_ms: int) -> None:
        cause = outcome.cause
        event = Event(now_ms, cause, on_trial, channel.key_mark)
        if cause == "invalid_key":
            self._key(channel, "rejected", event)
        elif cause in ("out_of_money", "low_balance"):
            # The account's money is that of all its keys.
            for rows in channel.peers:
                peer = self._of[rows[0]]
                trial = on_trial if rows == channel.key_rows else False
                self._key(peer, "broke" if cause == "out_of_money" else "poor", event._replace(
                    on_trial=trial, mark=peer.key_mark
                ))  # fmt: skip
        elif on_trial:
            self._key(channel, "answered" if outcome.verdict == OK else "returned", event._replace(cause=""))

    def _ended_model(self, channel: Channel, on_trial: bool, outcome: Ended, now_ms: int) -> None:
        cause = outcome.cause
        event = Event(now_ms, cause, on_trial, channel.model_mark)
        until_ms = now_ms + max(0, outcome.hint_ms)
        if cause == "model_not_found" and not channel.many:
            good, _ = self._health(channel.row, now_ms)
            if on_trial or not good:
                # A model that has just answered is there: what was not found is what the request has made of it.
                self._model(channel, "gone", event)
        elif cause == "day_quota" and not channel.many:
            said_ms = now_ms + outcome.said_ms if outcome.said_ms > 0 else 0
            self._model(channel, "used_up", event._replace(until_ms=said_ms))
        elif cause in _LIMITS and outcome.said_ms > outcome.hint_ms and not channel.many:
            # Longer than anybody waits. It is tried again now and then, lest it be a slip.
            self._model(channel, "used_up", event)
        elif cause in _LIMITS or cause == "day_quota":
            self._limited(channel, event._replace(until_ms=until_ms))
        elif cause == "overloaded":
            self._model(channel, "down", event._replace(until_ms=until_ms))
            if on_trial:
                self._model(channel, "returned", event)
        elif on_trial:
            self._model(channel, "answered" if outcome.verdict == OK else "returned", event._replace(cause=""))

    def _limited(self, channel: Channel, event: Event) -> None:
        """Leave alone all that has the limit in common: the model at all keys of the account, or the whole account."""
        rows = channel.peer_rows
        if event.cause == "account_limit":
            rows = tuple(row for peer in channel.peers for row in peer)
        for row in rows:
            _raise_cell(self._segment, row, COOLDOWN_UNTIL_MS, event.until_ms)
            peer = self._of[row]
            if row == peer.model_rows[0]:
                self._model(peer, "limited", event._replace(mark=peer.model_mark))

    def _ended_doubtfully(self, channel: Channel, on_trial: bool, now_ms: int, request: int, caller: str) -> None:
        """Take in a refusal that does not say what is wrong: with the key, or with what was asked for.

        One request tells nothing: it may be refused for what it asks for, however often it is sent. Where there are
        several callers, nor does one of them, who could take a key from the others and keep it: a trial of its tells
        nothing, and it is believed only if it goes on and nobody else is answered meanwhile.
        """
        event = Event(now_ms, "no_permission", on_trial, channel.key_mark)
        home = channel.key_rows[0]
        doubt = self._doubts.get(home)
        if doubt is None or now_ms - doubt.last_ms > DOUBT_MS:
            doubt = Doubt(now_ms, now_ms, request, caller)
        self._doubts[home] = doubt._replace(last_ms=now_ms)
        lone = self._several() and caller == doubt.caller
        if on_trial:
            self._key(channel, "returned" if lone else "rejected", event)
        elif request != doubt.request and not lone:
            self._doubted(channel, event, QUIET_MS)
        elif request != doubt.request and now_ms - doubt.first_ms > DOUBT_MS:
            self._doubted(channel, event, now_ms - doubt.first_ms)

    def _doubted(self, channel: Channel, event: Event, quiet_ms: int) -> None:
        """Believe that a key is refused; of one that answers others well, only that it is for this model."""
        if not any(self._answered(row, event.now_ms - quiet_ms, event.now_ms) for row in channel.key_rows):
            self._key(channel, "rejected", event)
        elif not channel.many and not self._health(channel.row, event.now_ms)[0]:
            self._model(channel, "gone", event._replace(mark=channel.model_mark, on_trial=False))

    def learn(self, row: int, allowance: Allowance | None, now_ms: int) -> None:
        """Take in a good answer, and what it says is left."""
        channel = self._of.get(row)
        if channel is None:
            return
        event = Event(now_ms, "low_balance", mark=channel.key_mark)
        if self.key_state(row).kind == 0:
            self._key(channel, "answered", event)
        if allowance is None or allowance.month_limit <= 0 or allowance.month_remaining < 0:
            return
        share = allowance.month_remaining / allowance.month_limit
        if share < LOW_SHARE:
            self._key(channel, "poor", event)
        elif share >= FINE_SHARE:
            self._key(channel, "rich", event)

    # --- by hand

    def switch(self, provider: str, key_id: str, on: bool, now_ms: int) -> bool:
        """Take a key out until further notice, or bring it back with all its models; False if there is none such."""
        found = [channel for channel in self._of.values() if (channel.provider, channel.key_id) == (provider, key_id)]
        for channel in found:
            if channel.row == channel.key_rows[0]:
                event = Event(now_ms, "switched_off", mark=channel.key_mark)
                self._key(channel, "switched_on" if on else "switched_off", event)
            if on:
                self._model(channel, "switched_on", Event(now_ms, mark=channel.model_mark))
        return bool(found)

    # --- cells

    def key_state(self, row: int) -> State:
        """Return the state of the key of a row."""
        return unpack_state(self._segment.cell(row, KEY_STATE))

    def model_state(self, row: int) -> State:
        """Return the state of the model of a row, at its key."""
        return unpack_state(self._segment.cell(row, MODEL_STATE))

    def _key(self, channel: Channel, name: KeyEventName, event: Event) -> bool:
        """Let an event happen to a key; return whether that has changed anything."""
        home = channel.key_rows[0]
        while True:
            word = self._segment.cell(home, KEY_STATE)
            before = unpack_state(word)
            after = key_after(before, name, event)
            if after is None:
                return False
            if self._segment.cas_cell(home, KEY_STATE, word, pack_state(after._replace(look=before.look))):
                break
        if name not in ("claimed", "returned"):
            self._segment.set_cell(home, KEY_SINCE_MS, event.now_ms)
        spread(self._segment, channel.key_rows, KEY_STATE, KEY_SINCE_MS)
        self._tell_key(channel, name, before, after, event)
        return True

    def _model(self, channel: Channel, name: ModelEventName, event: Event) -> bool:
        """Let an event happen to a model of a key; return whether that has changed anything."""
        home = channel.model_rows[0]
        while True:
            word = self._segment.cell(home, MODEL_STATE)
            before = unpack_state(word)
            after = model_after(before, name, event)
            if after is None:
                return False
            if after.kind in GATED:
                # First the hint, then what it hints at.
                for row in channel.model_rows:
                    _set_bits(self._segment, row, KEY_STATE, LOOK)
            if self._segment.cas_cell(home, MODEL_STATE, word, pack_state(after)):
                break
        if name not in ("claimed", "returned") and (after.kind != before.kind or before.until_ms < event.now_ms):
            self._segment.set_cell(home, MODEL_SINCE_MS, event.now_ms)
        spread(self._segment, channel.model_rows, MODEL_STATE, MODEL_SINCE_MS)
        self._tell_model(channel, name, before, after, event)
        return True

    def _heal(self, rows: Sequence[int], cell: int, since: int) -> State:
        """Copy what the first row holds to the others, which may be behind; return it."""
        spread(self._segment, rows, cell, since)
        return unpack_state(self._segment.cell(rows[0], cell))

    def _tell_key(self, channel: Channel, name: KeyEventName, before: State, after: State, event: Event) -> None:
        what = ""
        if name in ("rejected", "broke", "switched_off"):
            # The trials of one that is out anyway are no news.
            what = "key_out" if not is_out(before) else ""
        elif is_out(before) and not is_out(after):
            what = "key_back"
        elif name == "poor":
            what = "balance_low"
        if what:
            out = max(0, after.until_ms - event.now_ms)
            cause = CAUSES[after.cause]
            self._alert(Alert(what, channel.provider, channel.key_id, "", cause, out))

    def _tell_model(self, channel: Channel, name: ModelEventName, before: State, after: State, event: Event) -> None:
        what = ""
        if is_model_out(after) and not is_model_out(before):
            what = "model_out"
        elif is_model_out(before) and not is_model_out(after):
            what = "model_back"
        if what:
            out = max(0, after.until_ms - event.now_ms) if is_model_out(after) else 0
            cause = CAUSES[after.cause]
            self._alert(Alert(what, channel.provider, channel.key_id, channel.model, cause, out))


def renew(segment: Segment, channels: Sequence[Channel], replaced: Collection[tuple[str, str]]) -> None:
    """Make the rows fit a configuration that is about to be put in force.

    What was known of a credential that has been replaced is forgotten, and so is what was known of a model that is now
    asked for under another name. Endpoints that are new take over the state of their key. From here on events about
    what has been replaced count no more. replaced: (provider, key id) of keys that are known to be others.
    """
    for channel in channels:
        state = unpack_state(segment.cell(channel.row, KEY_STATE))
        gone = (channel.provider, channel.key_id) in replaced
        if gone or state.mark not in (0, channel.key_mark):
            segment.set_cell(channel.row, KEY_STATE, pack_state(State(mark=channel.key_mark)))
            segment.set_cell(channel.row, KEY_SINCE_MS, 0)
        model = unpack_state(segment.cell(channel.row, MODEL_STATE))
        if gone or model.mark not in (0, channel.model_mark):
            segment.set_cell(channel.row, MODEL_STATE, pack_state(State(mark=channel.model_mark)))
            segment.set_cell(channel.row, MODEL_SINCE_MS, 0)
    for channel in channels:
        if channel.row == channel.key_rows[0]:
            known = [row for row in channel.key_rows if segment.cell(row, KEY_STATE) & ~LOOK]
            if known:
                spread(segment, (known[0], *channel.key_rows), KEY_STATE, KEY_SINCE_MS)


def spread(segment: Segment, rows: Sequence[int], cell: int, since: int) -> None:
    """Copy a state from the first of its rows to the others. Each keeps its own hint to look at the model."""
    while True:
        word = segment.cell(rows[0], cell)
        since_ms = segment.cell(rows[0], since)
        for row in rows[1:]:
            while True:
                old = segment.cell(row, cell)
                new = word & ~LOOK | old & LOOK
                if old == new or segment.cas_cell(row, cell, old, new):
                    break
            segment.set_cell(row, since, since_ms)
        # Whoever has changed it meanwhile may have been overtaken by this.
        if (segment.cell(rows[0], cell) ^ word) & ~LOOK == 0:
            return


def _set_bits(segment: Segment, row: int, cell: int, bits: int) -> None:
    while True:
        old = segment.cell(row, cell)
        if old & bits == bits or segment.cas_cell(row, cell, old, old | bits):
            return


def _raise_cell(segment: Segment, row: int, cell: int, value: int) -> None:
    while True:
        old = segment.cell(row, cell)
        if old >= value or segment.cas_cell(row, cell, old, value):
            return
