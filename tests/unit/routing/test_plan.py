"""From a request to the endpoint to try next: gates, precedence, failover chains."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._candidates_gates import GATE_NAMES, REQUEST, RULE, TENANT
from fastroute.errors import GatewayError
from fastroute.interfaces import Principal
from fastroute.routing.plan import _combine
from tests.unit.routing.stand import SECRET, Stand, provider

ABC = [provider("a"), provider("b"), provider("c")]


def header(**wishes: str) -> dict[str, str]:
    return {f"x-fastroute-{name.replace('_', '-')}": value for name, value in wishes.items()}


def tenant(**fields: Any) -> list[dict[str, Any]]:
    return [{"id": "acme", **fields}]


def rule(**then: Any) -> list[dict[str, Any]]:
    return [{"id": "r", "then": then}]


def removed(stand: Stand, plan: Any) -> dict[str, str | None]:
    """Return for each provider the gate that it falls at."""
    need = stand.planner.need(plan, stand.now_ms)
    gates = [plan.pool.candidates.why(at, need) for at in range(len(plan.pool.endpoints))]
    return {plan.pool.endpoints[at].provider: GATE_NAMES[gate] or None for at, gate in enumerate(gates)}


# --- who is a candidate


def test_every_provider_of_the_model_and_none_twice(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        assert sorted(stand.providers(stand.plan())) == ["a", "b", "c"]


def test_a_preferred_provider_is_tried_first_and_the_others_after_it(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        for first in "abc":
            assert stand.providers(stand.plan(headers=header(provider=first)))[0] == first
        assert stand.providers(stand.plan(headers=header(provider="c,a"))) == ["c", "a", "b"]


def test_preference_is_not_a_matter_of_the_strategy(tmp_path: Path) -> None:
    """Every strategy chooses within the best order that has anybody; a preferred one that is ill is passed over."""
    for name in ("p2c", "round_robin", "weighted_round_robin", "least_connections", "random"):
        folder = tmp_path / name
        folder.mkdir()
        with Stand(folder, routing={"strategy": name}) as stand:
            assert {stand.providers(stand.plan(headers=header(provider="b")))[0] for _ in range(20)} == {"b"}
            stand.cool("b", 5000)
            assert "b" not in stand.providers(stand.plan(headers=header(provider="b")))


def test_excluded_providers_are_no_candidates(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        plan = stand.plan(headers=header(exclude="a,c"))
        assert removed(stand, plan) == {"a": "request", "b": None, "c": "request"}
        assert stand.providers(plan) == ["b"]


@pytest.mark.parametrize("field", ["provider", "exclude"])
def test_a_provider_nobody_knows_is_refused(tmp_path: Path, field: str) -> None:
    with Stand(tmp_path) as stand, pytest.raises(GatewayError) as caught:
        stand.plan(headers=header(**{field: "a,nobody"}))
    assert (caught.value.status, caught.value.code) == (400, "invalid_request_error")


def test_tiers_are_left_when_nobody_in_them_is_left(tmp_path: Path) -> None:
    with Stand(tmp_path, routes=[{"model": "m", "tiers": [["b"], ["a", "c"]]}]) as stand:
        order = stand.providers(stand.plan())
        assert order[0] == "b"
        assert sorted(order[1:]) == ["a", "c"]
        stand.trip("b")
        assert sorted(stand.providers(stand.plan())) == ["a", "c"]


# --- precedence


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, "random"),
        ({"routes": [{"model": "m", "strategy": "p2c"}]}, "p2c"),
        ({"tenants": tenant(strategy="least_connections")}, "least_connections"),
        (
            {"routes": [{"model": "m", "strategy": "p2c"}], "tenants": tenant(strategy="least_connections")},
            "least_connections",
        ),
        (
            {
                "routes": [{"model": "m", "strategy": "p2c"}],
                "tenants": tenant(strategy="least_connections"),
                "rules": rule(strategy="round_robin"),
            },
            "round_robin",
        ),
        ({"rules": rule(strategy="round_robin")}, "round_robin"),
        # What only says where to go leaves the strategy as it was.
        ({"tenants": tenant(strategy="least_connections"), "rules": rule(provider="a")}, "least_connections"),
        ({"rules": rule(pool=["a", "b"])}, "random"),
        ({"rules": rule(priority="high")}, "random"),
    ],
)
def test_the_strategy_is_the_rules_then_the_tenants_then_the_routes_then_everybodys(
    tmp_path: Path, config: dict[str, Any], wanted: str
) -> None:
    with Stand(tmp_path, *ABC, routing={"strategy": "random"}, **config) as stand:
        plan = stand.plan(tenant="acme" if "tenants" in config else "default")
        assert plan.chooser.name == plan.chooser.strategy.name == wanted
        assert plan.chooser.header == (b"x-fastroute-strategy", wanted.encode())


def test_a_chain_of_actions_keeps_what_each_has_said(tmp_path: Path) -> None:
    """A later action that has no strategy does not take the earlier one's back."""
    chain = [{"strategy": "least_connections"}, {"pool": ["a", "b"]}]
    with Stand(tmp_path, rules=rule(chain=chain)) as stand:
        plan = stand.plan()
        assert plan.chooser.name == "least_connections"
        assert sorted(stand.providers(plan)) == ["a", "b"]


