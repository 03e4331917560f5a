"""Recorded exchanges of real providers through the corridor, whole and broken off: bytes, usage, what is left behind.

Beside tests/e2e/test_replay.py, which replays through a running gateway: here the client's own request is sent, usage
is asked for where the client did not ask, the answer is framed in three ways, and the provider dies at random places.
The recordings lie beside the repository; without them the samples of our own in tests/data are replayed.
"""

import asyncio
import json
import math
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop

from fastroute.health.channel import LONG_REST_MS
from fastroute.interfaces import Record
from fastroute.upstream.mock import Close, Cut, MockUpstream, Request, Script, TrickleSend, chunk, response_head
from tests.behaviour.gateway_in_process import NO_BREAKER, Client, InProcess
from tests.unit.dialects.test_recordings import NOT_SERVED, RECORDINGS, body_of, expected, flat, read, recorded

SAMPLES = Path(__file__).parents[1] / "data" / "dialects"
#: How often a stream is broken off, each time somewhere else.
CUTS = 4
MAX_COUNT = 128

PATHS = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "generateContent": "/v1beta/models/m:generateContent",
    "streamGenerateContent": "/v1beta/models/m:streamGenerateContent",
    "batchEmbedContents": "/v1beta/models/m:batchEmbedContents",
    "countTokens": "/v1beta/models/m:countTokens",
}
#: Fields that a server between the provider and us would have used up.
HOP = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding", "trailer", "upgrade"}
#: Statuses after which another endpoint would be tried, if there were one; here there is none.
OUTCOMES = {401: "client_error", 403: "client_error", 408: "upstream_error", 429: "rate_limited", 529: "rate_limited"}


class Exchange(NamedTuple):
    """One exchange to replay. asked: the client asked for the usage of its stream. usage: as recorded, if known."""

    name: str
    api: str
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    request: bytes
    chunked: bool
    events: bool
    asked: bool
    recording: dict[str, Any] | None


def exchanges() -> Iterator[Any]:
    for path in sorted(SAMPLES.iterdir()):
        yield pytest.param(path, id=f"own/{path.stem}")
    if not RECORDINGS.is_dir():
        skip = pytest.mark.skip(reason="no ../shared/recordings beside the repository")
        yield pytest.param(None, id="absent", marks=skip)
        return
    for path in recorded():
        if read(path)["api"] not in NOT_SERVED:
            yield pytest.param(path, id=f"{path.parent.name}/{path.stem}")


def load(path: Path) -> Exchange:
    """Return a recording, or a sample of our own by its file's name."""
    if path.parent == SAMPLES:
        return _own(path)
    recording = read(path)
    fields = (recording["response"].get("headers") or {}).items()
    pairs = [(name, value) for name, values in fields for value in (values if isinstance(values, list) else [values])]
    kept = [(name.encode(), value.encode("latin-1")) for name, value in pairs if name not in HOP]
    if recording["framing"] == "sse" and not any(name == b"content-type" for name, _ in kept):
        kept.append((b"content-type", b"text/event-stream"))  # only the body was recorded
    document = _document(recording)
    return Exchange(
        recording["id"],
        recording["api"],
        recording["status"],
        kept,
        body_of(recording),
        json.dumps(document).encode(),
        ("transfer-encoding", "chunked") in pairs,
        any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in kept),
        bool((document.get("stream_options") or {}).get("include_usage")),
        recording,
    )


def _own(path: Path) -> Exchange:
    api = {"anthropic": "messages", "gemini": "streamGenerateContent"}.get(
        path.stem.partition("_")[0], "chat.completions"
    )
    if "responses" in path.stem:
        api = "responses"
    events = path.suffix == ".sse"
    request = json.dumps({"model": "m", "stream": events}).encode()
    kind = b"text/event-stream" if events else b"application/json"
    fields = [(b"content-type", kind), (b"x-request-id", b"r-1"), (b"retry-after", b"3")]
    return Exchange(path.stem, api, 200, fields, path.read_bytes(), request, events, events, False, None)


def _document(recording: dict[str, Any]) -> dict[str, Any]:
    """Return the recorded request, less what we refuse or need otherwise."""
    body = (recording.get("request") or {}).get("body")
    document = dict(body) if isinstance(body, dict) and "_unparsed" not in body else {}
    if recording["api"] in ("chat.completions", "completions", "embeddings", "responses", "messages"):
        document["model"] = "m"
        document["stream"] = recording["framing"] == "sse"
    if document.get("stream_options") is None:
        document.pop("stream_options", None)
    return document


