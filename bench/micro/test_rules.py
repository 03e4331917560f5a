"""What it costs to find the rules that apply to a request.

A round decides 1000 requests of many models, so that neither the branch predictor nor the first-level cache has seen
the answer; divide by 1000. Targets: 50 rules and a tenant <= 1.5 us, 1,000 rules indexed by model and tenant <= 2.5 us.
"""

import random
from typing import Any

import pytest

from fastroute.config.schema import Action, Config, Provider, Reject, Rule, Tenant, Then, When
from fastroute.routing.rules import Facts, RuleTable, compile_rules
from fastroute.routing.tenants import compile_tenants

DECISIONS = 1000
PROVIDERS = tuple(Provider(id=f"p{number}", type="echo") for number in range(10))
MODELS = [f"vendor-{number % 7}/model-{number}" for number in range(200)]
TENANTS = [f"tenant-{number}" for number in range(100)]
# 2026-03-04 12:00 UTC, a Wednesday.
NOON_NS = 1_772_625_600_000_000_000

THENS = (
    Then(provider="p1"),
    Then(pool=("p2", "p3"), strategy="cost_optimized"),
    Then(strategy="adaptive"),
    Then(priority="high", headers={"x-team": "a"}),
    Then(chain=(Action(strategy="random"), Action(pool=("p4", "p5")))),
    Then(reject=Reject(reason="maintenance_mode")),
)


def config(rules: list[Rule]) -> Config:
    return Config(providers=PROVIDERS, rules=tuple(rules), tenants=tuple(Tenant(id=name) for name in TENANTS))


def fifty() -> list[Rule]:
    """Rules of one tenant, of every kind: one in ten of its requests meets one."""
    rng = random.Random(1)
    rules = []
    for number in range(50):
        extra: dict[str, Any] = rng.choice(
            [{}, {"stream": True}, {"min_priority": "high"}, {"hours": "09:00-17:00", "tz": "Europe/Berlin"}]
        )
        when = When(tenant=(TENANTS[0],), model=tuple(rng.sample(MODELS, 3)), **extra)
        rules.append(Rule(id=f"r{number}", when=when, then=THENS[number % len(THENS)], priority=rng.randrange(5)))
    return rules


def thousand() -> list[Rule]:
    rng = random.Random(2)
    return [
        Rule(
            id=f"r{number}",
            when=When(tenant=(rng.choice(TENANTS),), model=(rng.choice(MODELS),)),
            then=THENS[number % len(THENS)],
        )
        for number in range(1000)
    ]


def requests(tenants: list[str]) -> list[Facts]:
    rng = random.Random(3)
    made = []
    for _ in range(DECISIONS):
        facts = Facts()
        facts.model = facts.called = rng.choice(MODELS)
        facts.tenant = rng.choice(tenants)
        facts.stream = rng.random() < 0.5
        facts.headers = [(b"host", b"gateway"), (b"content-type", b"application/json"), (b"user-agent", b"bench")]
        facts.wall_ns = NOON_NS
        made.append(facts)
    return made


def decide_all(table: RuleTable, facts: list[Facts]) -> int:
    decide = table.decide
    for one in facts:
        decide(one)
    return len(facts)


def test_no_rules(benchmark: Any) -> None:
    assert benchmark(decide_all, compile_rules(config([]), MODELS), requests(TENANTS)) == DECISIONS


def test_fifty_rules_of_one_tenant(benchmark: Any) -> None:
    assert benchmark(decide_all, compile_rules(config(fifty()), MODELS), requests(TENANTS[:1])) == DECISIONS


@pytest.mark.parametrize("then", [Then(provider="p1"), Then(headers={"x-team": "a"})], ids=["ends", "goes-on"])
def test_fifty_rules_that_all_match(benchmark: Any, then: Then) -> None:
    """The first rule ends the reading, or all 50 have their say: what they say has to be put together each time."""
    rules = [Rule(id=f"r{number:02}", then=then) for number in range(50)]
    assert benchmark(decide_all, compile_rules(config(rules), MODELS), requests(TENANTS)) == DECISIONS


def test_a_thousand_rules(benchmark: Any) -> None:
    assert benchmark(decide_all, compile_rules(config(thousand()), MODELS), requests(TENANTS)) == DECISIONS


def test_a_thousand_rules_by_header(benchmark: Any) -> None:
    rules = [
        Rule(id=f"r{number}", when=When(header={"x-team": (f"team-{number}",)}), then=Then(provider="p1"))
        for number in range(1000)
    ]
    facts = requests(TENANTS)
    for number, one in enumerate(facts):
        one.headers = [*one.headers, (b"x-team", b"team-%d" % number)]
    assert benchmark(decide_all, compile_rules(config(rules), MODELS), facts) == DECISIONS


def test_a_thousand_rules_with_a_condition_each(benchmark: Any) -> None:
    """Patterns of a listed model are looked up; what is nested is asked of the rules of the model only."""
    rules = [
        Rule(
            id=f"r{number}",
            when=When(model=(f"*/model-{number % 200}",), any=(When(stream=True), When(key=("k1",)))),
            then=THENS[number % len(THENS)],
        )
        for number in range(1000)
    ]
    assert benchmark(decide_all, compile_rules(config(rules), MODELS), requests(TENANTS)) == DECISIONS


def test_tenant(benchmark: Any) -> None:
    table = compile_tenants(config([]), {provider.id: at for at, provider in enumerate(PROVIDERS)})

    def run() -> int:
        return sum(table[name].may_use("m") for name in TENANTS * 10)

    assert benchmark(run) == DECISIONS
