"""What providers take is learnt over all workers, goes before their refusals, and outlives a restart."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from fastroute.control.memory import MEMORY_FILE
from fastroute.upstream.mock import Pause, Request, Script, json_response
from tests.e2e.client import chat, completion
from tests.e2e.fleet import GOOD, KEY, Fleet, Gate, Load, config, wake
from tests.e2e.harness import Gateway, wait_until

WORKERS = 4
OFF = {"adaptive": {"kind": "off"}}
SLOW_S = 0.02


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet("a", "b") as made:
        yield made


def refused(after_ms: int) -> Script:
    body = {"error": {"message": "scripted", "code": "rate_limit_exceeded"}}
    return json_response(429, body, [(b"retry-after-ms", b"%d" % after_ms)])


def limits(gateway: Gateway) -> dict[str, Any]:
    """Return what has been learnt, by endpoint."""
    return {one["endpoint"]: one for one in gateway.admin("GET", "/admin/v1/limits")["endpoints"]}


class Slots:
    """A play that takes so many requests at a time, and refuses the others."""

    def __init__(self, count: int) -> None:
        self.free = count
        self.taken = 0
        self.refused = 0

    def __call__(self, request: Request) -> Script:
        if not self.free:
            self.refused += 1
            return refused(20)
        self.free -= 1
        self.taken += 1
        # Free again a little before the answer is out: whoever waits for that finds it so.
        asyncio.get_running_loop().call_later(SLOW_S * 0.8, self._leave)
        return [Pause(SLOW_S), *GOOD]

    def _leave(self) -> None:
        self.free += 1

    def share_of_refusals(self, load: Load, requests: int) -> float:
        """Return how many of the requests that came here were refused, while the load sends so many."""
        taken, before = self.taken, self.refused
        assert {reply.status for reply in load.send(requests)} == {200}
        assert self.taken - taken > 20, "nobody came"
        return (self.refused - before) / (self.taken - taken + self.refused - before)


def shares(fleet: Fleet, directory: Path, **provider: Any) -> tuple[float, Any]:
    """Return the share of refusals of a provider that takes 4 of 32 at a time, and what has been learnt of it."""
    slots = fleet.plays["a"] = Slots(4)
    fleet.plays["b"] = [Pause(SLOW_S), *GOOD]
    routing = {"strategy": "round_robin"}
    directory.mkdir()
    with Gateway(config(fleet.providers(**provider), WORKERS, routing=routing), directory) as gateway:
        wake(gateway)
        load = Load(gateway, clients=32)
        load.send(300)
        return slots.share_of_refusals(load, 900), limits(gateway).get("a/k1/m")


def test_refusals_become_rare_once_the_limit_is_known(fleet: Fleet, tmp_path: Path) -> None:
    without, nothing = shares(fleet, tmp_path / "off", **OFF)
    share, learnt = shares(fleet, tmp_path / "on")
    assert nothing is None
    assert without > 0.2, "this provider is not overloaded"
    assert share < without / 2
    assert 1 <= learnt["concurrency"]["limit"] <= 3 * 4
    assert learnt["concurrency"]["too_much"] is None or learnt["concurrency"]["too_much"] > 1


class Quotas:
    """A play with a quota of requests for each key, told in the header fields of every answer."""

    def __init__(self, limit: int, **left: int) -> None:
        self.left = Counter(left)
        self.limit = limit
        self.refused = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Script:
        key = request.header(b"authorization").removeprefix(b"Bearer ").decode()
        if not self.left[key]:
            self.refused += 1
            return refused(30_000)
        self.left[key] -= 1
        fields = [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self.left[key]),
            (b"x-ratelimit-reset-requests", b"20m0s"),
        ]
        return json_response(200, completion(), fields)


#: Those that spread alike whatever happens: each key gets its half unless something is learnt.
@pytest.mark.parametrize("strategy", ["round_robin", "weighted_round_robin", "random"])
def test_a_key_with_headroom_comes_before_one_that_is_about_to_refuse(
    fleet: Fleet, tmp_path: Path, strategy: str
) -> None:
    refusals = {}
    for name, more in (("off", OFF), ("on", {})):
        play = fleet.plays["a"] = Quotas(100, one=25, two=100)
        provider = fleet.provider("a", keys=[{"id": "k1", "key": "one"}, {"id": "k2", "key": "two"}], **more)
        (tmp_path / name).mkdir()
        with Gateway(config([provider], WORKERS, routing={"strategy": strategy}), tmp_path / name) as gateway:
            wake(gateway)
            assert {reply.status for reply in Load(gateway, clients=4).send(90)} == {200}
            refusals[name] = play.refused
            if name == "on":
                told = limits(gateway)
                assert told["a/k1/m"]["requests"]["limit"] == 100
                assert told["a/k1/m"]["headroom"] == "low"
                assert told["a/k2/m"]["headroom"] == "roomy"
                shown = {one["endpoint"]: one["adaptive"] for one in gateway.explain({"model": "m"})["candidates"]}
                assert shown["a/k1/m"]["headroom"] == "low"
                assert gateway.explain({"model": "m"})["choice"] == "a/k2/m"
                assert play.left["one"] > 0
    assert refusals["on"] == 0
    assert refusals["off"] > 0, "without it, the key is used up"


def overload(fleet: Fleet, gateway: Gateway, name: str) -> None:
    """Let a provider answer, and then refuse several at a time."""
    fleet.plays[name] = GOOD
    Load(gateway, clients=4).send(40)
    fleet.plays[name] = [Pause(0.2), *refused(600_000)]
    Load(gateway, clients=12).send(12)
    gateway.wait_idle()


def test_what_was_learnt_outlives_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    gateway = Gateway(config([fleet.provider("a")], WORKERS), tmp_path)
    with gateway:
        wake(gateway)
        overload(fleet, gateway, "a")
        before = limits(gateway)["a/k1/m"]
        assert before["state"] == "cooldown"
        assert before["concurrency"]["limit"] == before["concurrency"]["too_much"] // 2 > 1
        assert gateway.terminate() == 0
    file = Path(gateway.state_dir) / MEMORY_FILE
    assert b"up-a" not in file.read_bytes()
    seen = len(fleet.arrivals)
    with gateway:
        after = limits(gateway)["a/k1/m"]
        assert after["concurrency"] == before["concurrency"]
        assert after["state"] == "cooldown"
        assert 30_000 < after["cooldown_ms"] <= before["cooldown_ms"]
        # Nobody asks it before its time.
        assert {reply.status for reply in Load(gateway, clients=4).send(20)} == {429}
        assert len(fleet.arrivals) == seen
        gateway.terminate()
    file.write_bytes(file.read_bytes()[:-5])
    with gateway:
        assert "what was learnt before is ignored" in gateway.log
        assert limits(gateway)["a/k1/m"]["state"] == "learning"
        fleet.plays["a"] = GOOD
        assert {reply.status for reply in Load(gateway, clients=4).send(20)} == {200}


def test_what_was_learnt_outlives_a_violent_end(fleet: Fleet, tmp_path: Path) -> None:
    gateway = Gateway(config([fleet.provider("a")], WORKERS), tmp_path)
    with gateway:
        wake(gateway)
        overload(fleet, gateway, "a")
        before = limits(gateway)["a/k1/m"]
        file = Path(gateway.state_dir) / MEMORY_FILE
        wait_until(lambda: file.exists() and b"cooldown_until" in file.read_bytes(), 30)
        gateway.kill()
    with gateway:
        after = limits(gateway)["a/k1/m"]
        assert (after["state"], after["concurrency"]) == ("cooldown", before["concurrency"])


def ask(gateway: Gateway) -> tuple[int, str | None]:
    """Return the status of an answer and when to come back."""
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(chat()).encode(), headers)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("retry-after")
    finally:
        connection.close()


@pytest.mark.parametrize("adaptive", [{"max": 4}, {"kind": "gradient2", "initial": 4}])
def test_as_many_as_it_takes_and_no_more(fleet: Fleet, tmp_path: Path, adaptive: dict[str, Any]) -> None:
    provider = fleet.provider("a", adaptive=adaptive)
    with Gateway(config([provider], 1), tmp_path) as gateway:
        gate = fleet.plays["a"] = Gate(fleet)
        with ThreadPoolExecutor(12) as pool:
            first = [pool.submit(ask, gateway) for _ in range(4)]
            wait_until(lambda: gate.held == 4)
            assert [ask(gateway) for _ in range(8)] == [(429, "1")] * 8
            answer = gateway.explain({"model": "m"})
            assert [one["removed_by"] for one in answer["candidates"]] == ["concurrency"]
            assert answer["refusal"]["retry_after_s"] == 1
            assert limits(gateway)["a/k1/m"]["concurrency"]["in_flight"] == 4

            # A changed setting is in force at once, for what comes from then on.
            off = {**provider, "adaptive": {"kind": "off"}}
            gateway.write_config({**gateway.config, "providers": [off, *gateway.config["providers"][1:]]})
            gateway.reload()
            wait_until(lambda: "is in force" in gateway.log)
            more = [pool.submit(ask, gateway) for _ in range(8)]
            wait_until(lambda: gate.held == 12)
            gate.open()
            assert {reply.result() for reply in [*first, *more]} == {(200, None)}
        assert limits(gateway) == {}


def test_a_key_that_was_refused_stays_out_over_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def play(request: Request) -> Script:
        key = request.header(b"authorization").removeprefix(b"Bearer ").decode()
        seen[key] += 1
        return GOOD if key == "two" else json_response(401, {"error": {"message": "Incorrect API key provided"}})

    fleet.plays["a"] = play
    provider = fleet.provider("a", keys=[{"id": "k1", "key": "one"}, {"id": "k2", "key": "two"}])
    gateway = Gateway(config([provider], WORKERS, routing={"strategy": "round_robin"}), tmp_path)
    tried: list[int] = []
    for _ in range(2):
        with gateway:
            wake(gateway)
            assert {reply.status for reply in Load(gateway, clients=4).send(40)} == {200}
            gateway.wait_idle()
        tried.append(seen["one"])
    assert seen["two"] == 80
    assert tried[0] == tried[1] > 0, "it was asked again after the restart"
