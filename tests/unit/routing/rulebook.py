"""Small sets of rules and the requests they are asked about."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastroute.config.schema import Config, Provider, Rule, Then, When
from fastroute.routing.rules import Decision, Facts, RuleTable, compile_rules

PROVIDERS = ("one", "two", "three")
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-3")


def table(*rules: Rule, models: tuple[str, ...] = MODELS) -> RuleTable:
    """Return the compiled rules, beside three providers."""
    providers = tuple(Provider(id=name, type="echo") for name in PROVIDERS)
    return compile_rules(Config(providers=providers, rules=rules), models)


def rule(name: str, when: When | None = None, order: int = 0, **then: Any) -> Rule:
    """Return a rule of priority `order` that says `then`, or that routes to provider one."""
    said = Then(**then) if then else Then(provider="one")
    return Rule(id=name, when=when or When(), then=said, priority=order)


def facts(**values: Any) -> Facts:
    """Return the facts of a request for gpt-4o, with `values`; `called` follows `model`."""
    made = Facts()
    made.model = "gpt-4o"
    for name, value in values.items():
        setattr(made, name, value)
    if "called" not in values:
        made.called = made.model
    return made


def at(year: int, month: int, day: int, hour: int, minute: int, zone: str = "UTC", fold: int = 0) -> int:
    """Return a local time as Unix nanoseconds."""
    moment = datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone), fold=fold)
    return int(moment.timestamp()) * 1_000_000_000


def holds(when: When, **values: Any) -> bool:
    """Return whether a rule with that condition applies to a request, compiled and on its own."""
    decision: Decision = table(rule("r", when)).decide(facts(**values))
    return decision.rule_ids == ("r",)
