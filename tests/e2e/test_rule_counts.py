"""How often each rule has applied, as the admin API tells it: over all workers, reloads and deaths of workers."""

import os
import signal
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.e2e.client import ask, chat
from tests.e2e.fleet import KEY, Fleet, Load, config, served, wake
from tests.e2e.harness import ADMIN_KEY, Gateway, get_status, wait_until

WORKERS = 4
MARK: dict[str, Any] = {"id": "mark", "when": {"model": ["m"]}, "then": {"tags": ["seen"]}, "priority": 1}
ODD: dict[str, Any] = {"id": "odd", "when": {"header": {"x-odd": ["1"]}}, "then": {"provider": "two"}}
SHUT: dict[str, Any] = {"id": "shut", "when": {"header": {"x-shut": ["1"]}}, "then": {"reject": {"reason": "custom"}}}
OFF: dict[str, Any] = {"id": "off", "enabled": False, "then": {"strategy": "random"}, "priority": 7}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet("one", "two") as made:
        yield made


@pytest.fixture(scope="module")
def gateway_config(fleet: Fleet) -> dict[str, Any]:
    return config(fleet.providers(), workers=WORKERS, rules=[MARK, ODD, SHUT, OFF])


def put_in_force(gateway: Gateway, rules: list[dict[str, Any]]) -> None:
    before = gateway.log.count("is in force")
    gateway.write_config({**gateway.config, "rules": rules})
    gateway.reload()
    wait_until(lambda: gateway.log.count("is in force") == before + WORKERS)


def test_counts_are_sums_over_workers_reloads_and_deaths(gateway: Gateway) -> None:
    wake(gateway)
    headers = [{"x-odd": "1"}, {}, {"x-shut": "1"}]
    load = Load(gateway, clients=32, headers=lambda number: headers[number % 3])
    rounds = 0

    def all_have_counted() -> bool:
        # Which worker takes a connection is up to the kernel: on a busy machine one may get none of a round's.
        nonlocal rounds
        rounds += 1
        assert {reply.status for reply in load.send(300)} == {200, 403}
        return all(counts["one"] + counts["two"] for counts in served(gateway))

    wait_until(all_have_counted, 30)
    marked, odd, shut = 300 * rounds, 100 * rounds, 100 * rounds
    assert gateway.rule_counts() == {"off": 0, "mark": marked, "odd": odd, "shut": shut}

    # Asking what would happen is no request.
    document = gateway.explain({"model": "m", "headers": {"x-odd": "1"}})
    assert (document["rules"], document["rule_matches"]) == (["mark", "odd"], {"mark": marked, "odd": odd})
    document = gateway.explain({"model": "m", "headers": {"x-shut": "1"}})
    assert document["refusal"]["code"] == "refused_by_rule"
    assert (document["rules"], document["rule_matches"]) == (["mark", "shut"], {"mark": marked, "shut": shut})
    assert gateway.rule_counts() == {"off": 0, "mark": marked, "odd": odd, "shut": shut}

    # One comes, one goes, one is another rule now but has kept its name.
    put_in_force(gateway, [MARK, {**ODD, "when": {"header": {"x-odd": ["0"]}}}, {**OFF, "id": "new", "enabled": True}])
    load.send(30)
    assert gateway.rule_counts() == {"new": 30, "mark": marked + 30, "odd": odd}

    before = set(gateway.children())
    control = gateway.kill_control_plane()
    os.kill(min(before - {control}), signal.SIGKILL)
    wait_until(lambda: len(set(gateway.children()) - before) == 2)
    wait_until(lambda: get_status(gateway.admin_port, "/readyz") == 200)
    assert gateway.rule_counts() == {"new": 30, "mark": marked + 30, "odd": odd}

    put_in_force(gateway, [SHUT, MARK, ODD])
    Load(gateway, headers=lambda number: headers[number % 3]).send(30)
    assert gateway.rule_counts() == {"mark": marked + 60, "odd": odd + 10, "shut": shut + 10}


def test_a_refusal_names_its_rule(gateway: Gateway) -> None:
    put_in_force(gateway, [SHUT, MARK])
    answer = ask(gateway, KEY, chat(), x_shut="1")
    assert (answer.status, answer.headers["x-fastroute-rule"]) == (403, "mark,shut")


def test_the_call_takes_get_and_the_admin_key(gateway: Gateway) -> None:
    for method, key, status, allow in (
        ("GET", ADMIN_KEY, 200, None),
        ("POST", ADMIN_KEY, 405, "GET"),
        ("GET", KEY, 401, None),
    ):
        link = HTTPConnection("127.0.0.1", gateway.admin_port, timeout=10)
        link.request(method, "/admin/v1/rules", headers={"authorization": f"Bearer {key}"})
        response = link.getresponse()
        response.read()
        link.close()
        assert (response.status, response.headers["allow"]) == (status, allow)
