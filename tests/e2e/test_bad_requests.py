"""Every request of the table of bad requests, byte for byte, against the data port of a running gateway."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute.upstream.mock import MockUpstream, Request, Script, json_response, sse_response
from tests.e2e.client import ask, chat
from tests.e2e.harness import Exchange, Gateway, RawAnswer, ThreadedUpstream, exchange
from tests.fuzz.requests import CANARY, GOOD_MODEL, LIMITS, BadRequest, cases, post

KEY = "sk-a-key-of-the-tests"
UPSTREAM_KEY = "sk-upstream-key-of-the-tests"
CASES = cases()


def answer_anything(request: Request) -> Script:
    """Answer like an OpenAI-compatible provider."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    top = {"id": "c-1", "created": 1, "model": GOOD_MODEL}
    if json.loads(request.body).get("stream"):
        delta = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return sse_response([{**top, "object": "chat.completion.chunk", "choices": [delta]}, "[DONE]"])
    message = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return json_response(200, {**top, "object": "chat.completion", "choices": [message], "usage": usage})


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(answer_anything) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    provider = {"id": "mock", "type": "openai", "base_url": f"{upstream.url}/v1", "keys": [UPSTREAM_KEY]}
    return {
        "server": {"limits": LIMITS},
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [{**provider, "models": [GOOD_MODEL]}],
    }


def fill(gateway: Gateway, raw: bytes) -> bytes:
    return raw.replace(b"{host}", b"127.0.0.1:%d" % gateway.port).replace(b"{key}", KEY.encode())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_bad_request_gets_its_answer(case: BadRequest, gateway: Gateway, upstream: MockUpstream) -> None:
    before, children = upstream.request_count, gateway.children()
    linger_s = 0.5 if case.closes else 0.02
    got = exchange(gateway.port, fill(gateway, case.raw), half_close=case.half_close, linger_s=linger_s)
    check_answer(case, got)
    check_upstream(case, upstream, before)
    good = exchange(gateway.port, fill(gateway, post()), linger_s=0)
    assert [answer.status for answer in good.answers] == [200]
    assert gateway.is_running
    assert gateway.children() == children, gateway.log


def check_answer(case: BadRequest, got: Exchange) -> None:
    finals = [answer for answer in got.answers if not (case.interim and answer.status == 100)]
    if not finals:
        assert got.rest == b"", "not a whole answer"
        assert case.silent or not case.expect, "no answer"
        assert got.closed, "neither answered nor closed"
        return
    answer = finals[0]
    assert answer.status in case.expect, answer
    if case.closes is not None:
        assert got.closed is case.closes, answer
    if case.ours and answer.status >= 400:
        check_error_body(case, answer)


def check_error_body(case: BadRequest, answer: RawAnswer) -> None:
    """Check that an error is JSON of the caller's dialect, short, and holds neither a key nor the canary."""
    assert (answer.header("content-type") or "").startswith("application/json")
    assert len(answer.body) < 2048
    for secret in (KEY.encode(), UPSTREAM_KEY.encode(), CANARY):
        assert secret not in answer.body
    error = json.loads(answer.body)["error"]
    assert isinstance(error["message"], str)
    if b" /v1/messages" in case.raw[:40]:
        assert isinstance(error["type"], str)
    elif b" /v1beta/" in case.raw[:40]:
        assert error["code"] == answer.status
        assert isinstance(error["status"], str)
    else:
        assert {"message", "type", "param", "code"} <= error.keys()
    if case.param:
        assert case.param in (error.get("param") or error["message"])


def check_upstream(case: BadRequest, upstream: MockUpstream, before: int) -> None:
    assert upstream.protocol_errors == []
    arrived = upstream.requests[before:]
    if not case.reaches:
        assert arrived == []
    for request in arrived:
        assert CANARY not in request.raw
        assert KEY.encode() not in request.raw


def test_refusals_of_credentials_do_not_differ(gateway: Gateway) -> None:
    seen = set()
    for case in CASES:
        if case.name.startswith("64-") and case.expect == (401,) and case.name != "64-query":
            [answer] = exchange(gateway.port, fill(gateway, case.raw)).answers
            seen.add(answer.body.replace((answer.header("x-request-id") or "-").encode(), b""))
    assert len(seen) == 1


def test_a_good_request_before_a_bad_one_is_served(gateway: Gateway) -> None:
    bad = next(case for case in CASES if case.name == "16-space-before-colon")
    got = exchange(gateway.port, fill(gateway, post() + bad.raw))
    assert got.answers[0].status == 200
    assert got.closed


@pytest.mark.parametrize("name", ["a\x00b", "a\r\nx-evil: 1", "a b", "a\x7f", "a\u2028b", "\t"])
def test_no_model_is_called_by_what_cannot_stand_in_a_field(name: str, tmp_path: Path) -> None:
    with Gateway({"providers": [{"id": "echo", "type": "echo", "models": ["*"]}]}, tmp_path) as catch_all:
        answer = ask(catch_all, KEY, chat(name))
        assert answer.status == 404
        assert answer.document["error"]["code"] == "model_not_found"
        assert "x-evil" not in answer.headers
        assert ask(catch_all, KEY, chat("modèle")).status == 200
