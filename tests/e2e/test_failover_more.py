"""Failover by both transports and in all dialects: faults, deadlines, stale connections, keys, TLS."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from fastroute.upstream.mock import (
    Barrier,
    Close,
    Cut,
    Pause,
    Request,
    Script,
    Send,
    Stall,
    json_response,
    raw,
    response_head,
)
from tests.e2e.client import begin, connect
from tests.e2e.harness import Gateway, wait_until
from tests.e2e.stage import (
    ASK,
    CHAT,
    DONE,
    KEY,
    MODEL,
    UPSTREAM_KEY,
    Stage,
    client_of,
    dying,
    event,
    failing,
    piece,
    sent,
    stream_head,
    streamed,
    whole,
)

#: Verdicts are tested here, each by itself; what endpoints remember of them has tests of its own.
pytestmark = pytest.mark.usefixtures("unhurt")

STREAM = {**ASK, "stream": True}
CLAUDE: dict[str, Any] = {"model": "c-1", "max_tokens": 8, "messages": []}
GEMINI = "/v1beta/models/g-1:generateContent"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
HALF = b'{"id":'
TIMEOUTS = {"connect_ms": 1000, "first_byte_ms": 400, "idle_ms": 400, "total_ms": 10_000}


@pytest.fixture(scope="module")
def other() -> Iterator[Stage]:
    """The provider of the second tier."""
    with Stage() as running:
        yield running


@pytest.fixture(scope="module", params=["fast", "httpx"])
def gateway_config(stage: Stage, other: Stage, request: pytest.FixtureRequest) -> dict[str, Any]:
    way = {"transport": request.param}
    kinds = [("openai", [MODEL, "alone"]), ("anthropic", ["c-1"]), ("gemini", ["g-1"])]
    first = [stage.provider(f"first-{kind}", kind, models=models, **way) for kind, models in kinds]
    second = [other.provider(f"second-{kind}", kind, models=models[:1], **way) for kind, models in kinds]
    tiers = [(models[0], [[f"first-{kind}"], [f"second-{kind}"]]) for kind, models in kinds]
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [*first, *second],
        "routes": [{"model": model, "tiers": tier} for model, tier in tiers],
        "routing": {"timeouts": TIMEOUTS},
    }


FAULTS: dict[str, Script] = {
    "status-403": failing(403),
    "status-408": failing(408),
    "status-502": failing(502),
    "status-504": failing(504),
    "status-529": failing(529),
    "status-500-large": json_response(500, b"[" + b"1," * 100_000 + b"1]"),
    "status-500-large-in-pieces": [
        Send(response_head(500, [(b"content-length", b"200000")]) + b"x" * 10_000),
        Pause(0.02),
        Send(b"x" * 190_000),
    ],
    "status-500-that-stalls": [Send(response_head(500, [(b"content-length", b"99")]) + b"{"), Stall()],
    "status-500-cut": [Send(response_head(500, [(b"content-length", b"99")]) + b"{"), Cut()],
    "no-answer": [Close()],
    "reset": [Cut()],
    "half-a-head": [Send(b"HTTP/1.1 200 OK\r\ncontent-le"), Close()],
    "not-http": raw(b"220 smtp ready\r\n\r\n"),
    "lengths-that-differ": raw(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
    "no-chunk-size": raw(HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n"),
    "chunks-cut": [Send(HEAD + b"transfer-encoding: chunked\r\n\r\n6\r\n" + HALF), Cut()],
    "length-cut": [Send(HEAD + b"content-length: 99\r\n\r\n" + HALF), Cut(rst=False)],
    "length-stalls": [Send(HEAD + b"content-length: 99\r\n\r\n" + HALF), Stall()],
    "head-stalls": [Send(b"HTTP/1.1 200 OK\r\n"), Stall()],
    "body-stalls": [Send(HEAD + b"content-length: 99\r\n\r\n"), Stall()],
    "silent": [Stall()],
    "gzip": raw(HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_first_is_mended_by_the_second(
    fault: str, gateway: Gateway, client: httpx.Client, stage: Stage, other: Stage
) -> None:
    stage.play(FAULTS[fault])
    other.play(whole("second"))
    answer = client.post(CHAT, json=ASK)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "second"
    assert answer.headers["x-fastroute-attempts"] == "2"
    assert answer.headers["x-fastroute-provider"] == "second-openai"
    record = gateway.records()[-1]
    ends = (record["attempts"], record["status"], record["outcome"], record["provider"], record["usage_source"])
    assert ends == (2, 200, "ok", "second-openai", "provider")
    gateway.wait_idle()


@pytest.mark.parametrize(
    "fault", ["status-529", "no-answer", "reset", "silent", "head-stalls", "gzip", "no-chunk-size"]
)
def test_a_stream_fails_over_until_its_first_byte(fault: str, client: httpx.Client, stage: Stage, other: Stage) -> None:
    stage.play(FAULTS[fault])
    other.play(streamed("second"))
    answer = client.post(CHAT, json=STREAM)
    assert answer.content == piece("second") + DONE
    assert answer.headers["x-fastroute-attempts"] == "2"


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 501])
def test_what_another_endpoint_would_say_too_is_not_tried_there(
    status: int, client: httpx.Client, stage: Stage, other: Stage
) -> None:
    stage.play(failing(status))
    other.play(whole())
    answer = client.post(CHAT, json=ASK)
    assert (answer.status_code, answer.headers["x-fastroute-attempts"]) == (status, "1")
    assert answer.json()["error"]["code"] == f"c{status}"
    assert other.requests == []


DIALECTS = [
    pytest.param(CHAT, ASK, lambda error: error["code"], id="openai"),
    pytest.param("/v1/messages", CLAUDE, lambda error: error["type"], id="anthropic"),
    pytest.param(GEMINI, {"contents": []}, lambda error: error["status"], id="gemini"),
]
WORDS = {
    502: {"upstream_error", "api_error", "UNAVAILABLE"},
    504: {"deadline_exceeded", "timeout_error", "DEADLINE_EXCEEDED"},
    503: {"no_healthy_provider", "overloaded_error", "UNAVAILABLE"},
    400: {"invalid_request_error", "INVALID_ARGUMENT"},
}


@pytest.mark.parametrize(("path", "body", "word"), DIALECTS)
@pytest.mark.parametrize(("fault", "status"), [("not-http", 502), ("reset", 502), ("silent", 504)])
def test_all_down_is_said_in_the_callers_dialect(
    path: str, body: Any, word: Callable[[Any], str], fault: str, status: int, client: httpx.Client, stage: Stage,
    other: Stage, gateway: Gateway,
) -> None:  # fmt: skip
    stage.play(FAULTS[fault])
    other.play(FAULTS[fault])
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert word(answer.json()["error"]) in WORDS[status]
    assert answer.headers["x-fastroute-attempts"] == "2"
    assert answer.headers["x-request-id"]
    record = gateway.records()[-1]
    assert (record["attempts"], record["status"], record["usage_source"]) == (2, status, "none")
    assert record["outcome"] == ("timeout" if status == 504 else "upstream_error")


@pytest.mark.parametrize(("path", "body", "word"), DIALECTS)
def test_a_provider_nobody_knows(path: str, body: Any, word: Callable[[Any], str], client: httpx.Client) -> None:
    answer = client.post(path, json=body, headers={"x-fastroute-provider": "nobody"})
    assert answer.status_code == 400
    assert word(answer.json()["error"]) in WORDS[400]


@pytest.mark.parametrize(("path", "body", "word"), DIALECTS)
def test_nobody_to_ask(
    path: str, body: Any, word: Callable[[Any], str], client: httpx.Client, stage: Stage, other: Stage
) -> None:
    """Every breaker is open: the gateway says so itself, and when to come back."""
    for one in (stage, other):
        one.play(failing(500))
    # Three attempts each, over two endpoints whose breakers open at five failures: four requests do.
    failed = [client.post(path, json=body).status_code for _ in range(4)]
    assert failed == [500] * 4
    seen = len(stage.requests), len(other.requests)
    assert seen == (5, 5)
    answer = client.post(path, json=body)
    assert answer.status_code == 503
    assert word(answer.json()["error"]) in WORDS[503]
    assert 50 <= int(answer.headers["retry-after"]) <= 66
    assert (len(stage.requests), len(other.requests)) == seen


def test_the_last_of_two_errors_is_the_answer(client: httpx.Client, stage: Stage, other: Stage) -> None:
    stage.play(failing(503))
    other.play(failing(429, [(b"retry-after", b"3"), (b"x-request-id", b"second")]))
    answer = client.post(CHAT, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "c429")
    assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("3", "second")
    assert answer.headers["x-fastroute-provider"] == "second-openai"
    assert answer.headers["x-fastroute-attempts"] == "2"


def test_an_error_is_better_than_none(client: httpx.Client, stage: Stage, other: Stage) -> None:
    """The first one answered something, the second one nothing: what was answered is passed on."""
    stage.play(failing(503))
    other.play(FAULTS["reset"])
    answer = client.post(CHAT, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "c503")
    assert answer.headers["x-fastroute-provider"] == "first-openai"


def test_the_last_answer_is_passed_on_however_large(client: httpx.Client, stage: Stage, other: Stage) -> None:
    large = FAULTS["status-500-large-in-pieces"]
    stage.play(large)
    other.play(large)
    answer = client.post(CHAT, json=ASK)
    assert (answer.status_code, answer.content) == (500, b"x" * 200_000)
    assert (answer.headers["x-fastroute-provider"], len(stage.requests)) == ("second-openai", 1)


# === After the first byte ===

BROKEN: dict[str, tuple[str, Any, bytes, bytes]] = {
    "openai": (CHAT, STREAM, piece("one"), b'"code":"upstream_error"'),
    "responses": (
        "/v1/responses", {"model": MODEL, "stream": True}, event({"type": "response.created"}), b'"type":"error"',
    ),
    "anthropic": ("/v1/messages", {**CLAUDE, "stream": True}, event({"type": "ping"}, "ping"), b"event: error\n"),
    "gemini": (
        "/v1beta/models/g-1:streamGenerateContent?alt=sse", {"contents": []}, event({"candidates": []}),
        b'"code":502',
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", BROKEN)
@pytest.mark.parametrize("end", [Cut(), Cut(rst=False), Send(b"zz\r\n"), Stall()], ids=["rst", "fin", "bad", "stall"])
def test_a_stream_that_breaks_ends_well_formed_and_is_not_tried_again(
    dialect: str, end: Any, stage: Stage, other: Stage, gateway: Gateway
) -> None:
    path, body, first, told = BROKEN[dialect]
    seen = asyncio.Event()
    stage.play([stream_head(), sent(first), Barrier(seen), end])
    other.play(whole())
    link = connect(gateway)
    response = begin(link, KEY, body, path)
    assert (response.status, response.read1()) == (200, first)
    stage.set(seen)
    rest = response.read()
    link.close()
    assert told in rest
    assert rest.endswith(b"\n\n")
    if dialect == "anthropic":
        error = json.loads(rest.rpartition(b"data: ")[2])
        assert error["request_id"] == response.getheader("x-request-id")
    assert other.requests == []
    record = gateway.records()[-1]
    assert (record["outcome"], record["attempts"], record["usage_source"]) == ("stream_broken", 1, "estimated")
    gateway.wait_idle()


def test_a_whole_answer_too_large_to_hold_is_cut_when_it_breaks(gateway: Gateway, stage: Stage, other: Stage) -> None:
    stage.play([Send(HEAD + b"content-length: 9000000\r\n\r\n" + b"x" * 3_000_000), Cut()])
    other.play(whole())
    with client_of(gateway) as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(CHAT, json=ASK)
    assert other.requests == []
    wait_until(lambda: gateway.records()[-1]["outcome"] == "stream_broken")


# === Deadlines ===


@pytest.mark.parametrize(("path", "body", "word"), DIALECTS)
def test_the_callers_deadline_spans_all_attempts(
    path: str, body: Any, word: Callable[[Any], str], client: httpx.Client, stage: Stage, other: Stage, gateway: Gateway
) -> None:
    stage.play(FAULTS["silent"])
    other.play(FAULTS["silent"])
    answer = client.post(path, json=body, headers={"x-fastroute-timeout-ms": "600"})
    assert (answer.status_code, word(answer.json()["error"]) in WORDS[504]) == (504, True)
    assert answer.headers["x-fastroute-attempts"] == "2"
    assert gateway.records()[-1]["outcome"] == "timeout"
    gateway.wait_idle()


def test_a_deadline_in_the_middle_of_a_stream(client: httpx.Client, stage: Stage, other: Stage) -> None:
    """Events keep coming, so no idle limit is met; the deadline ends it all the same."""
    endless = [step for _ in range(10_000) for step in (sent(piece("x")), Pause(0.02))]
    aborted = stage.upstream.aborted
    stage.play([stream_head(), *endless])
    other.play(whole())
    answer = client.post(CHAT, json=STREAM, headers={"x-fastroute-timeout-ms": "500"})
    assert answer.content.startswith(piece("x"))
    assert b'"error"' in answer.content
    assert answer.content.endswith(DONE)
    assert other.requests == []
    wait_until(lambda: stage.upstream.aborted > aborted)


@pytest.mark.parametrize("value", ["", "0x10", "-1", "1.5", "abc", "9999999999"])
def test_a_deadline_that_is_no_number(value: str, client: httpx.Client, stage: Stage) -> None:
    stage.play(whole())
    answer = client.post(CHAT, json=ASK, headers={"x-fastroute-timeout-ms": value})
    assert answer.status_code == 400
    assert stage.requests == []


# === Stale connections ===


def test_a_connection_closed_while_idle_costs_nothing(client: httpx.Client, stage: Stage, other: Stage) -> None:
    stage.play([*whole("a"), Close()], whole("b"))
    other.play(whole("second"))
    assert client.post(CHAT, json=ASK).status_code == 200
    wait_until(lambda: stage.upstream.open_connections == 0)
    answer = client.post(CHAT, json=ASK)
    assert answer.json()["choices"][0]["message"]["content"] == "b"
    assert answer.headers["x-fastroute-attempts"] == "1"
    assert len(stage.requests) == 2


#: One attempt: what the transport does by itself is no attempt of ours.
ONCE = {"max_attempts": 1}


def fast_gateway(url: str, directory: Path, retry: Any, **more: Any) -> Gateway:
    provider = {"id": "p", "type": "openai", "base_url": f"{url}/v1", "keys": [UPSTREAM_KEY], "models": [MODEL], **more}
    return Gateway({"providers": [provider], "routing": {"timeouts": TIMEOUTS, "retry": retry}}, directory)


def test_a_connection_closed_as_the_request_arrives_is_replaced_once(tmp_path: Path, stage: Stage) -> None:
    with fast_gateway(stage.upstream.url, tmp_path, ONCE) as gateway, client_of(gateway) as client:
        stage.play(whole("a"), [Close()], whole("b"))
        assert client.post(CHAT, json=ASK).status_code == 200
        answer = client.post(CHAT, json=ASK)
        assert answer.json()["choices"][0]["message"]["content"] == "b"
        assert answer.headers["x-fastroute-attempts"] == "1"
        # Now the fresh one closes too: that is no accident any more.
        stage.play([Close()], [Close()], whole("never"))
        answer = client.post(CHAT, json=ASK)
        assert answer.status_code == 502
        assert len(stage.requests) == 2
        assert [record["attempts"] for record in gateway.records()] == [1, 1, 1]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([Send(b"HTTP/1.1 200"), Close()], id="half-a-status-line"),
        pytest.param([Send(b"HTTP/1.1 103 Early Hints\r\n\r\n"), Close()], id="interim"),
    ],
)
def test_a_connection_that_had_begun_to_answer_is_not_replaced(script: Script, tmp_path: Path, stage: Stage) -> None:
    """The provider had the request: sending it again by ourselves could be billed twice."""
    with fast_gateway(stage.upstream.url, tmp_path, ONCE) as gateway, client_of(gateway) as client:
        stage.play(whole("a"), script, whole("never"))
        assert client.post(CHAT, json=ASK).status_code == 200
        assert client.post(CHAT, json=ASK).status_code == 502
        assert len(stage.requests) == 2


# === Keys, attempts, what a body may weigh ===


def by_key(good: str) -> Callable[[Request], Script]:
    def script_for(request: Request) -> Script:
        return whole() if (request.header(b"authorization") or b"").endswith(good.encode()) else failing(401)

    return script_for


def test_a_key_that_is_refused_does_not_take_its_sibling_along(tmp_path: Path, stage: Stage) -> None:
    keys = [{"id": "bad", "key": "k-bad"}, {"id": "good", "key": "k-good"}]
    with fast_gateway(stage.upstream.url, tmp_path, {}, keys=keys) as gateway, client_of(gateway) as client:
        stage.play(by_key("k-good"))
        answers = [client.post(CHAT, json=ASK) for _ in range(12)]
        assert {answer.status_code for answer in answers} == {200}
        attempts = [int(answer.headers["x-fastroute-attempts"]) for answer in answers]
        assert set(attempts) <= {1, 2}
        assert sum(attempts) == len(stage.requests)
        assert {record["endpoint"] for record in gateway.records()} == {f"p/good/{MODEL}"}
        # After its one refusal it is out.
        asked = [(request.header(b"authorization") or b"").removeprefix(b"Bearer ") for request in stage.requests]
        assert asked.count(b"k-bad") <= 1
        stage.play(by_key("k-none"))
        refused = client.post(CHAT, json=ASK)
        assert refused.status_code == 401
        assert int(refused.headers["x-fastroute-attempts"]) == 2 - asked.count(b"k-bad")
        # And now there is nobody left to ask.
        refused = client.post(CHAT, json=ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_healthy_provider")
        assert "x-fastroute-attempts" not in refused.headers


def test_attempts_are_bounded(tmp_path: Path, stage: Stage) -> None:
    keys = [f"k-{number}" for number in range(6)]
    config = {
        "providers": [stage.provider("p", keys=keys)],
        "routing": {"retry": {"max_attempts": 2, "on_status": [500]}},
    }
    with Gateway(config, tmp_path) as gateway, client_of(gateway) as client:
        stage.play(failing(500))
        assert client.post(CHAT, json=ASK).headers["x-fastroute-attempts"] == "2"
        assert len(stage.requests) == 2
        stage.play(failing(503))
        assert client.post(CHAT, json=ASK).headers["x-fastroute-attempts"] == "1"


@pytest.mark.parametrize("size", [300_000, 5_000_000])
def test_a_large_body_is_sent_again_whole(size: int, client: httpx.Client, stage: Stage, other: Stage) -> None:
    body = json.dumps({**ASK, "user": "x" * size}).encode()
    stage.play(failing(503))
    other.play(whole("second"))
    answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.headers["x-fastroute-attempts"] == "2"
    assert stage.request.body == other.request.body == body


def test_one_refused_connection(tmp_path: Path, stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    dead = stage.provider("dead", base_url=f"http://127.0.0.1:{port}/v1")
    config = {
        "providers": [dead, stage.provider("sound")],
        "routes": [{"model": MODEL, "tiers": [["dead"], ["sound"]]}],
    }
    with Gateway(config, tmp_path) as gateway, client_of(gateway) as client:
        stage.play(whole())
        answer = client.post(CHAT, json=ASK)
        assert (answer.status_code, answer.headers["x-fastroute-attempts"]) == (200, "2")
        preferred = client.post(CHAT, json=ASK, headers={"x-fastroute-provider": "dead"})
        assert (preferred.status_code, preferred.headers["x-fastroute-attempts"]) == (200, "2")
        alone = client.post(CHAT, json=ASK, headers={"x-fastroute-exclude": "sound"})
        assert alone.status_code == 502
        assert "refused" in alone.json()["error"]["message"]


# === TLS ===


@pytest.mark.parametrize("transport", ["fast", "httpx"])
def test_tls_is_verified(transport: str, tmp_path: Path) -> None:
    trusted, stranger = trustme.CA(), trustme.CA()
    bundle = tmp_path / "ca.pem"
    trusted.cert_pem.write_to_path(str(bundle))
    names = {
        "sound": (trusted, "127.0.0.1"),
        "untrusted": (stranger, "127.0.0.1"),
        "misnamed": (trusted, "elsewhere.test"),
    }
    with ExitStack() as stack:
        providers = []
        for name, (authority, host) in names.items():
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert(host).configure_cert(context)
            tls = stack.enter_context(Stage(default=streamed("over TLS"), ssl_context=context))
            providers.append(tls.provider(name, models=[MODEL, f"only-{name}"], transport=transport))
        config = {
            "providers": providers,
            "routes": [{"model": MODEL, "tiers": [["untrusted"], ["misnamed"], ["sound"]]}],
        }
        env = {"SSL_CERT_FILE": str(bundle), "SSL_CERT_DIR": None}
        gateway = stack.enter_context(Gateway(config, tmp_path, env=env))
        client = stack.enter_context(client_of(gateway))
        answer = client.post(CHAT, json=STREAM)
        assert answer.content == piece("over TLS") + DONE
        assert (answer.headers["x-fastroute-provider"], answer.headers["x-fastroute-attempts"]) == ("sound", "3")
        for name in ("untrusted", "misnamed"):
            refused = client.post(CHAT, json={**STREAM, "model": f"only-{name}"})
            assert refused.status_code == 502


# === Nothing is left behind ===


def test_storms_of_faults_and_departures_leak_nothing(gateway: Gateway, stage: Stage, other: Stage) -> None:
    scripts = [FAULTS["reset"], FAULTS["no-chunk-size"], dying(piece("a")), failing(503), whole()]
    stage.play(*scripts * 8)
    other.play(streamed("a"), *[FAULTS["length-cut"], whole(), failing(500)] * 8)

    def ask(leaves: bool) -> None:
        link = connect(gateway)
        try:
            response = begin(link, KEY, STREAM)
            if leaves:
                response.read(1)
                response.close()
            else:
                response.read()
        except OSError:
            pass
        finally:
            link.close()

    before = len(gateway.records())
    askers = [threading.Thread(target=ask, args=(number % 3 == 0,)) for number in range(32)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    gateway.wait_idle()
    wait_until(lambda: len(gateway.records()) == before + 32)
    assert gateway.log.count("Traceback") == 0