def test_the_order_is_the_requests_then_the_tenants(tmp_path: Path) -> None:
    with Stand(tmp_path, tenants=tenant(preferred_providers=["c", "b"])) as stand:
        assert stand.providers(stand.plan(tenant="acme")) == ["c", "b", "a"]
        assert stand.providers(stand.plan(tenant="acme", headers=header(provider="a"))) == ["a", "c", "b"]
        assert stand.providers(stand.plan(tenant="acme", headers=header(provider="b"))) == ["b", "c", "a"]


def test_nobody_gives_back_what_another_has_forbidden(tmp_path: Path) -> None:
    """The gate that is named is the first of request, tenant, rule."""
    config = {"tenants": tenant(denied_providers=["a"]), "rules": rule(pool=["a", "b"])}
    with Stand(tmp_path, **config) as stand:
        plan = stand.plan(tenant="acme", headers=header(provider="a,c"))
        assert removed(stand, plan) == {"a": "tenant", "b": None, "c": "rule"}
        assert stand.providers(plan) == ["b"]
        plan = stand.plan(tenant="acme", headers=header(exclude="a,b"))
        assert removed(stand, plan) == {"a": "request", "b": "request", "c": "rule"}


@pytest.mark.parametrize(
    ("wished", "ceiling", "wanted"),
    [(None, None, -1), ("0.5", None, 5 * 10**11), (None, 0.25, 25 * 10**10), ("0.5", 0.25, 25 * 10**10),
     ("0.125", 0.25, 125 * 10**9), ("0", 0.25, 0), ("0.5", 0, 0)],
)  # fmt: skip
def test_the_lower_ceiling_on_the_price_holds(
    tmp_path: Path, wished: str | None, ceiling: float | None, wanted: int
) -> None:
    fields = {"max_cost_per_request_usd": ceiling} if ceiling is not None else {}
    with Stand(tmp_path, tenants=tenant(**fields)) as stand:
        headers = header(max_cost_usd=wished) if wished is not None else {}
        assert stand.plan(tenant="acme", headers=headers).terms.max_cost_pico == wanted


def test_an_unknown_tenant_finds_no_model_once_tenants_are_listed(tmp_path: Path) -> None:
    with Stand(tmp_path, tenants=tenant(allowed_models=["m"])) as stand:
        assert stand.refused(tenant="ghost").status == 404
        assert stand.providers(stand.plan(tenant="acme"))
    with Stand(tmp_path) as stand:
        assert stand.providers(stand.plan(tenant="ghost"))


