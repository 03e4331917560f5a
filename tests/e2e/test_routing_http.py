"""Gates, rules, tenants, wishes and explain, over HTTP: who is asked, and what one is told when nobody is."""

import json
import re
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from fastroute.upstream.mock import Pause, Stall, json_response
from tests.e2e.client import Answer, ask, chat, connect
from tests.e2e.fleet import BAD, GOOD, KEY, Fleet, config
from tests.e2e.harness import ADMIN_KEY, Gateway

pytestmark = pytest.mark.usefixtures("unhurt", "well")

NAMES = ("eu", "us", "spare")
CHEAP = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
DEAR = {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}

#: (virtual key, tenant)
TENANTS = {
    "sk-denied": {"id": "denied", "denied_providers": ["eu", "spare"]},
    "sk-allowed": {"id": "allowed", "allowed_providers": ["spare"]},
    "sk-nobody": {"id": "nobody", "denied_providers": ["eu", "us", "spare"]},
    "sk-fond": {"id": "fond", "preferred_providers": ["spare", "us"]},
    "sk-poor": {"id": "poor", "max_cost_per_request_usd": 0.01},
    "sk-few": {"id": "few", "allowed_models": ["m", "team-*"]},
    "sk-round": {"id": "round", "strategy": "round_robin"},
}

