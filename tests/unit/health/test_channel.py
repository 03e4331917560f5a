"""Channels in the segment, over both halves of the counters: what many processes see of a key, on a virtual clock."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._channel_rules import (
    BALANCE_LOW,
    BALANCE_OK,
    LOOK,
    MODEL_NOT_FOUND,
    QUOTA_EXHAUSTED,
    RATE_LIMITED,
    State,
    pack_state,
    unpack_state,
)
from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, OK
from fastroute._core.attempts import RATE_LIMITED as LIMITED
from fastroute._core.counters import COOLDOWN_UNTIL_MS, KEY_SINCE_MS, KEY_STATE, MODEL_STATE
from fastroute.config.schema import Config, Model, Provider, ProviderKey
from fastroute.config.secret import Secret
from fastroute.health.channel import (
    DOUBT_MS,
    FREE,
    KEY_TRIAL,
    LONG_REST_MS,
    MODEL_TRIAL,
    QUIET_MS,
    TAKEN,
    Alert,
    Channels,
    log_alert,
    renew,
)
from fastroute.health.channel_rows import channels_of, replaced_keys
from fastroute.health.channel_states import LONGEST_MS, TRIAL_LOST_MS
from fastroute.interfaces import Allowance, Cause
from tests.unit.core.twins import twins

NOW = 1_000_000
MINUTE = 60_000


class Spec(NamedTuple):
    provider: Provider
    key: ProviderKey | None
    model: Model


class Ended(NamedTuple):
    verdict: int
    cause: Cause = ""
    hint_ms: int = -1
    said_ms: int = -1


GOOD = Ended(OK)
BAD_KEY = Ended(KEY_REJECTED, "invalid_key")
VAGUE = Ended(KEY_REJECTED, "no_permission")
NO_MONEY = Ended(KEY_REJECTED, "out_of_money")
NO_MODEL = Ended(NEUTRAL, "model_not_found")


def key(ident: str, group: str | None = None, secret: str = "") -> ProviderKey:
    return ProviderKey(key=Secret(secret or f"s-{ident}"), id=ident, quota_group=group)


def specs_of(keys: list[ProviderKey], models: list[str], base_url: str = "http://p") -> list[Spec]:
    provider = Provider(id="p", type="openai", base_url=base_url, keys=tuple(keys))
    return [Spec(provider, one, Model(name=model)) for one in keys for model in models]


class Stand:
    """A segment and the channels of one configuration: keys k1 and k2 with models a and b are rows 0, 1, 2 and 3."""

    def __init__(self, segment: Any) -> None:
        self.segment = segment
        self.alerts: list[Alert] = []
        self.good: dict[int, int] = {}
        self.answered_ms: dict[int, int] = {}
        self.several = False
        self.channels = self.made(specs_of([key("k1"), key("k2")], ["a", "b"]))

    def made(self, specs: list[Spec]) -> Channels:
        return Channels(
            self.segment,
            channels_of(specs, range(len(specs))),
            lambda row, now_ms: (self.good.get(row, 0), 0),
            lambda row, since_ms, now_ms: self.answered_ms.get(row, 0) >= since_ms,
            self.alerts.append,
            lambda: self.several,
        )

    def out(self, now_ms: int = NOW) -> list[int]:
        """Return the rows that a gate would keep everybody from."""
        key_out = [self.segment.cell(row, KEY_STATE) >> 24 > now_ms for row in range(4)]
        return [row for row in range(4) if key_out[row] or self._model_out(row, now_ms)]

    def _model_out(self, row: int, now_ms: int) -> bool:
        state = unpack_state(self.segment.cell(row, MODEL_STATE))
        looked_at = self.segment.cell(row, KEY_STATE) & LOOK != 0
        return looked_at and state.kind in (QUOTA_EXHAUSTED, MODEL_NOT_FOUND) and state.until_ms > now_ms

    def told(self) -> list[tuple[str, str, str]]:
        return [(alert.what, alert.key_id, alert.model) for alert in self.alerts]


@pytest.fixture(params=twins("counters"))
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    segment = request.param.Segment.create(str(tmp_path / "segment"), 2, 8)
    yield Stand(segment)
    segment.close()


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("ended", [BAD_KEY, NO_MONEY])
def test_a_key_is_out_with_all_its_models_and_nobody_else(stand: Stand, row: int, ended: Ended) -> None:
    stand.channels.ended(row, FREE, ended, NOW)
    assert stand.out() == [0, 1]
    assert stand.told() == [("key_out", "k1", "")]
    assert stand.alerts[0].cause == ended.cause
    assert [stand.segment.cell(at, KEY_SINCE_MS) for at in range(4)] == [NOW, NOW, 0, 0]
    # What was under way says nothing new, and nothing is told twice.
    for late in (ended, GOOD):
        stand.channels.ended(1 - row, FREE, late, NOW + 5)
    assert len(stand.alerts) == 1
    assert stand.out() == [0, 1]


def test_a_model_is_out_at_its_key_alone(stand: Stand) -> None:
    stand.channels.ended(1, FREE, NO_MODEL, NOW)
    assert stand.out() == [1]
    assert stand.told() == [("model_out", "k1", "b")]


def test_one_trial_in_all(stand: Stand) -> None:
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    assert stand.channels.claim(0, NOW + 5 * MINUTE - 1) == TAKEN
    later = NOW + 5 * MINUTE
    assert [stand.channels.claim(row, later) for row in (1, 0, 1, 2)] == [KEY_TRIAL, TAKEN, TAKEN, FREE]
    # It fails: out for twice as long.
    stand.channels.ended(1, KEY_TRIAL, BAD_KEY, later + 9)
    assert stand.channels.claim(0, later + 9 + 10 * MINUTE - 1) == TAKEN
    again = later + 9 + 10 * MINUTE
    assert stand.channels.claim(0, again) == KEY_TRIAL
    # It succeeds: back for all models.
    stand.channels.ended(0, KEY_TRIAL, GOOD, again)
    assert stand.out() == []
    assert [stand.channels.claim(row, again) for row in range(4)] == [FREE] * 4
    assert [what for what, _, _ in stand.told()] == ["key_out", "key_back"]


@pytest.mark.parametrize("ended", [Ended(NEUTRAL), Ended(FAILED), Ended(LIMITED, "requests", 500, 500)])
def test_a_trial_that_tells_nothing_goes_to_the_next(stand: Stand, ended: Ended) -> None:
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    later = NOW + 5 * MINUTE
    assert stand.channels.claim(0, later) == KEY_TRIAL
    stand.channels.ended(0, KEY_TRIAL, ended, later)
    assert stand.channels.claim(1, later) == KEY_TRIAL


def test_a_trial_that_is_lost_is_made_again(stand: Stand) -> None:
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    later = NOW + 5 * MINUTE
    assert stand.channels.claim(0, later) == KEY_TRIAL
    assert stand.channels.claim(0, later + TRIAL_LOST_MS - 1) == TAKEN
    assert stand.channels.claim(0, later + TRIAL_LOST_MS) == KEY_TRIAL


def test_a_trial_that_is_not_made_is_given_back(stand: Stand) -> None:
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    later = NOW + 5 * MINUTE
    stand.channels.give_back(0, stand.channels.claim(0, later), later)
    assert stand.channels.claim(1, later) == KEY_TRIAL
    stand.channels.give_back(2, FREE, later)


def test_a_trial_of_key_and_model_at_once(stand: Stand) -> None:
    stand.channels.ended(0, FREE, NO_MODEL, NOW)
    stand.channels.ended(1, FREE, BAD_KEY, NOW)
    later = NOW + 10 * MINUTE
    assert stand.channels.claim(0, later) == KEY_TRIAL | MODEL_TRIAL
    stand.channels.ended(0, KEY_TRIAL | MODEL_TRIAL, GOOD, later)
    assert stand.out(later) == []
    assert sorted(stand.told()[2:]) == [("key_back", "k1", ""), ("model_back", "k1", "a")]


def test_a_key_whose_model_is_not_due_gives_its_own_trial_back(stand: Stand) -> None:
    stand.channels.ended(1, FREE, BAD_KEY, NOW)
    later = NOW + 5 * MINUTE
    stand.channels.ended(0, FREE, NO_MODEL, later)
    assert stand.channels.claim(0, later) == TAKEN
    assert stand.channels.claim(1, later) == KEY_TRIAL


def test_a_copy_that_is_behind_is_mended(stand: Stand) -> None:
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    old = stand.segment.cell(1, KEY_STATE)
    later = NOW + 5 * MINUTE
    stand.channels.ended(0, stand.channels.claim(0, later), GOOD, later)
    stand.segment.set_cell(1, KEY_STATE, old)
    assert stand.channels.claim(1, later) == FREE
    assert stand.out(later) == []


# --- who shares an account


def test_the_money_of_an_account_is_that_of_all_its_keys(stand: Stand) -> None:
    specs = specs_of([key("k1", "acme"), key("k2", "acme")], ["a"]) + specs_of([key("k3")], ["a", "b"])
    channels = stand.made(specs)
    channels.ended(0, FREE, NO_MONEY, NOW)
    assert stand.out() == [0, 1]
    assert stand.told() == [("key_out", "k1", ""), ("key_out", "k2", "")]


def test_keys_of_an_account_rest_together(stand: Stand) -> None:
    channels = stand.made(specs_of([key("k1", "acme"), key("k2", "acme")], ["a", "b"]))
    channels.ended(0, FREE, Ended(LIMITED, "requests", 500, 500), NOW)
    assert [stand.segment.cell(row, COOLDOWN_UNTIL_MS) for row in range(4)] == [NOW + 500, 0, NOW + 500, 0]
    assert channels.model_state(2).kind == RATE_LIMITED
    # A credential that is refused is a matter of its key alone.
    channels.ended(0, FREE, BAD_KEY, NOW)
    assert stand.out() == [0, 1]


def test_a_limit_of_the_account_is_one_of_all_its_models(stand: Stand) -> None:
    stand.channels.ended(0, FREE, Ended(LIMITED, "account_limit", 500, 500), NOW)
    assert [stand.segment.cell(row, COOLDOWN_UNTIL_MS) for row in range(4)] == [NOW + 500, NOW + 500, 0, 0]
    # A shorter wish does not end a longer one.
    stand.channels.ended(1, FREE, Ended(LIMITED, "account_limit", 100, 100), NOW)
    assert stand.segment.cell(0, COOLDOWN_UNTIL_MS) == NOW + 500


# --- limits and quotas


@pytest.mark.parametrize(
    ("ended", "kind", "out_ms"),
    [
        (Ended(LIMITED, "tokens", 5000, 5000), RATE_LIMITED, 5000),
        (Ended(LIMITED, "day_quota", 120_000, 13_262_000), QUOTA_EXHAUSTED, 13_262_000),
        (Ended(LIMITED, "day_quota", 1000, -1), QUOTA_EXHAUSTED, MINUTE),
        (Ended(LIMITED, "day_quota", 120_000, 10**12), QUOTA_EXHAUSTED, 86_400_000),
        # Longer than anybody waits: a minute at first, whatever was said.
        (Ended(LIMITED, "tokens", 120_000, 86_400_000), QUOTA_EXHAUSTED, MINUTE),
        (Ended(LIMITED, "unknown_limit", 120_000, 10**12), QUOTA_EXHAUSTED, MINUTE),
    ],
)
def test_how_long_a_model_is_limited(stand: Stand, ended: Ended, kind: int, out_ms: int) -> None:
    stand.channels.ended(0, FREE, ended, NOW)
    state = stand.channels.model_state(0)
    assert (state.kind, state.until_ms) == (kind, NOW + out_ms)
    assert stand.out() == ([0] if kind == QUOTA_EXHAUSTED else [])


def test_an_endpoint_of_many_models_is_never_out_for_one_of_them(stand: Stand) -> None:
    channels = stand.made(specs_of([key("k1")], ["gpt-*", "b"]))
    for ended in (NO_MODEL, Ended(LIMITED, "day_quota", 1000, 10**6), Ended(LIMITED, "tokens", 1000, 10**6)):
        channels.ended(0, FREE, ended, NOW)
    assert stand.out() == []
    assert channels.model_state(0).kind == RATE_LIMITED


@pytest.mark.parametrize(
    ("cause", "one", "many"),
    [("tokens", 3_600_000, LONG_REST_MS), ("day_quota", 3_600_000, LONG_REST_MS),
     ("account_limit", 3_600_000, 3_600_000), ("unknown_limit", 3_600_000, 3_600_000)],
)  # fmt: skip
def test_how_long_a_row_rests(stand: Stand, cause: Cause, one: int, many: int) -> None:
    """As long as it is said; what stands for many models, not for long for one of them."""
    channels = stand.made(specs_of([key("k1")], ["a", "gpt-*"]))
    said = Ended(LIMITED, cause, 3_600_000, 3_600_000)
    assert [channels.rest_ms(row, said) for row in (0, 1, 7)] == [one, many, one]
    assert channels.rest_ms(1, said._replace(hint_ms=5)) == 5


# --- what is not believed


def test_a_model_that_has_just_answered_is_there(stand: Stand) -> None:
    stand.good[0] = 1
    stand.channels.ended(0, FREE, NO_MODEL, NOW)
    assert stand.out() == []
    # Another one of the same key has answered nobody.
    stand.channels.ended(1, FREE, NO_MODEL, NOW)
    assert stand.out() == [1]


def test_one_request_that_is_refused_without_a_reason_takes_nothing_out(stand: Stand) -> None:
    for at in range(10):
        stand.channels.ended(at % 2, FREE, VAGUE, NOW + at, 1)
    assert stand.out() == []
    # Another one confirms it, and is told of once. Its sibling has nothing to do with it.
    stand.channels.ended(1, FREE, VAGUE, NOW + 10, 2)
    assert stand.out(NOW + 10) == [0, 1]
    assert stand.told() == [("key_out", "k1", "")]
    assert stand.alerts[0].cause == "no_permission"
    assert stand.alerts[0].out_ms == 10_000


def test_a_doubt_is_forgotten(stand: Stand) -> None:
    stand.channels.ended(0, FREE, VAGUE, NOW, 1)
    later = NOW + DOUBT_MS + 1
    stand.channels.ended(0, FREE, VAGUE, later, 2)
    assert stand.out(later) == []
    stand.channels.ended(0, FREE, VAGUE, later + DOUBT_MS, 3)
    assert stand.out(later + DOUBT_MS) == [0, 1]


def test_where_there_are_several_callers_another_one_has_to_confirm_it(stand: Stand) -> None:
    stand.several = True
    for request in range(10):
        stand.channels.ended(request % 2, FREE, VAGUE, NOW + request, request, "a")
    assert stand.out() == []
    # The same request says nothing, whoever sends it.
    stand.channels.ended(0, FREE, VAGUE, NOW + 10, 0, "b")
    assert stand.out() == []
    stand.channels.ended(0, FREE, VAGUE, NOW + 11, 1, "b")
    assert stand.out(NOW + 11) == [0, 1]
    assert [alert.out_ms for alert in stand.alerts] == [10_000]


def test_a_lone_caller_is_believed_if_it_goes_on_and_nobody_is_answered(stand: Stand) -> None:
    stand.several = True
    stand.answered_ms[1] = NOW + 1
    last = NOW + DOUBT_MS + 1
    for at in range(NOW, last + 1, DOUBT_MS // 4):
        stand.channels.ended(0, FREE, VAGUE, at, at, "a")
    stand.good[0] = 1
    stand.channels.ended(0, FREE, VAGUE, last, last, "a")
    assert stand.out(last) == []
    stand.answered_ms[1] = NOW - 1
    stand.channels.ended(0, FREE, VAGUE, last, last, "a")
    assert stand.out(last) == [0, 1]


def test_a_lone_caller_cannot_keep_a_key_out(stand: Stand) -> None:
    """Its trials tell nothing: the next one may be another caller's."""
    stand.several = True
    for caller, request in (("a", 1), ("b", 2)):
        stand.channels.ended(0, FREE, VAGUE, NOW, request, caller)
    later = NOW + 10_000
    for request in range(3, 40):
        assert stand.channels.claim(0, later) == KEY_TRIAL
        stand.channels.ended(0, KEY_TRIAL, VAGUE, later, request, "a")
    assert stand.channels.claim(1, later) == KEY_TRIAL
    stand.channels.ended(1, KEY_TRIAL, GOOD, later, 0, "b")
    assert [stand.channels.claim(row, later) for row in (0, 1)] == [FREE, FREE]


