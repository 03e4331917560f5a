"""Hedging: a second attempt before the first token, capped, and both legs billed."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute.upstream.mock import (
    MockUpstream,
    Pause,
    Request,
    Script,
    Send,
    Stall,
    chunk,
    json_response,
    response_head,
)
from tests.e2e.client import ask, chat, completion
from tests.e2e.harness import Gateway, ThreadedUpstream, wait_until

KEY = "sk-hedge"
GOOD = json_response(200, completion())
EVENTS = response_head(200, [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")])
PRICE = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 10}


def slow(request: Request) -> Script:
    match json.loads(request.body)["model"]:
        case "stalls":
            return [Stall()]
        case "late":
            return [Pause(0.4), *GOOD]
        case "fails-late":
            return [Pause(0.3), *json_response(500, {"error": {"message": "slow"}})]
        case "breaks-late":
            return [Pause(0.3), Send(EVENTS + chunk(b'data: {"half') + b"zz\r\n")]
        case _:
            return GOOD


def quick(request: Request) -> Script:
    match json.loads(request.body)["model"]:
        case "late":
            return [Pause(2.0), *GOOD]
        case "fails-late":
            return json_response(503, {"error": {"message": "quick"}})
        case "breaks-late":
            return [Pause(0.8), Send(EVENTS + chunk(b"data: whole\n\n") + b"0\r\n\r\n")]
        case _:
            return GOOD


MODELS = ("stalls", "late", "fails-late", "breaks-late", "fine", "unpriced")


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[MockUpstream, MockUpstream]]:
    with ThreadedUpstream(slow) as first, ThreadedUpstream(quick) as second:
        yield first, second


def config(upstreams: tuple[MockUpstream, MockUpstream], **hedge: object) -> dict[str, Any]:
    def provider(name: str, upstream: MockUpstream) -> dict[str, Any]:
        models = [{"name": model, **({"price": PRICE} if model != "unpriced" else {})} for model in MODELS]
        for model in models:
            if model["name"] == "unpriced":
                model["upstream"] = "stalls"
        url = f"{upstream.url}/v1"
        return {"id": name, "type": "openai", "base_url": url, "keys": ["up"], "models": models}

    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [provider("slow", upstreams[0]), provider("quick", upstreams[1])],
        "routes": [{"model": model, "tiers": [["slow"], ["quick"]]} for model in MODELS],
        "routing": {
            "retry": {"hedge": {"enabled": True, "delay_ms": 100, "max_percent": 100, **hedge}},
            "timeouts": {"first_byte_ms": 1500},
        },
    }


def test_the_second_attempt_answers_and_both_are_billed(
    tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]
) -> None:
    with Gateway(config(upstreams), tmp_path) as gateway:
        answer = ask(gateway, KEY, chat("stalls"))
        assert (answer.status, answer.document) == (200, completion())
        assert (answer.headers["x-fastroute-provider"], answer.headers["x-fastroute-attempts"]) == ("quick", "2")
        gateway.wait_idle()
        wait_until(lambda: upstreams[0].open_connections == 0)
        rows = {row["provider"]: row for row in gateway.records()}
        assert len(rows) == 2
        assert rows["quick"]["outcome"] == "ok"
        assert rows["quick"]["cost_nano_usd"] == 7 * 2000 + 5 * 10_000
        lost = rows["slow"]
        assert (lost["outcome"], lost["usage_source"], lost["output_tokens"]) == ("hedged", "estimated", 0)
        assert lost["cost_nano_usd"] == lost["input_tokens"] * 2000 > 0
        assert lost["request_id"] == rows["quick"]["request_id"]
        used = gateway.usage()[0]
        assert (used["requests"], used["attempts"], used["estimated_requests"]) == (1, 2, 0)
        assert used["cost_nano_usd"] == lost["cost_nano_usd"] + rows["quick"]["cost_nano_usd"]


def test_the_first_attempt_may_still_win(tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]) -> None:
    with Gateway(config(upstreams), tmp_path) as gateway:
        answer = ask(gateway, KEY, chat("late"))
        assert (answer.headers["x-fastroute-provider"], answer.headers["x-fastroute-attempts"]) == ("slow", "2")
        gateway.wait_idle()
        rows = {row["provider"]: row["outcome"] for row in gateway.records()}
        assert rows == {"slow": "ok", "quick": "hedged"}


def test_an_answer_that_breaks_before_its_first_event_does_not_win(
    tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]
) -> None:
    with Gateway(config(upstreams), tmp_path) as gateway:
        answer = ask(gateway, KEY, chat("breaks-late", stream=True))
        assert (answer.status, answer.body) == (200, b"data: whole\n\n")
        assert (answer.headers["x-fastroute-provider"], answer.headers["x-fastroute-attempts"]) == ("quick", "2")
        gateway.wait_idle()
        assert [(row["provider"], row["outcome"]) for row in gateway.records()] == [("quick", "ok")]


def black_hole() -> Iterator[int]:
    """Yield a port on which nobody accepts: connections to it hang."""
    with socket.socket() as listener, contextlib.ExitStack() as fill:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            link = fill.enter_context(socket.socket())
            link.setblocking(False)
            link.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_an_endpoint_that_nobody_can_connect_to_does_not_end_the_other_attempt(
    tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]
) -> None:
    with contextlib.contextmanager(black_hole)() as port:
        document = config(upstreams)
        document["providers"][1]["base_url"] = f"http://127.0.0.1:{port}/v1"
        document["routing"]["timeouts"]["connect_ms"] = 100
        with Gateway(document, tmp_path) as gateway:
            answer = ask(gateway, KEY, chat("late"))
            assert (answer.status, answer.document) == (200, completion())
            assert (answer.headers["x-fastroute-provider"], answer.headers["x-fastroute-attempts"]) == ("slow", "2")
            gateway.wait_idle()
            found = {one["provider"]: one["window"] for one in gateway.explain({"model": "late"})["candidates"]}
            assert found == {"slow": {"ok": 1, "failed": 0}, "quick": {"ok": 0, "failed": 1}}


def test_no_hedge_for_who_answers_in_time(tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]) -> None:
    with Gateway(config(upstreams), tmp_path) as gateway:
        assert ask(gateway, KEY, chat("fine")).headers["x-fastroute-attempts"] == "1"
        assert [row["outcome"] for row in gateway.records()] == ["ok"]


def test_when_both_fail_an_error_is_the_answer(tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]) -> None:
    document = config(upstreams)
    document["routing"]["retry"]["max_attempts"] = 2
    with Gateway(document, tmp_path) as gateway:
        answer = ask(gateway, KEY, chat("fails-late"))
        assert answer.status in (500, 503)
        assert answer.headers["x-fastroute-attempts"] == "2"
        gateway.wait_idle()


@pytest.mark.parametrize(
    ("hedge", "model"), [({"max_usd_per_hour": 0}, "stalls"), ({"max_percent": 0.01}, "stalls"), ({}, "unpriced")]
)
def test_the_caps(
    tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream], hedge: dict[str, object], model: str
) -> None:
    document = config(upstreams, **hedge)
    document["routing"]["timeouts"]["first_byte_ms"] = 400
    document["routing"]["retry"]["max_attempts"] = 1
    with Gateway(document, tmp_path) as gateway:
        answer = ask(gateway, KEY, chat(model))
        assert answer.status == 504
        gateway.wait_idle()
        assert [row["outcome"] for row in gateway.records()] == ["timeout"]


def test_nobody_answers_in_time(tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]) -> None:
    document = config(upstreams)
    document["routing"]["timeouts"]["first_byte_ms"] = 300
    document["routes"] = [{"model": "stalls", "tiers": [["slow"]]}]
    with Gateway(document, tmp_path) as gateway:
        assert ask(gateway, KEY, chat("stalls")).status == 504
        gateway.wait_idle()


def test_a_client_that_leaves_ends_both(tmp_path: Path, upstreams: tuple[MockUpstream, MockUpstream]) -> None:
    document = config(upstreams)
    document["routing"]["timeouts"]["first_byte_ms"] = 20_000
    with Gateway(document, tmp_path) as gateway:
        answer = ask(gateway, KEY, chat("late"), x_fastroute_timeout_ms="200")
        assert answer.status == 504
        gateway.wait_idle()
        wait_until(lambda: upstreams[0].open_connections == 0 and upstreams[1].open_connections == 0)


def test_the_embedded_provider_in_a_race(tmp_path: Path) -> None:
    """It answers by what was asked, so an attempt in a race has to know that."""
    document = {
        "providers": [{"id": "echo", "type": "echo", "models": ["echo-1"]}],
        "routing": {"retry": {"hedge": {"enabled": True, "delay_ms": 1, "max_percent": 100}}},
    }
    with Gateway(document, tmp_path) as gateway:
        for stream in (False, True):
            answer = ask(gateway, "any", chat("echo-1", stream=stream))
            assert (answer.status, answer.headers["x-fastroute-provider"]) == (200, "echo")
            assert b"echo-1" in answer.body
        gateway.wait_idle()