RULES: list[dict[str, Any]] = [
    {"id": "to-us", "when": {"header": {"x-team": ["red"]}}, "then": {"provider": "us"}},
    {"id": "to-pool", "when": {"tags": ["bulk"]}, "then": {"pool": ["us", "spare"], "strategy": "round_robin"}},
    {"id": "stop", "when": {"tags": ["banned"]}, "then": {"reject": {"reason": "rate_limit_exceeded"}}, "priority": 9},
    {
        "id": "closed",
        "when": {"model": ["closed"]},
        "then": {"reject": {"reason": "maintenance_mode", "message": "back at noon", "retry_after_s": 7}},
    },
    {"id": "mark", "when": {"header": {"x-team": ["blue*"]}}, "then": {"tags": ["bulk"]}, "priority": 5},
    {"id": "stamp", "when": {"header": {"x-team": ["*"]}}, "then": {"headers": {"X-Stamp": "ours"}}, "priority": 5},
    {
        "id": "chain",
        "when": {"all": [{"tenant": ["round"]}, {"not": {"stream": True}}, {"min_priority": "high"}]},
        "then": {"chain": [{"strategy": "least_connections"}, {"provider": "spare"}]},
    },
    {"id": "long", "when": {"min_prompt_tokens": 2000}, "then": {"provider": "spare"}},
    {"id": "off", "enabled": False, "when": {"model": ["m"]}, "then": {"reject": {"reason": "custom"}}},
    {"id": "never", "when": {"model": ["m"], "stream": True, "key": ["strict"]}, "then": {"provider": "spare"}},
    {"id": "elsewhere", "when": {"model": ["eu-only"], "tags": ["us"]}, "then": {"provider": "us"}},
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(*NAMES) as made:
        yield made
    assert made.upstream.protocol_errors == []


@pytest.fixture
def well(fleet: Fleet) -> None:
    """Every provider answers well, unless the test says otherwise."""
    fleet.plays = dict.fromkeys(NAMES, GOOD)


@pytest.fixture(scope="module")
def gateway_config(fleet: Fleet) -> dict[str, Any]:
    def models(price: Any, *more: Any) -> list[Any]:
        return [{"name": "m", "price": price}, "closed", "team-1", *more]

    small = {"name": "small", "context_window": 200, "max_output_tokens": 50}
    plain = {"name": "plain", "capabilities": {"stream": False, "tools": False, "vision": False}}
    providers = [
        fleet.provider("eu", region="eu", models=models(CHEAP, small, plain, "eu-only", "lent")),
        fleet.provider("us", region="us", models=models(DEAR)),
        fleet.provider("spare", models=models(None, {"name": "drained", "weight": 0}, "unpriced")),
    ]
    keys = [{"id": "app", "key": KEY}, {"id": "strict", "key": "sk-strict"}]
    keys += [{"id": tenant["id"], "key": key, "tenant": tenant["id"]} for key, tenant in TENANTS.items()]
    return config(
        providers,
        workers=2,
        routes=[{"model": "lent", "tiers": [["eu"]], "fallbacks": [{"model": "unpriced"}]}],
        auth={"keys": keys},
        tenants=[*TENANTS.values()],
        rules=RULES,
        aliases={"nick": "m"},
        routing={"retry": {"backoff": {"base_ms": 1}}},
    )


class Way:
    """Sends requests; tells which providers saw them, and what the caller was told."""

    def __init__(self, fleet: Fleet, gateway: Gateway) -> None:
        self.fleet = fleet
        self.gateway = gateway

    def __call__(self, model: str = "m", key: str = KEY, body: Any = None, **headers: str) -> tuple[set[str], Answer]:
        """Send eight requests alike; return who was asked, and the last answer."""
        since = len(self.fleet.arrivals)
        for _ in range(8):
            answer = ask(self.gateway, key, {**chat(model), **(body or {})}, **headers)
        return set(self.fleet.counts(since)), answer


@pytest.fixture
def way(fleet: Fleet, gateway: Gateway) -> Way:
    return Way(fleet, gateway)


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.document["error"]["code"]


# === Wishes ===


def test_without_a_wish_anybody(way: Way) -> None:
    went, answer = way()
    assert (answer.status, answer.headers["x-fastroute-strategy"]) == (200, "p2c")
    assert went <= set(NAMES)
    assert len(went) > 1


@pytest.mark.parametrize(
    ("headers", "went"),
    [
        ({"x_fastroute_exclude": "eu, us"}, {"spare"}),
        ({"x_fastroute_provider": "us"}, {"us"}),
        ({"x_fastroute_provider": "spare,us"}, {"spare"}),
        ({"x_fastroute_provider": "us", "x_fastroute_exclude": "us,eu"}, {"spare"}),
        ({"x_fastroute_region": "eu"}, {"eu"}),
        ({"x_fastroute_region": "us"}, {"us"}),
        # What an unpriced one costs nobody knows, so it is none that costs less.
        ({"x_fastroute_max_cost_usd": "0.01"}, {"eu"}),
    ],
)
def test_a_wish_is_granted(headers: dict[str, str], went: set[str], way: Way) -> None:
    found, answer = way(**headers)
    assert (found, answer.status) == (went, 200)


def test_a_preference_spills_when_the_preferred_one_fails(way: Way) -> None:
    way.fleet.plays["us"] = BAD
    went, answer = way(x_fastroute_provider="us,spare")
    assert (went, answer.status) == ({"us", "spare"}, 200)
    # By now its breaker is open: it is not asked any more.
    went, answer = way(x_fastroute_provider="us,spare")
    assert (went, answer.headers["x-fastroute-attempts"]) == ({"spare"}, "1")


def test_a_deadline_is_kept(way: Way) -> None:
    way.fleet.plays = {name: [Stall()] for name in NAMES}
    answer = ask(way.gateway, KEY, chat(), x_fastroute_timeout_ms="150")
    assert told(answer) == (504, "deadline_exceeded")
    way.gateway.wait_idle()


def test_a_latency_target_refuses_nobody(way: Way) -> None:
    way.fleet.plays = {name: [Pause(0.02), *GOOD] for name in NAMES}
    assert way(x_fastroute_latency_target_ms="1")[1].status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-fastroute-provider", "a b"),
        ("x-fastroute-provider", ","),
        ("x-fastroute-exclude", "nobody"),
        ("x-fastroute-region", ";"),
        ("x-fastroute-priority", "urgent"),
        ("x-fastroute-max-cost-usd", "-1"),
        ("x-fastroute-max-cost-usd", "NaN"),
        ("x-fastroute-timeout-ms", "0"),
        ("x-fastroute-latency-target-ms", "soon"),
        ("x-fastroute-session", "x" * 300),
    ],
)
def test_a_wish_that_cannot_be_understood_is_refused(name: str, value: str, way: Way) -> None:
    since = len(way.fleet.arrivals)
    answer = ask(way.gateway, KEY, chat(), **{name.replace("-", "_"): value})
    assert told(answer) == (400, "invalid_request_error")
    assert len(way.fleet.arrivals) == since


def test_wishes_do_not_go_upstream(way: Way) -> None:
    wishes = {"region": "eu", "session": "s", "tags": "x", "features": "beta", "priority": "low"}
    ask(way.gateway, KEY, chat(), **{f"x_fastroute_{name}": value for name, value in wishes.items()})
    assert not [name for name, _ in way.fleet.last.headers if name.lower().startswith(b"x-fastroute")]


