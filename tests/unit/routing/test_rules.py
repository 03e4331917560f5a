"""The rules engine: every matcher, every action, the order of rules."""

from typing import Any

import pytest
from msgspec.structs import replace

from fastroute.config.schema import Action, Config, Provider, Reject, Rule, When
from fastroute.routing.rules import MAX_SHOWN_RULES, NO_DECISION, Decision, RuleTable, compile_rules
from fastroute.routing.tally import Slots, Tally
from tests.unit.routing.rulebook import at, facts, holds, rule, table

LEVELS = ("low", "normal", "high", "critical")

# --- matchers


def test_no_rules_are_free() -> None:
    empty = table()
    assert not empty.active
    assert empty.decide(facts()) is NO_DECISION
    assert empty.matches == {}


def test_a_rule_without_condition_always_applies() -> None:
    assert holds(When())


@pytest.mark.parametrize(
    ("names", "model", "expected"),
    [
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4",), "gpt-4o", False),
        (("claude-3", "gpt-4o"), "gpt-4o", True),
        (("gpt-*",), "gpt-4o", True),
        (("gpt-*",), "claude-3", False),
        (("*-mini",), "gpt-4o-mini", True),
        (("*",), "claude-3", True),
        # Models that are not listed by name, so that patterns are compared when the request comes.
        (("gpt-*",), "gpt-9", True),
        (("gpt-*",), "o9", False),
        (("gpt-9",), "gpt-9", True),
        (("gpt-9", "o*"), "o1", True),
        (("gpt-9", "o*"), "gpt-9", True),
        (("gpt-4o",), "gpt-9", False),
        (("[a-z]*",), "gpt-9", False),
        (("gpt-?",), "gpt-9", False),
    ],
)
def test_model(names: tuple[str, ...], model: str, expected: bool) -> None:
    assert holds(When(model=names), model=model) is expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("gpt-4o",), True), (("best",), True), (("gpt-*",), True), (("b*",), True), (("x", "y*"), False)],
)
@pytest.mark.parametrize("listed", [True, False])
def test_model_by_alias(names: tuple[str, ...], expected: bool, listed: bool) -> None:
    """A rule may name the alias that was called, or the model it stands for."""
    models = ("gpt-4o", "best") if listed else ()
    decision = table(rule("r", When(model=names)), models=models).decide(facts(model="gpt-4o", called="best"))
    assert (decision is not NO_DECISION) is expected


@pytest.mark.parametrize(
    ("when", "values", "expected"),
    [
        (When(tenant=("acme",)), {"tenant": "acme"}, True),
        (When(tenant=("acme", "b")), {"tenant": "b"}, True),
        (When(tenant=("acme",)), {"tenant": "Acme"}, False),
        (When(tenant=("acme",)), {}, False),
        (When(key=("app-1",)), {"key_id": "app-1"}, True),
        (When(key=("app-1",)), {"key_id": "app-2"}, False),
        (When(region=("eu", "us")), {"region": "us"}, True),
        (When(region=("eu",)), {"region": ""}, False),
        (When(tags=("paid", "beta")), {"tags": frozenset({"x", "beta"})}, True),
        (When(tags=("paid",)), {"tags": frozenset({"x"})}, False),
        (When(tags=("paid",)), {}, False),
        (When(stream=True), {"stream": True}, True),
        (When(stream=True), {"stream": False}, False),
        (When(stream=False), {"stream": False}, True),
        (When(min_prompt_tokens=100), {"prompt_tokens": 100}, True),
        (When(min_prompt_tokens=100), {"prompt_tokens": 99}, False),
        (When(max_prompt_tokens=100), {"prompt_tokens": 100}, True),
        (When(max_prompt_tokens=100), {"prompt_tokens": 101}, False),
        (When(min_prompt_tokens=10, max_prompt_tokens=20), {"prompt_tokens": 15}, True),
        (When(min_prompt_tokens=10, max_prompt_tokens=20), {"prompt_tokens": 21}, False),
        (When(max_prompt_tokens=0), {"prompt_tokens": 0}, True),
        (When(max_prompt_tokens=0), {"prompt_tokens": 1}, False),
    ],
)
def test_named_things(when: When, values: dict[str, Any], expected: bool) -> None:
    assert holds(when, **values) is expected
    assert holds(When(not_=when), **values) is not expected


@pytest.mark.parametrize("priority", LEVELS)
def test_priority(priority: str) -> None:
    for place, level in enumerate(LEVELS):
        assert holds(When(min_priority=level), priority=priority) is (LEVELS.index(priority) >= place)
        assert holds(When(priority=(level,)), priority=priority) is (priority == level)
    assert holds(When(priority=("low", "high"), min_priority="normal"), priority=priority) is (priority == "high")


