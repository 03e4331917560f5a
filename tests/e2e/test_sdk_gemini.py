"""The official Google Gen AI SDK, unmodified, against a running gateway."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors

from fastroute.upstream.mock import Cut, MockUpstream, Request, Script, Send, json_response, sse_response
from tests.e2e.harness import Gateway, ThreadedUpstream

KEY = "sk-sdk"


def script_for(request: Request) -> Script:
    if "quota" in request.target:
        error = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}
        return json_response(429, error)
    part = {"candidates": [{"content": {"role": "model", "parts": [{"text": "half"}]}, "index": 0}]}
    whole = b"".join(step.data for step in sse_response([json.dumps(part)]) if isinstance(step, Send))
    return [Send(whole.removesuffix(b"0\r\n\r\n")), Cut()]


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(script_for) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_config(upstream: MockUpstream) -> dict[str, Any]:
    mock = {"id": "mock", "type": "gemini", "base_url": upstream.url, "keys": ["up-key"]}
    return {
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [
            {"id": "echo", "type": "echo", "models": ["gemini-echo"]},
            {**mock, "models": ["quota", "dies"]},
        ],
    }


def client_of(gateway: Gateway, key: str = KEY) -> genai.Client:
    return genai.Client(api_key=key, http_options={"base_url": gateway.url})


@pytest.mark.parametrize("version", ["v1beta", "v1"])
def test_generate_content(gateway: Gateway, version: str) -> None:
    client = genai.Client(api_key=KEY, http_options={"base_url": gateway.url, "api_version": version})
    answer = client.models.generate_content(model="gemini-echo", contents="hello over there")
    assert answer.text == "hello over there"
    assert answer.usage_metadata is not None
    stream = client.models.generate_content_stream(model="gemini-echo", contents="hello over there")
    assert "".join(part.text or "" for part in stream) == "hello over there"


def test_other_operations(gateway: Gateway) -> None:
    client = client_of(gateway)
    assert (client.models.count_tokens(model="gemini-echo", contents="hello").total_tokens or 0) > 0
    assert client.models.embed_content(model="gemini-echo", contents="hello").embeddings


def test_async(gateway: Gateway) -> None:
    async def main() -> str:
        client = client_of(gateway).aio
        stream = await client.models.generate_content_stream(model="gemini-echo", contents="one two")
        return "".join([part.text or "" async for part in stream])

    assert asyncio.run(main()) == "one two"


def test_errors(gateway: Gateway) -> None:
    stranger, client = client_of(gateway, "wrong-key"), client_of(gateway)
    with pytest.raises(errors.ClientError) as caught:
        stranger.models.generate_content(model="gemini-echo", contents="x")
    assert caught.value.code == 401
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model="unknown", contents="x")
    assert caught.value.code == 404
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model="quota", contents="x")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")


def test_a_stream_that_dies_raises(gateway: Gateway) -> None:
    client = client_of(gateway)
    with pytest.raises(errors.APIError):
        list(client.models.generate_content_stream(model="dies", contents="x"))