# === Trace context ===

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_the_trace_is_passed_on_with_a_span_of_ours(way: Way) -> None:
    ask(way.gateway, KEY, chat(), traceparent=f"00-{TRACE}-b7ad6b7169203331-01", tracestate="vendor=1")
    sent = way.fleet.last
    match = re.fullmatch(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-01", sent.header(b"traceparent") or b"")
    assert match is not None
    assert match[1] == TRACE.encode()
    assert match[2] not in (b"b7ad6b7169203331", b"0" * 16)
    assert sent.header(b"tracestate") == b"vendor=1"


@pytest.mark.parametrize(
    "value",
    ["00-a-b-01", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-b7ad6b7169203331-01"],
)
def test_a_trace_that_is_none_is_ignored(value: str, way: Way) -> None:
    assert ask(way.gateway, KEY, chat(), traceparent=value, tracestate="vendor=1").status == 200
    assert way.fleet.last.header(b"traceparent") is None
    assert way.fleet.last.header(b"tracestate") is None


# === Refusals, by the gate that took the last one ===

IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}


@pytest.mark.parametrize(
    ("model", "key", "body", "headers", "refusal"),
    [
        ("m", KEY, {}, {"x_fastroute_exclude": "eu,us,spare"}, (400, "invalid_request_error")),
        ("m", KEY, {}, {"x_fastroute_region": "mars"}, (403, "region_not_available")),
        ("eu-only", KEY, {}, {"x_fastroute_region": "us"}, (403, "region_not_available")),
        ("unpriced", KEY, {}, {"x_fastroute_max_cost_usd": "5"}, (402, "budget_exceeded")),
        ("m", KEY, {}, {"x_fastroute_max_cost_usd": "0"}, (402, "budget_exceeded")),
        ("m", "sk-nobody", {}, {}, (403, "provider_not_allowed")),
        ("eu-only", "sk-denied", {}, {}, (403, "provider_not_allowed")),
        ("eu-only", KEY, {}, {"x_fastroute_tags": "us"}, (403, "provider_not_allowed")),
        ("small", KEY, {"user": "x" * 4000}, {}, (400, "context_length_exceeded")),
        ("small", KEY, {"max_tokens": 51}, {}, (400, "invalid_request_error")),
        ("plain", KEY, {"stream": True}, {}, (400, "unsupported_capability")),
        ("plain", KEY, TOOLS, {}, (400, "unsupported_capability")),
        ("plain", KEY, IMAGE, {}, (400, "unsupported_capability")),
        ("drained", KEY, {}, {}, (503, "no_healthy_provider")),
        ("nobody", KEY, {}, {}, (404, "model_not_found")),
        ("eu-only", "sk-few", {}, {}, (404, "model_not_found")),
    ],
)
def test_a_refusal_says_which_gate_it_was(
    model: str, key: str, body: Any, headers: dict[str, str], refusal: tuple[int, str], way: Way
) -> None:
    since = len(way.fleet.arrivals)
    answer = ask(way.gateway, key, {**chat(model), **body}, **headers)
    assert told(answer) == refusal, answer
    assert len(way.fleet.arrivals) == since
    assert "x-fastroute-attempts" not in answer.headers
    # Neither names of providers nor keys.
    text = answer.body.decode()
    assert not any(name in text.split('"') or f"up-{name}" in text for name in NAMES)


@pytest.mark.parametrize(("model", "body"), [("small", {"max_tokens": 50}), ("plain", {})])
def test_what_just_fits_passes(model: str, body: Any, way: Way) -> None:
    assert way(model, body=body)[1].status == 200


def test_when_all_rest_the_soonest_is_named(way: Way) -> None:
    for name, wait in (("eu", 40), ("us", 8), ("spare", 25)):
        way.fleet.plays[name] = json_response(429, {"error": {}}, [(b"retry-after", b"%d" % wait)])
    first = ask(way.gateway, KEY, chat())
    assert (first.status, first.headers["retry-after"], first.headers["x-fastroute-attempts"]) == (429, "8", "3")
    # They rest from the next millisecond on: within this one it is longer than eight seconds.
    time.sleep(0.005)
    answer = ask(way.gateway, KEY, chat())
    assert told(answer) == (429, "rate_limit_exceeded")
    assert 6 <= int(answer.headers["retry-after"]) <= 8


# === Rules ===


@pytest.mark.parametrize(
    ("key", "body", "headers", "went", "rule"),
    [
        (KEY, {}, {"x_team": "red"}, {"us"}, "stamp,to-us"),
        (KEY, {}, {"x_fastroute_tags": "bulk"}, {"us", "spare"}, "to-pool"),
        (KEY, {}, {"x_team": "blue-1"}, {"us", "spare"}, "mark,stamp,to-pool"),
        (KEY, {"user": "x" * 40_000}, {}, {"spare"}, "long"),
        ("sk-round", {}, {"x_fastroute_priority": "critical"}, {"spare"}, "chain"),
        ("sk-strict", {"stream": True}, {}, {"spare"}, "never"),
    ],
)
def test_a_rule_routes(key: str, body: Any, headers: dict[str, str], went: set[str], rule: str, way: Way) -> None:
    found, answer = way(key=key, body=body, **headers)
    assert (found, answer.status) == (went, 200)
    assert answer.headers["x-fastroute-rule"] == rule


@pytest.mark.parametrize(
    ("key", "body", "headers"),
    [
        ("sk-round", {"stream": True}, {"x_fastroute_priority": "critical"}),
        ("sk-round", {}, {"x_fastroute_priority": "normal"}),
        (KEY, {"stream": True}, {}),
        (KEY, {}, {}),
    ],
)
def test_a_rule_that_does_not_match_does_nothing(key: str, body: Any, headers: dict[str, str], way: Way) -> None:
    answer = ask(way.gateway, key, {**chat(), **body}, **headers)
    assert answer.status == 200
    assert "x-fastroute-rule" not in answer.headers


def test_rules_choose_the_strategy(way: Way) -> None:
    assert way(x_fastroute_tags="bulk")[1].headers["x-fastroute-strategy"] == "round_robin"
    assert way(key="sk-round")[1].headers["x-fastroute-strategy"] == "round_robin"
    answer = way(key="sk-round", x_fastroute_priority="high")[1]
    assert answer.headers["x-fastroute-strategy"] == "least_connections"


def test_a_rule_sets_a_field_of_the_request_upstream(way: Way) -> None:
    ask(way.gateway, KEY, chat(), x_team="green", x_stamp="forged")
    assert way.fleet.last.header(b"x-stamp") == b"ours"
    assert way.fleet.last.header(b"x-team") == b"green"
    ask(way.gateway, KEY, chat(), x_stamp="mine")
    assert way.fleet.last.header(b"x-stamp") == b"mine"


def test_a_rule_rejects(way: Way) -> None:
    since = len(way.fleet.arrivals)
    answer = ask(way.gateway, KEY, chat(), x_fastroute_tags="bulk,banned")
    assert (*told(answer), answer.headers["retry-after"]) == (429, "rate_limit_exceeded", "60")
    answer = ask(way.gateway, KEY, chat("closed"))
    assert (*told(answer), answer.headers["retry-after"]) == (503, "maintenance_mode", "7")
    assert answer.document["error"]["message"] == "back at noon"
    assert len(way.fleet.arrivals) == since


# === Tenants ===


@pytest.mark.parametrize(
    ("key", "went"),
    [
        ("sk-denied", {"us"}),
        ("sk-allowed", {"spare"}),
        ("sk-fond", {"spare"}),
        ("sk-poor", {"eu"}),
    ],
)
def test_a_tenant_has_its_own_providers(key: str, went: set[str], way: Way) -> None:
    found, answer = way(key=key)
    assert (found, answer.status) == (went, 200)


def test_a_rule_gives_a_tenant_nothing_it_may_not_use(way: Way) -> None:
    assert told(way(key="sk-allowed", x_team="red")[1]) == (403, "provider_not_allowed")


def test_a_tenant_s_preference_yields_to_the_request_s_and_spills(way: Way) -> None:
    assert way(key="sk-fond", x_fastroute_provider="eu")[0] == {"eu"}
    way.fleet.plays["spare"] = BAD
    went, answer = way(key="sk-fond")
    assert (went, answer.status) == ({"spare", "us"}, 200)


def test_a_tenant_s_models(way: Way) -> None:
    assert way("team-1", key="sk-few")[1].status == 200
    assert told(way("closed", key="sk-few")[1]) == (404, "model_not_found")


#: What each caller's requests may be sent to somebody for: rules and health apart, exactly those.
LISTED = {
    KEY: {"m", "closed", "team-1", "small", "plain", "eu-only", "drained", "unpriced", "nick", "waker", "lent"},
    "sk-few": {"m", "team-1"},
    "sk-allowed": {"m", "closed", "team-1", "drained", "unpriced", "nick", "lent"},
    "sk-denied": {"m", "closed", "team-1", "nick", "waker"},
    "sk-nobody": {"waker"},
}


def listed(gateway: Gateway, key: str, path: str, **headers: str) -> tuple[int, Any]:
    link = connect(gateway)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        link.request("GET", path, headers={"authorization": f"Bearer {key}", **named})
        response = link.getresponse()
        return response.status, json.loads(response.read())
    finally:
        link.close()


@pytest.mark.parametrize("key", LISTED)
def test_models_are_listed_as_far_as_they_may_be_used(key: str, way: Way) -> None:
    _, openai = listed(way.gateway, key, "/v1/models")
    assert {one["id"] for one in openai["data"]} == LISTED[key]
    _, anthropic = listed(way.gateway, key, "/v1/models", anthropic_version="2023-06-01")
    assert {one["id"] for one in anthropic["data"]} == LISTED[key]
    assert {anthropic["first_id"], anthropic["last_id"]} <= LISTED[key]
    _, gemini = listed(way.gateway, key, "/v1beta/models")
    assert {one["name"] for one in gemini["models"]} == {f"models/{name}" for name in LISTED[key]}


@pytest.mark.parametrize("key", LISTED)
def test_a_model_is_described_to_whom_a_request_for_it_is_served(key: str, way: Way) -> None:
    # What is closed a rule has closed for all, whoever may use it.
    for model in sorted(LISTED[KEY] - {"closed"} | {"team-2", "no-such"}):
        status, document = listed(way.gateway, key, f"/v1/models/{model}")
        asked = ask(way.gateway, key, chat(model))
        usable = asked.status not in (403, 404)
        assert (model, status) == (model, 200 if usable else 404)
        assert (model in LISTED[key]) == usable
        if not usable:
            assert document["error"]["code"] == "model_not_found"
        if asked.status == 404:
            assert document == asked.document
        assert listed(way.gateway, key, f"/v1beta/models/{model}")[0] == status


@pytest.mark.parametrize(
    ("headers", "path", "dialect"),
    [
        ({}, "/v1/models/no-such", "openai"),
        ({"anthropic_version": "2023-06-01"}, "/v1/models/no-such", "anthropic"),
        ({"x_api_key": "any"}, "/v1/models/no-such", "anthropic"),
        ({"x_goog_api_key": "any"}, "/v1/models/no-such", "gemini"),
        ({"x_api_key": "any"}, "/v1beta/models/no-such", "gemini"),
    ],
)
@pytest.mark.parametrize(("key", "status"), [(KEY, 404), ("sk-unknown", 401)])
def test_a_list_is_refused_in_the_dialect_it_is_asked_for_in(
    key: str, status: int, headers: dict[str, str], path: str, dialect: str, way: Way
) -> None:
    refused, document = listed(way.gateway, key, path, **headers)
    found = "anthropic" if document.get("type") == "error" else "gemini" if "status" in document["error"] else "openai"
    assert (refused, found) == (status, dialect)


def test_the_lower_of_two_cost_limits_holds(way: Way) -> None:
    assert told(way(key="sk-poor", x_fastroute_max_cost_usd="0")[1]) == (402, "budget_exceeded")
    assert way(key="sk-poor", x_fastroute_max_cost_usd="1000")[0] == {"eu"}


# === Explain ===


def removed(document: dict[str, Any]) -> dict[str, str | None]:
    return {one["provider"]: one["removed_by"] for one in document["candidates"]}


QUESTIONS: list[tuple[dict[str, Any], dict[str, str | None]]] = [
    ({"model": "m"}, {"eu": None, "us": None, "spare": None}),
    ({"model": "m", "tenant": "denied"}, {"eu": "tenant", "us": None, "spare": "tenant"}),
    ({"model": "m", "key": "poor"}, {"eu": None, "us": "cost", "spare": "cost"}),
    ({"model": "m", "headers": {"x-team": "red"}}, {"eu": "rule", "us": None, "spare": "rule"}),
    ({"model": "m", "headers": {"x-fastroute-region": "eu"}}, {"eu": None, "us": "region", "spare": "region"}),
    ({"model": "m", "headers": {"x-fastroute-exclude": "us"}}, {"eu": None, "us": "request", "spare": None}),
    ({"model": "plain", "stream": True}, {"eu": "capability"}),
    ({"model": "small", "max_tokens": 60}, {"eu": "max_output_tokens"}),
    ({"model": "small", "body": {"user": "x" * 4000}}, {"eu": "context_window"}),
    ({"model": "drained"}, {"spare": "drained"}),
]


@pytest.mark.parametrize(("question", "fate"), QUESTIONS)
def test_explain_tells_of_each_candidate(question: dict[str, Any], fate: dict[str, str | None], way: Way) -> None:
    since = len(way.fleet.arrivals)
    document = way.gateway.explain(question)
    assert removed(document) == fate
    chosen = [one["provider"] for one in document["candidates"] if one["chosen"]]
    left = [name for name, gate in fate.items() if gate is None]
    assert set(chosen) <= set(left)
    assert len(chosen) == bool(left)
    assert (document["choice"] is None) == (document["refusal"] is not None) == (not left)
    assert len(way.fleet.arrivals) == since
    assert "up-" not in json.dumps(document)


def test_explain_agrees_with_what_is_then_done(way: Way) -> None:
    """Where only one is left the choice is foretold; where none is, the refusal is."""
    for question, headers in (({"headers": {"x-team": "red"}}, {"x_team": "red"}), ({}, {"x_fastroute_exclude": "eu"})):
        document = way.gateway.explain({"model": "m", **question, "headers": {
            name.replace("_", "-"): value for name, value in headers.items()
        }})  # fmt: skip
        left = {name for name, gate in removed(document).items() if gate is None}
        assert way(**headers)[0] <= left
    document = way.gateway.explain({"model": "closed"})
    answer = ask(way.gateway, KEY, chat("closed"))
    assert (document["refusal"]["status"], document["refusal"]["code"]) == told(answer)
    assert document["refusal"]["retry_after_s"] == int(answer.headers["retry-after"])


def test_explain_knows_what_has_happened(way: Way) -> None:
    way.fleet.plays["eu"] = BAD
    for _ in range(5):
        ask(way.gateway, KEY, chat(), x_fastroute_provider="eu")
    way.gateway.wait_idle()
    document = way.gateway.explain({"model": "m", "headers": {"x-fastroute-provider": "eu"}})
    [eu] = [one for one in document["candidates"] if one["provider"] == "eu"]
    assert (eu["removed_by"], eu["breaker"]["state"], eu["health"]) == ("breaker", "open", "unhealthy")
    assert 50_000 < eu["breaker"]["retry_in_ms"] <= 66_000
    assert eu["window"]["failed"] == 5
    assert document["choice"].split("/")[0] in ("us", "spare")


def test_explain_on_the_command_line(way: Way) -> None:
    """By the configuration alone: what has happened is the admin API's to tell."""
    gateway = way.gateway
    arguments = ["explain", "-c", str(gateway.config_file), "--model", "nick"]
    done = gateway.command(*arguments, "--json", "--header", "x-team: red", "--tenant", "default")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["model"], document["rules"]) == ("m", ["stamp", "to-us"])
    assert removed(document) == {"eu": "rule", "us": None, "spare": "rule"}
    text = gateway.command(*arguments, "--header", "x-fastroute-region:us").stdout
    assert "-> us/" in text
    assert "removed by region" in text
    refused = gateway.command("explain", "-c", str(gateway.config_file), "--model", "closed").stdout
    assert "refused: 503 maintenance_mode: back at noon" in refused
    assert gateway.command(*arguments, "--key", "stranger").returncode == 2


@pytest.mark.parametrize(
    ("method", "key", "body", "status"),
    [
        ("POST", ADMIN_KEY, b'{"model":"m"}', 200),
        ("POST", "wrong", b'{"model":"m"}', 401),
        ("POST", KEY, b'{"model":"m"}', 401),
        ("GET", ADMIN_KEY, b"", 405),
        ("POST", ADMIN_KEY, b"{", 400),
        ("POST", ADMIN_KEY, b'{"model":"m","key":"who"}', 400),
        ("POST", ADMIN_KEY, b'{"model":"m","more":1}', 400),
        ("POST", ADMIN_KEY, b'{"model":"m","headers":{"x-fastroute-priority":"urgent"}}', 400),
        ("POST", ADMIN_KEY, b'{"model":""}', 400),
    ],
)
def test_who_may_ask_for_an_explanation(method: str, key: str, body: bytes, status: int, gateway: Gateway) -> None:
    link = HTTPConnection("127.0.0.1", gateway.admin_port, timeout=10)
    link.request(method, "/admin/v1/explain", body or None, {"authorization": f"Bearer {key}"})
    assert link.getresponse().status == status
    link.close()
