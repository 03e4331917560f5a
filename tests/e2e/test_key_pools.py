"""Key pools over HTTP, with several workers: who is used when, and who is out."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.counters import ATOMIC, REQUESTS, Segment
from fastroute.upstream.mock import Pause, Request, Script, json_response
from tests.e2e.client import chat
from tests.e2e.fleet import BAD, GOOD, Gate, Load, config, wake
from tests.e2e.harness import Gateway, wait_until
from tests.e2e.keys import KeyServer
from tests.e2e.test_breaker_http import Background

#: Claims and probes are exact over several processes only where shared words are changed atomically.
WORKERS = 4 if ATOMIC else 1
#: A short rest, one probe. There are more models than an endpoint's breaker would need to open by itself: with every
#: model asked for in turn, a key has its minimum sample long before any of its endpoints has.
MODELS = [f"m{number}" for number in range(10)]
BREAKER = {
    "failure_threshold": 10_000, "min_requests": 20, "timeout_ms": 300, "max_timeout_ms": 300, "success_threshold": 1,
    "panic_percent": 0,
}  # fmt: skip
LASTING = {"timeout_ms": 60_000, "max_timeout_ms": 60_000}


def in_turn(number: int) -> dict[str, object]:
    """Ask for one model after the other."""
    return chat(MODELS[number % len(MODELS)])


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer("k1", "k2", "k3") as made:
        yield made


@contextmanager
def running(provider: Any, directory: Path, **more: Any) -> Iterator[Gateway]:
    with Gateway(config([provider], WORKERS, **more), directory) as gateway:
        wake(gateway)
        yield gateway
        gateway.wait_idle()
    assert "Traceback" not in gateway.log


def by_worker(gateway: Gateway, endpoints: int) -> list[list[int]]:
    """Return, for each worker, how many requests it has sent to each of the first endpoints."""
    segment = Segment.open(os.path.join(gateway.state_dir, "segment"))
    try:
        return [[segment.get(worker, row, REQUESTS) for row in range(endpoints)] for worker in range(segment.workers)]
    finally:
        segment.close()


def removed(gateway: Gateway, model: str = "m") -> dict[str, str]:
    """Return the keys that a request for the model cannot be sent with now, and the gate that removes each."""
    candidates = gateway.explain({"model": model})["candidates"]
    assert candidates
    return {one["endpoint"].split("/")[1]: one["removed_by"] for one in candidates if one["removed_by"]}


# === Which key ===


def test_round_robin_is_exact_in_each_worker(server: KeyServer, tmp_path: Path) -> None:
    with running(server.provider("round_robin"), tmp_path) as gateway:
        assert {reply.status for reply in Load(gateway).send(600)} == {200}
        gateway.wait_idle()
        for counts in by_worker(gateway, 3):
            assert max(counts) - min(counts) <= 1
        counts = server.counts()
        assert sum(counts.values()) == 600
        assert max(counts.values()) - min(counts.values()) <= WORKERS


def test_weights_are_exact_in_each_worker(server: KeyServer, tmp_path: Path) -> None:
    weights = {"k1": 1, "k2": 3, "k3": 2}
    keys = [{"key": key, "id": key, "weight": weight} for key, weight in weights.items()]
    with running(server.provider("weighted", keys=keys), tmp_path) as gateway:
        assert {reply.status for reply in Load(gateway).send(1200)} == {200}
        gateway.wait_idle()
        for counts in by_worker(gateway, 3):
            for count, weight in zip(counts, weights.values(), strict=True):
                # Of every six, each key has exactly its weight.
                assert sum(counts) // 6 * weight <= count <= -(-sum(counts) // 6) * weight
        for key, weight in weights.items():
            assert abs(server.counts()[key] - 200 * weight) <= 3 * WORKERS


def test_time_window_uses_no_key_twice_while_another_is_free(tmp_path: Path) -> None:
    """As many requests at once as there are keys, over all workers: each key is used once. And so again and again."""
    names = [f"k{number}" for number in range(16)]
    with KeyServer(*names) as server, running(server.provider("time_window"), tmp_path) as gateway:
        load = Load(gateway, clients=16)
        for round_ in range(1, 21):
            assert {reply.status for reply in load.send(16)} == {200}
            assert server.counts() == dict.fromkeys(names, round_)
            gateway.wait_idle()
            shared = sum(1 for counts in by_worker(gateway, 16) if sum(counts))
            if round_ >= 5 and shared >= min(2, WORKERS):
                break
        assert shared >= min(2, WORKERS)


def test_time_window_takes_the_least_recently_used_first(server: KeyServer, tmp_path: Path) -> None:
    """One request after the other, for two models, by whichever worker gets it."""
    provider = server.provider("time_window", models=["m", "n"], key_window_ms=1)
    with running(provider, tmp_path) as gateway:
        load = Load(gateway, clients=1, body=lambda number: chat("mn"[number % 2]))
        for _ in range(30):
            assert {reply.status for reply in load.send(4)} == {200}
        order = [arrival.name for arrival in server.arrivals]
        assert sorted(order[:3]) == ["k1", "k2", "k3"]
        assert order == order[:3] * 40


def test_the_strategy_shown_is_that_of_the_keys(server: KeyServer, tmp_path: Path) -> None:
    with running(server.provider("time_window"), tmp_path) as gateway:
        assert gateway.explain({"model": "m"})["strategy"] == "time_window"


def test_the_route_chooses_the_provider_and_the_provider_its_key(server: KeyServer, tmp_path: Path) -> None:
    with KeyServer("q1", "q2") as other:
        providers = [server.provider("round_robin"), other.provider("weighted", ident="q")]
        document = config(providers, WORKERS, routing={"strategy": "round_robin"})
        with Gateway(document, tmp_path) as gateway:
            wake(gateway)
            assert {reply.status for reply in Load(gateway).send(1000)} == {200}
            counts = server.counts() + other.counts()
            assert sum(counts.values()) == 1000
            for count in counts.values():
                assert abs(count - 200) <= 2 * WORKERS
            assert gateway.explain({"model": "m"})["strategy"] == "round_robin"


# === Who is out ===


def every(third: int, good: int = 1) -> Callable[[Request], Script]:
    """Return a play of which `good` of `third` requests succeed, those first."""
    turns = count()
    return lambda request: GOOD if next(turns) % third < good else BAD


def test_a_key_that_fails_is_out_and_its_siblings_see_nothing_of_it(server: KeyServer, tmp_path: Path) -> None:
    """It fails two of three requests, whatever the model; then one request in all probes it, and brings it back."""
    provider = server.provider("round_robin", models=MODELS)
    routing = {"breaker": BREAKER, "retry": {"budget": {"min_per_s": 1000}}}
    with running(provider, tmp_path, routing=routing) as gateway:
        load = Load(gateway, body=in_turn)
        server.plays["k1"] = every(3)
        replies = load.send_while(lambda: "k1" not in removed(gateway, MODELS[0]))
        server.plays["k1"] = gate = Gate(server, then=BAD)
        with Background(gateway, body=in_turn) as background:
            wait_until(lambda: gate.held == 1)
            background.wait(300)
            assert gate.held == 1
            # The probe fails: out again, for all of them. The next one is one request as well.
            server.plays["k1"] = second = Gate(server)
            gate.open()
            wait_until(lambda: second.held == 1)
            background.wait(300)
            assert (gate.held, second.held) == (1, 1)
            # It succeeds: the key is back, at once.
            server.plays["k1"] = GOOD
            second.open()
            wait_until(lambda: removed(gateway, MODELS[0]) == {})
        gateway.wait_idle()
        since = len(server.arrivals)
        later = load.send(600)
        assert {reply.status for reply in [*replies, *background.load.replies, *later]} == {200}
        counts = server.counts(since)
        assert max(counts.values()) - min(counts.values()) <= WORKERS * len(MODELS)


@pytest.mark.parametrize(("good", "of", "out"), [(1, 2, False), (2, 5, True)])
def test_more_than_half_is_too_many(good: int, of: int, out: bool, server: KeyServer, tmp_path: Path) -> None:
    """One request after the other, good ones before bad ones: the share is never above that in the end."""
    server.plays["k1"] = every(of, good)
    routing = {"breaker": {**BREAKER, **LASTING}, "retry": {"budget": {"min_per_s": 1000}}}
    with running(server.provider("round_robin", models=MODELS), tmp_path, routing=routing) as gateway:
        load = Load(gateway, clients=1, body=in_turn)
        assert {reply.status for reply in load.send(180)} == {200}
        assert 20 <= server.counts()["k1"] < 20 * len(MODELS)
        # For all models or for none, and nobody else is.
        assert [removed(gateway, model) for model in MODELS] == [{"k1": "breaker"} if out else {}] * len(MODELS)


def test_one_broken_model_does_not_take_the_keys_from_the_others(server: KeyServer, tmp_path: Path) -> None:
    """All that is asked for is broken, until its endpoints' breakers open; then another model is asked for."""

    def broken_m(request: Any) -> Script:
        return BAD if b'"m"' in request.body else GOOD

    server.plays = dict.fromkeys(server.keys, broken_m)
    breaker = {"timeout_ms": 60_000, "min_requests": 8, "panic_percent": 0}
    provider = server.provider("round_robin", models=["m", "n"])
    with running(provider, tmp_path, routing={"breaker": breaker}) as gateway:
        Load(gateway, clients=16).send(200)
        assert removed(gateway, "m") == dict.fromkeys(server.keys, "breaker")
        assert removed(gateway, "n") == {}
        replies = Load(gateway, body=lambda number: chat("n")).send(90)
        assert {reply.status for reply in replies} == {200}
        assert {reply.attempts for reply in replies} == {1}


