"""Which header fields cross the gateway, in both directions, and which secrets never leave it."""

import json
from typing import Any

import httpx
import pytest

from fastroute.upstream.mock import Request, Script, json_response
from tests.e2e.harness import ADMIN_KEY, Gateway, RawAnswer, exchange
from tests.e2e.stage import (
    ASK,
    CHAT,
    KEY,
    MODEL,
    UPSTREAM_KEY,
    Stage,
    dying,
    failing,
    piece,
    streamed,
    whole,
)

#: Verdicts are tested here, each by itself; what endpoints remember of them has tests of its own.
pytestmark = pytest.mark.usefixtures("unhurt")

BODY = json.dumps(ASK).encode()
GEMINI = "/v1beta/models/g-1:generateContent"
MESSAGES = {"model": "c-1", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module", params=["fast", "httpx"])
def gateway_config(stage: Stage, request: pytest.FixtureRequest) -> dict[str, Any]:
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            stage.provider("openai", transport=request.param),
            stage.provider("anthropic", "anthropic", models=["c-1"], transport=request.param),
            stage.provider("gemini", "gemini", models=["g-1"], transport=request.param),
        ],
    }


def ask(gateway: Gateway, *fields: bytes, target: bytes = b"/v1/chat/completions", body: bytes = BODY) -> RawAnswer:
    """Send a request with exactly these fields, and return its answer."""
    own = [b"Host: gateway.test:%d" % gateway.port, b"Content-Length: %d" % len(body)]
    head = b"\r\n".join([b"POST " + target + b" HTTP/1.1", *own, *fields])
    [answer] = exchange(gateway.port, head + b"\r\n\r\n" + body, linger_s=0).answers
    return answer


BEARER = b"Authorization: Bearer " + KEY.encode()


# === Towards the provider ===

NEVER_UP = [
    b"Cookie: session=CANARY",
    b"Keep-Alive: timeout=CANARY",
    b"Proxy-Connection: CANARY",
    b"Proxy-Authorization: Basic CANARY",
    b"TE: CANARY",
    b"Trailer: CANARY",
    b"Via: 1.1 CANARY",
    b"Forwarded: for=CANARY",
    b"X-Forwarded-For: CANARY",
    b"X-Forwarded-Host: CANARY",
    b"X-Real-IP: CANARY",
    b"OpenAI-Organization: CANARY",
    b"OpenAI-Project: CANARY",
    b"X-Goog-User-Project: CANARY",
    b"X-Goog-IAM-Authorization-Token: CANARY",
    b"X-Goog-IAM-Authority-Selector: CANARY",
    b"Ocp-Apim-Subscription-Key: CANARY",
    b"X-Amz-Security-Token: CANARY",
    # A provider may refuse our key for these, and anybody could have it thrown out.
    b"Origin: https://CANARY",
    b"Referer: https://CANARY",
    b"Access-Control-Request-Method: CANARY",
    b"Access-Control-Request-Headers: CANARY",
    b"Anthropic-Dangerous-Direct-Browser-Access: CANARY",
    b"X-Android-Package: CANARY",
    b"X-Android-Cert: CANARY",
    b"X-iOS-Bundle-Identifier: CANARY",
    b"X-Request-ID: CANARY",
    b"X-Fastroute-Session: CANARY",
    b"X-Fastroute-Something-New: CANARY",
    b"X-Api-Base: http://CANARY",
    b"Accept-Encoding: CANARY",
    b"Connection: x-private, keep-alive\r\nX-Private: CANARY",
]


@pytest.mark.parametrize("field", NEVER_UP, ids=lambda field: field.partition(b":")[0].decode().lower())
def test_a_field_that_does_not_go_upstream(field: bytes, gateway: Gateway, stage: Stage) -> None:
    stage.play(whole())
    assert ask(gateway, BEARER, field).status == 200
    assert b"canary" not in stage.request.raw.lower()


@pytest.mark.parametrize(
    "query",
    [b"k%65y=CANARY", b"K%45Y=CANARY", b"%6bey=CANARY&b=2", b"access_token=CANARY", b"oauth_token=CANARY",
     b"bearer_token=CANARY", b"subscription-key=CANARY", b"access%5Ftoken=CANARY", b"api%5fkey=CANARY", b"+key=CANARY"],
)  # fmt: skip
def test_a_query_that_does_not_go_upstream(query: bytes, gateway: Gateway, stage: Stage) -> None:
    """A second credential beside ours would be refused, and ours be taken for the bad one."""
    stage.play(whole())
    assert ask(gateway, BEARER, target=CHAT.encode() + b"?a%3D=1&" + query).status == 200
    assert b"canary" not in stage.request.raw.lower()
    assert b"?a%3D=1" in stage.request.raw


