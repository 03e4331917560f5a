"""Every request of the table of bad requests, byte for byte, against the data port of a running gateway."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute.upstream.mock import MockUpstream, Request, Script, json_response, sse_response
from tests.e2e.client import ask, chat
from tests.e2e.harness import LANE, Exchange, Gateway, RawAnswer, ThreadedUpstream, exchange, wait_until
from tests.fuzz.requests import CANARY, DIALECTS, GOOD_BODY, GOOD_MODEL, LIMITS, BadRequest, cases, post

KEY = "sk-a-key-of-the-tests"
UPSTREAM_KEY = "sk-upstream-key-of-the-tests"
CASES = cases()
#: A good request; after the second one the connection is over, so that nobody waits to see whether more comes.
GOOD = post()
LAST = post(GOOD_BODY, b"Connection: close")
#: One token in and one out, at this price a million each.
PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
COST_NANO_USD = 3000


def answer_anything(request: Request) -> Script:
    """Answer like the provider that is asked: a message or a stream, of one token in and one out."""
    if request.target.startswith("/v1/messages"):
        top = {"id": "m-1", "type": "message", "role": "assistant", "model": GOOD_MODEL, "stop_reason": "end_turn"}
        counts = {"input_tokens": 1, "output_tokens": 1}
        return json_response(200, {**top, "content": [{"type": "text", "text": "hi"}], "usage": counts})
    if request.target.startswith("/v1beta/"):
        candidate = {"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}
        metadata = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        return json_response(200, {"candidates": [candidate], "usageMetadata": metadata})
    return answer_like_openai(request)


def answer_like_openai(request: Request) -> Script:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    top = {"id": "c-1", "created": 1, "model": GOOD_MODEL}
    if json.loads(request.body).get("stream"):
        delta = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        chunk = {**top, "object": "chat.completion.chunk"}
        return sse_response([{**chunk, "choices": [delta]}, {**chunk, "choices": [], "usage": usage}, "[DONE]"])
    message = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return json_response(200, {**top, "object": "chat.completion", "choices": [message], "usage": usage})


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(answer_anything) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    top = {"keys": [UPSTREAM_KEY], "models": [{"name": GOOD_MODEL, "price": PRICE}]}
    return {
        "server": {"limits": LIMITS},
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [{"id": name, "type": name, "base_url": upstream.url, **top} for name in DIALECTS],
    }


@pytest.fixture(scope="module")
def children(gateway: Gateway) -> list[int]:
    """The processes of the gateway, which stay the same throughout."""
    return gateway.children()


def fill(gateway: Gateway, raw: bytes) -> bytes:
    return raw.replace(b"{host}", b"127.0.0.1:%d" % gateway.port).replace(b"{key}", KEY.encode())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_bad_request_gets_its_answer(
    case: BadRequest, gateway: Gateway, children: list[int], upstream: MockUpstream
) -> None:
    before = upstream.request_count
    if case.closes is False:
        # The good request ends the connection, however long its answer takes.
        got = exchange(gateway.port, fill(gateway, case.raw + LAST), linger_s=10)
        got = Exchange(check_kept(got), b"", False, False)
    else:
        linger_s = 10 if case.closes else 0.02
        got = exchange(gateway.port, fill(gateway, case.raw), half_close=case.half_close, linger_s=linger_s)
        good = exchange(gateway.port, fill(gateway, GOOD), linger_s=0)
        assert [answer.status for answer in good.answers] == [200]
    check_answer(case, got)
    check_upstream(case, upstream, before)
    assert gateway.is_running
    assert gateway.children() == children, gateway.log


def check_kept(got: Exchange) -> list[RawAnswer]:
    """Check that the good request behind a bad one was answered on the same connection; return what came before."""
    *answers, last = got.answers
    assert len(answers) == 1, "the connection was not kept"
    assert (answers[0].header("connection") or "keep-alive").lower() == "keep-alive"
    assert last.status == 200
    assert json.loads(last.body)["object"] == "chat.completion"
    assert got.closed
    assert got.rest == b""
    return answers


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
    if answer.status >= 400 and (case.ours or LANE == "direct"):
        check_error_body(case, answer)


#: What Anthropic and Google call a status of ours; Anthropic has no word for a method.
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
}
GEMINI_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
}


def check_error_body(case: BadRequest, answer: RawAnswer) -> None:
    """Check that an error is JSON of the caller's dialect, short, and holds neither a key nor the canary."""
    assert (answer.header("content-type") or "").startswith("application/json")
    assert answer.header("x-request-id")
    assert len(answer.body) < 2048
    for secret in (KEY.encode(), UPSTREAM_KEY.encode(), CANARY):
        assert secret not in answer.body
    document = json.loads(answer.body)
    error = document["error"]
    assert isinstance(error["message"], str)
    target = [*case.raw.split(b" ", 2), b""][1]
    if target.startswith(b"/v1/messages"):
        code, named = check_anthropic(answer.status, document)
        assert document["request_id"] == answer.header("x-request-id")
    elif target.startswith(b"/v1beta/"):
        code, named = check_gemini(answer.status, document)
    else:
        code, named = check_openai(document)
    if case.code:
        assert code == case.code
    if case.param:
        assert case.param in (named or error["message"])
    if answer.status == 405:
        assert answer.header("allow") in ("GET", "POST")