def test_another_callers_trial_takes_it_out_for_longer(stand: Stand) -> None:
    stand.several = True
    for caller, request in (("a", 1), ("b", 2)):
        stand.channels.ended(0, FREE, VAGUE, NOW, request, caller)
    later = NOW + 10_000
    assert stand.channels.claim(0, later) == KEY_TRIAL
    stand.channels.ended(0, KEY_TRIAL, VAGUE, later, 3, "b")
    assert stand.channels.claim(0, later + 19_999) == TAKEN
    assert stand.channels.claim(0, later + 20_000) == KEY_TRIAL


@pytest.mark.parametrize("row", [0, 1])
def test_a_key_that_answers_others_is_not_out_for_a_doubt(stand: Stand, row: int) -> None:
    """Whichever of its models they have asked for, and however many requests are refused."""
    stand.good[row] = 1
    stand.answered_ms[row] = NOW
    stand.good[0] = 1
    for at in range(QUIET_MS + 1):
        stand.channels.ended(0, FREE, VAGUE, NOW + at, at)
    assert stand.out(NOW + QUIET_MS) == []
    # It has answered nobody for a while.
    stand.channels.ended(0, FREE, VAGUE, NOW + QUIET_MS + 1, 5)
    assert stand.out(NOW + QUIET_MS + 1) == [0, 1]


