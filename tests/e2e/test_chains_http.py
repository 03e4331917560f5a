"""Where a request goes when its first choice has failed: fallbacks, and the chains for length and content."""

from collections.abc import Iterator
from typing import Any

import pytest

from fastroute.upstream.mock import Cut, Send, json_response
from tests.e2e.client import Answer, ask, chat
from tests.e2e.fleet import BAD, GOOD, KEY, Fleet, Gate, config
from tests.e2e.harness import Gateway

pytestmark = pytest.mark.usefixtures("unhurt", "well")

ERROR = {"message": "scripted"}
TOO_LONG = json_response(400, {"error": {**ERROR, "code": "context_length_exceeded"}})
TOO_RUDE = json_response(400, {"error": {**ERROR, "code": "content_filter"}})
BUSY = json_response(429, {"error": ERROR}, [(b"retry-after", b"20")])
NAMES = ("a", "b", "c", "d", "big", "liberal")


def route(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "tiers": [["a"]], **more}


ROUTES = [
    route("by-provider", fallbacks=[{"provider": "b"}]),
    route("by-pool", fallbacks=[{"pool": ["b", "c"], "strategy": "round_robin"}]),
    route("by-model", fallbacks=[{"model": "large"}]),
    route("long-chain", fallbacks=[{"provider": "b"}, {"pool": ["c", "d"]}, {"model": "large"}]),
    route("long-way", on_context_window=[{"model": "large"}], fallbacks=[{"provider": "b"}]),
    route("rude-way", on_content_policy=[{"provider": "liberal"}], fallbacks=[{"provider": "b"}]),
    route("no-way"),
    route("narrow", on_context_window=[{"model": "large"}]),
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(*NAMES) as made:
        yield made
    assert made.upstream.protocol_errors == []


@pytest.fixture(scope="module")
def gateway_config(fleet: Fleet) -> dict[str, Any]:
    models: list[Any] = [one["model"] for one in ROUTES]
    providers = [fleet.provider(name, models=models) for name in "abcd"]
    providers[0]["models"] = [*models[:-1], {"name": "narrow", "context_window": 100}]
    large = fleet.provider("big", models=[{"name": "large", "upstream": "large-2"}])
    liberal = fleet.provider("liberal", models=["rude-way"])
    retry = {"max_attempts": 8, "backoff": {"base_ms": 1}, "budget": {"min_per_s": 1000}}
    return config([*providers, large, liberal], workers=2, routes=ROUTES, routing={"retry": retry})


@pytest.fixture
def well(fleet: Fleet) -> None:
    """Every provider answers well, unless the test says otherwise."""
    fleet.plays = dict.fromkeys(NAMES, GOOD)


class Way:
    """The providers that a request went to, in their order."""

    def __init__(self, fleet: Fleet, gateway: Gateway) -> None:
        self.fleet = fleet
        self.gateway = gateway

    def __call__(self, model: str, **more: Any) -> tuple[list[str], Answer]:
        since = len(self.fleet.arrivals)
        answer = ask(self.gateway, KEY, chat(model, **more))
        return [arrival.name for arrival in self.fleet.arrivals[since:]], answer


@pytest.fixture
def way(fleet: Fleet, gateway: Gateway) -> Way:
    return Way(fleet, gateway)


# === Fallbacks ===


@pytest.mark.parametrize("model", [one["model"] for one in ROUTES])
def test_who_is_well_needs_no_fallback(model: str, way: Way) -> None:
    went, answer = way(model)
    assert (went, answer.status, answer.headers["x-fastroute-attempts"]) == (["a"], 200, "1")


@pytest.mark.parametrize("play", [BAD, BUSY, [Send(b"HTTP/1.1 200"), Cut()]], ids=["500", "429", "reset"])
def test_a_provider_stands_in(play: Any, way: Way) -> None:
    way.fleet.plays["a"] = play
    went, answer = way("by-provider")
    assert (went, answer.status) == (["a", "b"], 200)
    assert (answer.headers["x-fastroute-provider"], answer.headers["x-fastroute-attempts"]) == ("b", "2")


def test_a_pool_stands_in_with_a_strategy_of_its_own(way: Way) -> None:
    way.fleet.plays["a"] = BAD
    found = []
    for _ in range(4):
        went, answer = way("by-pool")
        assert (went[0], answer.status, answer.headers["x-fastroute-strategy"]) == ("a", 200, "round_robin")
        found += went[1:]
    assert sorted(found) == ["b", "b", "c", "c"] or len(set(found)) == 2


def test_another_model_stands_in(way: Way) -> None:
    way.fleet.plays["a"] = BAD
    went, answer = way("by-model")
    assert (went, answer.status) == (["a", "big"], 200)
    assert answer.headers["x-fastroute-model"] == "large"
    assert b'"large-2"' in way.fleet.last.body
    record = way.gateway.records()[-1]
    assert (record["model"], record["upstream_model"], record["provider"]) == ("by-model", "large-2", "big")


def test_a_chain_is_walked_in_its_order(way: Way) -> None:
    way.fleet.plays.update(dict.fromkeys("abcd", BAD))
    went, answer = way("long-chain")
    assert went[:2] == ["a", "b"]
    assert set(went[2:4]) == {"c", "d"}
    assert went[4:] == ["big"]
    assert (answer.status, answer.headers["x-fastroute-attempts"]) == (200, "5")


def test_a_chain_whose_first_is_open_begins_at_the_second(way: Way) -> None:
    """What the breaker of the first one has learnt costs later requests nothing."""
    way.fleet.plays["a"] = BAD
    for _ in range(5):
        assert way("by-provider")[0] == ["a", "b"]
    went, answer = way("by-provider")
    assert (went, answer.status, answer.headers["x-fastroute-attempts"]) == (["b"], 200, "1")


def test_the_end_of_a_chain_is_the_last_error(way: Way) -> None:
    way.fleet.plays.update(dict.fromkeys([*"abcd", "big"], BAD))
    went, answer = way("long-chain")
    assert went[:2] == ["a", "b"]
    assert "big" in went
    assert answer.status == 500
    assert answer.document == {"error": {"message": "scripted"}}


# === Too long, too rude ===


def test_what_is_too_long_goes_to_a_larger_model(way: Way) -> None:
    way.fleet.plays["a"] = TOO_LONG
    went, answer = way("long-way")
    assert (went, answer.status, answer.headers["x-fastroute-model"]) == (["a", "big"], 200, "large")


def test_what_is_known_to_be_too_long_is_not_sent(way: Way) -> None:
    went, answer = way("narrow", user="x" * 2000)
    assert (went, answer.status, answer.headers["x-fastroute-model"]) == (["big"], 200, "large")
    assert way("narrow")[0] == ["a"]


def test_what_is_refused_for_its_content_goes_to_another(way: Way) -> None:
    way.fleet.plays["a"] = TOO_RUDE
    went, answer = way("rude-way")
    assert (went, answer.status) == (["a", "liberal"], 200)


@pytest.mark.parametrize(("model", "play"), [("rude-way", TOO_LONG), ("long-way", TOO_RUDE), ("no-way", TOO_LONG)])
def test_without_a_chain_for_it_the_refusal_is_the_answer(model: str, play: Any, way: Way) -> None:
    """A fallback would refuse it too: the chain for failures is not that for refusals."""
    way.fleet.plays["a"] = play
    went, answer = way(model)
    assert (went, answer.status) == (["a"], 400)
    assert answer.document["error"]["message"] == "scripted"


def test_a_larger_model_that_refuses_too_ends_it(way: Way) -> None:
    way.fleet.plays.update(a=TOO_LONG, big=TOO_LONG)
    went, answer = way("long-way")
    assert (went, answer.status) == (["a", "big"], 400)


def test_refusals_open_no_breaker(way: Way) -> None:
    way.fleet.plays["a"] = TOO_LONG
    for _ in range(12):
        assert way("long-way")[0] == ["a", "big"]


# === Retry-After ===


def busy(seconds: int) -> Any:
    return json_response(429, {"error": ERROR}, [(b"retry-after", b"%d" % seconds)])


def test_the_soonest_of_all_is_when_to_come_back(way: Way) -> None:
    way.fleet.plays.update(a=busy(40), b=busy(9), c=busy(25))
    went, answer = way("by-pool")
    assert went[0] == "a"
    assert set(went[1:]) == {"b", "c"}
    assert (answer.status, answer.headers["retry-after"]) == (429, "9")
    # All are cooling down now: nobody is asked, and the wait is what is left of the shortest, whoever is first.
    went, answer = way("by-pool")
    assert (went, answer.status) == ([], 429)
    assert answer.document["error"]["code"] == "rate_limit_exceeded"
    assert 7 <= int(answer.headers["retry-after"]) <= 9


def test_who_rests_counts_too(way: Way) -> None:
    """One was asked and wants a minute; another was not asked, as it will be back in nine seconds."""
    way.fleet.plays.update(a=BAD, b=busy(9))
    way("by-provider")
    way.fleet.plays["a"] = busy(60)
    went, answer = way("by-provider")
    assert went == ["a"]
    assert answer.status == 429
    assert 7 <= int(answer.headers["retry-after"]) <= 9


def test_a_cooldown_passes_over_the_one_it_is_for(way: Way) -> None:
    way.fleet.plays["a"] = busy(30)
    assert way("by-provider")[0] == ["a", "b"]
    way.fleet.plays["a"] = GOOD
    assert way("by-provider")[0] == ["b"]


@pytest.mark.parametrize("field", [(b"retry-after", b"soon"), (b"retry-after", b"-5"), (b"x-none", b"")])
def test_a_wait_that_cannot_be_understood_is_a_second(field: tuple[bytes, bytes], way: Way) -> None:
    way.fleet.plays["a"] = json_response(429, {"error": ERROR}, [field])
    _, answer = way("no-way")
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")


def test_a_fallback_in_use_counts_where_it_is(way: Way, fleet: Fleet) -> None:
    """In flight counts are those of the endpoint that has the request, not of the one that failed."""
    fleet.plays.update(a=BAD, b=Gate(fleet))
    gate = fleet.plays["b"]
    assert isinstance(gate, Gate)
    gate.open()
    assert way("by-provider")[0] == ["a", "b"]
    way.gateway.wait_idle()