def check_openai(document: Any) -> tuple[str, str | None]:
    """Check the shape of an error; return its code and the field that it names."""
    error = document["error"]
    assert document.keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["type"], str)
    return error["code"], error["param"]


def check_anthropic(status: int, document: Any) -> tuple[str, str | None]:
    error = document["error"]
    assert document.keys() == {"type", "error", "request_id"}
    assert document["type"] == "error"
    assert error["type"] == ANTHROPIC_TYPES[status]
    return error["code"], error["message"].partition(":")[0]


def check_gemini(status: int, document: Any) -> tuple[str, str | None]:
    error = document["error"]
    assert document.keys() == {"error"}
    assert (error["code"], error["status"]) == (status, GEMINI_WORDS[status])
    [info] = error["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    return info["reason"].lower(), info["metadata"].get("field")


def check_upstream(case: BadRequest, upstream: MockUpstream, before: int) -> None:
    """Check what has arrived, of which the last is the good request behind it."""
    assert upstream.protocol_errors == []
    *arrived, good = upstream.requests[before:]
    assert good.body == GOOD_BODY
    if not case.reaches:
        assert arrived == []
    for request in arrived:
        assert CANARY not in request.raw
        assert KEY.encode() not in request.raw


def test_only_what_reached_a_provider_is_in_the_ledger(gateway: Gateway, upstream: MockUpstream) -> None:
    """The refused cost nothing and leave nothing: those of the table before this test, and one of each dialect here."""
    for target, body in DIALECTS.values():
        [refused] = exchange(gateway.port, fill(gateway, post(body[:-1], target=target)), linger_s=0).answers
        assert refused.status == 400
    [last] = exchange(gateway.port, fill(gateway, GOOD), linger_s=0).answers
    wait_until(lambda: gateway.records()[-1:] and gateway.records()[-1]["request_id"] == last.header("x-request-id"))
    records = gateway.records()
    assert len(records) == upstream.request_count
    assert {(record["status"], record["outcome"], record["attempts"]) for record in records} == {(200, "ok", 1)}
    assert {record["cost_nano_usd"] for record in records} == {COST_NANO_USD}


def test_a_body_has_its_time_for_each_piece(gateway: Gateway) -> None:
    """What stands still for the whole time is refused: the table has that."""
    pause_s, time_s = 0.1, LIMITS["body_timeout_ms"] / 1000
    for _ in range(5):
        request = fill(gateway, post(GOOD_BODY.replace(b"hi", b"a" * 2000)))
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as link:
            link.sendall(request[:-1000])
            began = last = time.monotonic()
            longest = 0.0
            for at in range(-1000, 0):
                enough = last - began > 1.3 * time_s
                link.sendall(request[at:] if enough else request[at : at + 1 or None])
                if enough:
                    break
                time.sleep(pause_s)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            status = link.recv(12)[-3:]
        if longest < time_s / 2:
            assert status == b"200"
            return
    pytest.skip("this machine is too busy to send a byte every now and then")


def test_refusals_of_credentials_do_not_differ(gateway: Gateway) -> None:
    seen = set()
    for case in CASES:
        if case.name.startswith("64-") and case.expect == (401,) and case.name != "64-query":
            [answer] = exchange(gateway.port, fill(gateway, case.raw), linger_s=0).answers
            seen.add(answer.body.replace((answer.header("x-request-id") or "-").encode(), b""))
    assert len(seen) == 1


def test_a_good_request_before_a_bad_one_is_served(gateway: Gateway) -> None:
    bad = next(case for case in CASES if case.name == "16-space-before-colon")
    got = exchange(gateway.port, fill(gateway, post() + bad.raw))
    assert got.answers[0].status == 200
    assert got.closed


@pytest.fixture(scope="module")
def catch_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that has every model there can be."""
    config = {"providers": [{"id": "echo", "type": "echo", "models": ["*"]}]}
    with Gateway(config, tmp_path_factory.mktemp("catch-all")) as running:
        yield running


@pytest.mark.parametrize("name", ["a\x00b", "a\r\nx-evil: 1", "a b", "a\x7f", "a\u2028b", "\t"])
def test_no_model_is_called_by_what_cannot_stand_in_a_field(name: str, catch_all: Gateway) -> None:
    answer = ask(catch_all, KEY, chat(name))
    assert answer.status == 404
    assert answer.document["error"]["code"] == "model_not_found"
    assert "x-evil" not in answer.headers
    assert ask(catch_all, KEY, chat("modèle")).status == 200
