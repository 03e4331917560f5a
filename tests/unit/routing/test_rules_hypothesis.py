"""The compiled rules against a naive interpreter of the configuration."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
from hypothesis import given, settings

from fastroute.config.patterns import matches
from fastroute.config.schema import Action, Reject, Rule, Then, When
from fastroute.routing.rules import Facts
from tests.unit.routing.rulebook import at, facts, table

LEVELS = ("low", "normal", "high", "critical")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NAMES = ("a", "b", "ab", "abc")
FIELDS = (b"x-a", b"x-b")


def several(values: Any) -> Any:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True).map(tuple)


def clock(end: bool) -> Any:
    hours = st.integers(0, 23).flatmap(lambda hour: st.sampled_from([0, 30]).map(lambda m: f"{hour:02}:{m:02}"))
    return hours | st.just("24:00") if end else hours


MATCHERS = {
    "model": several((*NAMES, "a*", "*b", "*")),
    "tenant": several(NAMES),
    "key": several(NAMES),
    "region": several(NAMES),
    "tags": several(NAMES),
    "header": st.dictionaries(st.sampled_from(["x-a", "X-B"]), several((*NAMES, "a*", "*")), min_size=1),
    "priority": several(LEVELS),
    "min_priority": st.sampled_from(LEVELS),
    "stream": st.booleans(),
    "min_prompt_tokens": st.integers(0, 3),
    "max_prompt_tokens": st.integers(0, 3),
    "hours": st.tuples(clock(False), clock(True)).map("-".join),
    "days": several(DAYS),
    "tz": st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
}


def whens(inner: Any) -> Any:
    nested = {
        "all": st.lists(inner, min_size=1, max_size=2).map(tuple),
        "any": st.lists(inner, min_size=1, max_size=2).map(tuple),
        "not_": inner,
    }
    choices = [st.tuples(st.just(name), values) for name, values in {**MATCHERS, **nested}.items()]
    return st.lists(st.one_of(choices), max_size=3).map(lambda pairs: When(**dict(pairs)))


WHENS = st.recursive(whens(st.just(When())), whens, max_leaves=4)
ACTIONS: dict[str, Any] = {
    "strategy": st.sampled_from(["random", "p2c"]),
    "priority": st.sampled_from(LEVELS),
    "tags": several(NAMES),
    "headers": st.dictionaries(st.sampled_from(["h1", "h2"]), st.sampled_from(["v1", "v2"]), min_size=1),
}
ENDS: list[Any] = [
    st.just({}),
    st.just({}),
    st.just({"provider": "one"}),
    st.just({"pool": ("two", "three")}),
    st.just({"reject": Reject(reason="maintenance_mode")}),
]


@st.composite
def thens(draw: Any) -> Then:
    said = {name: draw(value) for name, value in ACTIONS.items() if draw(st.booleans())} | draw(st.one_of(ENDS))
    moved = {name: said.pop(name) for name in list(said) if draw(st.booleans())}
    return Then(**said, chain=(Action(**moved),) if moved else None)


RULES = st.lists(st.tuples(WHENS, thens(), st.integers(0, 2)), max_size=8).map(
    lambda parts: [
        Rule(id=f"r{number}", when=when, then=then, priority=priority)
        for number, (when, then, priority) in enumerate(parts)
    ]
)
REQUESTS = st.builds(
    facts,
    model=st.sampled_from([*NAMES, "bb", ""]),
    called=st.sampled_from([*NAMES, "bb"]),
    tenant=st.sampled_from([*NAMES, "other"]),
    key_id=st.sampled_from([*NAMES, "other"]),
    region=st.sampled_from([*NAMES, ""]),
    priority=st.sampled_from(LEVELS),
    tags=st.frozensets(st.sampled_from([*NAMES, "other"]), max_size=2),
    stream=st.booleans(),
    prompt_tokens=st.integers(0, 4),
    headers=st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from([b"a", b"b", b"abc", b"\xe4"])), max_size=3),
    wall_ns=st.integers(0, 7 * 48).map(lambda half: at(2026, 3, 25, 0, 0) + half * 1_800_000_000_000),
)


def naive(when: When, request: Facts) -> bool:
    """Say what docs/rules.md says, one matcher after the other."""

    def listed(names: tuple[str, ...] | None, *values: str) -> bool:
        return names is None or any(matches(name, value) for name in names for value in values)

    def header(name: str, wanted: tuple[str, ...]) -> bool:
        values = [value.decode("latin-1") for field, value in request.headers if field.decode() == name.lower()]
        return listed(wanted, *values)

    level = LEVELS.index(request.priority)
    return all(
        [
            listed(when.model, request.model, request.called),
            listed(when.tenant, request.tenant),
            listed(when.key, request.key_id),
            listed(when.region, request.region),
            listed(when.tags, *request.tags),
            all(header(name, wanted) for name, wanted in (when.header or {}).items()),
            when.priority is None or request.priority in when.priority,
            when.min_priority is None or level >= LEVELS.index(when.min_priority),
            when.stream in (None, request.stream),
            when.min_prompt_tokens is None or request.prompt_tokens >= when.min_prompt_tokens,
            when.max_prompt_tokens is None or request.prompt_tokens <= when.max_prompt_tokens,
            in_time(when, request.wall_ns),
            all(naive(part, request) for part in when.all or ()),
            when.any is None or any(naive(part, request) for part in when.any),
            when.not_ is None or not naive(when.not_, request),
        ]
    )


def in_time(when: When, wall_ns: int) -> bool:
    local = datetime.fromtimestamp(wall_ns / 1e9, UTC).astimezone(ZoneInfo(when.tz or "UTC"))
    if when.days is not None and DAYS[local.weekday()] not in when.days:
        return False
    if when.hours is None:
        return True
    start, end = when.hours.split("-")
    now = f"{local:%H:%M}"
    if start < end:
        return start <= now < end
    return start == end or now >= start or now < end


def decide_naively(rules: list[Rule], request: Facts) -> dict[str, Any]:
    seen = request.changed(request.priority, request.tags)
    said: dict[str, Any] = {"ids": [], "tags": frozenset(), "headers": {}}
    for rule in sorted(rules, key=lambda one: (-one.priority, one.id)):
        if not naive(rule.when, seen):
            continue
        said["ids"].append(rule.id)
        actions = [rule.then, *(rule.then.chain or ())]
        for action in actions:
            for name in ("strategy", "priority"):
                if getattr(action, name) is not None:
                    said.setdefault(name, getattr(action, name))
            said["tags"] |= frozenset(action.tags or ())
            said["headers"] = {**(action.headers or {}), **said["headers"]}
        seen = request.changed(said.get("priority", request.priority), request.tags | said["tags"])
        pools = [one.pool or (one.provider,) for one in actions if one.pool or one.provider]
        if pools:
            said["pool"] = set(pools[0])
        if any(one.reject for one in actions):
            said["rejected"] = True
        if "pool" in said or "rejected" in said:
            break
    return said


@settings(max_examples=400, deadline=None)
@given(RULES, st.lists(REQUESTS, min_size=1, max_size=4), st.booleans())
def test_the_table_says_what_the_rules_say(rules: list[Rule], requests: list[Facts], listed: bool) -> None:
    compiled = table(*rules, models=NAMES if listed else ())
    counts = {rule.id: 0 for rule in rules}
    for request in requests:
        wanted = decide_naively(rules, request)
        decision = compiled.decide(request)
        assert list(decision.rule_ids) == wanted["ids"]
        assert decision.strategy == wanted.get("strategy")
        assert decision.priority == wanted.get("priority")
        assert decision.tags == wanted["tags"]
        assert dict(decision.headers) == {name.encode(): value.encode() for name, value in wanted["headers"].items()}
        assert (decision.reject is not None) == wanted.get("rejected", False)
        pool = wanted.get("pool")
        assert decision.providers == (None if pool is None else bytes(name in pool for name in ("one", "two", "three")))
        for name in wanted["ids"]:
            counts[name] += 1
    assert compiled.matches == counts
