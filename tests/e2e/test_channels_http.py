"""Keys and models that are out, over HTTP: one answer tells all workers, and nobody else suffers for it."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._channel_rules import pack_state, unpack_state
from fastroute._core.counters import ATOMIC, COOLDOWN_UNTIL_MS, KEY_STATE, MODEL_STATE, Segment
from fastroute.clock import SYSTEM_CLOCK
from fastroute.upstream.mock import Pause, Request, Script, json_response
from tests.e2e.client import ask, chat
from tests.e2e.fleet import GOOD, KEY, Fleet, Load, config, wake
from tests.e2e.harness import ADMIN_KEY, Gateway, wait_until

WORKERS = 4 if ATOMIC else 1
MODELS = ["m", "m-2"]

Play = Script | Callable[[Request], Script]


class Keyed:
    """A play that answers by the credential and the model of a request, and counts who has asked.

    plays: by "key", or by "key model"; whoever is not in it is answered well.
    """

    def __init__(self, **plays: Play) -> None:
        self.plays: dict[str, Play] = plays
        self.asked: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}

    def __call__(self, request: Request) -> Script:
        key = dict(request.headers)[b"authorization"].decode().removeprefix("Bearer ")
        model = json.loads(request.body)["model"]
        self.asked[key] += 1
        self.asked[f"{key} {model}"] += 1
        self.times.setdefault(key, []).append(time.monotonic())
        play = self.plays.get(f"{key} {model}", self.plays.get(key, GOOD))
        return play(request) if callable(play) else play


def refusing(status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> Script:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return json_response(status, {"error": error}, list(headers))


BAD_KEY = refusing(401, "invalid_api_key", "Incorrect API key provided: sk-x.")
NO_MONEY = refusing(429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing.")
NO_MODEL = refusing(404, "model_not_found", "The model `m` does not exist or you do not have access to it.")
FORBIDDEN = json_response(403, {"error": {"message": "Forbidden"}})


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet("a", "b") as made:
        yield made


@contextmanager
def running(fleet: Fleet, directory: Path, keys: list[Any], **more: Any) -> Iterator[Gateway]:
    """A gateway before one provider with these keys and two models."""
    providers = [fleet.provider("a", keys=keys, models=MODELS)]
    routing = {"strategy": "round_robin", **more.pop("routing", {})}
    with Gateway(config(providers, WORKERS, routing=routing, **more), directory) as gateway:
        wake(gateway)
        yield gateway
        gateway.wait_idle()
    assert "Traceback" not in gateway.log
    assert "up-k" not in gateway.log


def channels(gateway: Gateway, key: str, model: str = "m") -> dict[str, Any]:
    """Return what the admin listener says of one key and model."""
    status, document = admin(gateway, "GET")
    assert status == 200
    assert "up-k" not in json.dumps(document)
    [found] = [one for one in document["channels"] if (one["key"], one["model"]) == (key, model)]
    return dict(found)


def admin(gateway: Gateway, method: str, document: object = None) -> tuple[int, Any]:
    link = HTTPConnection("127.0.0.1", gateway.admin_port, timeout=10)
    try:
        body = json.dumps(document).encode() if document is not None else None
        link.request(method, "/admin/v1/channels", body, {"authorization": f"Bearer {ADMIN_KEY}"})
        response = link.getresponse()
        return response.status, json.loads(response.read())
    finally:
        link.close()


def removed_by(gateway: Gateway, key: str, model: str = "m") -> str | None:
    """Return the gate at which explain has a key fall."""
    [found] = [one for one in gateway.explain({"model": model})["candidates"] if one["endpoint"] == f"a/{key}/{model}"]
    gate: str | None = found["removed_by"]
    return gate


def time_is_over(gateway: Gateway, cell: int) -> None:
    """Let the time for which anything is out pass: what a test cannot wait for."""
    segment = Segment.open(os.path.join(gateway.state_dir, "segment"))
    try:
        for row in range(segment.endpoints):
            state = unpack_state(segment.cell(row, cell))
            if state.until_ms:
                now_ms = SYSTEM_CLOCK.monotonic_ns() // 1_000_000
                segment.set_cell(row, cell, pack_state(state._replace(until_ms=now_ms)))
    finally:
        segment.close()


def rest_is_over(gateway: Gateway) -> None:
    segment = Segment.open(os.path.join(gateway.state_dir, "segment"))
    try:
        for row in range(segment.endpoints):
            segment.set_cell(row, COOLDOWN_UNTIL_MS, 0)
    finally:
        segment.close()


KEYS = ["up-k1", "up-k2"]


@pytest.mark.parametrize(
    ("answer", "balance", "cause"),
    [
        (BAD_KEY, "unknown", "invalid_key"),
        (NO_MONEY, "exhausted", "out_of_money"),
        (json_response(402, {"error": {"message": "Insufficient Balance"}}), "exhausted", "out_of_money"),
    ],
    ids=["401", "429 without money", "402"],
)
def test_one_answer_takes_a_key_out_on_all_workers(
    answer: Script, balance: str, cause: str, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": answer})
    with running(fleet, tmp_path, KEYS) as gateway:
        # One after the other, until somebody has asked it.
        while not keyed.asked["up-k1"]:
            assert ask(gateway, KEY, chat()).status == 200
        assert keyed.asked["up-k1"] == 1
        # From now on nobody, whichever worker and whichever model.
        replies = Load(gateway).send(300)
        replies += Load(gateway, body=lambda number: chat("m-2")).send(100)
        assert Counter((reply.status, reply.attempts) for reply in replies) == {(200, 1): 400}
        assert keyed.asked["up-k1"] == 1
        for model in MODELS:
            said = channels(gateway, "k1", model)
            assert (said["usable"], said["balance"], said["cause"]) == (False, balance, cause)
            assert said["until"] > said["since"]
            assert removed_by(gateway, "k1", model) == "key"
            assert channels(gateway, "k2", model)["usable"]
            assert removed_by(gateway, "k2", model) is None
        assert gateway.log.count("key_out") == 1
        assert f"key_out provider=a key=k1 model=* cause={cause}" in gateway.log


def test_the_money_of_an_account_is_that_of_all_its_keys(fleet: Fleet, tmp_path: Path) -> None:
    keys = [{"id": f"k{n}", "key": f"up-k{n}", **({"quota_group": "acme"} if n < 3 else {})} for n in (1, 2, 3)]
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": NO_MONEY})
    with running(fleet, tmp_path, keys) as gateway:
        while not keyed.asked["up-k1"]:
            assert ask(gateway, KEY, chat()).status == 200
        since = keyed.asked["up-k2"]
        assert {reply.status for reply in Load(gateway).send(100)} == {200}
        assert (keyed.asked["up-k1"], keyed.asked["up-k2"]) == (1, since)
        assert [channels(gateway, f"k{n}")["balance"] for n in (1, 2)] == ["exhausted"] * 2
        assert channels(gateway, "k3")["usable"]


def test_a_model_that_is_gone_takes_neither_the_key_nor_its_other_models(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = keyed = Keyed(**{"up-k1 m": NO_MODEL})
    with running(fleet, tmp_path, KEYS) as gateway:
        while not keyed.asked["up-k1 m"]:
            assert ask(gateway, KEY, chat()).status == 200
        replies = Load(gateway).send(200)
        assert Counter((reply.status, reply.attempts) for reply in replies) == {(200, 1): 200}
        assert keyed.asked["up-k1 m"] == 1
        assert {reply.status for reply in Load(gateway, body=lambda number: chat("m-2")).send(200)} == {200}
        assert abs(keyed.asked["up-k1 m-2"] - keyed.asked["up-k2 m-2"]) <= WORKERS
        said = channels(gateway, "k1")
        assert (said["usable"], said["status"], said["cause"]) == (False, "model_not_found", "model_not_found")
        assert channels(gateway, "k1", "m-2")["usable"]
        assert (removed_by(gateway, "k1"), removed_by(gateway, "k1", "m-2")) == ("model", None)
        assert gateway.log.count("model_out") == 1


def test_when_nobody_has_the_model_the_caller_is_told_so(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = keyed = Keyed(**{"up-k1 m": NO_MODEL, "up-k2 m": NO_MODEL})
    with running(fleet, tmp_path, KEYS) as gateway:
        first = ask(gateway, KEY, chat())
        # It is the provider's own answer, from the last of those who were asked.
        assert (first.status, first.headers["x-fastroute-attempts"]) == (404, "2")
        later = ask(gateway, KEY, chat())
        assert (later.status, later.document["error"]["code"]) == (404, "model_not_found")
        assert keyed.asked["up-k1 m"] == keyed.asked["up-k2 m"] == 1
        assert ask(gateway, KEY, chat("m-2")).status == 200


def test_when_no_key_is_left_the_caller_is_told_when_to_come_back(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = Keyed(**{"up-k1": BAD_KEY, "up-k2": NO_MONEY})
    with running(fleet, tmp_path, KEYS) as gateway:
        first = ask(gateway, KEY, chat())
        assert (first.status, first.headers["x-fastroute-attempts"]) == (first.status, "2")
        later = ask(gateway, KEY, chat())
        assert (later.status, later.document["error"]["code"]) == (503, "no_healthy_provider")
        assert 240 <= int(later.headers["retry-after"]) <= 300
        assert b"k1" not in later.body


def test_one_request_tries_a_key_again_and_brings_it_back(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": BAD_KEY})
    with running(fleet, tmp_path, KEYS) as gateway:
        Load(gateway).send(50)
        gateway.wait_idle()
        asked = keyed.asked["up-k1"]
        time_is_over(gateway, KEY_STATE)
        # It is as bad as before: one request finds out, for all workers and models, and is served by the other key.
        replies = Load(gateway).send(200) + Load(gateway, body=lambda number: chat("m-2")).send(100)
        assert {reply.status for reply in replies} == {200}
        assert keyed.asked["up-k1"] == asked + 1
        assert not channels(gateway, "k1")["usable"]
        # And now it is good again.
        keyed.plays.clear()
        time_is_over(gateway, KEY_STATE)
        assert {reply.status for reply in Load(gateway).send(200)} == {200}
        said = channels(gateway, "k1")
        assert (said["usable"], said["balance"], said["cause"]) == (True, "ok", None)
        since = keyed.asked["up-k1"]
        Load(gateway).send(200)
        assert keyed.asked["up-k1"] - since >= 90
        assert (gateway.log.count("key_out"), gateway.log.count("key_back")) == (1, 1)


def test_only_one_at_a_time_tries(fleet: Fleet, tmp_path: Path) -> None:
    """The trial is held up at the provider; nobody follows it, of all the requests of all the workers."""
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": BAD_KEY})
    with running(fleet, tmp_path, KEYS) as gateway:
        Load(gateway).send(50)
        gateway.wait_idle()
        held = threading.Event()
        asked = keyed.asked["up-k1"]

        def slowly(request: Request) -> Script:
            held.set()
            return [Pause(1.5), *GOOD]

        keyed.plays["up-k1"] = slowly
        time_is_over(gateway, KEY_STATE)
        asker = threading.Thread(target=lambda: Load(gateway).send(100))
        asker.start()
        assert held.wait(10)
        assert channels(gateway, "k1")["on_trial"]
        Load(gateway).send(200)
        assert keyed.asked["up-k1"] == asked + 1
        asker.join(30)
        gateway.wait_idle()
        assert channels(gateway, "k1")["usable"]


def test_a_key_that_has_been_replaced_is_in_at_once(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": BAD_KEY})
    with running(fleet, tmp_path, [{"id": "k1", "key": "up-k1"}, {"id": "k2", "key": "up-k2"}]) as gateway:
        Load(gateway).send(50)
        assert removed_by(gateway, "k1") == "key"
        document = json.loads(gateway.config_file.read_text())
        document["providers"][0]["keys"][0]["key"] = "up-k3"
        document["providers"][0]["models"].append("m-3")
        document["providers"][0]["keys"].append({"id": "k4", "key": "up-k4"})
        gateway.write_config(document)
        gateway.reload()

        def everywhere() -> bool:
            # Who has the old configuration still may try the old key meanwhile: nobody suffers, and the new one stays.
            assert ask(gateway, KEY, chat()).status == 200
            return gateway.log.count("configuration 2 is in force") == WORKERS

        wait_until(everywhere)
        before = keyed.asked["up-k3"]
        assert {reply.status for reply in Load(gateway).send(100)} == {200}
        assert channels(gateway, "k1")["usable"]
        # Every worker goes round the three.
        assert abs(keyed.asked["up-k3"] - before - 33) <= 2 * WORKERS


def test_a_reload_that_replaces_nothing_brings_nothing_back(fleet: Fleet, tmp_path: Path) -> None:
    """A model that is new takes over what is known of its key."""
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": BAD_KEY})
    with running(fleet, tmp_path, [{"id": "k1", "key": "up-k1"}, {"id": "k2", "key": "up-k2"}]) as gateway:
        Load(gateway).send(50)
        gateway.wait_idle()
        asked = keyed.asked["up-k1"]
        document = json.loads(gateway.config_file.read_text())
        document["providers"][0]["models"].insert(0, "m-3")
        gateway.write_config(document)
        gateway.reload()
        wait_until(lambda: ask(gateway, KEY, chat("m-3")).status == 200)
        Load(gateway, body=lambda number: chat(["m", "m-2", "m-3"][number % 3])).send(200)
        assert keyed.asked["up-k1"] == asked
        assert removed_by(gateway, "k1", "m-3") == "key"


def test_by_hand(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = keyed = Keyed()
    with running(fleet, tmp_path, KEYS) as gateway:
        switch = {"provider": "a", "key": "k1", "enabled": False}
        assert admin(gateway, "POST", switch) == (200, switch)
        Load(gateway).send(100)
        assert keyed.asked["up-k1"] == 0
        said = channels(gateway, "k1")
        assert (said["usable"], said["cause"], said["until"]) == (False, "switched_off", None)
        assert admin(gateway, "POST", {**switch, "enabled": True})[0] == 200
        Load(gateway).send(100)
        assert keyed.asked["up-k1"] >= 45
        assert channels(gateway, "k1")["usable"]
        assert admin(gateway, "POST", {**switch, "key": "k9"})[0] == 404
        for nonsense in ({}, [], {**switch, "enabled": "no"}, {**switch, "secret": "up-k1"}):
            assert admin(gateway, "POST", nonsense)[0] == 400
        assert admin(gateway, "PUT", switch)[0] == 405


def test_a_quota_of_a_day_is_used_up_for_its_model_alone(fleet: Fleet, tmp_path: Path) -> None:
    message = "Rate limit reached for m on requests per day (RPD): Limit 200, Used 200. Please try again in 7m12s."
    fleet.plays["a"] = keyed = Keyed(**{"up-k1 m": refusing(429, "rate_limit_exceeded", message)})
    with running(fleet, tmp_path, KEYS) as gateway:
        while not keyed.asked["up-k1 m"]:
            assert ask(gateway, KEY, chat()).status == 200
        assert {reply.status for reply in Load(gateway).send(200)} == {200}
        assert keyed.asked["up-k1 m"] == 1
        said = channels(gateway, "k1")
        assert (said["status"], said["cause"]) == ("quota_exhausted", "day_quota")
        assert removed_by(gateway, "k1") == "quota"
        assert channels(gateway, "k1", "m-2")["status"] == "available"
        # The time is over: one request sees whether it is renewed.
        time_is_over(gateway, MODEL_STATE)
        rest_is_over(gateway)
        assert {reply.status for reply in Load(gateway).send(100)} == {200}
        assert keyed.asked["up-k1 m"] == 2


def test_what_a_caller_asks_of_a_glob_takes_no_model_out(fleet: Fleet, tmp_path: Path) -> None:
    """Anybody may ask for a model that the provider has never had."""
    unknown = refusing(404, "model_not_found", "The model `g-nope` does not exist or you do not have access to it.")
    fleet.plays["b"] = keyed = Keyed(**{"up-k1 g-nope": unknown})
    providers = [fleet.provider("b", keys=["up-k1"], models=["g-*"])]
    with Gateway(config(providers, WORKERS), tmp_path) as gateway:
        wake(gateway)
        assert [ask(gateway, KEY, chat("g-nope")).status for _ in range(3)] == [404] * 3
        assert keyed.asked["up-k1 g-nope"] == 3
        assert ask(gateway, KEY, chat("g-real")).status == 200


def test_a_403_is_believed_once_another_request_was_refused_so(fleet: Fleet, tmp_path: Path) -> None:
    """One request, however often it is sent, tells nothing; each worker waits for a second one."""
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": FORBIDDEN})
    routing = {"retry": {"budget": {"min_per_s": 1000}}}
    with running(fleet, tmp_path, KEYS, routing=routing) as gateway:
        assert {reply.status for reply in Load(gateway).send(100)} == {200}
        assert channels(gateway, "k1")["usable"]
        asked = keyed.asked["up-k1"]
        assert asked >= 45
        # As many requests of different contents as there may be before every worker has seen two.
        replies = Load(gateway, body=numbered).send_while(lambda: channels(gateway, "k1")["usable"])
        said = channels(gateway, "k1")
        assert (said["balance"], said["cause"]) == ("unknown", "no_permission")
        assert {removed_by(gateway, "k1", model) for model in MODELS} == {"key"}
        assert {reply.status for reply in replies} == {200}
        assert gateway.log.count("key_out provider=a key=k1 model=* cause=no_permission for_s=10") == 1
        # Nobody has been refused for it, and it is back with the first that goes well.
        keyed.plays.clear()
        time_is_over(gateway, KEY_STATE)
        assert {reply.status for reply in Load(gateway).send(100)} == {200}
        assert channels(gateway, "k1")["usable"]


def test_where_there_are_several_callers_one_alone_does_not_take_a_key_from_the_others(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.plays["a"] = keyed = Keyed(**{"up-k1": FORBIDDEN})
    auth = {"keys": [{"id": "app", "key": KEY}, {"id": "other", "key": "sk-other"}]}
    routing = {"retry": {"budget": {"min_per_s": 1000}}}
    with running(fleet, tmp_path, KEYS, routing=routing, auth=auth) as gateway:
        assert {reply.status for reply in Load(gateway, body=numbered).send(200)} == {200}
        assert keyed.asked["up-k1"] >= 90
        assert channels(gateway, "k1")["usable"]
        # Another one is refused so, too: by the worker that has seen both it is believed.
        number = 1000
        while channels(gateway, "k1")["usable"]:
            number += 1
            assert ask(gateway, "sk-other", numbered(number)).status == 200
        assert channels(gateway, "k1")["cause"] == "no_permission"


def numbered(number: int, model: str = "m") -> dict[str, object]:
    """Ask something else each time."""
    return {**chat(model), "seed": number}


#: What a request alone may be refused with, whatever key it is sent with, and is not said so in a word we know.
FOR_THE_REQUEST = {
    "403 without a reason": FORBIDDEN,
    "403 of Anthropic": json_response(403, {"error": {"type": "permission_error", "message": "Not for you"}}),
    "403 of Gemini": json_response(403, {"error": {"message": "CachedContent not found (or permission denied)"}}),
    "403 of xAI": json_response(403, {"code": "no", "error": "Content violates usage guidelines. Team: 1"}),
    "403 without a word": json_response(403, {}),
    "402 for one prompt": json_response(402, {"error": {"message": "Prompt tokens limit exceeded: 9 > 8"}}),
    "401 out of a browser": json_response(401, {"error": {"message": "CORS requests must set a header"}}),
    "400 that quotes": json_response(400, {"error": {"message": "Invalid value: 'insufficient_quota'"}}),
}


@pytest.mark.parametrize("strategy", [None, "round_robin"])
@pytest.mark.parametrize("what", FOR_THE_REQUEST)
def test_one_caller_does_not_take_the_keys_from_the_others(
    what: str, strategy: str | None, fleet: Fleet, tmp_path: Path
) -> None:
    """Most requests are refused for what they ask for, with all keys; others use the same keys at the same time."""

    def play(request: Request) -> Script:
        return FOR_THE_REQUEST[what] if "seed" in json.loads(request.body) else GOOD

    fleet.plays["a"] = Keyed(**{"up-k1": play, "up-k2": play})
    breaker = {"min_requests": 5, "panic_percent": 0}
    provider = fleet.provider("a", keys=KEYS, models=MODELS, **({"key_strategy": strategy} if strategy else {}))
    document = config([provider], WORKERS, routing={"strategy": "round_robin", "breaker": breaker})
    with Gateway(document, tmp_path) as gateway:
        wake(gateway)
        # Each key has answered somebody, in whatever worker.
        assert {reply.status for reply in Load(gateway).send(20)} == {200}
        load = Load(gateway, body=lambda number: numbered(number) if number % 4 else chat())
        replies = load.send(200)
        assert Counter(reply.status == 200 for reply in replies) == {True: 50, False: 150}
        for key in ("k1", "k2"):
            assert channels(gateway, key)["usable"]
            assert removed_by(gateway, key) is None
        assert "key_out" not in gateway.log
        assert Counter((reply.status, reply.attempts) for reply in Load(gateway).send(50)) == {(200, 1): 50}
        gateway.wait_idle()


def test_a_refusal_of_a_request_takes_no_busy_key_out(fleet: Fleet, tmp_path: Path) -> None:
    """Of a key that answers others, a 403 that gives no reason, and a model that it has just answered for."""
    turns = {"n": 0}

    def now_and_then(request: Request) -> Script:
        turns["n"] += 1
        return {17: FORBIDDEN, 31: NO_MODEL}.get(turns["n"], GOOD)

    fleet.plays["a"] = Keyed(**{"up-k1": now_and_then})
    with running(fleet, tmp_path, KEYS) as gateway:
        assert {reply.status for reply in Load(gateway, clients=1).send(100)} == {200}
        assert turns["n"] >= 45
        assert channels(gateway, "k1")["usable"]


# === A storm of rate limits ===


def test_in_a_storm_no_key_is_used_before_its_time(fleet: Fleet, tmp_path: Path) -> None:
    """Three keys that take ten requests and then ask for two seconds' rest, again and again, under a full load.

    None is asked within that time, but by what was on its way already; and in all the provider sees hardly more
    requests than there were.
    """
    clients, rest_s = 8, 2.0

    def unhurried(number: int) -> dict[str, object]:
        # Who is refused comes again at once, and a machine that does nothing but refuse holds up everybody.
        time.sleep(0.01)
        return chat()

    lock = threading.Lock()
    keys = [f"up-k{n}" for n in range(1, 4)]
    taken = dict.fromkeys(keys, 0)
    rests: dict[str, float] = dict.fromkeys(keys, 0.0)
    early: list[tuple[str, float]] = []
    refused: Counter[str] = Counter()

    def answer(request: Request) -> Script:
        key = dict(request.headers)[b"authorization"].decode().removeprefix("Bearer ")
        now = time.monotonic()
        with lock:
            if now < rests[key]:
                early.append((key, rests[key] - now))
                left_ms = (rests[key] - now) * 1000
                return refusing(429, "rate_limit_exceeded", "Slow down", (b"retry-after-ms", b"%d" % (left_ms + 1)))
            taken[key] += 1
            if taken[key] % 10:
                return GOOD
            rests[key] = now + rest_s
            refused[key] += 1
            return refusing(429, "rate_limit_exceeded", "Slow down", (b"retry-after", b"2"))

    fleet.plays["a"] = answer
    with running(fleet, tmp_path, keys) as gateway:
        fleet.arrivals.clear()
        end = time.monotonic() + 8.0
        replies = Load(gateway, clients=clients, body=unhurried).send_while(lambda: time.monotonic() < end)
        statuses = Counter(reply.status for reply in replies)
        assert set(statuses) == {200, 429}
        assert min(refused.values()) >= 3
        # What was on its way when its key was told to rest: no more than there are clients. Nobody comes before the
        # rest is over; a busy machine may have held up the others for as long as half of it.
        assert len(early) < clients * sum(refused.values())
        assert [left for _, left in early if left < rest_s / 2] == []
        upstream = fleet.counts()["a"]
        assert upstream <= 1.2 * len(replies)
        said = channels(gateway, "k1")
        assert said["balance"] in ("ok", "unknown")
        assert "key_out" not in gateway.log
