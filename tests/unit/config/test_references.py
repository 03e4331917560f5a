"""Names that name names."""

from pathlib import Path

import pytest

from fastroute.config.references import is_zone, known_strategies
from fastroute.config.schema import STRATEGIES
from tests.unit.config.helpers import faults, load

PROVIDERS = """
providers:
  - {id: one, type: echo, models: [gpt-4o, gpt-4o-mini]}
  - {id: two, type: echo, models: [gpt-4o, "claude-*"]}
"""


def check(tmp_path: Path, text: str) -> list[str]:
    return [line.removeprefix("c.yaml:1: ") for line in faults(tmp_path, text + PROVIDERS)]


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        ("{gpt-4: gpt-4o, best: gpt-4, c: claude-3}", []),
        ("{a: gpt-4p}", ["aliases.a: unknown model 'gpt-4p', did you mean 'gpt-4o'?"]),
        ("{a: nope}", ["aliases.a: unknown model 'nope'"]),
        ("{a: a}", ["aliases.a: aliases form a cycle: a -> a"]),
        ("{x: a, a: b, b: c, c: a, y: c}", ["aliases.a: aliases form a cycle: a -> b -> c -> a"]),
        ("{gpt-4o: claude-3}", ["aliases.gpt-4o: shadows the model of that name at providers[0].models[0].name"]),
        ("{claude-x: gpt-4o}", []),
        ("{'g*': gpt-4o}", ['aliases["g*"]: an alias must be one name, not a pattern']),
        ("{'a b': gpt-4o}", ['aliases["a b"]: its name must be 1 to 256 characters without spaces']),
        ("{a: 5}", ["aliases.a: expected a string, not an integer: put it in quotes"]),
        ("[a]", ["aliases: expected a mapping, not a list"]),
    ],
)
def test_aliases(tmp_path: Path, aliases: str, expected: list[str]) -> None:
    assert check(tmp_path, f"aliases: {aliases}") == expected


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ("{model: gpt-4o, tiers: [[one], [two]]}", []),
        ("{model: claude-3, tiers: [[two]]}", []),
        ("{model: 'claude-*', tiers: [[two]]}", []),
        ("{model: 'gpt-*', tiers: [[one, two]]}", []),
        ("{model: gpt-5, tiers: [[one]]}",
         ["routes[0].model: unknown model 'gpt-5', did you mean 'gpt-4o'?",
          "routes[0].tiers[0][0]: provider 'one' does not list the model of this route"]),
        ("{model: gpt-4o-mini, tiers: [[one, two]]}",
         ["routes[0].tiers[0][1]: provider 'two' does not list the model of this route"]),
        ("{model: gpt-4o, tiers: [[one], [one]]}",
         ["routes[0].tiers[1][0]: is already in this route, at routes[0].tiers[0][0]"]),
        ("{model: gpt-4o, tiers: [[on]]}", ["routes[0].tiers[0][0]: unknown provider 'on', did you mean 'one'?"]),
        ("{model: gpt-4o, tiers: []}", ["routes[0].tiers: must not be empty"]),
        ("{model: gpt-4o, tiers: [[]]}", ["routes[0].tiers[0]: must not be empty"]),
        ("{model: gpt-4o}", ["routes[0].tiers: is required"]),
        ("{model: gpt-4o, tiers: [[one]]}, {model: gpt-4o, tiers: [[two]]}",
         ["routes[1].model: model 'gpt-4o' is already used by routes[0].model"]),
        ("{model: gpt-4o, strategy: round-robin, tiers: [[one]]}",
         ["routes[0].strategy: unknown strategy 'round-robin', did you mean 'round_robin'?"]),
    ],
)  # fmt: skip
def test_routes(tmp_path: Path, routes: str, expected: list[str]) -> None:
    assert check(tmp_path, f"routes: [{routes}]") == expected


def test_a_route_names_no_alias(tmp_path: Path) -> None:
    text = "aliases: {a: gpt-4o}\nroutes: [{model: a, tiers: [[one]]}]"
    assert (
        faults(tmp_path, text + PROVIDERS)[0] == "c.yaml:2: routes[0].model: is an alias: name the model it stands for"
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, f"routing: {{strategy: {name}}}{PROVIDERS}").routing.strategy == name
    assert name in known_strategies()


