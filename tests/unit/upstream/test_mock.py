"""The scripted upstream does what its scripts say, to the byte, and sees what its clients do."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trustme

from fastroute.upstream import mock
from fastroute.upstream.mock import (
    Barrier,
    Close,
    Cut,
    HalfClose,
    MockUpstream,
    Pause,
    ReadHead,
    ReadRequest,
    Request,
    Script,
    ScriptError,
    Send,
    Stall,
    TrickleSend,
    json_response,
    sse_response,
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


async def dial(upstream: MockUpstream, context: ssl.SSLContext | None = None) -> Streams:
    name = "localhost" if context else None
    return await asyncio.open_connection("127.0.0.1", upstream.port, ssl=context, server_hostname=name)


async def ask(upstream: MockUpstream, data: bytes) -> bytes:
    """Send `data` on a connection of its own and return everything up to the end of it."""
    reader, writer = await dial(upstream)
    try:
        writer.write(data)
        return await reader.read(-1)
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def closing(data: bytes) -> Script:
    return [Send(data), Close()]


def test_a_request_is_parsed_and_kept() -> None:
    async def check() -> None:
        async with MockUpstream(lambda request: closing(OK)) as upstream:
            data = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nX-A:  b \r\nContent-Length: 3\r\n\r\nabc"
            assert await ask(upstream, data) == OK
            [request] = upstream.requests
            assert (request.connection, request.method, request.target) == (1, "POST", "/v1/x?y=1")
            assert request.headers == [(b"Host", b"h"), (b"X-A", b"b"), (b"Content-Length", b"3")]
            assert (request.body, request.raw) == (b"abc", data)
            assert request.header(b"x-a") == b"b"
            assert request.header(b"x-b") is None
            assert (upstream.connections, upstream.aborted, upstream.protocol_errors) == (1, 0, [])
            assert "requests=1 connections=1" in repr(upstream)

    run(check)


def test_chunked_body_and_trailers() -> None:
    async def check() -> None:
        async with MockUpstream(lambda request: closing(OK)) as upstream:
            head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            data = head + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"
            assert await ask(upstream, data) == OK
            [request] = upstream.requests
            assert (request.body, request.raw, request.trailers) == (b"abc0123456789", data, [(b"X-T", b"1")])

    run(check)


def test_keep_alive_answers_in_turn_and_closes_when_asked() -> None:
    async def check() -> None:
        scripts = [mock.raw(OK), json_response(503, {"a": 1}, [(b"retry-after", b"3")]), mock.raw(OK)]
        async with MockUpstream(scripts) as upstream:
            last = b"GET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            answer = await ask(upstream, GET + GET + last)
            head = b"content-type: application/json\r\ncontent-length: 7\r\nretry-after: 3\r\n\r\n"
            assert answer == OK + b"HTTP/1.1 503 Service Unavailable\r\n" + head + b'{"a":1}' + OK
            assert [request.target for request in upstream.requests] == ["/a", "/a", "/c"]
            assert {request.connection for request in upstream.requests} == {1}

    run(check)


def test_turns_are_taken_over_connections() -> None:
    async def check() -> None:
        async with MockUpstream([closing(b"1"), closing(b"2")]) as upstream:
            idle = await dial(upstream)  # an idle connection takes no turn
            assert [await ask(upstream, GET), await ask(upstream, GET)] == [b"1", b"2"]
            assert upstream.connections == 3
            idle[1].close()
            await until(lambda: upstream.open_connections == 0)

    run(check)


def test_a_missing_script_is_raised_where_the_context_ends() -> None:
    async def check() -> None:
        async with MockUpstream([closing(b"1")]) as upstream:
            assert [await ask(upstream, GET), await ask(upstream, GET)] == [b"1", b""]

    with pytest.raises(ScriptError, match="exchange 2"):
        run(check)


def test_an_error_in_a_script_function_is_raised_where_the_context_ends() -> None:
    def fail(request: Request) -> Script:
        raise KeyError(request.target)

    async def check() -> None:
        async with MockUpstream(fail) as upstream:
            assert await ask(upstream, GET) == b""

    with pytest.raises(KeyError, match="/a"):
        run(check)


def test_sse_chunked_and_until_close() -> None:
    async def check() -> None:
        events: list[object] = [b": hi\n\n", {"n": 1}, "[DONE]"]
        scripts = [[*sse_response(events), Close()], sse_response(events, chunked=False)]
        async with MockUpstream(scripts) as upstream:
            chunked = (await ask(upstream, GET)).split(b"\r\n\r\n", 1)
            assert b"transfer-encoding: chunked" in chunked[0]
            texts = [b": hi\n\n", b'data: {"n":1}\n\n', b"data: [DONE]\n\n"]
            assert chunked[1] == b"".join(map(mock.chunk, texts)) + b"0\r\n\r\n"
            plain = (await ask(upstream, GET)).split(b"\r\n\r\n", 1)
            assert b"connection: close" in plain[0]
            assert plain[1] == b"".join(texts)

    run(check)


def test_cut_resets() -> None:
    async def check() -> None:
        async with MockUpstream([[Send(b"HTTP/1.1 200"), Cut()]]) as upstream:
            with pytest.raises(ConnectionResetError):
                await ask(upstream, GET)
            assert upstream.aborted == 0

    run(check)


def test_cut_without_reset_ends_like_a_short_body() -> None:
    async def check() -> None:
        async with MockUpstream([[Send(b"HTTP/1.1 200"), Cut(rst=False)]]) as upstream:
            assert await ask(upstream, GET) == b"HTTP/1.1 200"

    run(check)


def test_half_close_goes_on_reading() -> None:
    async def check() -> None:
        async with MockUpstream([[Send(OK), HalfClose(), ReadRequest(), Close()]]) as upstream:
            reader, writer = await dial(upstream)
            writer.write(GET)
            assert await reader.read(-1) == OK
            writer.write(GET)
            await until(lambda: upstream.request_count == 2)
            writer.close()

    run(check)


def test_trickle_sends_each_segment_alone() -> None:
    async def check() -> None:
        async with MockUpstream([[TrickleSend(b"abcdefgh", [1, 3], 0.005), Close()]]) as upstream:
            reader, writer = await dial(upstream)
            writer.write(GET)
            seen = []
            while data := await reader.read(100):
                seen.append(data)
            assert seen == [b"a", b"bcd", b"efg", b"h"]
            writer.close()

    run(check)


def test_barrier_and_pause() -> None:
    async def check() -> None:
        gate = asyncio.Event()
        async with MockUpstream([[Barrier(gate), Pause(0.01), Send(b"x"), Close()]]) as upstream:
            asking = asyncio.ensure_future(ask(upstream, GET))
            await until(lambda: upstream.request_count == 1)
            assert not asking.done()
            gate.set()
            assert await asking == b"x"

    run(check)


@pytest.mark.parametrize("on_connect", [False, True], ids=["after request", "at accept"])
def test_a_client_that_leaves_is_counted_once(on_connect: bool) -> None:
    async def check() -> None:
        scripts: list[Script] = [] if on_connect else [[Send(b"x"), Stall()]]
        first: Script = [Send(b"x"), Stall()] if on_connect else []
        async with MockUpstream(scripts, on_connect=first) as upstream:
            reader, writer = await dial(upstream)
            writer.write(GET)
            assert await reader.readexactly(1) == b"x"
            assert (upstream.open_connections, upstream.aborted) == (1, 0)
            writer.close()
            await until(lambda: upstream.open_connections == 0)
            assert upstream.aborted == 1

    run(check)


def test_a_client_that_reads_nothing_and_leaves_is_counted() -> None:
    async def check() -> None:
        async with MockUpstream([[Send(bytes(64 * 1024 * 1024))]]) as upstream:
            _, writer = await dial(upstream)
            writer.write(GET)
            await until(lambda: upstream.request_count == 1)
            writer.transport.abort()
            await until(lambda: upstream.open_connections == 0)
            assert upstream.aborted == 1

    run(check)


def test_answer_before_the_body_has_come() -> None:
    async def check() -> None:
        early: Script = [ReadHead(), Send(b"early"), ReadRequest(), Send(b" late"), Close()]
        async with MockUpstream([early, [ReadHead(), Send(b"x")]]) as upstream:
            reader, writer = await dial(upstream)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
            assert await reader.readexactly(5) == b"early"
            assert upstream.requests[0].body == b""
            writer.write(b"abc")
            assert await reader.read(-1) == b" late"
            assert [request.body for request in upstream.requests] == [b"abc"]
            writer.close()
            # a script that never reads the body ends the connection
            assert await ask(upstream, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n") == b"x"

    run(check)


@pytest.mark.parametrize(
    "data",
    [
        b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_bad_framing_is_recorded(data: bytes) -> None:
    async def check() -> None:
        async with MockUpstream(lambda request: mock.raw(OK)) as upstream:
            try:
                answer = await ask(upstream, data)
                assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            except ConnectionResetError:
                assert len(data) > 65536
            assert len(upstream.protocol_errors) == 1
            assert upstream.requests == []

    run(check)


def test_a_request_cut_short_is_a_protocol_error_and_a_short_answer_is_not() -> None:
    async def check() -> None:
        async with MockUpstream(lambda request: mock.raw(OK)) as upstream:
            _, writer = await dial(upstream)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
            writer.close()
            await until(lambda: upstream.protocol_errors != [])
            assert "left inside" in upstream.protocol_errors[0]
            await until(lambda: upstream.open_connections == 0)
            assert upstream.aborted == 0

    run(check)


def test_a_large_body_passes_the_read_ahead_bound() -> None:
    async def check() -> None:
        body = bytes(range(256)) * 4096 * 4
        async with MockUpstream(lambda request: closing(OK)) as upstream:
            head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
            assert await ask(upstream, head + body) == OK
            assert upstream.requests[0].body == body
            assert upstream.requests[0].raw == head + body

    run(check)


def test_tls_close_and_cut() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)

    async def check() -> None:
        scripts: list[Script] = [closing(OK), [Send(OK), Cut(rst=False)], [Send(OK), Cut()]]
        async with MockUpstream(scripts, ssl_context=server) as upstream:
            assert upstream.url == f"https://127.0.0.1:{upstream.port}"
            for _ in scripts:
                reader, writer = await dial(upstream, client)
                writer.write(GET)
                assert await reader.readexactly(len(OK)) == OK
                try:
                    assert await reader.read() == b""
                except OSError:
                    pass
                writer.transport.abort()
            await until(lambda: upstream.open_connections == 0)
            assert (upstream.connections, upstream.aborted) == (3, 0)

    run(check)
