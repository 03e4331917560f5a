"""Names that name names."""

from pathlib import Path

import pytest

from fastroute.config.fields import STRATEGIES
from fastroute.config.references import is_zone, known_strategies
from tests.unit.config.helpers import faults, load

PROVIDERS = """
providers:
  - {id: one, type: echo, models: [gpt-4o, gpt-4o-mini]}
  - {id: two, type: echo, models: [gpt-4o, "claude-*"]}
"""


SETTINGS = "set provider, pool, strategy, priority, tags, headers, reject"


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
    ("models", "expected"),
    [
        ("{gpt-4o: {rpm: 5}, claude-3: {tpm: 1}, 'claude-*': {concurrency: 2}, 'gpt-*': {rpd: 9}}", []),
        ("{gpt-4p: {rpm: 5}}", ["limits.models.gpt-4p: unknown model 'gpt-4p', did you mean 'gpt-4o'?"]),
        ("{a: {rpm: 5}}", ["limits.models.a: is an alias: name the model it stands for"]),
        ("{'g*': {rpm: 5}}", ['limits.models["g*"]: is a pattern that neither a provider nor a route lists']),
        ("{gpt-4o: {rpm: -5}}", ["limits.models.gpt-4o.rpm: must be from 1 to 1000000000000"]),
        ("{gpt-4o: {rpm: 0.5}}", ["limits.models.gpt-4o.rpm: expected an integer, not a number"]),
        ("{gpt-4o: {rpm: .nan}}", ["limits.models.gpt-4o.rpm: expected an integer, not a number"]),
        ("{gpt-4o: {rps: 5}}", ["limits.models.gpt-4o.rps: unknown field 'rps', did you mean 'rpm'?"]),
        ("[gpt-4o]", ["limits.models: expected a mapping, not a list"]),
    ],
)
def test_limited_models(tmp_path: Path, models: str, expected: list[str]) -> None:
    text = f"aliases: {{a: gpt-4o}}\nroutes: [{{model: 'gpt-*', tiers: [[one]]}}]\nlimits: {{models: {models}}}"
    assert [line.split(": ", 1)[1] for line in faults(tmp_path, text + PROVIDERS)] == expected


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
        ("{model: gpt-4o}", []),
        ("{model: gpt-4o, fallbacks: [{provider: two}, {pool: [one, two], strategy: random}, {model: claude-3}, "
         "{provider: one, model: 'gpt-4o-mini'}], on_context_window: [{model: claude-3}], "
         "on_content_policy: [{provider: two}]}", []),
        ("{model: gpt-4o, fallbacks: [{provider: tow}, {pool: [one, x], strategy: y2c}, {model: gpt-5}]}",
         ["routes[0].fallbacks[0].provider: unknown provider 'tow', did you mean 'two'?",
          "routes[0].fallbacks[1].pool[1]: unknown provider 'x'",
          "routes[0].fallbacks[1].strategy: unknown strategy 'y2c', did you mean 'p2c'?",
          "routes[0].fallbacks[2].model: unknown model 'gpt-5', did you mean 'gpt-4o'?"]),
        ("{model: gpt-4o, on_content_policy: [{}, {strategy: p2c}, {provider: one, pool: [two]}]}",
         ["routes[0].on_content_policy[0]: leads nowhere: set provider, pool or model",
          "routes[0].on_content_policy[1]: leads nowhere: set provider, pool or model",
          "routes[0].on_content_policy[2]: provider and pool exclude each other"]),
        (f"{{model: gpt-4o, fallbacks: [{', '.join(['{provider: two}'] * 17)}]}}",
         ["routes[0].fallbacks: at most 16 steps"]),
        ("{model: gpt-4o-mini, fallbacks: [{provider: two}, {pool: [two]}, {pool: [two, one]}, "
         "{provider: two, model: gpt-4o}]}",
         ["routes[0].fallbacks[0].provider: leads nowhere: no model of that name is listed there",
          "routes[0].fallbacks[1].pool: leads nowhere: no model of that name is listed there"]),
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
        ("when: {}, then: {}", [f".then: does nothing: {SETTINGS} or chain"]),
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
        # It may be made at run time.
        ("when: {key: [app]}, then: {priority: low}", []),
        ("when: {all: []}, then: {priority: low}", [".when.all: must not be empty"]),
        ("when: {days: [monday]}, then: {priority: low}",
         [".when.days[0]: must be one of fri, mon, sat, sun, thu, tue, wed, did you mean 'mon'?"]),
        ("when: {modle: [x]}, then: {priority: low}", [".when.modle: unknown field 'modle', did you mean 'model'?"]),
        ("when: {model: gpt-4o}, then: {priority: low}", [".when.model: expected a list, not a string"]),
        ("when: {header: {X-Team: [a, 'b*'], x-env: ['*']}, priority: [low, high], min_prompt_tokens: 5, "
         "max_prompt_tokens: 5}, then: {headers: {x-a: b c, openai-organization: o}, tags: [t]}", []),
        ("when: {header: {}}, then: {priority: low}", [".when.header: must name 1 to 32 headers"]),
        ("when: {header: {x: []}}, then: {priority: low}", [".when.header.x: must not be empty"]),
        ("when: {header: {x: a}}, then: {priority: low}", [".when.header.x: expected a list, not a string"]),
        ("when: {header: {'x y': [a]}}, then: {priority: low}",
         ['.when.header["x y"]: is not a valid header name']),
        ("when: {header: {x: ['a ']}}, then: {priority: low}",
         [".when.header.x[0]: is not a valid header value: visible ASCII, spaces inside only, at most 8192 bytes"]),
        ("when: {header: {x: [a], X: [b]}}, then: {priority: low}",
         [".when.header.X: is there twice (header names ignore case)"]),
        ("when: {header: {Authorization: [a], cookie: [b]}}, then: {priority: low}",
         [".when.header.Authorization: carries credentials, which rules do not read: match by key or tenant",
          ".when.header.cookie: carries credentials, which rules do not read: match by key or tenant"]),
        ("when: {min_prompt_tokens: 5, max_prompt_tokens: 4}, then: {priority: low}",
         [".when.max_prompt_tokens: must not be less than min_prompt_tokens"]),
        ("when: {priority: [low], min_priority: high}, then: {priority: low}",
         [".when.priority: never holds: all of it is below min_priority"]),
        ("when: {priority: [urgent]}, then: {priority: low}",
         [".when.priority[0]: must be one of critical, high, low, normal"]),
        ("then: {headers: {}}", [".then.headers: must name 1 to 32 headers"]),
        ("then: {headers: {Content-Length: '5', te: x, X-Fastroute-Provider: y}}",
         [f".then.headers.{name}: must not be set here: the gateway sets or refuses this header itself"
          for name in ("Content-Length", "te", "X-Fastroute-Provider")]),
        ("then: {headers: {x-api-key: a, Cookie: b, proxy-authorization: c}}",
         [f".then.headers.{name}: carries credentials" for name in ("x-api-key", "Cookie", "proxy-authorization")]),
        ('then: {headers: {x-a: "b\\nc"}}',
         [".then.headers.x-a: is not a valid header value: visible ASCII, spaces inside only, at most 8192 bytes"]),
        ("then: {headers: {x-a: b, X-A: c}}", [".then.headers.X-A: is there twice (header names ignore case)"]),
        ("then: {reject: {reason: maintenance_mode, retry_after_s: 60}}", []),
        ("then: {reject: {reason: maintenance}}",
         [".then.reject.reason: must be one of custom, invalid_request, maintenance_mode, rate_limit_exceeded, "
          "unauthorized_model, did you mean 'maintenance_mode'?"]),
        ("then: {reject: {retry_after_s: 0}}", [".then.reject.retry_after_s: must be from 1 to 86400"]),
        ("then: {strategy: random, chain: [{pool: [one]}, {priority: high}, {tags: [a]}, {tags: [b]}]}", []),
        ("then: {chain: [{strategy: random}, {pool: [one, x]}]}", [".then.chain[1].pool[1]: unknown provider 'x'"]),
        ("then: {strategy: random, chain: [{strategy: p2c}]}",
         [".then.chain[0].strategy: is already set by rules[0].then.strategy"]),
        ("then: {chain: [{provider: one}, {reject: {}}]}", [".then: provider and reject exclude each other"]),
        ("then: {chain: []}", [".then.chain: must not be empty"]),
        ("then: {chain: [{}]}",
         [f".then: does nothing: {SETTINGS} or chain", f".then.chain[0]: does nothing: {SETTINGS}"]),
        ("then: {chain: [{chain: [{provider: one}]}]}",
         [".then.chain[0].chain: unknown field 'chain' (known here: provider, pool, strategy, priority, tags, headers, "
          "reject)", f".then: does nothing: {SETTINGS} or chain", f".then.chain[0]: does nothing: {SETTINGS}"]),
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
        ("{id: a, denied_providers: [one], preferred_providers: [one, two]}",
         ["tenants[0].preferred_providers[0]: is not allowed to this tenant"]),
        ("{id: a, allowed_providers: [two], preferred_providers: [one, two]}",
         ["tenants[0].preferred_providers[0]: is not allowed to this tenant"]),
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