@pytest.mark.parametrize(
    ("wanted", "headers", "expected"),
    [
        ({"x-team": ("a",)}, [(b"x-team", b"a")], True),
        ({"X-Team": ("a",)}, [(b"x-team", b"a")], True),
        ({"x-team": ("a",)}, [(b"x-team", b"A")], False),
        ({"x-team": ("a",)}, [(b"x-other", b"a")], False),
        ({"x-team": ("a",)}, [], False),
        ({"x-team": ("a", "b")}, [(b"x-team", b"b")], True),
        ({"x-team": ("a",)}, [(b"x-team", b"b"), (b"x-team", b"a")], True),
        ({"x-team": ("a*",)}, [(b"x-team", b"abc")], True),
        ({"x-team": ("a*",)}, [(b"x-team", b"bc")], False),
        ({"x-team": ("*",)}, [(b"x-team", b"\xff")], True),
        ({"x-team": ("*",)}, [(b"x-other", b"")], False),
        ({"x-team": ("a",), "x-env": ("p*",)}, [(b"x-env", b"prod"), (b"x-team", b"a")], True),
        ({"x-team": ("a",), "x-env": ("p*",)}, [(b"x-team", b"a")], False),
        ({"x-team": ("a",), "x-env": ("prod",)}, [(b"x-env", b"prod"), (b"x-team", b"b")], False),
    ],
)
def test_header(wanted: dict[str, tuple[str, ...]], headers: list[tuple[bytes, bytes]], expected: bool) -> None:
    assert holds(When(header=wanted), headers=headers) is expected
    assert holds(When(not_=When(header=wanted)), headers=headers) is not expected
    assert holds(When(any=(When(header=wanted), When(tenant=("nobody",)))), headers=headers) is expected


def test_headers_are_read_only_if_a_rule_that_is_left_asks() -> None:
    class Unreadable:
        def __iter__(self) -> Any:
            raise AssertionError("read")

    rules = table(rule("r", When(tenant=("acme",), header={"x-team": ("a",)})))
    assert rules.decide(facts(tenant="b", headers=Unreadable())) is NO_DECISION
    with pytest.raises(AssertionError):
        rules.decide(facts(tenant="acme", headers=Unreadable()))


GPT, ACME, STREAM = When(model=("gpt-4o",)), When(tenant=("acme",)), When(stream=True)


@pytest.mark.parametrize(
    ("when", "values", "expected"),
    [
        (When(all=(GPT, ACME)), {"tenant": "acme"}, True),
        (When(all=(GPT, ACME)), {"tenant": "b"}, False),
        (When(any=(GPT, ACME)), {"tenant": "b"}, True),
        (When(any=(GPT, ACME)), {"tenant": "b", "model": "claude-3"}, False),
        (When(not_=GPT), {}, False),
        (When(not_=GPT), {"model": "claude-3"}, True),
        (When(all=(GPT, When(not_=When(any=(ACME, STREAM))))), {"tenant": "b"}, True),
        (When(all=(GPT, When(not_=When(any=(ACME, STREAM))))), {"tenant": "b", "stream": True}, False),
        (When(model=("gpt-4o",), any=(ACME, STREAM)), {"stream": True}, True),
        (When(model=("claude-3",), any=(ACME, STREAM)), {"stream": True}, False),
        (When(all=(When(),)), {}, True),
        (When(not_=When()), {}, False),
        # Two matchers of one kind: both must hold.
        (When(tenant=("acme", "b"), all=(When(tenant=("b", "c")),)), {"tenant": "b"}, True),
        (When(tenant=("acme", "b"), all=(When(tenant=("b", "c")),)), {"tenant": "acme"}, False),
        (When(tags=("x",), all=(When(tags=("y",)),)), {"tags": frozenset("xy")}, True),
        (When(tags=("x",), all=(When(tags=("y",)),)), {"tags": frozenset("x")}, False),
        (When(model=("gpt-*",), all=(When(model=("*-mini",)),)), {"model": "gpt-4o-mini"}, True),
        (When(model=("gpt-*",), all=(When(model=("*-mini",)),)), {"model": "gpt-4o"}, False),
    ],
)
def test_composites(when: When, values: dict[str, Any], expected: bool) -> None:
    assert holds(when, **values) is expected


# --- time

WEDNESDAY = (2026, 3, 4)