def test_a_refused_key_goes_and_the_others_serve(server: KeyServer, tmp_path: Path) -> None:
    server.plays["k2"] = json_response(401, {"error": {"message": "scripted", "type": "invalid_request_error"}})
    breaker = {**BREAKER, **LASTING, "min_requests": 5}
    with running(server.provider("round_robin"), tmp_path, routing={"breaker": breaker}) as gateway:
        load = Load(gateway)
        assert {reply.status for reply in load.send(100)} == {200}
        assert set(removed(gateway)) == {"k2"}
        since = len(server.arrivals)
        assert {(reply.status, reply.attempts) for reply in load.send(100)} == {(200, 1)}
        assert set(server.counts(since)) == {"k1", "k3"}


def test_a_rate_limited_key_rests_as_long_as_it_is_told_to(server: KeyServer, tmp_path: Path) -> None:
    """And the others go on: nothing is said of them."""
    body = {"error": {"message": "slow down", "type": "rate_limit_error"}}
    server.plays["k1"] = json_response(429, body, [(b"retry-after-ms", b"1500")])
    with running(server.provider("round_robin"), tmp_path) as gateway:
        load = Load(gateway)
        load.send_while(lambda: not server.counts()["k1"])
        gateway.wait_idle()
        server.plays["k1"] = GOOD
        refused = [arrival.at_s for arrival in server.arrivals if arrival.name == "k1"]
        assert set(removed(gateway)) <= {"k1"}
        replies = load.send_while(lambda: server.counts()["k1"] == len(refused))
        back = min(arrival.at_s for arrival in server.arrivals if arrival.name == "k1" and arrival.at_s > max(refused))
        # The clock of the cooldown starts when the answer is there, a little after the request was.
        assert 1.5 <= back - max(refused) < 4.0
        assert {reply.status for reply in replies} == {200}
        assert Counter(reply.attempts for reply in replies) == {1: len(replies)}


