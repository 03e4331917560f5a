"""What the ledger says after mixed traffic, and the few edits that are ever made to a body for its sake."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastroute.upstream.mock import Request, Script, Stall, json_response, sse_response
from tests.e2e.client import begin, connect
from tests.e2e.harness import Gateway, wait_until
from tests.e2e.stage import (
    ASK,
    AUTH,
    CHAT,
    DONE,
    KEY,
    MODEL,
    Stage,
    client_of,
    dying,
    event,
    failing,
    piece,
    sent,
    stream_head,
    streamed,
    usage_piece,
    whole,
)

#: Verdicts are tested here, each by itself; what endpoints remember of them has tests of its own.
pytestmark = pytest.mark.usefixtures("unhurt")

OTHER_KEY = "sk-of-the-other-tenant"
PRICE = {
    "input_usd_per_mtok": 2.5,
    "output_usd_per_mtok": 10,
    "cached_input_usd_per_mtok": 1.25,
    "reasoning_usd_per_mtok": 20,
}
#: `stage.USAGE` at `PRICE`, in nano-USD: 8 fresh and 3 cached input tokens, 5 visible and 2 reasoning output tokens.
COST = 8 * 2500 + 3 * 1250 + 5 * 10_000 + 2 * 20_000

#: Without a price of output, of which an embedding has none.
EMBEDDER = {"name": "embedder", "price": {"input_usd_per_mtok": 2}}

CLAUDE = {"model": "c-1", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
CLAUDE_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 4,
    "cache_read_input_tokens": 6,
    "output_tokens": 3,
}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
GEMINI_USAGE = {
    "promptTokenCount": 9,
    "cachedContentTokenCount": 2,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 18,
}


@pytest.fixture(scope="module")
def gateway_config(stage: Stage) -> dict[str, Any]:
    models = [
        {"name": MODEL, "price": PRICE},
        "unpriced",
        {"name": "renamed", "upstream": 'vendor/"real":m'},
        {"name": "cheap", "price": {"input_usd_per_mtok": 0.0005, "output_usd_per_mtok": 0}},
        EMBEDDER,
    ]
    return {
        "auth": {
            "keys": [
                {"id": "app", "key": KEY, "tenant": "acme"},
                {"id": "other", "key": OTHER_KEY, "tenant": "beta"},
            ]
        },
        "providers": [
            stage.provider("oai", models=models),
            stage.provider("ant", "anthropic", models=[{"name": "c-1", "price": {"input_usd_per_mtok": 1}}]),
            stage.provider("gem", "gemini", models=["g-1", {"name": "g-renamed", "upstream": "tuned/g:1"}, EMBEDDER]),
        ],
        "aliases": {"nick": MODEL, "nick-of-renamed": "renamed"},
        # One endpoint for each model: a second attempt would be at the same one, and take the next script.
        "routing": {"retry": {"max_attempts": 1}},
    }


@pytest.fixture
def fresh(gateway_config: dict[str, Any], tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose ledger is empty."""
    with Gateway(gateway_config, tmp_path) as running:
        yield running


def post(client: httpx.Client, path: str, body: object, key: str = KEY) -> bytes:
    """Send a request and return all of its answer, whatever it is."""
    return client.post(path, json=body, headers={"authorization": f"Bearer {key}"}).content


def claude_stream(request: Request) -> Script:
    start = {"type": "message_start", "message": {"usage": {**CLAUDE_USAGE, "output_tokens": 1}}}
    delta = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}}
    stop = {"type": "message_stop"}
    return sse_response([event(data, str(data["type"])) for data in (start, delta, stop)])


def gemini_stream(request: Request) -> Script:
    first = {"candidates": [], "usageMetadata": {"promptTokenCount": 9}}
    return sse_response([event(first), event({"candidates": [], "usageMetadata": GEMINI_USAGE})])


def leave(gateway: Gateway, stage: Stage, body: object) -> None:
    """Ask for a stream, read its first event, and leave."""
    stage.play([stream_head(), sent(piece("one")), Stall()])
    link = connect(gateway)
    response = begin(link, KEY, body)
    assert response.read1() == piece("one")
    response.close()
    link.close()
    gateway.wait_idle()