def test_a_key_that_answers_for_its_other_models_may_not_be_for_this_one(stand: Stand) -> None:
    stand.answered_ms[1] = NOW
    for request in (1, 2):
        assert stand.out() == []
        stand.channels.ended(0, FREE, VAGUE, NOW, request)
    assert stand.out() == [0]
    assert [(alert.what, alert.model, alert.cause) for alert in stand.alerts] == [("model_out", "a", "no_permission")]
    # Its trial goes well: it is back.
    later = NOW + MINUTE
    assert stand.channels.claim(0, later) == MODEL_TRIAL
    stand.channels.ended(0, MODEL_TRIAL, GOOD, later)
    assert stand.out(later) == []


def test_what_is_certain_is_believed_at_once(stand: Stand) -> None:
    stand.good[2] = 1
    stand.answered_ms[2] = NOW
    stand.channels.ended(2, FREE, BAD_KEY, NOW)
    assert stand.out() == [2, 3]


def test_who_is_refused_on_trial_stays_out_for_longer(stand: Stand) -> None:
    for request in (1, 2):
        stand.channels.ended(0, FREE, VAGUE, NOW, request)
    later = NOW + 10_000
    assert stand.channels.claim(0, later) == KEY_TRIAL
    stand.channels.ended(0, KEY_TRIAL, VAGUE, later, 3)
    assert stand.channels.claim(0, later + 19_999) == TAKEN
    assert stand.channels.claim(0, later + 20_000) == KEY_TRIAL