@pytest.mark.parametrize(
    ("hours", "hour", "minute", "expected"),
    [
        ("09:00-17:00", 8, 59, False), ("09:00-17:00", 9, 0, True), ("09:00-17:00", 16, 59, True),
        ("09:00-17:00", 17, 0, False), ("22:00-06:00", 21, 59, False), ("22:00-06:00", 22, 0, True),
        ("22:00-06:00", 0, 0, True), ("22:00-06:00", 5, 59, True), ("22:00-06:00", 6, 0, False),
        ("09:30-09:31", 9, 30, True), ("09:30-09:31", 9, 31, False), ("10:00-10:00", 3, 0, True),
        ("10:00-10:00", 10, 0, True), ("00:00-00:00", 12, 0, True), ("00:00-24:00", 23, 59, True),
        ("22:00-24:00", 23, 59, True), ("22:00-24:00", 0, 0, False), ("22:00-00:00", 23, 59, True),
        ("22:00-00:00", 0, 0, False),
    ],
)  # fmt: skip
def test_hours(hours: str, hour: int, minute: int, expected: bool) -> None:
    assert holds(When(hours=hours), wall_ns=at(*WEDNESDAY, hour, minute)) is expected
    assert holds(When(hours=hours), wall_ns=at(*WEDNESDAY, hour, minute) + 59_999_999_999) is expected


@pytest.mark.parametrize(
    ("days", "day", "expected"),
    [(("wed",), 4, True), (("wed",), 5, False), (("sat", "sun"), 7, True), (("sat", "sun"), 8, True),
     (("sat", "sun"), 9, False), (("mon", "tue", "wed", "thu", "fri"), 6, True)],
)  # fmt: skip
def test_days(days: Any, day: int, expected: bool) -> None:
    assert holds(When(days=days), wall_ns=at(2026, 3, day, 12, 0)) is expected


def test_days_are_those_of_the_zone() -> None:
    thursday_in_tokyo = at(2026, 3, 5, 8, 0, "Asia/Tokyo")  # Wednesday 23:00 UTC
    assert holds(When(days=("thu",), tz="Asia/Tokyo"), wall_ns=thursday_in_tokyo)
    assert holds(When(days=("wed",)), wall_ns=thursday_in_tokyo)
    assert holds(When(hours="08:00-08:01", tz="Asia/Tokyo"), wall_ns=thursday_in_tokyo)
    assert holds(When(hours="04:45-04:46", tz="Asia/Kathmandu"), wall_ns=thursday_in_tokyo)


def test_the_day_is_that_of_the_moment_on_both_sides_of_midnight() -> None:
    night = When(hours="22:00-06:00", days=("fri",))
    assert holds(night, wall_ns=at(2026, 3, 6, 3, 0))
    assert holds(night, wall_ns=at(2026, 3, 6, 23, 0))
    assert not holds(night, wall_ns=at(2026, 3, 7, 3, 0))


def test_the_hour_that_is_skipped_in_spring() -> None:
    """Berlin, 29 March 2026: 01:59 CET is followed by 03:00 CEST."""
    night = When(hours="02:00-03:00", tz="Europe/Berlin")
    before = at(2026, 3, 29, 1, 59, "Europe/Berlin")
    assert not any(holds(night, wall_ns=before + minute * 60_000_000_000) for minute in range(120))
    early = When(hours="03:00-04:00", tz="Europe/Berlin")
    assert not holds(early, wall_ns=before)
    assert holds(early, wall_ns=before + 60_000_000_000)


def test_the_hour_that_comes_twice_in_autumn() -> None:
    """Berlin, 25 October 2026: 02:59 CEST is followed by 02:00 CET."""
    night = When(hours="02:00-03:00", tz="Europe/Berlin")
    start = at(2026, 10, 25, 2, 0, "Europe/Berlin")
    assert at(2026, 10, 25, 2, 0, "Europe/Berlin", fold=1) == start + 3_600_000_000_000
    open_for = [minute for minute in range(-60, 180) if holds(night, wall_ns=start + minute * 60_000_000_000)]
    assert open_for == list(range(120))


def test_summer_and_winter_differ_in_utc() -> None:
    office = When(hours="09:00-17:00", tz="Europe/Berlin")
    assert holds(office, wall_ns=at(2026, 7, 1, 7, 0))
    assert not holds(office, wall_ns=at(2026, 1, 7, 7, 59))
    assert holds(office, wall_ns=at(2026, 1, 7, 8, 0))


def test_time_moves_on_and_back_within_one_table() -> None:
    rules = table(rule("day", When(hours="09:00-17:00")), rule("nested", When(not_=When(hours="09:00-17:00"))))
    for hour, name in [(8, "nested"), (9, "day"), (16, "day"), (17, "nested"), (12, "day"), (3, "nested")]:
        assert rules.decide(facts(wall_ns=at(*WEDNESDAY, hour, 0))).rule_ids == (name,)


