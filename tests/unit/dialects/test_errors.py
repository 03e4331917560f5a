"""Error bodies, error events and credentials, as the official SDKs read them."""

import json
from collections.abc import Callable
from typing import Any

import anthropic as anthropic_sdk
import httpx
import openai as openai_sdk
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from fastroute.dialects import DIALECTS, Dialect, anthropic, gemini, openai

CASES = [
    (400, "invalid_request_error"),
    (401, "invalid_api_key"),
    (402, "budget_exceeded"),
    (403, "permission_denied"),
    (404, "model_not_found"),
    (404, "not_found"),
    (405, "method_not_allowed"),
    (408, "request_timeout"),
    (413, "request_too_large"),
    (415, "unsupported_media_type"),
    (429, "rate_limit_exceeded"),
    (500, "internal_error"),
    (502, "upstream_error"),
    (503, "no_healthy_provider"),
    (504, "deadline_exceeded"),
    (529, "overloaded"),
]
EVERY = [pytest.param(dialect, id=name) for name, dialect in DIALECTS.items()]


def answering(sdk: Any, status: int, body: bytes, media_type: str = "application/json") -> Any:
    """Return an HTTP client of the library that the SDK uses, which answers everything with `body`."""
    library = getattr(sdk._base_client, "httpx2", httpx) if sdk else httpx

    def answer(_: Any) -> Any:
        return library.Response(status, content=body, headers={"content-type": media_type})

    return library.Client(transport=library.MockTransport(answer))


def openai_client(*answer: Any) -> openai_sdk.OpenAI:
    client = answering(openai_sdk, *answer)
    return openai_sdk.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", max_retries=0, http_client=client)


def anthropic_client(*answer: Any) -> anthropic_sdk.Anthropic:
    client = answering(anthropic_sdk, *answer)
    return anthropic_sdk.Anthropic(api_key="k", base_url="http://127.0.0.1", max_retries=0, http_client=client)


def gemini_client(*answer: Any) -> genai.Client:
    options = genai_types.HttpOptions(base_url="http://127.0.0.1", httpx_client=answering(None, *answer))
    return genai.Client(api_key="k", http_options=options)