# --- balance


def test_balance(stand: Stand) -> None:
    channels = stand.channels
    channels.learn(0, None, NOW)
    assert [channels.key_state(row).kind for row in range(4)] == [BALANCE_OK, BALANCE_OK, 0, 0]
    for remaining, kind in ((50, BALANCE_OK), (49, BALANCE_LOW), (99, BALANCE_LOW), (100, BALANCE_OK)):
        channels.learn(1, Allowance(month_limit=1000, month_remaining=remaining), NOW)
        assert channels.key_state(0).kind == kind
    for nonsense in (Allowance(month_limit=0, month_remaining=0), Allowance(month_remaining=0), Allowance(5, 0, 0)):
        channels.learn(1, nonsense, NOW)
        assert channels.key_state(0).kind == BALANCE_OK
    channels.ended(0, FREE, Ended(KEY_REJECTED, "low_balance"), NOW)
    assert channels.key_state(1).kind == BALANCE_LOW
    assert stand.out() == []
    assert stand.told() == [("balance_low", "k1", "")] * 2
    # Good answers, of those that were under way, bring no key back.
    channels.ended(0, FREE, NO_MONEY, NOW)
    channels.learn(0, Allowance(month_limit=10, month_remaining=10), NOW)
    assert stand.out() == [0, 1]


