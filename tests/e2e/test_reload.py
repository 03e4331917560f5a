"""SIGHUP: another configuration takes over while requests are under way; a faulty one changes nothing."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.counters import REQUESTS, Segment
from fastroute.upstream.mock import Barrier, MockUpstream, Request, Script, json_response
from tests.e2e.client import Answer, ask, chat, completion
from tests.e2e.harness import ADMIN_KEY, Gateway, ThreadedUpstream, wait_until

KEY = "sk-reload"
GOOD = json_response(200, completion())


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(lambda request: GOOD) as running:
        yield running


def provider(name: str, url: str, *models: object, **more: object) -> dict[str, Any]:
    models = models or ("m",)
    return {"id": name, "type": "openai", "base_url": f"{url}/v1", "keys": [f"up-{name}"], "models": [*models], **more}


def config(*providers: dict[str, Any], **more: object) -> dict[str, Any]:
    return {
        "server": {"workers": 2, "admin": {"key": ADMIN_KEY}},
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [*providers],
        **more,
    }


def put_in_force(gateway: Gateway, document: dict[str, Any]) -> None:
    """Replace the configuration and return once every worker goes by it."""
    before = gateway.log.count("is in force")
    gateway.write_config({**document, "server": gateway.config["server"]})
    gateway.reload()
    wait_until(lambda: gateway.log.count("is in force") == before + 2)


def served_by(gateway: Gateway, times: int = 24) -> set[str]:
    return {ask(gateway, KEY, chat()).headers.get("x-fastroute-provider", "") for _ in range(times)}


def test_providers_come_and_go(tmp_path: Path, upstream: MockUpstream) -> None:
    one, two = provider("one", upstream.url), provider("two", upstream.url)
    with Gateway(config(one), tmp_path) as gateway:
        assert served_by(gateway) == {"one"}
        put_in_force(gateway, config(one, two, routing={"strategy": "round_robin"}))
        assert served_by(gateway, 60) == {"one", "two"}
        put_in_force(gateway, config(two))
        assert served_by(gateway) == {"two"}
        put_in_force(gateway, config(provider("two", upstream.url, weight=0), one))
        assert served_by(gateway) == {"one"}
        gateway.wait_idle()


def test_aliases_rules_and_keys(tmp_path: Path, upstream: MockUpstream) -> None:
    one = provider("one", upstream.url)
    with Gateway(config(one), tmp_path) as gateway:
        assert ask(gateway, KEY, chat("nick")).status == 404
        rule = {"id": "closed", "when": {"header": {"x-team": ["red"]}}, "then": {"reject": {"reason": "custom"}}}
        put_in_force(gateway, config(one, aliases={"nick": "m"}, rules=[rule]))
        assert ask(gateway, KEY, chat("nick")).status == 200
        assert ask(gateway, KEY, chat(), x_team="red").status == 403
        put_in_force(gateway, {**config(one), "auth": {"keys": [{"id": "app", "key": "sk-other"}]}})
        assert ask(gateway, KEY, chat()).status == 401
        assert ask(gateway, "sk-other", chat()).status == 200


def test_counters_of_what_stays_live_on(tmp_path: Path, upstream: MockUpstream) -> None:
    one, two, three = (provider(name, upstream.url) for name in ("one", "two", "three"))
    with Gateway(config(one, two), tmp_path) as gateway:
        served_by(gateway, 40)
        segment = Segment.open(f"{gateway.state_dir}/segment")
        gateway.wait_idle()
        before = segment.totals(REQUESTS)
        assert sum(before) == 40
        put_in_force(gateway, config(two, three, routing={"strategy": "round_robin"}))
        served_by(gateway, 40)
        gateway.wait_idle()
        after = segment.totals(REQUESTS)
        assert after[0] == before[0]  # of one: nobody has its row yet
        assert after[1] > before[1]  # of two: it goes on counting where it was
        assert sum(after) == 80
        put_in_force(gateway, config(two, three, provider("four", upstream.url)))
        # a row whose endpoint is gone is given to the next one, empty
        assert segment.total(0, REQUESTS) == 0
        segment.close()


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"providers": [{"id": "p", "type": "nonsense"}]}, "providers[0]"),
        ({"providers": [], "routes": [{"model": "m", "strategy": "guess"}]}, "guess"),
        ({"aliases": {"a": "b", "b": "a"}}, "aliases"),
    ],
)
def test_a_faulty_one_changes_nothing(
    tmp_path: Path, upstream: MockUpstream, document: dict[str, Any], complaint: str
) -> None:
    with Gateway(config(provider("one", upstream.url)), tmp_path) as gateway:
        gateway.write_config({**gateway.config, **document})
        gateway.reload()
        wait_until(lambda: "stays as it is" in gateway.log)
        assert complaint in gateway.log
        assert served_by(gateway, 4) == {"one"}
        gateway.config_file.write_text("{")
        gateway.reload()
        wait_until(lambda: gateway.log.count("stays as it is") == 2)
        gateway.config_file.unlink()
        gateway.reload()
        wait_until(lambda: gateway.log.count("stays as it is") == 3)
        assert served_by(gateway, 4) == {"one"}
        assert len(gateway.children()) == 3


def test_what_takes_a_restart_is_named(tmp_path: Path, upstream: MockUpstream) -> None:
    one = provider("one", upstream.url)
    with Gateway(config(one), tmp_path) as gateway:
        gateway.write_config({**config(one), "server": {**gateway.config["server"], "workers": 3, "backlog": 7}})
        gateway.reload()
        wait_until(lambda: gateway.log.count("is in force") == 2)
        assert "server.workers has changed" in gateway.log
        assert "server.backlog has changed" in gateway.log
        assert "server.port" not in gateway.log
        assert len(gateway.children()) == 3


def test_a_request_ends_on_the_snapshot_it_began_with(tmp_path: Path) -> None:
    event = asyncio.Event()

    def script(request: Request) -> Script:
        return [Barrier(event), *GOOD]

    held = ThreadedUpstream(script)
    with held as slow, Gateway(config(provider("one", slow.url)), tmp_path) as gateway:
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(ask(gateway, KEY, chat())))
        asking.start()
        wait_until(lambda: gateway.in_flight() == 1)
        put_in_force(gateway, config(provider("two", slow.url, "other")))
        assert ask(gateway, KEY, chat()).status == 404
        put_in_force(gateway, config(provider("three", slow.url, "another")))
        held.set(event)
        asking.join(10)
        assert (answers[0].status, answers[0].headers["x-fastroute-provider"]) == (200, "one")
        gateway.wait_idle()


def test_a_worker_that_died_comes_back_with_the_new_one(tmp_path: Path, upstream: MockUpstream) -> None:
    with Gateway(config(provider("one", upstream.url)), tmp_path) as gateway:
        put_in_force(gateway, config(provider("two", upstream.url)))
        for pid in gateway.children():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(gateway.children()) == 3)
        gateway.wait_ready(10)
        assert served_by(gateway) == {"two"}


def test_no_request_fails_while_configurations_change(tmp_path: Path, upstream: MockUpstream) -> None:
    one, two = provider("one", upstream.url), provider("two", upstream.url)
    stop = threading.Event()
    statuses: list[int] = []

    with Gateway(config(one), tmp_path) as gateway:

        def load() -> None:
            while not stop.is_set():
                statuses.append(ask(gateway, KEY, chat()).status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for document in (config(one, two), config(two), config(two, one), config(one)) * 3:
            put_in_force(gateway, document)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert set(statuses) == {200}
        gateway.wait_idle()