def raised(call: Callable[[], Any], kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(("status", "code"), CASES)
def test_openai_sdk_reads_the_body(status: int, code: str) -> None:
    client = openai_client(status, openai.error_body(status, code, "No.", "model"))
    error = raised(lambda: client.chat.completions.create(model="m", messages=[]), openai_sdk.APIStatusError)
    assert (error.status_code, error.code, error.param) == (status, code, "model")
    assert "No." in error.message
    assert isinstance(error.type, str)


@pytest.mark.parametrize(("status", "code"), CASES)
def test_anthropic_sdk_reads_the_body(status: int, code: str) -> None:
    client = anthropic_client(status, anthropic.error_body(status, code, "No.", "model"))
    error = raised(lambda: client.messages.create(model="m", messages=[], max_tokens=1), anthropic_sdk.APIStatusError)
    assert error.status_code == status
    assert error.body["type"] == "error"
    assert error.body["error"]["message"] == "model: No."
    assert error.body["error"]["code"] == code


def test_an_anthropic_error_names_its_request() -> None:
    body = anthropic.error_body(404, "model_not_found", "No.", None, "fr-1")
    event = anthropic.error_event(502, "upstream_error", "It broke.", "fr-1").split(b"data: ")[1]
    for error in (json.loads(body), json.loads(event)):
        assert set(error) == {"type", "error", "request_id"}
        assert error["request_id"] == "fr-1"
    assert json.loads(anthropic.error_body(404, "model_not_found", "No."))["request_id"] is None


@pytest.mark.parametrize(("status", "code"), CASES)
def test_gemini_sdk_reads_the_body(status: int, code: str) -> None:
    client = gemini_client(status, gemini.error_body(status, code, "No.", "model"))
    error = raised(lambda: client.models.generate_content(model="m", contents="x"), genai_errors.APIError)
    assert (error.code, error.message) == (status, "No.")
    assert error.details["error"]["details"][0]["reason"] == code.upper()


def test_words_of_each_dialect() -> None:
    def words(read: Callable[[bytes], str], dialect: Dialect) -> dict[int, str]:
        return {status: read(dialect.error_body(status, code, "No.")) for status, code in CASES}

    kinds = words(lambda body: json.loads(body)["error"]["type"], anthropic)
    assert kinds[400] == kinds[405] == kinds[415] == "invalid_request_error"
    assert (kinds[401], kinds[402], kinds[403]) == ("authentication_error", "billing_error", "permission_error")
    assert (kinds[404], kinds[413], kinds[429]) == ("not_found_error", "request_too_large", "rate_limit_error")
    assert (kinds[500], kinds[502], kinds[503]) == ("api_error", "api_error", "overloaded_error")
    assert (kinds[504], kinds[529]) == ("timeout_error", "overloaded_error")
    kinds = words(lambda body: json.loads(body)["error"]["type"], openai)
    assert {kinds[status] for status in (400, 401, 404, 405, 413, 415)} == {"invalid_request_error"}
    assert (kinds[402], kinds[429]) == ("insufficient_quota", "rate_limit_error")
    assert {kinds[status] for status in (500, 502, 503, 504, 529)} == {"server_error"}
    kinds = words(lambda body: json.loads(body)["error"]["status"], gemini)
    assert {kinds[status] for status in (400, 413, 415)} == {"INVALID_ARGUMENT"}
    assert (kinds[401], kinds[403], kinds[404]) == ("UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND")
    assert (kinds[429], kinds[503], kinds[504]) == ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert kinds[500] == "INTERNAL"


def test_openai_sdk_raises_on_a_broken_chat_stream() -> None:
    chunk = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
    body = chunk + openai.error_event(502, "upstream_error", "It broke.")
    client = openai_client(200, body, "text/event-stream")
    stream = iter(client.chat.completions.create(model="m", messages=[], stream=True))
    next(stream)
    error = raised(lambda: next(stream), openai_sdk.APIError)
    assert (error.message, error.code) == ("It broke.", "upstream_error")


def test_openai_sdk_raises_on_a_broken_responses_stream() -> None:
    body = openai.error_event_responses(502, "upstream_error", "It broke.")
    client = openai_client(200, body, "text/event-stream")
    error = raised(lambda: list(client.responses.create(model="m", input="x", stream=True)), openai_sdk.APIError)
    assert (error.message, error.code) == ("It broke.", "upstream_error")
    event = json.loads(body.split(b"data: ")[1])
    assert (event["type"], event["code"], event["sequence_number"]) == ("error", "upstream_error", 0)


def test_anthropic_sdk_raises_on_a_broken_stream() -> None:
    body = b'event: ping\ndata: {"type":"ping"}\n\n' + anthropic.error_event(502, "upstream_error", "It broke.")
    client = anthropic_client(200, body, "text/event-stream")
    error = raised(
        lambda: list(client.messages.create(model="m", messages=[], max_tokens=1, stream=True)),
        anthropic_sdk.APIStatusError,
    )
    assert error.body["error"]["type"] == "api_error"


def test_gemini_sdk_raises_on_a_broken_stream() -> None:
    body = b'data: {"candidates": []}\r\n\r\n' + gemini.error_event(502, "upstream_error", "It broke.")
    client = gemini_client(200, body, "text/event-stream")
    stream = iter(client.models.generate_content_stream(model="m", contents="x"))
    next(stream)
    error = raised(lambda: next(stream), genai_errors.ServerError)
    assert (error.code, error.status, error.message) == (502, "UNAVAILABLE", "It broke.")


@pytest.mark.parametrize("dialect", EVERY)
def test_messages_of_any_kind(dialect: Dialect) -> None:
    odd = 'line\nbreak\r\n\n"quoted" \x00 世界 \ud800'
    event = dialect.error_event(502, "upstream_error", odd)
    assert event.endswith(b"\n\n")
    assert b"\r" not in event
    payload = event.split(b"data: ")[1].split(b"\n")[0]
    assert json.loads(payload)["error"]["message"] == odd.replace("\ud800", "?")
    assert json.loads(dialect.error_body(400, "c", odd))["error"]["message"] == odd.replace("\ud800", "?")


@pytest.mark.parametrize("dialect", EVERY)
def test_keys_that_cannot_be_sent_are_refused_unseen(dialect: Dialect) -> None:
    for key in ("", "sk-secret\n", "sk-secret\r\nx: y", "sk-secré", "sk secret", "sk-secret\x00"):
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            dialect.auth_headers(key)
        assert "secr" not in repr(caught.value)


def test_credentials() -> None:
    assert openai.auth_headers("sk-1") == [(b"authorization", b"Bearer sk-1")]
    assert anthropic.auth_headers("sk-1") == [(b"x-api-key", b"sk-1")]
    assert gemini.auth_headers("sk-1") == [(b"x-goog-api-key", b"sk-1")]
    assert anthropic.DEFAULT_HEADERS == ((b"anthropic-version", b"2023-06-01"),)
    assert {name: dialect.NAME for name, dialect in DIALECTS.items()} == {name: name for name in DIALECTS}