def test_rows_of_others_are_no_matter(stand: Stand) -> None:
    stand.channels.ended(7, FREE, BAD_KEY, NOW)
    stand.channels.learn(7, None, NOW)
    assert [stand.segment.cell(row, KEY_STATE) for row in range(8)] == [0] * 8


# --- by hand, and by reload


def test_switching(stand: Stand) -> None:
    assert not stand.channels.switch("p", "k9", False, NOW)
    assert not stand.channels.switch("q", "k1", False, NOW)
    assert stand.channels.switch("p", "k1", False, NOW)
    assert stand.out(NOW + 10 * LONGEST_MS) == [0, 1]
    assert stand.channels.claim(0, NOW + 10 * LONGEST_MS) == TAKEN
    stand.channels.ended(2, FREE, NO_MODEL, NOW)
    stand.channels.ended(3, FREE, BAD_KEY, NOW)
    for ident in ("k1", "k2"):
        assert stand.channels.switch("p", ident, True, NOW)
    assert stand.out() == []


def renewed(stand: Stand, specs: list[Spec], replaced: frozenset[tuple[str, str]] = frozenset()) -> Channels:
    renew(stand.segment, channels_of(specs, range(len(specs))), replaced)
    return stand.made(specs)


def test_a_credential_that_is_replaced_begins_anew(stand: Stand) -> None:
    for row in range(4):
        stand.channels.ended(row, FREE, BAD_KEY, NOW)
        stand.channels.ended(row, FREE, NO_MODEL, NOW)
    channels = renewed(stand, specs_of([key("k1", secret="other"), key("k2")], ["a", "b"]))
    assert stand.out() == [2, 3]
    # What still comes of the old one counts no more, and what comes of the new one does.
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    stand.channels.ended(0, FREE, NO_MODEL, NOW)
    assert stand.out() == [2, 3]
    channels.ended(0, FREE, BAD_KEY, NOW)
    assert stand.out() == [0, 1, 2, 3]