# === Whatever happens ===


def test_clients_that_leave_at_any_time_leave_nothing_behind(server: KeyServer, tmp_path: Path) -> None:
    """No permit of a key is lost, and each attempt is counted once: by the provider, and by us."""
    bits = random.Random(20_261_121)
    delays = {number: bits.random() * 0.02 for number in range(0, 400, 3)}
    for key in server.keys:
        server.plays[key] = [Pause(0.01), *GOOD]
    with running(server.provider("time_window", models=MODELS), tmp_path) as gateway:
        load = Load(gateway, body=in_turn, leaves=delays.get)
        assert {reply.status for reply in load.send(400)} == {0, 200}
        gateway.wait_idle()
        counted = key_row_totals(gateway, len(MODELS) * 3)
        assert sum(counted) == sum(sum(counts) for counts in by_worker(gateway, len(MODELS) * 3))
        # One that left before its request was sent has had a permit, and the provider has seen nothing of it.
        assert 266 <= len(server.arrivals) <= sum(counted) <= 400


def key_row_totals(gateway: Gateway, endpoints: int) -> list[int]:
    """Return what was counted in the rows of the three keys, which follow those of all endpoints."""
    segment = Segment.open(os.path.join(gateway.state_dir, "segment"))
    try:
        first = endpoints + len(ECHO_ROWS)
        return [segment.total(row, REQUESTS) for row in range(first, first + 3)]
    finally:
        segment.close()


#: The waker of `config` speaks three dialects.
ECHO_ROWS = range(3)


