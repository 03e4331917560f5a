"""Streams as they arrive, clients that leave or do not read, large bodies beside small ones."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.counters import Segment
from fastroute.upstream.mock import (
    Barrier,
    MockUpstream,
    Request,
    Script,
    Send,
    Stall,
    chunk,
    json_response,
    response_head,
)
from tests.e2e.client import ask, begin, chat, completion, connect
from tests.e2e.harness import Gateway, ThreadedUpstream

KEY = "sk-streams"
HEAD = response_head(200, [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")])


class Director:
    """The upstream's script by model; `go` lets the second half of a stream be sent."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    def __call__(self, request: Request) -> Script:
        model = json.loads(request.body)["model"]
        if model == "halves":
            return [Send(HEAD + chunk(b"data: 1\n\n")), Barrier(self.go), Send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")]
        if model == "endless":
            return [Send(HEAD + chunk(b"data: 1\n\n")), Stall()]
        if model == "silent":
            return [Stall()]
        if model == "flood":
            return [Send(HEAD), *[Send(chunk(b"data: " + b"x" * 65_000 + b"\n\n"))] * 4000, Send(b"0\r\n\r\n")]
        if model == "slow":
            return [Barrier(self.go), *json_response(200, completion())]
        return json_response(200, completion())


@pytest.fixture(scope="module")
def director() -> Director:
    return Director()


@pytest.fixture(scope="module")
def running(director: Director) -> Iterator[ThreadedUpstream]:
    upstream = ThreadedUpstream(director)
    with upstream as mock:
        upstream.mock = mock  # type: ignore[attr-defined]
        yield upstream


@pytest.fixture(scope="module")
def upstream(running: Any) -> MockUpstream:
    mock: MockUpstream = running.mock
    return mock


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    provider = {"id": "p", "type": "openai", "base_url": f"{upstream.url}/v1", "keys": ["up"]}
    return {
        "server": {"workers": 2, "limits": {"max_body_bytes": 33_554_432}},
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            {**provider, "models": ["halves", "endless", "silent", "flood", "slow", "m"], "include_usage": False}
        ],
    }


def let_go(running: Any, director: Director) -> None:
    running._loop.call_soon_threadsafe(director.go.set)


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def in_flight(gateway: Gateway) -> int:
    segment = Segment.open(str(Path(gateway.config["server"]["state_dir"]) / "segment"))
    try:
        return sum(segment.in_flight(endpoint) for endpoint in range(segment.endpoints))
    finally:
        segment.close()


def test_events_are_passed_on_before_the_next_one_is_sent(gateway: Gateway, running: Any, director: Director) -> None:
    connection = connect(gateway)
    response = begin(connection, KEY, chat("halves", stream=True))
    assert response.read1() == b"data: 1\n\n"
    assert in_flight(gateway) == 1
    let_go(running, director)
    assert response.read() == b"data: 2\n\n"
    connection.close()
    until(lambda: in_flight(gateway) == 0, 2)


def test_a_client_that_leaves_takes_the_upstream_connection_with_it(gateway: Gateway, upstream: MockUpstream) -> None:
    aborted = upstream.aborted
    connection = connect(gateway)
    response = begin(connection, KEY, chat("endless", stream=True))
    assert response.read1() == b"data: 1\n\n"
    response.close()
    connection.close()
    until(lambda: upstream.aborted == aborted + 1, 2)
    until(lambda: in_flight(gateway) == 0, 2)
    row = next(row for row in gateway.usage() if row["model"] == "endless")
    assert (row["requests"], row["estimated_requests"]) == (1, 1)


def test_a_client_that_leaves_before_the_answer(gateway: Gateway, upstream: MockUpstream) -> None:
    aborted = upstream.aborted
    connection = connect(gateway)
    fields = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("silent")).encode(), fields)
    until(lambda: in_flight(gateway) == 1, 5)
    connection.close()
    until(lambda: upstream.aborted == aborted + 1, 2)
    until(lambda: in_flight(gateway) == 0, 2)


def test_a_client_that_does_not_read_stops_the_upstream(gateway: Gateway, upstream: MockUpstream) -> None:
    raw = json.dumps(chat("flood", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
        sock.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(raw) + raw)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        before = memory_kib(gateway)
        time.sleep(1.0)
        # 260 MB wait upstream; what the gateway and both kernels hold of them is bounded.
        assert memory_kib(gateway) - before < 20_000
        assert in_flight(gateway) == 1
    until(lambda: in_flight(gateway) == 0, 3)


def memory_kib(gateway: Gateway) -> int:
    total = 0
    for pid in gateway.children():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                total += int(line.split()[1])
    return total


def test_small_requests_go_on_beside_a_large_one(gateway: Gateway, running: Any, director: Director) -> None:
    running._loop.call_soon_threadsafe(director.go.clear)
    statuses: list[int] = []
    large = threading.Thread(
        target=lambda: statuses.append(ask(gateway, KEY, chat("slow", user="x" * 10_000_000)).status)
    )
    large.start()
    until(lambda: in_flight(gateway) == 1, 10)
    assert [ask(gateway, KEY, chat()).status for _ in range(50)] == [200] * 50
    assert statuses == []
    let_go(running, director)
    large.join(10)
    assert statuses == [200]