def test_one_that_is_known_to_be_another_begins_anew_whatever_its_mark(stand: Stand) -> None:
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    renewed(stand, specs_of([key("k1"), key("k2")], ["a", "b"]), frozenset({("p", "k1")}))
    assert stand.out() == []


def test_a_model_that_is_new_takes_over_what_is_known_of_its_key(stand: Stand) -> None:
    """Even where it comes first. Models of the key keep what is known of them."""
    stand.channels.ended(1, FREE, BAD_KEY, NOW)
    stand.channels.ended(1, FREE, NO_MODEL, NOW)
    specs = specs_of([key("k1")], ["c", "b", "d"])
    # Row 0 is now another model's; its cells were cleared when it was given away.
    for cell in (KEY_STATE, MODEL_STATE):
        stand.segment.set_cell(0, cell, 0)
    channels = renewed(stand, specs)
    assert stand.out() == [0, 1, 2]
    assert channels.model_state(1).kind == MODEL_NOT_FOUND
    assert [channels.model_state(row).kind for row in (0, 2)] == [0, 0]


def test_a_model_that_is_asked_for_under_another_name_begins_anew(stand: Stand) -> None:
    stand.channels.ended(0, FREE, NO_MODEL, NOW)
    provider = Provider(id="p", type="openai", base_url="http://p")
    specs = [Spec(provider, key("k1"), Model(name="a", upstream="a-2")), *specs_of([key("k1")], ["b"])]
    renewed(stand, specs)
    assert stand.out() == []


def test_which_credentials_have_been_replaced() -> None:
    def config(base_url: str, **secrets: str) -> Config:
        keys = tuple(key(ident, secret=secret) for ident, secret in secrets.items())
        return Config(providers=(Provider(id="p", type="openai", base_url=base_url, keys=keys),))

    before = config("http://p", k1="x", k2="y", k3="z")
    assert replaced_keys(before, before) == set()
    assert replaced_keys(before, config("http://p", k1="x", k2="z", k4="n")) == {("p", "k2")}
    assert replaced_keys(before, config("http://q", k1="x")) == {("p", "k1")}


def test_marks_tell_credentials_apart_and_show_nothing(stand: Stand) -> None:
    marks = {
        channels_of(specs_of([key("k1", secret=f"secret-{n}")], ["a"]), [0])[0].key_mark for n in range(2000)
    }  # fmt: skip
    assert min(marks) >= 1
    assert max(marks) <= 511
    assert len(marks) > 480


def test_the_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "fastroute.channel"):
        log_alert(Alert("key_out", "p", "k1", "", "invalid_key", 300_000))
        log_alert(Alert("model_back", "p", "k1", "a", "", 0))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "key_out provider=p key=k1 model=* cause=invalid_key for_s=300"),
        ("INFO", "model_back provider=p key=k1 model=a cause=none for_s=0"),
    ]


# --- many workers, in whatever order