def test_more_ranks_than_a_byte_counts(tmp_path: Path) -> None:
    """With a request's order over a tenant's there may be more places than fit; the last ones are shared."""
    names = [f"p{at:03}" for at in range(300)]
    with Stand(tmp_path, *map(provider, names), tenants=tenant(preferred_providers=names[:254])) as stand:
        plan = stand.plan(tenant="acme", headers=header(provider="p290,p280"))
        assert plan.terms.order is not None
        first = [name for name, _ in islice(stand.walk(plan), 4)]
        assert first == ["p290", "p280", "p000", "p001"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], (None, None)),
        ([(None, None, REQUEST)], (None, None)),
        ([(b"\1\2\0", None, REQUEST)], (b"\1\2\0", b"\0\0\2")),
        ([(b"\2\1\2", None, REQUEST), (b"\1\2\0", None, TENANT)], (b"\2\1\0", b"\0\0\3")),
        ([(b"\1\1\1", None, REQUEST), (b"\3\2\1", None, TENANT)], (b"\3\2\1", b"\0\0\0")),
        ([(b"\0\1\1", None, REQUEST), (b"\0\0\1", None, TENANT), (b"\0\0\0", None, RULE)], (b"\0\0\0", b"\2\3\4")),
        # An order that has been combined before keeps the gates it names.
        ([(b"\0\1\1", b"\3\0\0", 0), (b"\1\0\1", None, REQUEST)], (b"\0\0\1", b"\3\2\0")),
        ([(b"", None, REQUEST)], (b"", b"")),
    ],
)
def test_combining_orders(
    parts: list[tuple[bytes | None, bytes | None, int]], expected: tuple[bytes | None, ...]
) -> None:
    assert _combine(parts) == expected


# --- what the request is


def test_estimates_are_of_the_whole_body_and_learn_from_answers(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        short, long = stand.plan(), stand.plan(messages=[{"role": "user", "content": "x" * 4000}])
        assert long.prompt_tokens - short.prompt_tokens == pytest.approx(1000, abs=5)
        assert 0 < short.prefill_work < short.work
        for _ in range(2000):
            short.pool.learn(1000, 500, 30)
        again = stand.plan(messages=[{"role": "user", "content": "x" * 4000}])
        assert again.prompt_tokens == pytest.approx(2 * long.prompt_tokens, rel=0.01)
        assert again.output_tokens == pytest.approx(30, abs=1)


@pytest.mark.parametrize("text", ["hi", "你好世界" * 100, "\U0001f600" * 50])
def test_small_and_foreign_text_counts_for_something(tmp_path: Path, text: str) -> None:
    with Stand(tmp_path) as stand:
        ctx = stand.context(messages=[{"role": "user", "content": text}])
        plan = stand.planned(ctx)
        assert plan.prompt_tokens >= len(ctx.body) // 4
        assert plan.work > plan.prefill_work > 0


READS = {"routing": {"strategy": "consistent_hash"}}


def test_the_session_is_the_header_or_the_user(tmp_path: Path) -> None:
    with Stand(tmp_path, routing={"strategy": "consistent_hash"}) as stand:
        assert stand.plan().session == b""
        assert stand.plan(user="jo").session == b"jo"
        assert stand.plan(user="jo", headers=header(session="s-1")).session == b"s-1"


def test_what_a_strategy_may_know(tmp_path: Path) -> None:
    with Stand(tmp_path, tenants=tenant(), routing={"strategy": "prefix"}) as stand:
        ask = plan = stand.plan(tenant="acme", stream=True, headers=header(latency_target_ms="250"))
        assert (ask.tenant, ask.stream, ask.latency_target_ms) == ("acme", True, 250)
        assert ask.prompt[ask.prompt_start : ask.prompt_end] == b'[{"role": "user", "content": "hello"}]'
        stand.planner.choose(plan, 1234)
        assert plan.now_ms == 1234


def test_a_strategy_that_does_not_look_at_the_prompt_is_not_given_it(tmp_path: Path) -> None:
    with Stand(tmp_path, rules=[{"id": "r", "when": {"tags": ["long"]}, "then": {"strategy": "prefix"}}]) as stand:
        assert stand.plan(user="jo").prompt == stand.plan(user="jo").session == b""
        assert stand.plan(user="jo", headers=header(tags="long")).session == b"jo"


def test_what_one_request_needs_is_not_asked_of_the_next(tmp_path: Path) -> None:
    """Most requests need the same, and share it: those that need more must leave nothing behind."""
    able = provider("able", {"name": "m", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}}, region="eu")
    with Stand(tmp_path, able, provider("plain")) as stand:
        wishes = [
            header(region="eu"), {}, header(max_cost_usd="0.5"), {}, header(exclude="plain"), {},
            header(provider="able"), {}, header(max_cost_usd="0"),
        ]  # fmt: skip
        plans = [stand.plan(headers=wish) for wish in wishes]
        wanted = [{"able"}, {"able", "plain"}] * 4 + [set()]
        wanted[6] = {"able", "plain"}
        for _ in range(2):
            for plan, left in zip(plans, wanted, strict=True):
                assert {name for name, gate in removed(stand, plan).items() if gate is None} == left