def test_what_the_provider_sees(gateway: Gateway, stage: Stage) -> None:
    stage.play(whole())
    extra = [b"User-Agent: sdk/1", b"OpenAI-Beta: x=v2", b"Content-Type: application/json; charset=utf-8"]
    ask(gateway, BEARER, *extra, b"X-Title: a", b"Idempotency-Key: once")
    request = stage.request
    assert (request.method, request.target, request.body) == ("POST", CHAT, BODY)
    assert request.header(b"host") == b"127.0.0.1:%d" % stage.upstream.port
    assert request.header(b"authorization") == b"Bearer " + UPSTREAM_KEY.encode()
    assert request.header(b"accept-encoding") == b"identity"
    assert request.header(b"content-length") == b"%d" % len(BODY)
    assert request.header(b"transfer-encoding") is None
    assert request.header(b"user-agent") == b"sdk/1"
    assert request.header(b"openai-beta") == b"x=v2"
    assert request.header(b"content-type") == b"application/json; charset=utf-8"
    assert request.header(b"x-title") == b"a"
    assert request.header(b"idempotency-key") == b"once"


CREDENTIALS = [
    pytest.param(BEARER, b"", id="authorization"),
    pytest.param(b"x-api-key: " + KEY.encode(), b"", id="x-api-key"),
    pytest.param(b"x-goog-api-key: " + KEY.encode(), b"", id="x-goog-api-key"),
    pytest.param(b"x-nothing: 1", b"?key=" + KEY.encode(), id="query"),
    pytest.param(b"x-nothing: 1", b"?a=1&key=" + KEY.encode() + b"&b=2", id="query-between"),
]


@pytest.mark.parametrize(("field", "query"), CREDENTIALS)
@pytest.mark.parametrize(
    ("target", "body", "name", "value"),
    [
        (CHAT, ASK, b"authorization", b"Bearer "),
        ("/v1/messages", MESSAGES, b"x-api-key", b""),
        (GEMINI, {"contents": []}, b"x-goog-api-key", b""),
    ],
    ids=["openai", "anthropic", "gemini"],
)
def test_the_clients_credential_is_replaced(
    field: bytes, query: bytes, target: str, body: Any, name: bytes, value: bytes, gateway: Gateway, stage: Stage
) -> None:
    stage.play(json_response(200, {}))
    answer = ask(gateway, field, target=target.encode() + query, body=json.dumps(body).encode())
    assert answer.status == 200
    request = stage.request
    assert KEY.encode() not in request.raw
    carriers = {b"authorization", b"x-api-key", b"x-goog-api-key"}
    assert [(key.lower(), item) for key, item in request.headers if key.lower() in carriers] == [
        (name, value + UPSTREAM_KEY.encode())
    ]
    assert "key=" not in request.target
    if b"a=1" in query:
        assert request.target.endswith("?a=1&b=2")


def test_two_credentials_in_one_request_stay_here(gateway: Gateway, stage: Stage) -> None:
    stage.play(whole())
    ask(gateway, BEARER, b"x-api-key: CANARY", b"x-goog-api-key: CANARY", b"api-key: CANARY")
    assert b"CANARY" not in stage.request.raw


def test_the_anthropic_version_is_added_only_where_it_is_missing(gateway: Gateway, stage: Stage) -> None:
    stage.play(json_response(200, {}))
    body = json.dumps(MESSAGES).encode()
    ask(gateway, BEARER, target=b"/v1/messages", body=body)
    ask(gateway, BEARER, b"anthropic-version: 2099-01-01", b"anthropic-beta: x", target=b"/v1/messages", body=body)
    versions = [request.header(b"anthropic-version") for request in stage.requests]
    assert versions == [b"2023-06-01", b"2099-01-01"]
    assert stage.requests[1].header(b"anthropic-beta") == b"x"


# === Towards the client ===

CROSSES = [
    (b"x-ratelimit-limit-requests", b"500"),
    (b"x-ratelimit-remaining-tokens", b"149984"),
    (b"x-ratelimit-reset-requests", b"6m0s"),
    (b"anthropic-ratelimit-tokens-reset", b"2026-01-01T00:00:00Z"),
    (b"retry-after", b"7"),
    (b"retry-after-ms", b"7000"),
    (b"x-should-retry", b"true"),
    (b"x-request-id", b"req_of_the_provider"),
    (b"request-id", b"req_anthropic"),
    (b"openai-processing-ms", b"12"),
    (b"openai-organization", b"org"),
]

NEVER_DOWN = [
    (b"set-cookie", b"__cf_bm=CANARY"),
    (b"strict-transport-security", b"max-age=1; CANARY"),
    (b"alt-svc", b"h3=CANARY"),
    (b"server", b"CANARY"),
    (b"keep-alive", b"timeout=CANARY"),
    (b"proxy-authenticate", b"CANARY"),
    (b"trailer", b"x-CANARY"),
    (b"upgrade", b"CANARY"),
    (b"connection", b"x-private"),
    (b"x-private", b"CANARY"),
    (b"x-fastroute-provider", b"CANARY"),
    (b"x-fastroute-attempts", b"CANARY"),
]