outcomes = st.sampled_from(
    [GOOD, BAD_KEY, VAGUE, NO_MONEY, NO_MODEL, Ended(NEUTRAL), Ended(FAILED), Ended(LIMITED, "requests", 700, 700),
     Ended(LIMITED, "day_quota", 1000, 10**7), Ended(LIMITED, "account_limit", 300, 300),
     Ended(LIMITED, "overloaded", 100, 100), Ended(KEY_REJECTED, "low_balance")]
)  # fmt: skip
steps = st.lists(st.tuples(st.integers(0, 3), outcomes, st.integers(0, 10 * MINUTE), st.booleans()), max_size=40)


class Fake:
    """A segment's cells in a list: quick to make, and all that channels use of one."""

    def __init__(self) -> None:
        self.cells = [[0] * 32 for _ in range(4)]

    def cell(self, row: int, at: int) -> int:
        return self.cells[row][at]

    def set_cell(self, row: int, at: int, value: int) -> None:
        self.cells[row][at] = value

    def cas_cell(self, row: int, at: int, expect: int, new: int) -> bool:
        if self.cells[row][at] != expect:
            return False
        self.cells[row][at] = new
        return True


@given(steps)
def test_whatever_comes_of_attempts(taken: list[tuple[int, Ended, int, bool]]) -> None:
    """At most one trial of a key is under way; copies agree; keys go out and come back by turns; no sibling does."""
    stand = Stand(Fake())
    now_ms = NOW
    for row, ended, pause_ms, asked in taken:
        now_ms += pause_ms
        trial = FREE
        if asked:
            trial = stand.channels.claim(row, now_ms)
            if trial == TAKEN:
                assert row in stand.out(now_ms)
                continue
            for other in {0: (0, 1), 1: (0, 1), 2: (2, 3), 3: (2, 3)}[row]:
                if trial & KEY_TRIAL:
                    assert stand.channels.claim(other, now_ms) == TAKEN
        before = [stand.segment.cell(other, KEY_STATE) for other in range(4)]
        stand.channels.ended(row, trial, ended, now_ms)
        sibling = slice(2, 4) if row < 2 else slice(0, 2)
        assert [stand.segment.cell(other, KEY_STATE) for other in range(4)][sibling] == before[sibling]
        for first, second in ((0, 1), (2, 3)):
            both = [stand.segment.cell(other, KEY_STATE) & ~LOOK for other in (first, second)]
            assert both[0] == both[1]
            assert unpack_state(both[0]).until_ms <= now_ms + LONGEST_MS
    for ident in ("k1", "k2"):
        turns = [what for what, key_id, _ in stand.told() if key_id == ident and what.startswith("key_")]
        assert turns == ["key_out", "key_back"] * (len(turns) // 2) + ["key_out"] * (len(turns) % 2)


class Contended(Fake):
    """Cells that another process changes between a look and a change, now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self.meddler: Channels | None = None
        self._busy = False

    def cas_cell(self, row: int, at: int, expect: int, new: int) -> bool:
        if self.meddler is not None and not self._busy and self._rng.random() < 0.5:
            self._busy = True
            self.meddler.ended(self._rng.randrange(2), FREE, self._rng.choice((BAD_KEY, NO_MONEY, NO_MODEL)), NOW)
            self._busy = False
        return super().cas_cell(row, at, expect, new)


@pytest.mark.parametrize("seed", range(200))
def test_two_processes_at_once(seed: int) -> None:
    """Whoever is first, both rows of the key agree in the end, it is out once, and that is told once."""
    segment = Contended(seed)
    stand = Stand(segment)
    segment.meddler = stand.made(specs_of([key("k1"), key("k2")], ["a", "b"]))
    stand.channels.ended(0, FREE, BAD_KEY, NOW)
    stand.channels.ended(1, FREE, NO_MODEL, NOW)
    words = [segment.cell(row, KEY_STATE) & ~LOOK for row in (0, 1)]
    assert words[0] == words[1] != 0
    assert [what for what, _, _ in stand.told()].count("key_out") == 1
    assert stand.out()[:2] == [0, 1]


def test_a_word_of_a_state() -> None:
    assert unpack_state(pack_state(State(1, 2, 3, 1, 5, 1, 7))) == State(1, 2, 3, 1, 5, 1, 7)