def test_prompt_and_session_are_left_out_for_who_does_not_look_at_them(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        ask = stand.plan(user="jo", headers=header(session="s-1"))
        assert (ask.session, ask.prompt, ask.prompt_start, ask.prompt_end) == (b"", b"", 0, 0)


# --- capability, window, output, region, cost

LIMITED: list[tuple[dict[str, Any], dict[str, Any], str, int, str]] = [
    # (fields of the model, fields of the request, gate, status, code)
    ({"capabilities": {"stream": False}}, {"stream": True}, "capability", 400, "unsupported_capability"),
    ({"capabilities": {"tools": False}}, {"tools": [{}]}, "capability", 400, "unsupported_capability"),
    (
        {"capabilities": {"vision": False}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "capability", 400, "unsupported_capability",
    ),
    ({"context_window": 100}, {"messages": [{"role": "user", "content": "x" * 900}]}, "context_window", 400,
     "context_length_exceeded"),
    ({"context_window": 100}, {"max_tokens": 99}, "context_window", 400, "context_length_exceeded"),
    ({"max_output_tokens": 50}, {"max_tokens": 51}, "max_output_tokens", 400, "invalid_request_error"),
    ({"max_output_tokens": 50}, {"max_completion_tokens": 51}, "max_output_tokens", 400, "invalid_request_error"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "body", "gate", "status", "code"), LIMITED)
def test_an_endpoint_that_cannot_serve_the_request_is_no_candidate(
    tmp_path: Path, model: dict[str, Any], body: dict[str, Any], gate: str, status: int, code: str
) -> None:
    able = provider("able")
    with Stand(tmp_path, provider("unable", {"name": "m", **model}), able) as stand:
        plan = stand.plan(**body)
        assert removed(stand, plan) == {"unable": gate, "able": None}
        assert removed(stand, stand.plan()) == {"unable": None, "able": None}
        assert {stand.providers(stand.plan(**body))[0] for _ in range(4)} == {"able"}
        error = stand.refused(headers=header(exclude="able"), **body)
        assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "u"}}], [{"type": "input_image", "image_url": "u"}],
        [{"type": "image", "source": {"type": "base64"}}], [{"inlineData": {"mimeType": "image/png"}}],
        [{"file_data": {"file_uri": "u"}}],
    ],
)  # fmt: skip
def test_images_of_all_dialects_are_seen(tmp_path: Path, content: Any) -> None:
    blind = provider("blind", {"name": "m", "capabilities": {"vision": False}})
    with Stand(tmp_path, blind, provider("seeing")) as stand:
        plan = stand.plan(messages=[{"role": "user", "content": content}])
        assert removed(stand, plan)["blind"] == "capability"
        assert removed(stand, stand.plan(messages=[{"role": "user", "content": "an image"}]))["blind"] is None


