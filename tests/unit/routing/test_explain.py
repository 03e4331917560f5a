"""Why a request would go where it goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.attempts import FAILED, OK
from fastroute.errors import GatewayError
from fastroute.routing.explain import Document, health_score, health_state, latency_share
from tests.unit.routing.stand import SECRET, Stand, provider


def candidate(document: Document, name: str) -> dict[str, Any]:
    [found] = [one for one in document["candidates"] if one["provider"] == name]
    assert isinstance(found, dict)
    return found


def gates(document: Document) -> dict[str, str | None]:
    return {one["provider"]: one["removed_by"] for one in document["candidates"]}


def test_the_weight_in_force_is_less_in_poor_health(tmp_path: Path) -> None:
    for by_health, weight in ((True, 36.0), (False, 100.0)):
        options = {"strategy": "random", "options": {"health_weights": by_health}}
        with Stand(tmp_path, routing=options) as stand:
            for verdict in (FAILED, FAILED, FAILED, FAILED, OK):
                stand.attempt("a", verdict)
            document = stand.explain()
            assert candidate(document, "a")["weight"] == 100
            assert candidate(document, "a")["weight_in_force"] == pytest.approx(weight)
            assert candidate(document, "b")["weight_in_force"] == 100.0


# --- health, for display


def test_nobody_is_ill_before_anybody_has_asked() -> None:
    assert health_state(0, 0, 0) == "healthy"
    assert health_score(0, 0) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("ok", "failed", "breaker", "state"),
    [
        (100, 0, 0, "healthy"), (1, 0, 0, "healthy"), (1000, 1, 0, "healthy"), (95, 1, 0, "healthy"),
        (0, 1, 0, "degraded"), (10, 1, 0, "degraded"), (80, 20, 0, "degraded"), (3, 4, 0, "degraded"),
        (0, 4, 0, "unhealthy"), (10, 90, 0, "unhealthy"), (0, 10**6, 0, "unhealthy"),
        (0, 0, 1, "unhealthy"), (10**6, 0, 1, "unhealthy"), (0, 0, 2, "degraded"), (100, 0, 2, "degraded"),
    ],
)  # fmt: skip
def test_states(ok: int, failed: int, breaker: int, state: str) -> None:
    assert health_state(ok, failed, breaker) == state


def test_the_score_grows_with_every_good_answer_and_falls_with_every_bad_one() -> None:
    for ok in range(50):
        for failed in range(50):
            score = health_score(ok, failed)
            assert 0 < score < 1
            assert health_score(ok + 1, failed) > score > health_score(ok, failed + 1)


# --- documents


def test_the_choice_its_strategy_and_everybodys_load(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        stand.succeed("a", cost_ms=200.0)
        document = stand.explain(headers={"x-fastroute-provider": "a"})
        assert document["choice"] == "a/k1/m"
        assert [one["endpoint"] for one in document["candidates"] if one["chosen"]] == ["a/k1/m"]
        assert (document["model"], document["strategy"], document["rules"]) == ("m", "round_robin", [])
        assert document["refusal"] is None
        assert gates(document) == {"a": None, "b": None, "c": None}
        a = candidate(document, "a")
        assert a["load"] == pytest.approx(200.0)
        assert a["expected_ttft_ms"] == pytest.approx(200.0, rel=0.01)
        assert (a["upstream_model"], a["weight"], a["window"]) == ("m", 100, {"ok": 1, "failed": 0})
        assert a["ttft_ms"] == {
            "p50": pytest.approx(200.0, rel=0.1),
            "p95": pytest.approx(200.0, rel=0.1),
            "samples": 1,
        }
        assert candidate(document, "b")["ttft_ms"] == {"p50": None, "p95": None, "samples": 0}
        assert a["breaker"] == {"state": "closed", "probes": 0, "retry_in_ms": 0}


def test_nobody_knows_how_long_a_stranger_takes(tmp_path: Path) -> None:
    """No time is not a time of nothing: neither for one nobody has asked, nor for one nobody has asked in long."""
    with Stand(tmp_path) as stand:
        stand.succeed("a", cost_ms=200.0)
        times = [one["expected_ttft_ms"] for one in stand.explain()["candidates"]]
        assert times == [pytest.approx(200.0, rel=0.01), None, None]
        stand.now_ms += 600_000
        assert candidate(stand.explain(), "a")["expected_ttft_ms"] is None


def test_asking_counts_nothing_and_sends_nothing(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        before = Path(tmp_path / "segment").read_bytes()
        for _ in range(10):
            stand.explain(stream=True, max_tokens=10)
        assert Path(tmp_path / "segment").read_bytes() == before
        assert stand.in_flight() == [0, 0, 0]


def test_the_gate_of_everybody_who_is_out(tmp_path: Path) -> None:
    config = {
        "tenants": [{"id": "acme", "denied_providers": ["denied"]}],
        "rules": [{"id": "r", "then": {"pool": ["open", "excluded", "denied", "tripped", "cooled"]}}],
    }
    places = [provider(name) for name in ("open", "excluded", "denied", "ruled", "tripped", "cooled")]
    with Stand(tmp_path, *places, **config) as stand:
        stand.trip("tripped")
        stand.cool("cooled", 5000)
        stand.now_ms += 1000
        document = stand.explain(tenant="acme", headers={"x-fastroute-exclude": "excluded"})
        assert gates(document) == {
            "open": None, "excluded": "request", "denied": "tenant", "ruled": "rule", "tripped": "breaker",
            "cooled": "cooldown",
        }  # fmt: skip
        assert document["choice"] == "open/k1/m"
        assert document["rules"] == ["r"]
        assert not document["panicking"]
        tripped = candidate(document, "tripped")
        assert (tripped["health"], tripped["window"]) == ("unhealthy", {"ok": 0, "failed": 5})
        assert tripped["breaker"] == {"state": "open", "probes": 0, "retry_in_ms": 59_000}


@pytest.mark.parametrize(
    ("model", "question", "gate"),
    [
        ({"weight": 0}, {}, "drained"),
        ({"capabilities": {"stream": False}}, {"stream": True}, "capability"),
        ({"context_window": 3}, {}, "context_window"),
        ({"max_output_tokens": 10}, {"max_tokens": 11}, "max_output_tokens"),
        ({}, {"headers": {"x-fastroute-region": "eu"}}, "region"),
        ({}, {"headers": {"x-fastroute-max-cost-usd": "1"}}, "cost"),
    ],
)
def test_the_other_gates(tmp_path: Path, model: dict[str, Any], question: dict[str, Any], gate: str) -> None:
    with Stand(tmp_path, provider("a", {"name": "m", **model})) as stand:
        document = stand.explain(**question)
        assert gates(document) == {"a": gate}
        assert document["choice"] is None
        error = stand.refused(
            headers=question.get("headers"),
            **{name: value for name, value in question.items() if name in ("stream", "max_tokens")},
        )
        assert document["refusal"] == {
            "status": error.status,
            "code": error.code,
            "message": error.message,
            "retry_after_s": error.retry_after_s,
        }


def test_a_rejection_by_rule_is_an_answer_too(tmp_path: Path) -> None:
    with Stand(tmp_path, rules=[{"id": "r", "then": {"reject": {"reason": "maintenance_mode"}}}]) as stand:
        document = stand.explain()
        assert (document["choice"], document["candidates"]) == (None, [])
        assert document["refusal"]["code"] == "maintenance_mode"
        assert document["refusal"]["retry_after_s"] == 60


def test_an_unknown_model_is_an_answer_too(tmp_path: Path) -> None:
    with Stand(tmp_path) as stand:
        assert stand.explain("unheard-of")["refusal"]["status"] == 404


@pytest.mark.parametrize(
    "question",
    [
        {"key": "nobody"},
        {"headers": {"x-fastroute-timeout-ms": "soon"}},
        {"body": {"messages": 5}},
        {"body": {"model": "m", "n": 10**6}},
    ],
)
def test_nonsense_is_refused(tmp_path: Path, question: dict[str, Any]) -> None:
    with Stand(tmp_path) as stand, pytest.raises(GatewayError) as caught:
        stand.explain(**question)
    assert caught.value.status == 400


def test_prices_and_the_chain(tmp_path: Path) -> None:
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    steps = [{"provider": "b", "strategy": "random"}, {"model": "m"}]
    places = [provider("a", {"name": "m", "price": price}), provider("b")]
    with Stand(tmp_path, *places, routes=[{"model": "m", "fallbacks": steps}]) as stand:
        document = stand.explain(max_tokens=1000, headers={"x-fastroute-max-cost-usd": "1"})
        tokens = document["prompt_tokens"]
        assert candidate(document, "a")["estimated_cost_nano_usd"] == tokens * 1000 + 1000 * 2000
        assert candidate(document, "b")["estimated_cost_nano_usd"] is None
        assert document["fallbacks"] == [
            {"providers": ["b"], "strategy": "random", "model": None},
            {"providers": None, "strategy": None, "model": "m"},
        ]


def test_a_panic_is_told(tmp_path: Path) -> None:
    names = [f"p{at}" for at in range(6)]
    with Stand(tmp_path, *map(provider, names)) as stand:
        stand.trip(*names[:3])
        assert not stand.explain()["panicking"]
        stand.trip(names[3])
        document = stand.explain()
        assert document["panicking"]
        assert set(gates(document).values()) == {None}


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_all_dialects(tmp_path: Path, dialect: str) -> None:
    with Stand(tmp_path, {"id": "e", "type": "echo", "models": ["m"]}) as stand:
        assert stand.explain(dialect=dialect, stream=True, body={"contents": []})["choice"] == "e/none/m"


def test_no_document_holds_a_secret(tmp_path: Path) -> None:
    config = {"rules": [{"id": "r", "then": {"headers": {"x-cost-center": SECRET}}}]}
    with Stand(tmp_path, provider("a", headers={"x-extra": SECRET}), provider("b"), **config) as stand:
        stand.trip("a")
        headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
        documents = [
            stand.explain(key="k", headers=headers, body={"messages": [{"role": "user", "content": SECRET}]}),
            stand.explain("unheard-of", headers=headers),
            stand.explain(headers={**headers, "x-fastroute-exclude": "a,b"}),
        ]
        assert SECRET not in json.dumps(documents)


@pytest.mark.parametrize(
    ("cost", "reference", "expected"),
    [(0.0, 100.0, 1.0), (100.0, 0.0, 1.0), (50.0, 100.0, 1.0), (100.0, 100.0, 1.0), (400.0, 100.0, 0.25)],
)
def test_latency_lowers_a_score_below_the_median_only(cost: float, reference: float, expected: float) -> None:
    assert latency_share(cost, reference) == pytest.approx(expected)
