"""Flow control and departures, by both transports: nobody sends more than the other side takes."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fastroute.upstream.mock import Request, Script, Send, Stall, Step, json_response, response_head
from tests.e2e.client import begin, connect
from tests.e2e.harness import Gateway, wait_until
from tests.e2e.stage import ASK, CHAT, KEY, STREAM_END, USAGE, Stage, piece, sent, stream_head, whole

STREAM = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
EVENT = b"data: " + b"x" * 65_000 + b"\n\n"
#: What kernels and processes on the way may hold of a stream that nobody reads: 260 MB would be all of it.
HELD_BYTES = 32 << 20


@pytest.fixture(scope="module", params=["fast", "httpx"])
def gateway_config(stage: Stage, request: pytest.FixtureRequest) -> dict[str, Any]:
    return {
        "server": {"workers": 2},
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [stage.provider("p", transport=request.param)],
    }


class Flood:
    """A stream of 4,000 large events, each made when the one before has been taken."""

    def __init__(self, events: int = 4000) -> None:
        self.events = events
        self.taken = 0

    def __call__(self, request: Request) -> Script:
        return self._steps()  # type: ignore[return-value]

    def _steps(self) -> Iterator[Step]:
        yield stream_head()
        while self.taken < self.events:
            yield sent(EVENT)
            self.taken += 1
        yield STREAM_END

    def wait_still(self) -> None:
        """Return once nothing has been taken for a while."""
        last, since = -1, 0

        def still() -> bool:
            nonlocal last, since
            since = since + 1 if self.taken == last else 0
            last = self.taken
            return last > 0 and since >= 40

        wait_until(still, 20)


def raw_stream(gateway: Gateway, body: object) -> socket.socket:
    """Ask for a stream on a socket that takes little; read no more than the status line of the answer."""
    data = json.dumps(body).encode()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", gateway.port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(data)}\r\n\r\n"
    sock.sendall(head.encode() + data)
    assert sock.recv(15).startswith(b"HTTP/1.1 200")
    return sock


def test_a_client_that_does_not_read_stops_the_provider(gateway: Gateway, stage: Stage) -> None:
    flood = Flood()
    stage.play(flood)
    with raw_stream(gateway, STREAM) as sock:
        flood.wait_still()
        assert flood.taken * len(EVENT) < HELD_BYTES
        held = flood.taken
        # It goes on as soon as the client does.
        left = 2 * held * len(EVENT)
        while left > 0:
            left -= len(sock.recv(1 << 20))
        wait_until(lambda: flood.taken > held)
    gateway.wait_idle()


def test_a_blocked_client_that_leaves_frees_the_provider(gateway: Gateway, stage: Stage) -> None:
    flood, aborted = Flood(), stage.upstream.aborted
    stage.play(flood)
    with raw_stream(gateway, STREAM):
        flood.wait_still()
    wait_until(lambda: stage.upstream.aborted == aborted + 1, 2)
    gateway.wait_idle()
    wait_until(lambda: gateway.records()[-1]["outcome"] == "cancelled")


def test_a_slow_reader_gets_everything(gateway: Gateway, stage: Stage) -> None:
    stage.play(Flood(200))
    link = connect(gateway)
    response = begin(link, KEY, STREAM)
    size = 0
    while data := response.read(100_000):
        size += len(data)
    assert size == 200 * len(EVENT)
    link.close()


@pytest.mark.parametrize("size", [900_000, 1_100_000, 8_000_000, 20_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_answer_arrives_whole(
    size: int, chunked: bool, gateway: Gateway, client: httpx.Client, stage: Stage
) -> None:
    body = json.dumps({"data": "x" * size, "usage": USAGE}).encode()
    if chunked:
        head = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
        pieces = [sent(body[at : at + 100_000]) for at in range(0, len(body), 100_000)]
        stage.play([Send(response_head(200, head)), *pieces, STREAM_END])
    else:
        stage.play(json_response(200, body))
    answer = client.post(CHAT, json=ASK)
    assert (answer.status_code, answer.content == body) == (200, True)
    wait_until(lambda: gateway.records()[-1]["response_bytes"] == len(body))
    record = gateway.records()[-1]
    assert record["outcome"] == "ok"
    # Beyond 16 MiB an answer is not kept for metering.
    assert record["usage_source"] == ("provider" if size < 16 << 20 else "estimated")


@pytest.mark.parametrize("size", [900_000, 1_100_000, 3_000_000, 15_000_000, 17_000_000])
def test_an_event_with_a_picture_is_metered(size: int, gateway: Gateway, client: httpx.Client, stage: Stage) -> None:
    event = b"data: " + json.dumps({"choices": [{"delta": {"image": "x" * size}}], "usage": USAGE}).encode() + b"\n\n"
    done = b"data: [DONE]\n\n"
    pieces = [sent(event[at : at + 100_000]) for at in range(0, len(event), 100_000)]
    stage.play([stream_head(), *pieces, sent(done), STREAM_END])
    answer = client.post(CHAT, json={**ASK, "stream": True})
    assert (answer.status_code, answer.content == event + done) == (200, True)
    wait_until(lambda: gateway.records()[-1]["response_bytes"] == len(event + done))
    record = gateway.records()[-1]
    expected = ("provider", 5) if size < 16 << 20 else ("estimated", 0)
    assert (record["usage_source"], record["output_tokens"]) == expected


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_the_record_is_written_before_the_last_byte(
    size: int, gateway: Gateway, client: httpx.Client, stage: Stage
) -> None:
    """So a worker killed after an answer loses nothing. The client knows the answer's end by its length."""
    stage.play(json_response(200, {"data": "x" * size, "usage": USAGE}))
    for _ in range(5):
        before = len(gateway.records())
        assert client.post(CHAT, json=ASK).status_code == 200
        assert len(gateway.records()) == before + 1


def test_departures_are_noticed_within_a_second(gateway: Gateway, stage: Stage) -> None:
    aborted = stage.upstream.aborted
    stage.play([stream_head(), sent(piece("one")), Stall()])
    links = [connect(gateway) for _ in range(8)]
    for link in links:
        assert begin(link, KEY, STREAM).read1() == piece("one")
    assert gateway.in_flight() == 8
    for link in links:
        assert link.sock is not None
        link.sock.shutdown(socket.SHUT_RDWR)
        link.close()
    wait_until(lambda: gateway.in_flight() == 0, 1.5)
    wait_until(lambda: stage.upstream.aborted == aborted + 8, 1)


def test_a_client_that_leaves_while_it_uploads(gateway: Gateway, client: httpx.Client, stage: Stage) -> None:
    stage.play(whole())
    before = len(gateway.records())
    with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 5000000\r\n\r\n"
        sock.sendall(head.encode() + b"x" * 100_000)
    assert client.post(CHAT, json=ASK).status_code == 200
    assert len(stage.requests) == 1
    assert len(gateway.records()) == before + 1
    gateway.wait_idle()