# --- actions


def test_provider_and_pool() -> None:
    assert table(rule("r", provider="two")).decide(facts()) == Decision(
        providers=b"\0\1\0", rule_ids=("r",), header_value=b"r"
    )
    assert table(rule("r", pool=("one", "three"))).decide(facts()).providers == b"\1\0\1"


def test_a_route_leaves_the_strategy_alone() -> None:
    assert table(rule("r", pool=("one",))).decide(facts()).strategy is None
    assert table(rule("r", pool=("one",), strategy="random")).decide(facts()).strategy == "random"


@pytest.mark.parametrize(
    ("reject", "expected"),
    [
        (Reject(), (403, "refused_by_rule", "refused by a routing rule", None)),
        (Reject(reason="rate_limit_exceeded"), (429, "rate_limit_exceeded", "too many requests", 60)),
        (Reject(reason="unauthorized_model"), (403, "unauthorized_model", "this model may not be used", None)),
        (Reject(reason="invalid_request"), (400, "invalid_request_error", "the request is not accepted", None)),
        (Reject(reason="maintenance_mode"), (503, "maintenance_mode", "down for maintenance", 60)),
        (Reject(reason="maintenance_mode", retry_after_s=5, message="soon"), (503, "maintenance_mode", "soon", 5)),
        (Reject(status=429, message=""), (429, "refused_by_rule", "", 60)),
        (Reject(status=400, retry_after_s=7), (400, "refused_by_rule", "refused by a routing rule", 7)),
    ],
)
def test_reject(reject: Reject, expected: tuple[int, str, str, int | None]) -> None:
    decision = table(rule("r", reject=reject)).decide(facts())
    assert decision.reject == expected
    assert decision.rule_ids == ("r",)


def test_headers_and_tags() -> None:
    decision = table(rule("r", headers={"X-Team": "a b", "x-env": "p"}, tags=("t1", "t2"))).decide(facts())
    assert decision.headers == ((b"x-team", b"a b"), (b"x-env", b"p"))
    assert decision.tags == frozenset({"t1", "t2"})
    assert decision.providers is None


@pytest.mark.parametrize("swapped", [False, True])
def test_a_chain_is_all_of_its_actions(swapped: bool) -> None:
    chain = (Action(strategy="cost_optimized"), Action(pool=("one", "two")), Action(headers={"a": "1"}, tags=("t",)))
    decision = table(rule("r", chain=chain[::-1] if swapped else chain)).decide(facts())
    assert decision == Decision(
        providers=b"\1\1\0",
        strategy="cost_optimized",
        tags=frozenset({"t"}),
        headers=((b"a", b"1"),),
        rule_ids=("r",),
        header_value=b"r",
    )


def test_a_chain_comes_on_top_of_the_action_beside_it() -> None:
    decision = table(rule("r", strategy="random", chain=(Action(provider="three"), Action(headers={"a": "1"})))).decide(
        facts()
    )
    assert (decision.strategy, decision.providers, decision.headers) == ("random", b"\0\0\1", ((b"a", b"1"),))


# --- order


def test_higher_priority_first_then_by_id() -> None:
    rules = [rule("b"), rule("a"), rule("z", order=1), rule("0", order=-1)]
    for given in (rules, rules[::-1]):
        assert table(*given).decide(facts()).rule_ids == ("z",)
        assert table(*(one for one in given if one.id != "z")).decide(facts()).rule_ids == ("a",)


def test_disabled_rules_are_not_there() -> None:
    rules = table(replace(rule("a"), enabled=False), rule("b"))
    assert rules.decide(facts()).rule_ids == ("b",)
    assert rules.matches == {"b": 1}
    assert not table(replace(rule("a"), enabled=False)).active


def test_rules_that_neither_route_nor_reject_are_noted_and_reading_goes_on() -> None:
    rules = table(
        rule("1", strategy="random"),
        rule("2", headers={"a": "1", "b": "1"}),
        rule("3", When(tenant=("nobody",)), strategy="p2c"),
        rule("4", strategy="adaptive", headers={"a": "2", "c": "2"}, tags=("t",)),
        rule("5", pool=("two",), strategy="prefix", tags=("u",)),
        rule("6", provider="one", headers={"d": "3"}),
    )
    assert rules.decide(facts()) == Decision(
        providers=b"\0\1\0",
        strategy="random",
        tags=frozenset({"t", "u"}),
        headers=((b"a", b"1"), (b"b", b"1"), (b"c", b"2")),
        rule_ids=("1", "2", "4", "5"),
        header_value=b"1,2,4,5",
    )
    assert rules.matches == {"1": 1, "2": 1, "3": 0, "4": 1, "5": 1, "6": 0}


