"""Recorded exchanges of real providers through the running gateway: the same bytes out, the right usage in the journal.

And in the end, of all of them in the ledger. The recordings lie beside the repository; without them the samples of our
own in tests/data are replayed.
"""

import http.client
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute.billing.segments import journal_directory, read_segment
from fastroute.downstream.operations import find_operation
from fastroute.errors import GatewayError
from fastroute.interfaces import Record, Usage
from fastroute.upstream.mock import MockUpstream, Request, Script, TrickleSend, chunk, response_head
from tests.e2e.harness import Gateway, ThreadedUpstream
from tests.unit.dialects.test_recordings import APIS, NOT_SERVED, RECORDINGS, body_of, expected, flat, read, recorded

KEY = "sk-replay"
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
Recording = dict[str, Any]
NOT_REPLAYED = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding", "trailer"}
SAMPLES = Path(__file__).parents[1] / "data" / "dialects"


class Player:
    """The upstream: answers every request with the script that was put in."""

    def __init__(self) -> None:
        self.script: Script = []

    def __call__(self, request: Request) -> Script:
        return self.script


@pytest.fixture(scope="module")
def player() -> Player:
    return Player()


@pytest.fixture(scope="module")
def upstream(player: Player) -> Iterator[MockUpstream]:
    with ThreadedUpstream(player) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    def provider(kind: str, **more: object) -> dict[str, Any]:
        # Usage is not asked for where the recorded client did not ask: nothing is then to be taken out again.
        return {"id": kind, "type": kind, "base_url": upstream.url, "keys": ["sk-up"], "models": ["*"], **more}

    openai = provider("openai", base_url=f"{upstream.url}/v1", include_usage=False)
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [openai, provider("anthropic"), provider("gemini")],
        # Each exchange by itself: one attempt, and nothing remembered of those before.
        "routing": {"retry": {"max_attempts": 1}},
    }


#: What a client is told to wait at most: an endpoint of many models rests no longer.
LONGEST_WAIT_S = 600


def recordings() -> list[Any]:
    if not RECORDINGS.is_dir():
        reason = "no ../shared/recordings beside the repository"
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.stem}")
        for path in recorded()
        if read(path)["api"] not in NOT_SERVED
    ]


def fields_of(recording: Recording) -> list[tuple[str, str]]:
    """The recorded header fields; repeated ones are recorded as a list."""
    fields = (recording["response"].get("headers") or {}).items()
    return [(name, value) for name, values in fields for value in (values if isinstance(values, list) else [values])]