def test_the_output_limit_of_a_gemini_request_is_read(tmp_path: Path) -> None:
    echo = {"id": "e", "type": "echo", "models": [{"name": "m", "max_output_tokens": 50}]}
    with Stand(tmp_path, echo) as stand:
        many = stand.context(dialect="gemini", generationConfig={"maxOutputTokens": 51})
        assert removed(stand, stand.planned(many)) == {"e": "max_output_tokens"}
        few = stand.context(dialect="gemini", generationConfig={"max_output_tokens": 50})
        assert removed(stand, stand.planned(few)) == {"e": None}


def test_regions(tmp_path: Path) -> None:
    places = [provider("eu1", region="eu"), provider("us1", region="us"), provider("anywhere")]
    with Stand(tmp_path, *places) as stand:
        assert sorted(stand.providers(stand.plan())) == ["anywhere", "eu1", "us1"]
        assert stand.providers(stand.plan(headers=header(region="eu"))) == ["eu1"]
        assert sorted(stand.providers(stand.plan(headers=header(region="eu,us")))) == ["eu1", "us1"]
        error = stand.refused(headers=header(region="mars"))
        assert (error.status, error.code) == (403, "region_not_available")


def test_a_ceiling_on_the_price_lets_nobody_through_whose_price_is_unknown(tmp_path: Path) -> None:
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    dear = {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 2000}
    places = [
        provider("cheap", {"name": "m", "price": price}),
        provider("dear", {"name": "m", "price": dear}),
        provider("unknown"),
    ]
    with Stand(tmp_path, *places) as stand:
        plan = stand.plan(max_tokens=100, headers=header(max_cost_usd="0.001"))
        assert removed(stand, plan) == {"cheap": None, "dear": "cost", "unknown": "cost"}
        assert removed(stand, stand.plan(max_tokens=100)) == {"cheap": None, "dear": None, "unknown": None}
        error = stand.refused(max_tokens=100, headers=header(max_cost_usd="0.000001"))
        assert (error.status, error.code) == (402, "budget_exceeded")


# --- what changes between attempts


def test_breaker_and_cooldown_are_gates_before_any_strategy(tmp_path: Path) -> None:
    """They hold although others are well: nobody waits for a total outage to look at them."""
    with Stand(tmp_path) as stand:
        stand.trip("a")
        stand.cool("b", 5000)
        plan = stand.plan()
        assert removed(stand, plan) == {"a": "breaker", "b": "cooldown", "c": None}
        assert stand.providers(plan) == ["c"]
        stand.now_ms += 5000
        assert removed(stand, stand.plan())["b"] is None


def test_a_cooldown_of_everybody_says_when_the_first_is_back(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        for name, for_ms in (("a", 9000), ("b", 3500), ("c", 60_000)):
            stand.cool(name, for_ms)
        error = stand.refused()
        assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 4)
        assert error.retry_safe


