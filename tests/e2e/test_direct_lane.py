"""Clients that mean the direct lane no good: what they can hold up, and what they leave behind."""

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from fastroute.upstream.mock import Pause, Request, Script
from tests.e2e.harness import Gateway, exchange, wait_until
from tests.e2e.stage import AUTH, MODEL, STREAM_END, Stage, chat, json_response, piece, sent, stream_head, whole

LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n"
#: Words in a request, and what is answered to it.
LARGE, LATE, LONG = "LARGE", "LATE", "LONG"


def script_for(request: Request) -> Script:
    text = request.body.decode()
    if LARGE in text:
        return json_response(200, chat("y" * 5_000_000), [])
    if LATE in text:
        return [Pause(1.0), *whole()]
    if LONG in text:
        return [stream_head(), *[sent(piece("z" * 2000))] * 3000, STREAM_END]
    return whole()


def ask(word: str = "", *, stream: bool = False, auth: bool = True) -> bytes:
    body = b'{"model":"%b","stream":%b,"messages":[{"role":"user","content":"%b"}]}' % (
        MODEL.encode(),
        b"true" if stream else b"false",
        word.encode(),
    )
    key = b"authorization: %b\r\n" % AUTH["authorization"].encode() if auth else b""
    return LINE + key + b"content-length: %d\r\n\r\n" % len(body) + body


def connect(gateway: Gateway, room: int = 0) -> socket.socket:
    """Return a connection. room: bytes that it takes before somebody reads."""
    link = socket.socket()
    if room:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    link.settimeout(20)
    link.connect(("127.0.0.1", gateway.port))
    return link


def reset(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(default=script_for) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(stage: Stage) -> dict[str, Any]:
    return {
        "server": {"lane": "direct", "drain": {"grace_ms": 500}},
        "auth": {"keys": [{"id": "k", "key": AUTH["authorization"].removeprefix("Bearer ")}]},
        "providers": [stage.provider("p")],
    }


def assert_quiet(gateway: Gateway) -> None:
    """No fault, no write after the end, nothing left pending."""
    for word in ("Traceback", "Exception", "exception", "Task", "WARNING", "ERROR"):
        assert word not in gateway.log


def test_a_flood_of_blank_lines_holds_up_nobody(gateway: Gateway) -> None:
    with connect(gateway) as flood:
        # Taken line by line, this kept the worker busy for a minute and more.
        flood.sendall(b"\r\n" * 12_000_000)
        assert exchange(gateway.port, LIVE).answers[0].status == 200
        flood.sendall(LIVE)
        assert flood.recv(100).startswith(b"HTTP/1.1 200 ")


def test_whenever_a_client_leaves(gateway: Gateway, stage: Stage) -> None:
    moments = random.Random(7)
    requests = [ask(), ask(LATE), ask(LARGE), ask(LONG, stream=True), ask() * 4, ask(auth=False)]
    settled, began = len(gateway.records()), stage.upstream.request_count
    for data in requests:
        for _ in range(8):
            link = connect(gateway, moments.choice([0, 4096]))
            with suppress(OSError):
                link.sendall(data[: moments.choice([len(data), moments.randrange(len(data))])])
                link.settimeout(moments.random() / 10 + 0.001)
                if moments.random() < 0.3:
                    link.shutdown(socket.SHUT_WR)
                link.recv(moments.choice([1, 100_000]))
            moments.choice([reset, socket.socket.close])(link)
    gateway.wait_idle()
    began = stage.upstream.request_count - began
    # One that was cut before it was sent has a record too.
    wait_until(lambda: len(gateway.records()) - settled >= began)
    records = gateway.records()[settled:]
    assert len({record["request_id"] for record in records}) == len(records)
    assert sum(record["attempts"] > 0 for record in records) >= began
    assert exchange(gateway.port, ask()).answers[0].status == 200
    assert_quiet(gateway)


def test_who_comes_when_files_run_out_waits(gateway_config: dict[str, Any], tmp_path: Path) -> None:
    gateway = Gateway(gateway_config, tmp_path)
    gateway.program = ("sh", "-c", 'ulimit -n 120; exec "$0" "$@"', *gateway.program)
    with gateway, ExitStack() as stack:
        links = [stack.enter_context(connect(gateway)) for _ in range(200)]
        for link in links:
            link.sendall(LIVE)
        for link in links:
            assert link.recv(1000).startswith(b"HTTP/1.1 200 ")
            link.close()
        assert exchange(gateway.port, ask()).answers[0].status == 200
        assert_quiet(gateway)


def test_nobody_keeps_a_worker_from_ending(gateway_config: dict[str, Any], tmp_path: Path) -> None:
    body = LINE + b"content-length: 300000\r\n\r\n"
    with Gateway(gateway_config, tmp_path) as gateway, ExitStack() as links:
        for data in (
            b"",
            b"\r\n",
            ask()[:30],
            ask()[:-5],
            ask(LATE),
            ask(LARGE),
            ask(LONG, stream=True),
            ask(LARGE) + ask(),
            body,
            LIVE,
        ):
            for _ in range(2):
                links.enter_context(connect(gateway, 4096)).sendall(data)
        wait_until(lambda: gateway.in_flight() >= 2)
        # Within the time that a test gives to an end; idle connections alone would take longer.
        assert gateway.terminate() == 0
        assert len({record["request_id"] for record in gateway.records()}) == len(gateway.records())
        assert_quiet(gateway)