def answer(recording: Recording, rng: random.Random) -> Script:
    """The recorded answer, framed again and cut at random places into TCP segments."""
    body = body_of(recording)
    headers = [(name.encode(), value.encode()) for name, value in fields_of(recording) if name not in NOT_REPLAYED]
    if recording["framing"] == "sse":
        pieces = [body[at : at + 4096] for at in range(0, len(body), 4096)]
        framed = b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
        head = response_head(recording["status"], [*headers, (b"transfer-encoding", b"chunked")])
    else:
        framed = body
        head = response_head(recording["status"], [*headers, (b"content-length", b"%d" % len(body))])
    whole = head + framed
    sizes = [rng.choice((1, 2, 3, 7, 50, 300, 1400, 4000)) for _ in range(40)] + [max(1, len(whole) // 20)]
    return [TrickleSend(whole, sizes, gap_s=0.0)]


def request_of(recording: Recording) -> tuple[str, bytes]:
    request = recording.get("request") or {}
    body = request.get("body")
    document = dict(body) if isinstance(body, dict) else {}
    if recording["api"] not in ("generateContent", "streamGenerateContent", "batchEmbedContents", "countTokens"):
        document["model"] = "m"
        document["stream"] = recording["framing"] == "sse"
    for name in ("n", "best_of"):
        document.pop(name, None)
    query = "?alt=sse" if recording["api"] == "streamGenerateContent" and recording["framing"] == "sse" else ""
    return PATHS[recording["api"]] + query, json.dumps(document).encode()


@pytest.fixture(scope="module")
def replayed() -> dict[str, Recording | None]:
    """What was replayed, by the ids that the clients were told; None for samples of our own."""
    return {}


def id_of(headers: dict[str, str]) -> str:
    return headers.get("x-fastroute-request-id") or headers["x-request-id"]


def send(gateway: Gateway, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def last_record(gateway: Gateway) -> Record:
    """The newest record of the worker's journal; it was written before the answer's last byte."""
    directory = Path(journal_directory(gateway.config["server"]["state_dir"]))
    records: list[Record] = []
    for name in sorted(path.name for path in directory.iterdir() if path.suffix == ".journal"):
        offset = 0
        while True:
            found, after, _ = read_segment(str(directory / name), offset)
            records += found
            if after == offset:
                break
            offset = after
    return max(records, key=lambda record: record.id)


def check_usage(recording: Recording, usage: Usage, source: str) -> None:
    if not 200 <= recording["status"] < 300:
        assert source == "none"
        return
    if recording["expected_usage"] is None:
        assert source != "provider"
        return
    assert source == "provider"
    extra = recording.get("usage_extra", {})
    if "iterations_sum" in extra:
        whole = extra["iterations_sum"]
        assert usage.total_output == whole["output_tokens"]
        return
    assert flat(usage) == expected(recording)


@pytest.mark.usefixtures("unhurt")
@pytest.mark.parametrize("path", recordings())
def test_a_recorded_exchange(
    path: Path, gateway: Gateway, player: Player, replayed: dict[str, Recording | None]
) -> None:
    recording = read(path)
    rng = random.Random(recording["id"])
    player.script = answer(recording, rng)
    target, body = request_of(recording)
    status, headers, got = send(gateway, target, body)
    replayed[id_of(headers)] = recording
    assert status == recording["status"]
    assert got == body_of(recording)
    for name, value in fields_of(recording):
        if "ratelimit" in name or name in ("request-id", "x-request-id"):
            assert headers[name] == value
        if name == "retry-after":
            assert int(headers[name]) == min(int(value), LONGEST_WAIT_S)
    record = last_record(gateway)
    assert (record.model, record.status, record.attempts) == ("m", status, 1)
    assert record.response_bytes == len(got)
    check_usage(recording, record.usage, record.usage_source)


def test_every_served_operation_has_a_dialect() -> None:
    assert set(PATHS) <= set(APIS)


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no ../shared/recordings beside the repository")
def test_what_is_not_replayed_is_not_served() -> None:
    left_out = [recording for recording in map(read, recorded()) if recording["api"] not in PATHS]
    assert {recording["api"] for recording in left_out} == NOT_SERVED
    # Those made out of other recordings have no request.
    for recording in [one for one in left_out if one.get("request")]:
        with pytest.raises(GatewayError, match="unknown path"):
            find_operation("POST", recording["request"]["path"].encode())


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("openai*.sse")), ids=lambda path: path.stem)
def test_a_sample_of_our_own(
    path: Path, gateway: Gateway, player: Player, replayed: dict[str, Recording | None]
) -> None:
    body = path.read_bytes()
    rng = random.Random(path.stem)
    framed = b"".join(chunk(body[at : at + 700]) for at in range(0, len(body), 700)) + b"0\r\n\r\n"
    head = response_head(200, [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")])
    player.script = [TrickleSend(head + framed, [rng.randrange(1, 400) for _ in range(100)], gap_s=0.0)]
    status, headers, got = send(gateway, PATHS["chat.completions"], b'{"model":"m","stream":true,"messages":[]}')
    replayed[id_of(headers)] = None
    assert (status, got) == (200, body)
    assert last_record(gateway).outcome == "ok"


def test_all_of_them_are_in_the_ledger(gateway: Gateway, replayed: dict[str, Recording | None]) -> None:
    """The last of this file: of whatever was replayed before it, once."""
    rows = gateway.records()
    assert sorted(row["request_id"] for row in rows) == sorted(replayed)
    for row in rows:
        recording = replayed[row["request_id"]]
        if recording is not None:
            assert (row["status"], row["attempts"], row["key_id"]) == (recording["status"], 1, "app")
            usage = Usage(**{name: row[name] for name in Usage.__struct_fields__})
            check_usage(recording, usage, row["usage_source"])