def answers(kind: str) -> Any:
    headers = [*CROSSES, *NEVER_DOWN]
    if kind == "whole":
        return whole(headers=headers)
    return streamed("one", headers=headers) if kind == "streamed" else failing(429, headers)


@pytest.mark.parametrize(("kind", "status"), [("whole", 200), ("streamed", 200), ("refused", 429)])
def test_what_the_client_sees(kind: str, status: int, gateway: Gateway, stage: Stage) -> None:
    stage.play(answers(kind))
    body = json.dumps({**ASK, "stream": kind == "streamed"}).encode()
    answer = ask(gateway, BEARER, body=body)
    assert answer.status == status
    for name, value in CROSSES:
        assert answer.header(name.decode()) == value.decode()
    assert "CANARY" not in str(answer.headers)
    names = [name for name, _ in answer.headers]
    assert len(names) == len(set(names))
    expected = {"provider": "openai", "model": MODEL, "attempts": "1", "strategy": "p2c"}
    for word, wanted in expected.items():
        assert answer.header(f"x-fastroute-{word}") == wanted
    assert (answer.header("x-fastroute-overhead-us") or "").isdigit()
    assert (answer.header("x-fastroute-request-id") or "").startswith("fr-")


def test_without_an_id_of_the_provider_ours_is_the_request_id(gateway: Gateway, stage: Stage) -> None:
    stage.play(whole())
    assert (ask(gateway, BEARER).header("x-request-id") or "").startswith("fr-")
    assert ask(gateway, BEARER, b"X-Request-ID: mine-1").header("x-request-id") == "mine-1"
    evil = ask(gateway, BEARER, b"X-Request-ID: not <one> of ours").header("x-request-id")
    assert (evil or "").startswith("fr-")


def test_refusals_have_a_request_id_too(gateway: Gateway) -> None:
    for answer in (ask(gateway), ask(gateway, BEARER, body=b"{"), ask(gateway, BEARER, target=b"/v1/none")):
        assert answer.status in (400, 401, 404)
        assert (answer.header("x-request-id") or "").startswith("fr-")


def test_a_redirect_is_not_followed(gateway: Gateway, stage: Stage) -> None:
    stage.play(json_response(302, {}, [(b"location", b"http://127.0.0.1:1/elsewhere")]))
    assert ask(gateway, BEARER).status in (302, 502)
    assert len(stage.requests) == 1


# === Secrets ===


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, ASK), (CHAT, {**ASK, "stream": True}), ("/v1/messages", MESSAGES), (GEMINI, {"contents": []})],
)
def test_an_error_that_quotes_the_providers_key(
    path: str, body: dict[str, Any], status: int, gateway: Gateway, stage: Stage, client: httpx.Client
) -> None:
    def said(key: str) -> dict[str, Any]:
        return {"error": {"code": status, "message": f"Consumer 'api_key:{key}' has been suspended: {key}."}}

    stage.play(json_response(status, said(UPSTREAM_KEY), [(b"x-consumer", f"key={UPSTREAM_KEY}".encode())]))
    answer = client.post(path, json=body)
    mask = "*" * len(UPSTREAM_KEY)
    assert (answer.status_code, answer.json()) == (status, said(mask))
    assert answer.headers["x-consumer"] == f"key={mask}"


def test_no_secret_leaves_by_log_error_or_report(gateway: Gateway, stage: Stage, client: httpx.Client) -> None:
    canary = "sk-canary-of-a-stranger"

    def refuse(request: Request) -> Script:
        return failing(401)

    plays = [whole(), streamed("a"), dying(piece("a")), failing(500), refuse, json_response(200, b"not json")]
    seen = ""
    for play in plays:
        stage.play(play)
        with client.stream("POST", CHAT, json={**ASK, "stream": True}) as answer:
            seen += str(answer.headers) + b"".join(answer.iter_raw()).decode()
        for stranger in ({"authorization": f"Bearer {canary}"}, {"x-api-key": canary}, {"x-goog-api-key": canary}):
            with httpx.Client(base_url=gateway.url, trust_env=False) as other:
                refused = other.post(CHAT, json=ASK, headers=stranger)
                assert refused.status_code == 401
                seen += str(refused.headers) + refused.text
    seen += httpx.post(f"{gateway.url}{CHAT}?key={canary}", json=ASK, trust_env=False).text
    for by in ("model", "key", "tenant", "provider", "day"):
        done = gateway.command("usage", "-c", str(gateway.config_file), "--by", by)
        seen += done.stdout + done.stderr
    seen += json.dumps(gateway.records()) + gateway.log
    for secret in (KEY, UPSTREAM_KEY, ADMIN_KEY, canary):
        assert secret not in seen
