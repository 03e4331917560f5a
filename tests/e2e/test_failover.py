"""Another endpoint is tried before the first byte, whatever the first one did; and none after it."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastroute.upstream.mock import (
    Close,
    Cut,
    MockUpstream,
    Request,
    Script,
    Send,
    Stall,
    json_response,
    raw,
    sse_response,
)
from tests.e2e.client import ask, chat, completion
from tests.e2e.harness import Gateway, ThreadedUpstream
from tests.ports import free_ports

#: Verdicts are tested here, each by itself; what endpoints remember of them has tests of its own.
pytestmark = pytest.mark.usefixtures("unhurt")

KEY = "sk-failover"
GOOD = json_response(200, completion())
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

#: What the first endpoint does, by the name of the model.
FAULTS: dict[str, Script] = {
    "status-500": json_response(500, {"error": {"message": "a"}}),
    "status-503": json_response(503, {"error": {"message": "b"}}),
    "status-429": json_response(429, {"error": {"message": "c"}}, [(b"retry-after", b"3")]),
    "status-401": json_response(401, {"error": {"message": "d"}}),
    "close": [Close()],
    "reset": [Cut()],
    "garbage": raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "two-lengths": raw(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
    "length-and-chunks": raw(HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    "bad-chunk": raw(HEAD + b"transfer-encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n"),
    "truncated": [Send(HEAD + b'content-length: 99\r\n\r\n{"id":'), Cut(rst=False)],
    "encoded": raw(HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"),
    "silent": [Stall()],
    "silent-after-head": [Send(HEAD + b"content-length: 9\r\n\r\n"), Stall()],
    "no-event": [Send(STREAM), Cut()],
}


def first(request: Request) -> Script:
    return FAULTS[json.loads(request.body)["model"]]


@pytest.fixture(scope="module")
def faulty() -> Iterator[MockUpstream]:
    with ThreadedUpstream(first) as running:
        yield running


@pytest.fixture(scope="module")
def sound() -> Iterator[MockUpstream]:
    with ThreadedUpstream(lambda request: GOOD) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(faulty: MockUpstream, sound: MockUpstream) -> dict[str, Any]:
    [refused] = free_ports(1)
    models = [*FAULTS, "refused"]

    def provider(name: str, url: str, names: list[str]) -> dict[str, Any]:
        return {"id": name, "type": "openai", "base_url": f"{url}/v1", "keys": [f"up-{name}"], "models": names}

    alone = [{"name": f"only-{name}", "upstream": name} for name in FAULTS]
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            provider("faulty", faulty.url, [*FAULTS, *alone]),  # type: ignore[list-item]
            provider("refused", f"http://127.0.0.1:{refused}", ["refused", "only-refused"]),
            provider("sound", sound.url, models),
        ],
        "routes": [
            *({"model": name, "tiers": [["faulty"], ["sound"]]} for name in FAULTS),
            {"model": "refused", "tiers": [["refused"], ["sound"]]},
        ],
        "routing": {"timeouts": {"connect_ms": 1000, "first_byte_ms": 1000, "idle_ms": 2000, "total_ms": 10000}},
    }


@pytest.mark.parametrize("model", [*FAULTS, "refused"])
def test_the_second_endpoint_answers(gateway: Gateway, model: str) -> None:
    answer = ask(gateway, KEY, chat(model))
    assert answer.status == 200, answer
    assert answer.document == completion()
    assert (answer.headers["x-fastroute-attempts"], answer.headers["x-fastroute-provider"]) == ("2", "sound")


def test_a_stream_fails_over_before_its_first_event(gateway: Gateway) -> None:
    assert ask(gateway, KEY, chat("no-event", stream=True)).headers["x-fastroute-attempts"] == "2"


@pytest.mark.parametrize(
    ("model", "status"),
    [("only-refused", 502), ("only-garbage", 502), ("only-close", 502), ("only-truncated", 502), ("only-silent", 504)],
)
def test_nobody_left(gateway: Gateway, model: str, status: int) -> None:
    answer = ask(gateway, KEY, chat(model))
    assert answer.status == status
    assert answer.document["error"]["message"]


def test_the_provider_s_own_error_is_the_answer(gateway: Gateway) -> None:
    answer = ask(gateway, KEY, chat("only-status-429"))
    assert (answer.status, answer.document, answer.headers["retry-after"]) == (429, {"error": {"message": "c"}}, "3")


def test_a_large_body_is_sent_again(gateway: Gateway, sound: MockUpstream) -> None:
    document = chat("status-500", user="x" * 5_000_000)
    assert ask(gateway, KEY, document).headers["x-fastroute-attempts"] == "2"
    assert json.loads(sound.requests[-1].body) == document


def test_the_callers_deadline(gateway: Gateway) -> None:
    began = time.monotonic()
    answer = ask(gateway, KEY, chat("only-silent"), x_fastroute_timeout_ms="100")
    assert (answer.status, answer.document["error"]["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - began < 5


def test_only_this_provider_and_not_that_one(gateway: Gateway) -> None:
    assert ask(gateway, KEY, chat("status-500"), x_fastroute_provider="sound").headers["x-fastroute-attempts"] == "1"
    assert ask(gateway, KEY, chat("status-500"), x_fastroute_exclude="sound").status == 500
    # A preference spills: the other one is tried when the preferred one has failed.
    spilled = ask(gateway, KEY, chat("status-500"), x_fastroute_provider="faulty")
    assert (spilled.status, spilled.headers["x-fastroute-provider"]) == (200, "sound")


@pytest.mark.parametrize("wish", ["x_fastroute_provider", "x_fastroute_exclude"])
def test_a_provider_that_does_not_exist(gateway: Gateway, wish: str) -> None:
    refused = ask(gateway, KEY, chat("status-500"), **{wish: "sound,nobody"})
    assert (refused.status, refused.document["error"]["code"]) == (400, "invalid_request_error")
    assert "nobody" in refused.document["error"]["message"]
    assert "x-fastroute-attempts" not in refused.headers


def test_nobody_is_left_of_those_that_are_not_excluded(gateway: Gateway) -> None:
    refused = ask(gateway, KEY, chat("status-500"), x_fastroute_exclude="sound,faulty")
    assert (refused.status, refused.document["error"]["code"]) == (400, "invalid_request_error")
    assert refused.document["error"]["param"] == "x-fastroute-exclude"


def test_one_row_for_a_request_with_two_attempts(gateway: Gateway) -> None:
    before = {row["model"]: row for row in gateway.usage()}.get("status-503", {"requests": 0, "attempts": 0})
    ask(gateway, KEY, chat("status-503"))
    after = next(row for row in gateway.usage() if row["model"] == "status-503")
    assert after["requests"] - before["requests"] == 1
    assert after["attempts"] - before["attempts"] == 2
    assert (after["input_tokens"] > 0, after["output_tokens"] > 0) == (True, True)


def stale(after: int) -> Callable[[Request], Script]:
    """Answer `after` requests of a connection, then close it just as the next one arrives."""
    seen: dict[int, int] = {}

    def script(request: Request) -> Script:
        seen[request.connection] = seen.get(request.connection, 0) + 1
        return GOOD if seen[request.connection] <= after else [Close()]

    return script


@pytest.mark.parametrize(("served", "status"), [(1, 200), (0, 502)])
def test_a_stale_connection_is_retried_once_and_only_when_it_was_idle(tmp_path: Any, served: int, status: int) -> None:
    with ThreadedUpstream(stale(served)) as upstream:
        provider = {"id": "p", "type": "openai", "base_url": f"{upstream.url}/v1", "keys": ["k"], "models": ["m"]}
        once = {"retry": {"max_attempts": 1}}
        with Gateway({"providers": [provider], "routing": once}, tmp_path) as gateway:
            answers = [ask(gateway, KEY, chat()).status for _ in range(4)]
            assert answers == [status] * 4
            if served:
                # Each closed connection cost one request that was sent again on a fresh one.
                assert upstream.request_count == 4 + 3


def test_nothing_is_retried_after_the_first_byte(tmp_path: Any) -> None:
    begun = sse_response([EVENT])
    whole = b"".join(step.data for step in begun if isinstance(step, Send)).removesuffix(b"0\r\n\r\n")
    with ThreadedUpstream(lambda request: [Send(whole), Cut()]) as upstream:
        url = f"{upstream.url}/v1"
        providers = [
            {"id": name, "type": "openai", "base_url": url, "keys": ["k"], "models": ["m"]} for name in ("a", "b")
        ]
        with Gateway({"providers": providers}, tmp_path) as gateway:
            answer = ask(gateway, KEY, chat(stream=True))
            assert answer.body.startswith(EVENT)
            rest = answer.body.removeprefix(EVENT)
            assert json.loads(rest.split(b"\n")[0].removeprefix(b"data: "))["error"]["code"] == "upstream_error"
            assert rest.endswith(b"data: [DONE]\n\n")
            assert upstream.request_count == 1
            [row] = gateway.usage()
            assert (row["requests"], row["attempts"], row["estimated_requests"]) == (1, 1, 1)