def traffic(gateway: Gateway, stage: Stage) -> None:
    """Send 14 requests, of which 3 never reach a provider."""
    stream = {**ASK, "stream": True}
    with client_of(gateway) as client:
        stage.play(whole())
        post(client, CHAT, ASK)
        post(client, CHAT, {**ASK, "model": "nick"}, OTHER_KEY)
        post(client, CHAT, {**ASK, "model": "unpriced"})
        stage.play(streamed("a", "b"))
        post(client, CHAT, stream)
        post(client, CHAT, {**stream, "stream_options": {"include_usage": True}})
        stage.play(json_response(200, {"usage": CLAUDE_USAGE}), claude_stream)
        post(client, "/v1/messages", CLAUDE, OTHER_KEY)
        post(client, "/v1/messages", {**CLAUDE, "stream": True}, OTHER_KEY)
        stage.play(json_response(200, {"usageMetadata": GEMINI_USAGE}), gemini_stream)
        post(client, "/v1beta/models/g-1:generateContent", GEMINI, OTHER_KEY)
        post(client, "/v1beta/models/g-1:streamGenerateContent?alt=sse", GEMINI, OTHER_KEY)
        stage.play(failing(500), failing(400))
        post(client, CHAT, ASK)
        post(client, CHAT, ASK)
        post(client, CHAT, {**ASK, "model": "nobody"})
        post(client, CHAT, ASK, "sk-wrong")
        post(client, CHAT, {**ASK, "stream": 1})


def row(requests: int, tokens: tuple[int, int, int, int], cost: int, unpriced: int) -> dict[str, int]:
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
    counts = dict(zip(names, tokens, strict=True))
    more = {"cost_nano_usd": cost, "estimated_requests": 0, "unpriced_requests": unpriced}
    return {"requests": requests, "attempts": requests, **counts, **more}


def rows_by(gateway: Gateway, by: str) -> dict[str, dict[str, int]]:
    return {found.pop(by): found for found in gateway.usage(by)}


def test_usage_by_every_grouping(fresh: Gateway, stage: Stage) -> None:
    traffic(fresh, stage)
    # A card without a price for output leaves rows with output tokens unpriced: both of c-1 are.
    models = {
        MODEL: row(6, (44, 12, 28, 8), 4 * COST, 0),
        "unpriced": row(1, (11, 3, 7, 2), 0, 1),
        "c-1": row(2, (40, 12, 6, 0), 0, 2),
        "g-1": row(2, (18, 4, 18, 10), 0, 2),
    }
    assert rows_by(fresh, "model") == models
    assert rows_by(fresh, "provider") == {
        "oai": row(7, (55, 15, 35, 10), 4 * COST, 1),
        "ant": models["c-1"],
        "gem": models["g-1"],
    }
    mine, others = row(6, (44, 12, 28, 8), 3 * COST, 1), row(5, (69, 19, 31, 12), COST, 4)
    assert rows_by(fresh, "key") == {"app": mine, "other": others}
    assert rows_by(fresh, "tenant") == {"acme": mine, "beta": others}
    everything = {name: mine[name] + others[name] for name in mine}
    found = rows_by(fresh, "day").values()
    assert {name: sum(day[name] for day in found) for name in everything} == everything


def test_every_record_says_how_it_ended(fresh: Gateway, stage: Stage) -> None:
    traffic(fresh, stage)
    records = fresh.records()
    ends = [(record["status"], record["outcome"], record["usage_source"]) for record in records]
    refused = [(500, "upstream_error", "none"), (400, "client_error", "none")]
    assert ends == [(200, "ok", "provider")] * 9 + refused
    assert [record["stream"] for record in records] == [0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0]
    assert [record["operation"] for record in records[5:9]] == [
        "messages",
        "messages",
        "generateContent",
        "streamGenerateContent",
    ]
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert 0 <= record["first_byte_us"] <= record["total_us"]
        assert record["request_bytes"] > 0
        assert record["response_bytes"] > 0


def test_a_client_that_leaves_is_billed_by_estimate(fresh: Gateway, stage: Stage) -> None:
    body = {**ASK, "stream": True}
    leave(fresh, stage, body)
    wait_until(fresh.records)
    [record] = fresh.records()
    assert (record["status"], record["outcome"], record["usage_source"]) == (200, "cancelled", "estimated")
    assert record["input_tokens"] == len(json.dumps(body)) // 4
    assert record["output_tokens"] == 1
    assert record["cost_nano_usd"] == record["input_tokens"] * 2500 + 10_000
    assert rows_by(fresh, "model")[MODEL]["estimated_requests"] == 1


