"""h1, both halves: a realistic answer head, a request head and its key, a hundred chunks, a whole exchange."""

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from fastroute._core._h1_errors import READ_BUFFER_BYTES
from fastroute.upstream.headers import REQUEST_DROP, RESPONSE_DROP
from tests.fuzz.corpus_responses import chunks
from tests.unit.core.test_h1 import FakeTransport
from tests.unit.core.twins import twins

FIELDS = (
    *(b"Date: Mon, 03 Mar 2025 10:00:00 GMT", b"Content-Type: text/event-stream; charset=utf-8"),
    *(b"Transfer-Encoding: chunked", b"Connection: keep-alive", b"access-control-expose-headers: X-Request-ID"),
    *(b"openai-organization: org-0123456789abcdef", b"openai-processing-ms: 312", b"openai-version: 2020-10-01"),
    *(b"x-envoy-upstream-service-time: 318", b"x-ratelimit-limit-requests: 10000", b"x-ratelimit-limit-tokens: 200000"),
    *(
        b"x-ratelimit-remaining-requests: 9999",
        b"x-ratelimit-remaining-tokens: 199968",
        b"x-ratelimit-reset-requests: 6ms",
    ),
    *(
        b"x-ratelimit-reset-tokens: 9ms",
        b"x-request-id: req_0123456789abcdef0123456789abcdef",
        b"cf-cache-status: DYNAMIC",
    ),
    *(b"Set-Cookie: __cf_bm=abc.def-1741000000; path=/; HttpOnly; Secure", b"Server: cloudflare"),
    *(b"CF-RAY: 9a-FRA", b"x-request-id: req_0123456789abcdef0123456789abcdef"),
)
HEAD = b"HTTP/1.1 200 OK\r\n" + b"".join(field + b"\r\n" for field in FIELDS) + b"\r\n"
REQUEST = [
    (b"host", b"127.0.0.1:8080"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"accept", b"application/json"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"OpenAI/Python 1.60.0"),
    (b"x-stainless-lang", b"python"),
    (b"x-stainless-package-version", b"1.60.0"),
    (b"x-stainless-os", b"Linux"),
    (b"x-stainless-arch", b"x64"),
    (b"x-stainless-runtime", b"CPython"),
    (b"x-stainless-runtime-version", b"3.11.7"),
    (b"authorization", b"Bearer sk-local-0123456789"),
    (b"x-stainless-async", b"async:asyncio"),
    (b"x-stainless-retry-count", b"0"),
    (b"content-length", b"1024"),
]
EVENT = b'data: {"id":"chatcmpl-A1","choices":[{"index":0,"delta":{"content":" w"},"finish_reason":null}]}\n\n'
STREAM = chunks(*[EVENT] * 100)
ANSWER = HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 512") + b"x" * 512


@pytest.mark.parametrize("h1", twins("h1"))
def test_an_answer_head_of_20_fields(benchmark: Any, h1: ModuleType) -> None:
    assert benchmark(h1.parse_response_head, HEAD, RESPONSE_DROP)[1] == 200


@pytest.mark.parametrize("heads", twins("heads"))
def test_a_request_head(benchmark: Any, heads: ModuleType) -> None:
    assert b"authorization" not in benchmark(heads.request_head, REQUEST, REQUEST_DROP)


@pytest.mark.parametrize("heads", twins("heads"))
def test_the_key_of_a_request_head(benchmark: Any, heads: ModuleType) -> None:
    assert benchmark(heads.head_key, REQUEST)[1] == 1024


@pytest.mark.parametrize("h1", twins("h1"))
def test_100_chunks_in_one_read(benchmark: Any, h1: ModuleType) -> None:
    def decode() -> bytes:
        body: bytes = h1.ChunkedDecoder().feed(STREAM)[0]
        return body

    assert benchmark(decode) == EVENT * 100


class Wire:
    """A connection over a fake transport, to be fed with answers."""

    def __init__(self, h1: ModuleType) -> None:
        loop = asyncio.new_event_loop()
        loop.close()  # it only has to make futures
        self.buffer = bytearray(READ_BUFFER_BYTES)
        self.connection = h1.Connection(loop, self.buffer, RESPONSE_DROP)
        self.connection.connection_made(_Silent())

    def exchange(self, *reads: bytes) -> bytes:
        connection = self.connection
        connection.start(b"POST / HTTP/1.1\r\n\r\n")
        body = b""
        for read in reads:
            self.buffer[: len(read)] = read
            connection.buffer_updated(len(read))
            body += connection.read()
        assert connection.reusable
        return body


class _Silent(FakeTransport):
    def write(self, data: bytes) -> None:
        """Send nothing, and remember nothing."""


def timed(benchmark: Any, h1: ModuleType, *reads: bytes) -> None:
    exchange: Callable[..., bytes] = Wire(h1).exchange
    assert benchmark(exchange, *reads)


@pytest.mark.parametrize("h1", twins("h1"))
def test_a_whole_exchange(benchmark: Any, h1: ModuleType) -> None:
    timed(benchmark, h1, ANSWER)


@pytest.mark.parametrize("h1", twins("h1"))
def test_a_stream_of_100_reads(benchmark: Any, h1: ModuleType) -> None:
    timed(benchmark, h1, HEAD, *[chunks(EVENT, end=b"")] * 100, b"0\r\n\r\n")
