"""A chunked answer with a fault in it: what came whole before that is the client's, over TCP and over TLS."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from fastroute.upstream.mock import Barrier, Pause, Send, chunk, json_response, response_head
from tests.e2e.client import begin, connect
from tests.e2e.harness import Gateway
from tests.e2e.stage import ASK, CHAT, DONE, KEY, MODEL, Stage, event, piece, streamed, usage_piece, whole

#: Verdicts are tested here, each by itself; what endpoints remember of them has tests of its own.
pytestmark = pytest.mark.usefixtures("unhurt")

STREAM = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
CHUNKED = [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")]
HEAD = response_head(200, CHUNKED)
ERROR = b'"code":"upstream_error"'

#: What comes where the next chunk or the end is due.
FAULTS = {
    "size": b"zz\r\n",
    "long-size": b"0" * 17,
    "long-extension": b"5;" + b"x" * 300,
    "no-line-end": chunk(b"data: 3")[:-2] + b"XX",
    "trailer": b"0\r\nno colon\r\n\r\n",
    "long-trailer": b"0\r\nA: " + b"x" * 9_000,
}


class Providers:
    """Two providers that are asked one after the other, and how the gateway gets to them."""

    def __init__(self, first: Stage, second: Stage, bundle: Path) -> None:
        self.first = first
        self.second = second
        self.bundle = bundle


@pytest.fixture(scope="module", params=["tcp", "tls"])
def providers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    authority = trustme.CA()
    bundle = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    options: dict[str, Any] = {}
    if request.param == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        options["ssl_context"] = context
    with ExitStack() as stack:
        first, second = (stack.enter_context(Stage(**options)) for _ in range(2))
        yield Providers(first, second, bundle)


@pytest.fixture(scope="module")
def gateway(providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            providers.first.provider("first", models=[MODEL, "alone"]),
            providers.second.provider("second"),
        ],
        "routes": [{"model": MODEL, "tiers": [["first"], ["second"]]}],
    }
    env = {"SSL_CERT_FILE": str(providers.bundle), "SSL_CERT_DIR": None}
    with Gateway(config, tmp_path_factory.mktemp("gateway"), env=env) as running:
        yield running


def told(body: bytes, events: bytes) -> bool:
    """Whether a client has got these events, and then that there will be no more."""
    return body.startswith(events) and ERROR in body.removeprefix(events) and body.endswith(b"\n\n" + DONE)


def ends(gateway: Gateway) -> tuple[str, int, str, str]:
    record = gateway.records()[-1]
    return record["outcome"], record["attempts"], record["provider"], record["usage_source"]


@pytest.mark.parametrize("fault", FAULTS)
def test_events_that_came_with_a_fault_reach_the_client(
    fault: str, gateway: Gateway, client: httpx.Client, providers: Providers
) -> None:
    providers.first.play([Send(HEAD + chunk(piece("one")) + chunk(piece("two")) + FAULTS[fault])])
    providers.second.play(streamed("second"))
    answer = client.post(CHAT, json=STREAM)
    assert answer.status_code == 200
    assert told(answer.content, piece("one") + piece("two")), answer.text
    assert providers.second.requests == []
    assert ends(gateway) == ("stream_broken", 1, "first", "estimated")
    assert gateway.records()[-1]["output_tokens"] >= 2


@pytest.mark.parametrize("fault", FAULTS)
def test_events_that_came_later_with_a_fault_reach_the_client(
    fault: str, gateway: Gateway, providers: Providers
) -> None:
    seen = asyncio.Event()
    rest = chunk(piece("two") + piece("three")) + FAULTS[fault]
    providers.first.play([Send(HEAD + chunk(piece("one"))), Barrier(seen), Send(rest)])
    link = connect(gateway)
    response = begin(link, KEY, STREAM, CHAT)
    assert (response.status, response.read1()) == (200, piece("one"))
    providers.first.set(seen)
    body = response.read()
    link.close()
    assert told(body, piece("two") + piece("three")), body
    assert ends(gateway) == ("stream_broken", 1, "first", "estimated")


def test_usage_that_came_with_a_fault_counts(gateway: Gateway, client: httpx.Client, providers: Providers) -> None:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = piece("one") + event({"choices": [choice]}) + usage_piece()
    providers.first.play([Send(HEAD + chunk(events) + b"zz\r\n")])
    assert told(client.post(CHAT, json=STREAM).content, events)
    record = gateway.records()[-1]
    assert (record["outcome"], record["usage_source"]) == ("stream_broken", "provider")
    assert (record["input_tokens"], record["cache_read_tokens"]) == (8, 3)
    assert (record["output_tokens"], record["reasoning_tokens"]) == (5, 2)


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_where_a_stream_is_cut_does_not_matter(
    at: int, gateway: Gateway, client: httpx.Client, providers: Providers
) -> None:
    body = chunk(piece("one")) + chunk(piece("two")) + b"zz\r\nwhatever"
    split = len(chunk(piece("one"))) + at
    providers.first.play([Send(HEAD + body[:split]), Pause(0.02), Send(body[split:])])
    assert told(client.post(CHAT, json=STREAM).content, piece("one") + piece("two"))


#: What holds no event with data that is whole.
NOTHING = {
    "nothing": b"",
    "half-an-event": chunk(piece("one")[:-1]),
    "comment": chunk(b": on our way\n\n"),
}


@pytest.mark.parametrize("before", NOTHING)
def test_who_has_sent_no_event_before_a_fault_is_failed_over(
    before: str, gateway: Gateway, client: httpx.Client, providers: Providers
) -> None:
    providers.first.play([Send(HEAD + NOTHING[before] + b"zz\r\n")])
    providers.second.play(streamed("second"))
    answer = client.post(CHAT, json=STREAM)
    assert answer.content == piece("second") + usage_piece() + DONE
    assert ends(gateway) == ("ok", 2, "second", "provider")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_whole_answer_that_came_with_a_fault_is_failed_over(
    fault: str, gateway: Gateway, client: httpx.Client, providers: Providers
) -> None:
    head = response_head(200, [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")])
    providers.first.play([Send(head + chunk(b'{"choices":[]}') + FAULTS[fault])])
    providers.second.play(whole("second"))
    answer = client.post(CHAT, json=ASK)
    assert answer.json()["choices"][0]["message"]["content"] == "second"
    assert ends(gateway) == ("ok", 2, "second", "provider")


def test_a_limit_that_came_with_a_fault_is_one(gateway: Gateway, client: httpx.Client, providers: Providers) -> None:
    head = response_head(429, [(b"retry-after", b"7"), (b"transfer-encoding", b"chunked")])
    providers.first.play([Send(head + chunk(b"{}") + b"zz\r\n")])
    answer = client.post(CHAT, json={**ASK, "model": "alone"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


def test_an_answer_that_is_no_event_stream_is_failed_over(
    gateway: Gateway, client: httpx.Client, providers: Providers
) -> None:
    head = response_head(200, [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")])
    providers.first.play([Send(head + chunk(b"[1,") + b"zz\r\n")])
    providers.second.play(json_response(200, []))
    answer = client.post(CHAT, json=STREAM)
    assert answer.json() == []
    assert ends(gateway)[:3] == ("ok", 2, "second")