def test_a_client_that_leaves_after_the_usage_is_billed_by_it(fresh: Gateway, stage: Stage) -> None:
    stage.play([stream_head(), sent(piece("one")), sent(usage_piece()), sent(DONE), Stall()])
    link = connect(fresh)
    response = begin(link, KEY, {**ASK, "stream": True, "stream_options": {"include_usage": True}})
    seen = b""
    while not seen.endswith(DONE):
        seen += response.read1()
    response.close()
    link.close()
    wait_until(fresh.records)
    [record] = fresh.records()
    assert record["usage_source"] == "provider"
    assert record["cost_nano_usd"] == COST


def test_a_stream_that_dies_is_billed_by_estimate(fresh: Gateway, stage: Stage) -> None:
    stage.play(dying(piece("one"), piece("two")))
    with client_of(fresh) as client:
        post(client, CHAT, {**ASK, "stream": True})
    [record] = fresh.records()
    assert (record["status"], record["outcome"], record["usage_source"]) == (200, "stream_broken", "estimated")
    assert record["output_tokens"] == 2


def test_an_answer_without_usage_is_estimated(fresh: Gateway, stage: Stage) -> None:
    stage.play(json_response(200, {"choices": []}))
    with client_of(fresh) as client:
        post(client, CHAT, ASK)
    [record] = fresh.records()
    assert (record["outcome"], record["usage_source"]) == ("ok", "estimated")
    assert record["input_tokens"] > 0


@pytest.mark.parametrize("numbers", [10, 200_000])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "embedder", "input": "x" * 800}),
        ("/v1beta/models/embedder:embedContent", {"content": {"parts": [{"text": "x" * 800}]}}),
        ("/v1beta/models/embedder:batchEmbedContents", {"requests": [{"content": {"parts": [{"text": "x" * 800}]}}]}),
    ],
)
def test_an_embedding_without_usage_has_no_output(
    path: str, body: object, numbers: int, gateway: Gateway, stage: Stage
) -> None:
    """However long it is: over 1 MiB it is relayed, and metered elsewhere."""
    stage.play(json_response(200, {"embedding": {"values": [0.012345] * numbers}}))
    with client_of(gateway) as client:
        post(client, path, body)
    record = gateway.records()[-1]
    assert (record["outcome"], record["usage_source"], record["output_tokens"]) == ("ok", "estimated", 0)
    assert record["input_tokens"] >= 200
    assert (record["priced"], record["cost_nano_usd"]) == (1, record["input_tokens"] * 2000)


@pytest.mark.parametrize(("tokens", "cost"), [(0, 0), (1, 1), (2, 1), (3, 2), (1999, 1000)])
def test_a_cost_is_rounded_once_and_half_up(tokens: int, cost: int, gateway: Gateway, stage: Stage) -> None:
    """0.0005 USD per million tokens is half a nano-dollar per token."""
    assert Decimal("0.0005") * 1000 * 2 == 1
    usage = {"prompt_tokens": tokens, "completion_tokens": 5, "total_tokens": tokens + 5}
    stage.play(json_response(200, {"choices": [], "usage": usage}))
    with client_of(gateway) as client:
        post(client, CHAT, {**ASK, "model": "cheap"})
    record = gateway.records()[-1]
    assert (record["input_tokens"], record["cost_nano_usd"], record["priced"]) == (tokens, cost, 1)


# === The body on its way ===

#: What a JSON library would not write: everything but the edits has to survive as it is.
ODD = (
    b'{ "messages" :[{"role":"user","content":"\\u00e9 \xc3\xa9 \\/ model"}] ,"x":{"model":"nick"},'
    b'"temperature":1.0e0,"big":1000000000000000000000000000000,%b}\r\n '
)


def odd(tail: bytes) -> bytes:
    return ODD % tail


SPLICES = [
    pytest.param(b'"model":"m-1"', b'"model":"m-1"', id="untouched"),
    pytest.param(b'"model" : "nick"', b'"model" : "m-1"', id="alias"),
    pytest.param(b'"model":"renamed"', b'"model":"vendor/\\"real\\":m"', id="upstream-name"),
    pytest.param(b'"model":"nick-of-renamed", "y":0', b'"model":"vendor/\\"real\\":m", "y":0', id="alias-of-that"),
    pytest.param(b'"model":"\\u006d-1"', b'"model":"\\u006d-1"', id="escaped"),
    pytest.param(b'"model":"\\u006eick"', b'"model":"m-1"', id="escaped-alias"),
    pytest.param(b'"model":"m-1","stream":false', b'"model":"m-1","stream":false', id="not-streamed"),
    pytest.param(
        b'"model":"m-1","stream_options":{"include_usage":true}',
        b'"model":"m-1","stream_options":{"include_usage":true}',
        id="not-streamed-and-asked",
    ),
]


