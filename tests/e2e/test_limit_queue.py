"""The queue before the ceilings, over HTTP: order, priorities, fairness, and who is not kept waiting in vain."""

import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.counters import ATOMIC
from fastroute._core.limits import Table
from fastroute.limits.queue import SUBJECT
from fastroute.upstream.mock import Pause, Request, Script
from tests.e2e.client import ask, chat, connect
from tests.e2e.fleet import GOOD, Fleet, Gate, Load, config
from tests.e2e.harness import Gateway, wait_until

WORKERS = 4 if ATOMIC else 1
KEYS = [{"id": name, "key": f"sk-{name}", "tenant": name} for name in ("a", "b")]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet("p") as made:
        yield made


class Turnstile:
    """A play that lets one request through at a time, and notes in which order they came."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._gates: list[Gate] = []
        self.seen: list[str] = []

    def __call__(self, request: Request) -> Script:
        self.seen.append(json.loads(request.body)["user"])
        gate = Gate(self._fleet)
        self._gates.append(gate)
        return gate(request)

    def let_through(self, upto: int) -> None:
        """Answer one request after the other until that many have come."""
        for number in range(upto):
            wait_until(lambda number=number: len(self._gates) > number)
            self._gates[number].open()


def serve(tmp_path: Path, fleet: Fleet, limits: dict[str, Any], **more: Any) -> Gateway:
    document = config([fleet.provider("p")], 1, auth={"keys": KEYS}, limits=limits, **more)
    return Gateway(document, tmp_path)


def send(gateway: Gateway, key: str, user: str, **headers: str) -> HTTPConnection:
    """Send a request and do not wait for its answer."""
    link = connect(gateway)
    fields = {"authorization": f"Bearer sk-{key}", **{f"x-fastroute-{name}": value for name, value in headers.items()}}
    body = {key: value for key, value in chat(user=user, max_tokens=4000).items()}
    link.request("POST", "/v1/chat/completions", json.dumps(body).encode(), fields)
    return link


def answers(links: list[HTTPConnection]) -> list[int]:
    """Return the statuses, in the order of the requests."""
    statuses = []
    for link in links:
        statuses.append(link.getresponse().status)
        link.close()
    return statuses


def wait_for_queue(gateway: Gateway, length: int) -> None:
    """Return once so many requests wait."""
    table = Table.open(os.path.join(gateway.state_dir, "limits"))
    try:
        wait_until(lambda: table.held(table.find(SUBJECT)) == length)
    finally:
        table.close()


def test_priorities_and_tenants_in_turn(fleet: Fleet, tmp_path: Path) -> None:
    turnstile = fleet.plays["p"] = Turnstile(fleet)
    limits = {"models": {"m": {"concurrency": 1}}, "queue": {"max": 20, "max_wait_ms": 20_000}}
    rules = [{"id": "urgent", "when": {"tags": ["urgent"]}, "then": {"priority": "critical"}}]
    with serve(tmp_path, fleet, limits, rules=rules) as gateway:
        links = [send(gateway, "a", "first")]
        wait_until(lambda: turnstile.seen == ["first"])
        who = [("a1", "a", ""), ("a2", "a", ""), ("a3", "a", ""), ("b1", "b", "normal"), ("low", "b", "low")]
        who += [("high", "a", "high"), ("ruled", "b", "low")]
        for waiting, (user, key, priority) in enumerate(who, 1):
            wishes = {"priority": priority} if priority else {}
            links.append(send(gateway, key, user, **wishes, **({"tags": "urgent"} if user == "ruled" else {})))
            wait_for_queue(gateway, waiting)
        turnstile.let_through(8)
        assert answers(links) == [200] * 8
        assert turnstile.seen == ["first", "ruled", "high", "a1", "b1", "a2", "a3", "low"]
        gateway.wait_idle()


def test_one_who_would_miss_its_deadline_is_refused_at_once(fleet: Fleet, tmp_path: Path) -> None:
    limits = {"models": {"m": {"rpm": 60}}, "queue": {"max": 20, "max_wait_ms": 3_000}}
    with serve(tmp_path, fleet, limits) as gateway:
        while ask(gateway, "sk-a", chat(), x_fastroute_timeout_ms="1").status != 429:
            pass
        # There is one place a second: the fourth would have to wait for longer than anybody may.
        links = [send(gateway, "a", "x") for _ in range(2)]
        wait_for_queue(gateway, 2)
        refused = ask(gateway, "sk-a", chat(), x_fastroute_timeout_ms="500")
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) in (2, 3)
        assert answers(links) == [200, 200]


def test_one_who_has_waited_long_enough_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    gate = fleet.plays["p"] = Gate(fleet)
    limits = {"models": {"m": {"concurrency": 1}}, "queue": {"max": 1, "max_wait_ms": 300}}
    with serve(tmp_path, fleet, limits) as gateway:
        links = [send(gateway, "a", "holds")]
        wait_until(lambda: gate.held == 1)
        links.append(send(gateway, "a", "waits"))
        wait_for_queue(gateway, 1)
        full = ask(gateway, "sk-b", chat())
        assert (full.status, full.document["error"]["code"]) == (429, "rate_limit_exceeded")
        response = links[1].getresponse()
        assert response.status == 429
        assert b"1 requests at a time for this model" in response.read()
        gate.open()
        assert links[0].getresponse().status == 200
        for link in links:
            link.close()
        assert ask(gateway, "sk-a", chat()).status == 200


def test_who_leaves_the_queue_takes_no_place(fleet: Fleet, tmp_path: Path) -> None:
    gate = fleet.plays["p"] = Gate(fleet)
    limits = {"models": {"m": {"concurrency": 1}}, "queue": {"max": 5, "max_wait_ms": 10_000}}
    with serve(tmp_path, fleet, limits) as gateway:
        links = [send(gateway, "a", "holds")]
        wait_until(lambda: gate.held == 1)
        gone = send(gateway, "a", "goes")
        wait_for_queue(gateway, 1)
        links.append(send(gateway, "b", "stays"))
        wait_for_queue(gateway, 2)
        gone.close()
        wait_until(lambda: [record["outcome"] for record in gateway.records()] == ["cancelled"])
        gate.open()
        assert answers(links) == [200, 200]
        gateway.wait_idle()
        assert fleet.upstream.request_count == 2


def test_an_empty_queue_delays_nobody_and_a_reload_takes_it_away(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["p"] = GOOD
    limits = {"models": {"m": {"rpm": 60}}, "queue": {"max": 5, "max_wait_ms": 5_000}}
    with serve(tmp_path, fleet, limits) as gateway:
        assert {ask(gateway, "sk-a", chat()).status for _ in range(60)} == {200}
        assert ask(gateway, "sk-a", chat()).status == 200
        changed = json.loads(gateway.config_file.read_text())
        changed["limits"] = {"models": {"m": {"rpm": 60}}}
        gateway.write_config(changed)
        gateway.reload()
        wait_until(lambda: "configuration 2 is in force" in gateway.log)
        assert 429 in {ask(gateway, "sk-a", chat()).status for _ in range(10)}


def test_where_the_provider_takes_few_at_a_time_all_workers_wait_for_it(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["p"] = [Pause(0.02), *GOOD]
    providers = [fleet.provider("p", keys=[{"key": "up-p", "concurrency": 3}])]
    limits = {"queue": {"max": 100, "max_wait_ms": 20_000}}
    with Gateway(config(providers, WORKERS, limits=limits), tmp_path) as gateway:
        replies = Load(gateway, clients=24).send(150)
        assert {reply.status for reply in replies} == {200}
        gateway.wait_idle()
        assert fleet.upstream.request_count == 150
        assert {row["outcome"] for row in gateway.records()} == {"ok"}