def config(port: int) -> dict[str, Any]:
    def provider(kind: str, base: str) -> dict[str, Any]:
        return {
            "id": kind,
            "type": kind,
            "base_url": f"http://127.0.0.1:{port}{base}",
            "keys": ["sk-up"],
            "models": ["*"],
        }

    providers = [provider("openai", "/v1"), provider("anthropic", ""), provider("gemini", "")]
    return {"providers": providers, "routing": {"breaker": NO_BREAKER, "retry": {"max_attempts": 1}}}


def script(exchange: Exchange, framing: str, rng: random.Random, keep: int | None = None) -> Script:
    """Return the answer cut into random TCP segments. keep: so many bytes of it, then the provider is gone."""
    fields = list(exchange.fields)
    if framing == "chunked":
        fields.append((b"transfer-encoding", b"chunked"))
        edges = sorted({0, len(exchange.body), *(rng.randrange(len(exchange.body) + 1) for _ in range(12))})
        pieces = [exchange.body[a:b] for a, b in pairwise(edges)]
        framed = b"".join(chunk(piece) for piece in pieces if piece) + b"0\r\n\r\n"
    else:
        fields.append(
            (b"connection", b"close") if framing == "close" else (b"content-length", b"%d" % len(exchange.body))
        )
        framed = exchange.body
    whole = response_head(exchange.status, fields) + framed
    sizes = [rng.choice((1, 2, 3, 7, 50, 300, 1400, 4000)) for _ in range(30)] + [max(1, len(whole) // 10)]
    if keep is not None:
        return [TrickleSend(whole[:keep], sizes, 0.0), Cut(rst=rng.random() < 0.5)]
    return [TrickleSend(whole, sizes, 0.0), *([Close()] if framing == "close" else [])]


def without_usage_events(body: bytes) -> bytes:
    """Return an OpenAI stream less the chunks that hold nothing but usage. Apart from the meter, on purpose."""
    events = re.findall(rb"(?:.+?(?:\r\n\r\n|\n\n|\r\r)|.+$)", body, re.DOTALL)
    return b"".join(event for event in events if not _is_usage_only(event))


def _is_usage_only(event: bytes) -> bool:
    lines = [line.partition(b":")[2].strip() for line in event.splitlines() if line.startswith(b"data")]
    try:
        document = json.loads(b"\n".join(lines))
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("choices") == [] and bool(document.get("usage"))


def expected_body(exchange: Exchange) -> bytes:
    """Return what the client is to get: all of it, less the chunk that only the gateway asked for."""
    injected = exchange.api in ("chat.completions", "completions") and exchange.events and not exchange.asked
    return without_usage_events(exchange.body) if injected else exchange.body


def expected_wait(exchange: Exchange) -> bytes | None:
    """Return what the client is told of when to come back: the provider's word, or a second.

    The endpoint stands for any model: the limit of one of them keeps it out for ten minutes at most.
    """
    if b"Request too large" in exchange.body:
        # Later it would be just as large.
        return None
    said = [value.strip() for name, value in exchange.fields if name == b"retry-after"]
    told = [float(found) for found in re.findall(rb'"retryDelay": ?"([0-9.]+)s"', exchange.body)]
    told += [
        float(found)
        for found in re.findall(rb"(?:again|retry) (?:in|after) ([0-9]+\.?[0-9]*)(?:s| sec)", exchange.body)
    ]
    if told:
        said.append(b"%d" % math.ceil(max(told)))
    if exchange.status in (429, 503, 529) and said:
        return b"%d" % min(LONG_REST_MS // 1000, int(said[0]))
    if exchange.status in (429, 529) and not _is_out_of_money(exchange):
        return b"1"
    return said[0] if said else None


def _is_out_of_money(exchange: Exchange) -> bool:
    return b"insufficient_quota" in exchange.body or b"exceeded_current_quota" in exchange.body


def check_record(exchange: Exchange, record: Record, client: Client) -> None:
    assert (record.status, record.attempts, record.stream) == (exchange.status, 1, _streams(exchange))
    if not 200 <= exchange.status < 300:
        assert record.usage_source == "none"
        assert record.outcome == OUTCOMES.get(exchange.status, "client_error")
        return
    assert record.outcome == "ok"
    recording = exchange.recording
    if recording is None:
        return
    if recording["expected_usage"] is None:
        assert record.usage_source != "provider"
        return
    assert record.usage_source == "provider"
    if "iterations_sum" in recording.get("usage_extra", {}):
        assert record.usage.total_output == recording["usage_extra"]["iterations_sum"]["output_tokens"]
    else:
        assert flat(record.usage) == expected(recording)


def _streams(exchange: Exchange) -> bool:
    return exchange.api == "streamGenerateContent" or b'"stream": true' in exchange.request


async def replay(exchange: Exchange) -> None:
    rng = random.Random(exchange.name)
    now: Script = []

    def answer(_: Request) -> Script:
        return now

    async with MockUpstream(answer) as upstream, InProcess(config(upstream.port)) as inside:
        mine = set(asyncio.all_tasks())
        for framing in ("chunked" if exchange.chunked else "length", "chunked", "close"):
            now = script(exchange, framing, rng)
            client = await post(inside, exchange)
            assert client.status == exchange.status, client.body
            assert client.body == expected_body(exchange)
            assert client.finished
            assert not client.cut
            limits = {(name, value) for name, value in client.headers if name.startswith(b"x-ratelimit")}
            assert limits == {(n, v.strip()) for n, v in exchange.fields if n.startswith(b"x-ratelimit")}
            assert client.header(b"retry-after") == expected_wait(exchange)
            for row in range(inside.segment.endpoints):
                inside.segment.clear_endpoint(row)
            check_record(exchange, inside.records()[-1], client)
        assert upstream.protocol_errors == []
        assert await inside.quiet(mine | upstream._tasks | set(asyncio.all_tasks())) == []


async def break_off(exchange: Exchange) -> None:
    """Let the provider die somewhere in its answer, several times."""
    rng = random.Random("cut " + exchange.name)
    now: Script = []

    def answer(_: Request) -> Script:
        return now

    async with MockUpstream(answer) as upstream, InProcess(config(upstream.port)) as inside:
        framing = "chunked" if exchange.chunked else "length"
        [whole] = [step.data for step in script(exchange, framing, rng) if isinstance(step, TrickleSend)]
        for _ in range(CUTS):
            now = script(exchange, framing, random.Random("cut " + exchange.name), keep=rng.randrange(len(whole)))
            client = await post(inside, exchange)
            check_broken(exchange, client, inside.records()[-1])
        assert len(inside.records()) == CUTS
        assert await inside.quiet(set(asyncio.all_tasks())) == []


async def post(inside: InProcess, exchange: Exchange) -> Client:
    path = PATHS[exchange.api]
    if exchange.api == "streamGenerateContent" and exchange.events:
        path += "?alt=sse"
    return await inside.post(path, exchange.request)


def check_broken(exchange: Exchange, client: Client, record: Record) -> None:
    """Either the client gets an error of ours and nothing else, or a prefix and an event that says so, or a cut."""
    if client.status == 502:
        assert b"error" in client.body
        assert record.outcome == "upstream_error"
        assert record.usage_source == "none"
        return
    assert client.status == exchange.status
    assert record.outcome == "stream_broken"
    if client.cut:
        assert exchange.body.startswith(client.body)
        return
    assert exchange.events
    assert client.finished
    prefix, tail = b"".join(client.chunks[:-1]), client.chunks[-1]
    assert expected_body(exchange).startswith(prefix)
    assert b"error" in tail
    assert tail.endswith(b"\n\n")


def run(work: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, 30))


@pytest.mark.parametrize("path", list(exchanges()))
def test_a_recorded_exchange(path: Path) -> None:
    exchange = load(path)
    for field in ("n", "best_of", "top_logprobs"):
        assert json.loads(exchange.request).get(field) in (None, *range(MAX_COUNT + 1))
    run(replay(exchange))


@pytest.mark.parametrize("path", list(exchanges()))
def test_a_recorded_exchange_that_breaks_off(path: Path) -> None:
    exchange = load(path)
    if not 200 <= exchange.status < 300:
        pytest.skip("an error answer; that one is held until it is whole, or replaced")
    run(break_off(exchange))