KEYS = "auth: {keys: [{id: k1, key: a, tenant: acme}, {id: k2, key: b}]}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{KEYS}rules: [{{id: r, when: {{tenant: [acme, default]}}, then: {{priority: low}}}}]", []),
        (f"{KEYS}tenants: [{{id: acme}}]\nrules: [{{id: r, when: {{tenant: [acne]}}, then: {{priority: low}}}}]",
         ["rules[0].when.tenant[0]: no entry of tenants has the id 'acne', did you mean 'acme'?"]),
        # A key of that tenant may be made at run time.
        (f"{KEYS}rules: [{{id: r, when: {{tenant: [acne]}}, then: {{priority: low}}}}]", []),
        ("tenants: [{id: b}]\nrules: [{id: r, when: {not: {tenant: [b, c]}}, then: {priority: low}}]",
         ["rules[0].when.not.tenant[1]: no entry of tenants has the id 'c'"]),
        ("rules: [{id: r, when: {tenant: [c]}, then: {priority: low}}]", []),
        (f"{KEYS}tenants: [{{id: acme}}]", []),
        (f"{KEYS}tenants: [{{id: acmee}}]",
         ["auth.keys[0].tenant: no entry of tenants has the id 'acme': once there are any, all must be there"]),
        (f"{KEYS}tenants: []", []),
        # A tenant that is broken itself hides who is unknown.
        (f"{KEYS}tenants: [{{id: 5}}]\nrules: [{{id: r, when: {{tenant: [x]}}, then: {{priority: low}}}}]",
         ["tenants[0].id: expected a string, not an integer: put it in quotes"]),
    ],
)  # fmt: skip
def test_tenants_that_nobody_has(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert [line.partition(": ")[2] for line in faults(tmp_path, text + PROVIDERS)] == expected