def test_a_rejection_keeps_its_reason_behind_other_rules() -> None:
    decision = table(rule("1", strategy="random"), rule("2", reject=Reject(reason="maintenance_mode"))).decide(facts())
    assert decision.reject is not None
    assert decision.reject[:2] == (503, "maintenance_mode")
    assert decision.rule_ids == ("1", "2")


def test_later_rules_see_the_new_priority() -> None:
    rules = table(
        rule("1", When(tenant=("acme",)), strategy="p2c"),
        rule("2", When(min_priority="high"), provider="two"),
        rule("0", When(tenant=("acme",)), priority="high"),
        rule("3"),
    )
    assert rules.decide(facts(tenant="acme")).rule_ids == ("0", "1", "2")
    assert rules.decide(facts(tenant="b")).rule_ids == ("3",)


def test_earlier_rules_do_not_see_it_and_the_first_to_set_it_wins() -> None:
    rules = table(
        rule("0", When(priority=("critical",)), provider="two"),
        rule("1", When(), priority="critical"),
        rule("2", When(), priority="low"),
        rule("3", When(priority=("low", "normal")), provider="one"),
        rule("4", When(priority=("critical",)), provider="three"),
    )
    given = facts()
    decision = rules.decide(given)
    assert decision.rule_ids == ("1", "2", "4")
    assert (decision.priority, decision.providers) == ("critical", b"\0\0\1")
    assert given.priority == "normal"


def test_later_rules_see_the_new_tags_wherever_they_look() -> None:
    rules = table(
        rule("1", When(tenant=("acme",)), tags=("vip",)),
        rule("2", When(tags=("vip",)), strategy="random"),
        rule("3", When(any=(When(tags=("vip",)), When(key=("nobody",)))), provider="two"),
    )
    given = facts(tenant="acme", tags=frozenset({"own"}))
    assert rules.decide(given).rule_ids == ("1", "2", "3")
    assert given.tags == {"own"}
    assert rules.decide(facts()) is NO_DECISION


def test_what_is_shown_is_bounded() -> None:
    decision = table(*(rule(f"r{at:03}", strategy="random") for at in range(100))).decide(facts())
    assert len(decision.rule_ids) == 100
    assert decision.header_value.split(b",") == [b"r%03d" % at for at in range(MAX_SHOWN_RULES)] + [b"..."]


# --- the table


def test_counts_go_on_after_a_reload() -> None:
    slots, tally = Slots(8), Tally(2, 8)
    before = counting(slots, tally, rule("a", When(tenant=("acme",))), rule("b"))
    for tenant in ("acme", "x", "x"):
        before.decide(facts(tenant=tenant))
    after = counting(slots, tally, rule("b"), rule("c"))
    after.decide(facts())
    before.decide(facts())  # a request that began before the reload
    assert after.matches == {"b": 4, "c": 0}
    assert counting(slots, tally, rule("a")).matches == {"a": 1}


def counting(slots: Slots, tally: Tally, *rules: Rule) -> RuleTable:
    """Return the table of one worker, which counts in the tally."""
    config = Config(providers=(Provider(id="one", type="echo"),), rules=rules)
    return compile_rules(config, (), slots.assign([one.id for one in rules]), tally.row(1))


def test_nothing_grows_with_what_clients_send() -> None:
    rules = table(rule("r", When(model=("gpt-*",), tags=("t",), header={"x": ("1",)})))
    sizes = {name: len(index.sets) for name, index in rules._indexes.items()}
    for number in range(1000):
        rules.decide(facts(model=f"gpt-{number}", tags=frozenset({f"t{number}"}), headers=[(b"x", b"%d" % number)]))
    assert {name: len(index.sets) for name, index in rules._indexes.items()} == sizes


def test_rules_that_look_elsewhere_cost_nothing() -> None:
    """1,000 rules of other tenants: not one of their conditions is evaluated."""
    rules = table(
        *(rule(f"r{at}", When(tenant=(f"t{at}",), any=(When(header={"x": ("1",)}),))) for at in range(1000)),
        rule("s", When(tenant=("acme",))),
    )

    class Unreadable:
        def __iter__(self) -> Any:
            raise AssertionError("read")

    assert rules.decide(facts(tenant="acme", headers=Unreadable())).rule_ids == ("s",)