def test_a_reload_takes_keys_away_and_adds_others(server: KeyServer, tmp_path: Path) -> None:
    def keys(*names: str) -> list[dict[str, str]]:
        return [{"key": name, "id": name} for name in names]

    with running(server.provider("time_window", keys=keys("k1", "k2")), tmp_path) as gateway:
        load = Load(gateway)
        assert {reply.status for reply in load.send(40)} == {200}
        assert set(server.counts()) == {"k1", "k2"}
        provider = server.provider("round_robin", keys=keys("k3", "k2"))
        others = [one for one in gateway.config["providers"] if one["id"] != "p"]
        gateway.write_config({**gateway.config, "providers": [provider, *others]})
        gateway.reload()
        wait_until(lambda: gateway.log.count("configuration 2 is in force") == WORKERS)
        since = len(server.arrivals)
        assert {reply.status for reply in load.send(200)} == {200}
        counts = server.counts(since)
        assert set(counts) == {"k2", "k3"}
        assert abs(counts["k2"] - counts["k3"]) <= WORKERS


def test_a_second_attempt_begins_with_another_key(server: KeyServer, tmp_path: Path) -> None:
    """Hedged: the first key takes its time, so the request is sent with a second one as well; both are counted out."""
    for key in server.keys:
        server.plays[key] = [Pause(0.3), *GOOD]
    routing = {"retry": {"hedge": {"enabled": True, "delay_ms": 20, "max_percent": 100}}}
    with running(server.provider("time_window"), tmp_path, routing=routing) as gateway:
        for _ in range(3):
            since = len(server.arrivals)
            [reply] = Load(gateway, clients=1).send(1)
            assert reply.status == 200
            used = server.counts(since)
            assert sum(used.values()) in (1, 2)
            assert max(used.values()) == 1
        gateway.wait_idle()
        assert sum(key_row_totals(gateway, 3)) == len(server.arrivals)


# === Keys of one account ===


def refused(status: int, message: str, code: str, *headers: tuple[bytes, bytes]) -> Script:
    error = {"message": message, "type": code, "param": None, "code": code}
    return json_response(status, {"error": error}, list(headers))


#: What a key of the group is told, and which gate then stands before whom: for the model that was asked for, and for
#: the other one.
TOLD = {
    "of the account": (
        refused(
            429, "This would exceed your organization's rate limit.", "rate_limit_exceeded", (b"retry-after", b"30")
        ),
        {"k1": "cooldown", "k2": "cooldown"},
        {"k1": "cooldown", "k2": "cooldown"},
    ),
    "of the model": (
        refused(429, "Too many requests per minute.", "rate_limit_exceeded", (b"retry-after", b"30")),
        {"k1": "cooldown", "k2": "cooldown"},
        {},
    ),
    "the money is gone": (
        refused(429, "You exceeded your current quota.", "insufficient_quota"),
        {"k1": "key", "k2": "key"},
        {"k1": "key", "k2": "key"},
    ),
}


@pytest.mark.parametrize("what", TOLD)
def test_keys_of_one_account_rest_together_and_nobody_else(what: str, server: KeyServer, tmp_path: Path) -> None:
    answer, asked_for, other = TOLD[what]
    keys = [
        {"key": "k1", "id": "k1", "quota_group": "acme"},
        {"key": "k2", "id": "k2", "quota_group": "acme"},
        {"key": "k3", "id": "k3"},
    ]
    server.plays["k1"] = answer
    with running(server.provider("time_window", keys=keys, models=["m", "n"]), tmp_path) as gateway:
        replies = Load(gateway, clients=1).send_while(lambda: not server.counts()["k1"])
        gateway.wait_idle()
        assert removed(gateway, "m") == asked_for
        assert removed(gateway, "n") == other
        # One request has found out for all of them; it has gone on with the key of another account.
        since = len(server.arrivals)
        replies += Load(gateway).send(100)
        assert {reply.status for reply in replies} == {200}
        assert server.counts(since) == {"k3": 100}
        assert server.counts()["k1"] == 1


def test_a_key_of_no_group_rests_alone(server: KeyServer, tmp_path: Path) -> None:
    server.plays["k1"] = TOLD["of the account"][0]
    with running(server.provider("time_window", models=["m", "n"]), tmp_path) as gateway:
        Load(gateway, clients=1).send_while(lambda: not server.counts()["k1"])
        gateway.wait_idle()
        assert removed(gateway, "m") == removed(gateway, "n") == {"k1": "cooldown"}