def test_open_breakers_of_everybody_say_when_the_first_may_be_probed(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        stand.trip("a", "b", "c")
        error = stand.refused()
        assert (error.status, error.code, error.retry_after_s) == (503, "no_healthy_provider", 60)
        stand.now_ms += 60_000
        assert stand.planner.choose(stand.plan(), stand.now_ms) >= 0


def test_an_open_breaker_is_probed_although_others_are_well(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        stand.trip("a")
        assert "a" not in stand.providers(stand.plan())
        stand.now_ms += 60_000
        assert "a" in stand.providers(stand.plan())


def test_an_idle_standby_is_a_candidate_after_a_day(tmp_path: Path) -> None:
    with Stand(tmp_path, routes=[{"model": "m", "tiers": [["a"], ["b", "c"]]}]) as stand:
        stand.succeed("b")
        for _ in range(24):
            stand.now_ms += 3_600_000
            stand.succeed("a")
        stand.trip("a")
        assert sorted(stand.providers(stand.plan())) == ["b", "c"]


def test_a_slow_provider_without_errors_stays_a_candidate(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        for _ in range(1000):
            stand.now_ms += 1000
            stand.succeed("a", cost_ms=10_000.0)
        assert removed(stand, stand.plan()) == {"a": None, "b": None, "c": None}
        assert stand.explain()["candidates"][0]["health"] == "healthy"


# --- chains


def chain(*fallbacks: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"model": "m", "tiers": [["a"]], "fallbacks": list(fallbacks), **more}]


BOTH = [provider("a"), provider("b"), provider("c", "m", "n"), provider("d", "n")]


def walked(stand: Stand, **request: Any) -> list[tuple[str, str]]:
    ctx = stand.context(**request)
    return list(stand.walk(stand.planned(ctx), ctx))


def test_a_chain_goes_on_where_the_route_ends(tmp_path: Path) -> None:
    with Stand(tmp_path, *BOTH, routes=chain({"model": "n"})) as stand:
        tried = walked(stand)
        assert tried[0] == ("a", "m")
        assert sorted(tried[1:]) == [("c", "n"), ("d", "n")]


def test_steps_of_all_kinds_in_their_order(tmp_path: Path) -> None:
    steps = [{"provider": "d", "model": "n"}, {"provider": "b"}, {"pool": ["c"], "strategy": "least_connections"}]
    routes = [{"model": "m", "tiers": [["a"], ["b"], ["c"]], "fallbacks": steps}]
    with Stand(tmp_path, *BOTH, routes=routes) as stand:
        ctx = stand.context()
        plan = stand.planned(ctx)
        plan.terms.order = b"\1\0\0\0"
        walk = stand.walk(plan, ctx)
        assert [next(walk) for _ in range(3)] == [("a", "m"), ("d", "n"), ("b", "m")]
        assert plan.chooser.name == "round_robin"
        assert next(walk) == ("c", "m")
        assert plan.chooser.name == "least_connections"
        assert list(walk) == []


def test_a_step_without_a_model_is_for_the_one_that_was_asked_for_and_nobody_is_tried_twice(tmp_path: Path) -> None:
    """Also after a step to another model, and also in a pool that the chain has come back to."""
    steps = [{"model": "n"}, {"pool": ["a", "b", "c"]}, {"model": "n"}, {"provider": "a"}]
    routes = [{"model": "m", "tiers": [["a", "b", "c"]], "fallbacks": steps}]
    with Stand(tmp_path, *BOTH, routes=routes) as stand:
        ctx = stand.context(headers=header(exclude="b"))
        plan = stand.planned(ctx)
        tried = list(stand.walk(plan, ctx))
        assert sorted(tried) == [("a", "m"), ("c", "m"), ("c", "n"), ("d", "n")]
        assert (plan.route.name, plan.model) == ("m", "m")


def test_one_pool_that_serves_many_models_is_another_request_for_each(tmp_path: Path) -> None:
    routes = [{"model": "gpt-*", "fallbacks": [{"model": "gpt-9"}, {"model": "gpt-8"}]}]
    with Stand(tmp_path, provider("a", "gpt-*"), routes=routes) as stand:
        ctx = stand.context("gpt-8")
        assert list(stand.walk(stand.planned(ctx), ctx)) == [("a", "gpt-8"), ("a", "gpt-9")]


def test_a_chain_does_not_lead_out_of_what_is_allowed(tmp_path: Path) -> None:
    config = {
        "routes": chain({"model": "n"}, {"model": "secret"}, {"model": "nowhere-*"}),
        "tenants": tenant(denied_providers=["c"], allowed_models=["m", "n"]),
    }
    places = [*BOTH, provider("e", "secret"), provider("f", "nowhere-*")]
    with Stand(tmp_path, *places, **config) as stand:
        assert walked(stand, tenant="acme") == [("a", "m"), ("d", "n")]
    with Stand(tmp_path, *places, **(config | {"rules": rule(pool=["a", "d"])})) as stand:
        assert walked(stand, tenant="acme") == [("a", "m"), ("d", "n")]


def test_a_chain_does_not_lead_to_a_model_that_the_key_may_not_use(tmp_path: Path) -> None:
    with Stand(tmp_path, *BOTH, routes=chain({"model": "n"})) as stand:
        ctx = stand.context()
        ctx.principal = Principal("k", "default", re.compile("m"))
        assert list(stand.walk(stand.planned(ctx), ctx)) == [("a", "m")]


def test_breakers_hold_along_a_chain(tmp_path: Path) -> None:
    places = [provider("a"), provider("d", "n"), provider("e", "n")]
    with Stand(tmp_path, *places, routes=chain({"model": "n"})) as stand:
        stand.trip("d")
        assert walked(stand) == [("a", "m"), ("e", "n")]


@pytest.mark.parametrize("kind", ["on_context_window", "on_content_policy"])
def test_another_chain_is_another_way(tmp_path: Path, kind: str) -> None:
    routes = chain({"provider": "b"}, **{kind: [{"model": "n"}]})
    with Stand(tmp_path, *BOTH, routes=routes) as stand:
        ctx = stand.context()
        plan = stand.planned(ctx)
        walk = stand.walk(plan, ctx)
        assert next(walk) == ("a", "m")
        stand.planner.divert(plan, getattr(plan.route, kind))
        assert stand.planner.advance(plan, ctx)
        assert sorted(stand.walk(plan, ctx)) == [("c", "n"), ("d", "n")]


# --- refusals


def test_no_refusal_holds_a_secret_or_a_name_of_ours(tmp_path: Path) -> None:
    """Every stage at which a request can end up with nobody, and what its caller is told."""
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    model = {"name": "m", "context_window": 1000, "max_output_tokens": 500, "price": price,
             "capabilities": {"tools": False}}  # fmt: skip
    config: dict[str, Any] = {
        "tenants": [*tenant(denied_providers=["inside-1", "inside-2"]), {"id": "default"}],
        "rules": [
            {"id": "shut", "when": {"header": {"x-shut": ["yes"]}}, "then": {"reject": {"reason": "maintenance_mode"}}},
            {"id": "else", "when": {"header": {"x-else": ["yes"]}}, "then": {"provider": "outside"}},
        ],
    }
    places = [provider("inside-1", model), provider("inside-2", model), provider("outside", "n")]
    with Stand(tmp_path, *places, **config) as stand:
        long = [{"role": "user", "content": "x" * 9000}]
        refusals = {
            "model": stand.refused("unheard-of"),
            "request": stand.refused(headers=header(exclude="inside-1,inside-2")),
            "tenant": stand.refused(tenant="acme"),
            "rule": stand.refused(headers={"x-else": "yes"}),
            "rejected": stand.refused(headers={"x-shut": "yes"}),
            "capability": stand.refused(tools=[{}]),
            "context window": stand.refused(messages=long),
            "output": stand.refused(max_tokens=501),
            "region": stand.refused(headers=header(region="eu")),
            "cost": stand.refused(headers=header(max_cost_usd="0.000001")),
        }
        for name in ("inside-1", "inside-2"):
            stand.cool(name, 1000)
        refusals["cooldown"] = stand.refused()
        stand.now_ms += 1000
        stand.trip("inside-1", "inside-2")
        refusals["breaker"] = stand.refused()
    told = [(error.status, error.code, error.message) for error in refusals.values()]
    assert len(set(told)) == len(told), "two stages that sound the same"
    for error in refusals.values():
        text = f"{error.status} {error.code} {error.message} {error.param}"
        assert error.status in (400, 402, 403, 404, 429, 503)
        assert not any(word in text for word in (SECRET, "inside", "outside", "acme", "shut", "else")), text
    assert {stage for stage, error in refusals.items() if error.retry_after_s is not None} == {
        "rejected", "cooldown", "breaker",
    }  # fmt: skip


def test_a_strategy_that_reads_prompts_is_told_what_comes_before_them(tmp_path: Path) -> None:
    claude = [provider(name, type="anthropic") for name in "ab"]
    with Stand(tmp_path, *claude, routing={"strategy": "prefix"}) as stand:
        plan = stand.plan(dialect="anthropic", system="be kind", tools=[{"name": "f"}])
        told = [json.loads(plan.prompt[start:end]) for start, end in plan.preamble]
        assert told == [[{"name": "f"}], "be kind"]