def test_unknown_strategy(tmp_path: Path) -> None:
    (fault,) = check(tmp_path, "routing: {strategy: magic}")
    assert fault == f"routing.strategy: unknown strategy 'magic' (known: {', '.join(known_strategies())})"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("when: {all: [{model: [gpt-4o]}, {not: {tenant: [acme]}}, {hours: '22:00-06:00', tz: Europe/Berlin}]}, "
         "then: {pool: [one, two], strategy: cost_optimized}", []),
        ("then: {priority: high}", []),
        ("when: {any: [{region: [eu]}, {tags: [paid]}, {min_priority: high}, {stream: true}, {days: [mon], tz: UTC}]}, "
         "then: {reject: {status: 429, message: later}}", []),
        ("when: {}, then: {}", [".then: does nothing: set provider, pool, strategy, priority or reject"]),
        ("when: {}", [".then: is required"]),
        ("then: {provider: one, reject: {}}", [".then: provider and reject exclude each other"]),
        ("then: {provider: three}", [".then.provider: unknown provider 'three'"]),
        ("then: {pool: [one, twoo]}", [".then.pool[1]: unknown provider 'twoo', did you mean 'two'?"]),
        ("then: {pool: []}", [".then.pool: must not be empty"]),
        ("then: {strategy: x}", [f".then.strategy: unknown strategy 'x' (known: {', '.join(known_strategies())})"]),
        ("then: {reject: {status: 500}}", [".then.reject.status: must be one of 400, 403, 429, 503"]),
        ("when: {hours: '9-17'}, then: {priority: low}",
         ['.when.hours: must be of the form "HH:MM-HH:MM", 00:00 to 23:59 (24:00 as the end)']),
        ("when: {hours: '24:00-25:00'}, then: {priority: low}",
         ['.when.hours: must be of the form "HH:MM-HH:MM", 00:00 to 23:59 (24:00 as the end)']),
        ("when: {not: {any: [{hours: '00:00-24:00', tz: Europe/Berlln}]}}, then: {priority: low}",
         [".when.not.any[0].tz: unknown time zone 'Europe/Berlln': use an IANA name such as Europe/Berlin"]),
        ("when: {tz: UTC}, then: {priority: low}", [".when.tz: says nothing without hours or days"]),
        ("when: {key: [app]}, then: {priority: low}", [".when.key[0]: no key in auth.keys has the id 'app'"]),
        ("when: {all: []}, then: {priority: low}", [".when.all: must not be empty"]),
        ("when: {days: [monday]}, then: {priority: low}",
         [".when.days[0]: must be one of fri, mon, sat, sun, thu, tue, wed, did you mean 'mon'?"]),
        ("when: {modle: [x]}, then: {priority: low}", [".when.modle: unknown field 'modle', did you mean 'model'?"]),
        ("when: {model: gpt-4o}, then: {priority: low}", [".when.model: expected a list, not a string"]),
    ],
)  # fmt: skip
def test_rules(tmp_path: Path, rule: str, expected: list[str]) -> None:
    assert check(tmp_path, f"rules: [{{id: r, {rule}}}]") == [f"rules[0]{line}" for line in expected]


@pytest.mark.parametrize(
    ("tenants", "expected"),
    [
        ("{id: a, allowed_providers: ['*'], denied_providers: [one], max_cost_per_request_usd: 0.5}", []),
        ("{id: a}, {id: a}", ["tenants[1].id: id 'a' is already used by tenants[0].id"]),
        ("{id: a, allowed_providers: []}", ["tenants[0].allowed_providers: must not be empty"]),
        ("{id: a, allowed_providers: [ones]}",
         ["tenants[0].allowed_providers[0]: unknown provider 'ones', did you mean 'one'?"]),
        ("{id: a, preferred_providers: ['*']}",
         ["tenants[0].preferred_providers[0]: must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"]),
        ("{id: a, denied_providers: [x], strategy: p3c}",
         ["tenants[0].denied_providers[0]: unknown provider 'x'",
          "tenants[0].strategy: unknown strategy 'p3c', did you mean 'p2c'?"]),
        ("{id: a, max_cost_per_request_usd: -1}",
         ["tenants[0].max_cost_per_request_usd: must be from 0 to 1000000000"]),
    ],
)  # fmt: skip
def test_tenants(tmp_path: Path, tenants: str, expected: list[str]) -> None:
    assert check(tmp_path, f"tenants: [{tenants}]") == expected


def test_rule_ids_are_unique(tmp_path: Path) -> None:
    rule = "{id: r, then: {priority: low}}"
    assert check(tmp_path, f"rules: [{rule}, {rule}]") == ["rules[1].id: id 'r' is already used by rules[0].id"]


def test_a_broken_provider_hides_no_other_fault_and_causes_none(tmp_path: Path) -> None:
    text = (
        "{aliases: {a: nope}, providers: [{id: 'x y', type: echo, models: [m]}], rules: [{id: r, then: {pool: [z]}}]}"
    )
    assert faults(tmp_path, text) == ["c.yaml:1: providers[0].id: must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"]


@pytest.mark.parametrize("name", ["Europe", "../etc/passwd", "/etc/localtime", "", "Mars/Base", "a\0b"])
def test_zones_that_are_none(name: str) -> None:
    assert not is_zone(name)


def test_zones() -> None:
    assert is_zone("UTC")
    assert is_zone("Europe/Berlin")
