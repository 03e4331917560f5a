"""Active health checks: who fails them gets no requests until he passes again."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute.upstream.mock import MockUpstream, Request, Script, json_response
from tests.e2e.client import ask, chat, completion
from tests.e2e.harness import Gateway, ThreadedUpstream, wait_until

KEY = "sk-probe"


class Switch:
    """A provider whose health check fails while `ill` is set; its answers are sound all the time."""

    def __init__(self) -> None:
        self.ill = threading.Event()
        self.probes: list[Request] = []

    def __call__(self, request: Request) -> Script:
        if request.target == "/health":
            self.probes.append(request)
            return json_response(503 if self.ill.is_set() else 200, {})
        return json_response(200, completion())


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def upstream(switch: Switch) -> Iterator[MockUpstream]:
    with ThreadedUpstream(switch) as running:
        yield running


def provider(name: str, upstream: MockUpstream, **more: object) -> dict[str, Any]:
    url = f"{upstream.url}/v1"
    return {"id": name, "type": "openai", "base_url": url, "keys": ["up-key"], "models": ["m"], **more}


def config(*providers: dict[str, Any]) -> dict[str, Any]:
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [*providers],
        "routing": {"strategy": "round_robin", "breaker": {"success_threshold": 1, "panic_percent": 0}},
    }


def served_by(gateway: Gateway) -> set[str]:
    return {ask(gateway, KEY, chat()).headers.get("x-fastroute-provider", "") for _ in range(8)}


def test_a_provider_that_fails_its_probe_is_left_alone(tmp_path: Path, switch: Switch, upstream: MockUpstream) -> None:
    probe = {"path": "/health", "interval_ms": 50, "timeout_ms": 1000}
    with (
        ThreadedUpstream(lambda request: json_response(200, completion())) as other,
        Gateway(config(provider("probed", upstream, probe=probe), provider("other", other)), tmp_path) as gateway,
    ):
        wait_until(lambda: len(switch.probes) > 2)
        assert served_by(gateway) == {"probed", "other"}
        switch.ill.set()
        wait_until(lambda: "fails its probe: status 503" in gateway.log)
        assert served_by(gateway) == {"other"}
        seen = len(switch.probes)
        wait_until(lambda: len(switch.probes) > seen + 3)
        assert served_by(gateway) == {"other"}
        switch.ill.clear()
        wait_until(lambda: "passes its probe again" in gateway.log)
        wait_until(lambda: served_by(gateway) == {"probed", "other"})
        assert all(request.method == "GET" for request in switch.probes)
        assert not any(b"up-key" in value for request in switch.probes for _, value in request.headers)


def test_nothing_is_probed_unless_it_is_asked_for(tmp_path: Path, switch: Switch, upstream: MockUpstream) -> None:
    with Gateway(config(provider("p", upstream)), tmp_path) as gateway:
        assert served_by(gateway) == {"p"}
        assert switch.probes == []


def test_a_provider_that_cannot_be_reached(tmp_path: Path, upstream: MockUpstream) -> None:
    probe = {"path": "/health", "interval_ms": 50, "timeout_ms": 100}
    gone = provider("gone", upstream, probe=probe) | {"base_url": "http://127.0.0.1:9/v1"}
    with Gateway(config(gone, provider("other", upstream)), tmp_path) as gateway:
        wait_until(lambda: "provider gone fails its probe" in gateway.log)
        answer = ask(gateway, KEY, chat())
        assert (answer.status, answer.headers["x-fastroute-attempts"]) == (200, "1")