@pytest.mark.parametrize(("given", "wanted"), SPLICES)
def test_the_body_the_provider_sees(
    given: bytes, wanted: bytes, gateway: Gateway, stage: Stage, client: httpx.Client
) -> None:
    stage.play(whole())
    answer = client.post(CHAT, content=odd(given), headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert stage.request.body == odd(wanted)


ASKED = b'"include_usage":true'
OPTIONS = [
    pytest.param(b"", None, False, id="absent"),
    pytest.param(b',"stream_options":null', b',"stream_options":{%b}', False, id="null"),
    pytest.param(b',"stream_options":{}', b',"stream_options":{%b}', False, id="empty"),
    pytest.param(b',"stream_options":{ "a": 1}', b',"stream_options":{%b, "a": 1}', False, id="others"),
    pytest.param(
        b',"stream_options":{"include_usage" : false}', b',"stream_options":{"include_usage" : true}', False, id="false"
    ),
    pytest.param(
        b',"stream_options":{"include_usage" : true}', b',"stream_options":{"include_usage" : true}', True, id="true"
    ),
]


@pytest.mark.parametrize(("given", "wanted", "kept"), OPTIONS)
@pytest.mark.parametrize("name", [b"m-1", b"nick"])
def test_usage_is_asked_for_and_taken_out_again(
    name: bytes, given: bytes, wanted: bytes | None, kept: bool, gateway: Gateway, stage: Stage, client: httpx.Client
) -> None:
    stage.play(streamed("one", "two"))
    content = odd(b'"model":"%b","stream":true%b' % (name, given))
    answer = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    usage = usage_piece() if kept else b""
    assert answer.content == piece("one") + piece("two") + usage + DONE
    sent_body = odd(b'"model":"m-1","stream":true%b' % given)
    if wanted is None:
        expected = sent_body.replace(b"{", b'{"stream_options":{%b},' % ASKED, 1)
    else:
        expected = odd(b'"model":"m-1","stream":true%b' % wanted.replace(b"%b", ASKED))
    assert stage.request.body == expected
    json.loads(stage.request.body)
    assert gateway.records()[-1]["usage_source"] == "provider"


MANY = b",".join(b'"o%d":1' % at for at in range(1025))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (b'"include_usage":false,"include_usage":true', "'stream_options' names a field twice"),
        (b'"include_usage":true,"include\\u005fusage":true', "'stream_options' names a field twice"),
        (MANY, "'stream_options' has too many fields"),
    ],
)
def test_options_that_cannot_be_edited(
    options: bytes, said: str, gateway: Gateway, stage: Stage, client: httpx.Client
) -> None:
    stage.play(streamed("one"))
    before = len(gateway.records())
    content = odd(b'"model":"m-1","stream":true,"stream_options":{%b}' % options)
    answer = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)
    assert (stage.requests, len(gateway.records())) == ([], before)
    # Nobody edits them where no stream is asked for.
    stage.play(whole())
    content = odd(b'"model":"m-1","stream_options":{%b}' % options)
    assert client.post(CHAT, content=content, headers={"content-type": "application/json"}).status_code == 200
    assert stage.request.body == content


def test_options_as_deep_as_the_body_may_be(gateway_config: dict[str, Any], stage: Stage, tmp_path: Path) -> None:
    config = {**gateway_config, "server": {"limits": {"max_json_depth": 1000}}}
    options = b'"deep":' + b"[" * 900 + b"]" * 900
    content = odd(b'"model":"m-1","stream":true,"stream_options":{%b}' % options)
    stage.play(streamed("one"))
    with Gateway(config, tmp_path) as deep, client_of(deep) as client:
        answer = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert answer.content == piece("one") + DONE
    assert stage.request.body == content.replace(b'{"deep"', b'{"include_usage":true,"deep"')


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("g-1", "/v1beta/models/g-1:generateContent?a=1"),
        ("g-renamed", "/v1beta/models/tuned%2Fg%3A1:generateContent?a=1"),
    ],
)
def test_a_model_in_the_path(model: str, target: str, gateway: Gateway, stage: Stage, client: httpx.Client) -> None:
    stage.play(json_response(200, {"usageMetadata": GEMINI_USAGE}))
    body = odd(b'"contents":[ ]')
    path = f"/v1beta/models/{model}:generateContent?a=1"
    answer = client.post(path, content=body, headers={"content-type": "application/json", **AUTH})
    assert answer.status_code == 200, answer.text
    assert (stage.request.target, stage.request.body) == (target, body)
