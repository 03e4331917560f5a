"""A request over httpx that is stopped at any of its awaits costs the pool no connection and other requests nothing.

Each scenario is run again and again, each time stopped one await later, until it runs to its end. Counted are the
awaits of who asks and of the task in which httpx works, in the order in which they come. After each stop as many
requests as there may be connections (over HTTP/2: streams) must be served at the same time.
"""

import asyncio
import gc
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
import trustme
import uvloop

from fastroute._core.h1 import UpstreamError
from fastroute.context import Context
from fastroute.interfaces import Exchange
from fastroute.upstream import transport_httpx
from fastroute.upstream.mock import (
    Barrier,
    Cut,
    MockUpstream,
    Pause,
    Request,
    Script,
    Send,
    Stall,
    json_response,
    response_head,
    sse_response,
)
from fastroute.upstream.transport import UpstreamRequest
from fastroute.upstream.transport_httpx import HttpxTransport
from tests.behaviour.gateway_in_process import Stepper, run_stepped

#: Connections, and over HTTP/2 streams of the only one.
MOST = 2
#: More awaits than any scenario has.
MAX_AWAITS = 500
#: Long enough on a machine that has much else to do; a lost connection is waited for so long.
PATIENCE_S = 10

MOMENTS = ("before", "during", "as it ends")
LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]

CLOSE = [(b"connection", b"close")]
EVENTS = ["a", "b", "[DONE]"]
LARGE = b'"' + b"y" * 300_000 + b'"'


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def slowly(script: Script) -> Script:
    return [step for one in script for step in (one, Pause(0.0005))]


class Scenario(NamedTuple):
    """script: the answer. busy: every connection is taken at first. late: the client takes what has come only later."""

    script: Script
    body: bytes = b"{}"
    tls: bool = False
    busy: bool = False
    late: bool = False


SCENARIOS = {
    "kept": Scenario(slowly(sse_response(EVENTS))),
    "connected anew": Scenario(slowly(sse_response(EVENTS, CLOSE))),
    "with a length": Scenario(json_response(200, {"a": 1})),
    "with a length, connected anew": Scenario(json_response(200, {"a": 1}, CLOSE)),
    "without a body": Scenario([Send(response_head(204)), *json_response(200, {})][:1]),
    "tls": Scenario(slowly(sse_response(EVENTS)), tls=True),
    "tls, connected anew": Scenario(slowly(sse_response(EVENTS, CLOSE)), tls=True),
    "large": Scenario(json_response(200, LARGE), body=b"x" * 300_000),
    "large, taken late": Scenario(json_response(200, LARGE, CLOSE), late=True),
    "broken off": Scenario([*slowly(sse_response(EVENTS))[:-2], Cut()]),
    "queued": Scenario(slowly(sse_response(EVENTS)), busy=True),
    "queued, connected anew": Scenario(slowly(sse_response(EVENTS, CLOSE)), busy=True),
}


class Server(Protocol):
    """What both kinds of server can do for a test."""

    @property
    def url(self) -> str:
        """Return where it listens."""

    def serve_together(self, number: int) -> None:
        """Answer the next requests for `/together` only when so many of them are there."""


class Upstream(MockUpstream):
    """Answers `/` by a scenario's script, `/together` once as many as were said are there."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        super().__init__(self._answer, ssl_context=context)
        self._script = script
        self.serve_together(0)

    def serve_together(self, number: int) -> None:
        self._missing = number
        self._all_there = asyncio.Event()

    def _answer(self, request: Request) -> Script:
        if request.target != "/together":
            return self._script
        self._missing -= 1
        if not self._missing:
            self._all_there.set()
        return [Barrier(self._all_there), *json_response(200, b"together")]


def request(target: bytes = b"/", body: bytes = b"{}") -> UpstreamRequest:
    return UpstreamRequest(target, b"POST " + target + b" HTTP/1.1\r\n", b"", b"", body, 5 * 10**9, 60 * 10**9)


def context() -> Context:
    return Context(None, None, 1, "r", 0, 0, None)


async def rest_of(exchange: Exchange) -> bytes:
    data = exchange.read()
    while not exchange.complete:
        await exchange.wait()
        data += exchange.read()
    return data


async def ask(transport: HttpxTransport, wanted: UpstreamRequest, *, late: bool = False) -> bytes:
    """Send a request and return the body of its answer, as the gateway does: whatever happens, it is closed."""
    exchange = await transport.send(wanted, context())
    try:
        if late:
            await asyncio.sleep(0.005)
        return await rest_of(exchange)
    finally:
        exchange.close()


async def serves_together(transport: HttpxTransport, server: Server, number: int) -> None:
    server.serve_together(number)
    asked = [ask(transport, request(b"/together")) for _ in range(number)]
    answers = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S)
    assert answers == [b"together"] * number


class Stop:
    """Cancels a task `times` times in a row at await number `at` of all that are counted.

    exchange: what its task works at. As a wait of that ends it is closed too: as it is when the task was cancelled a
    turn of the loop earlier.
    """

    def __init__(self, at: int, moment: str, times: int) -> None:
        self._at = at
        self._moment = moment
        self._times = times
        self._number = 0
        self.done = False
        self.task: asyncio.Task[Any] | None = None
        self.exchange: Exchange | None = None

    def __call__(self, _: int, awaited: Any) -> None:
        if self._number == self._at:
            self.done = True
            if self._moment == "before":
                self._stop(self._times)
            elif self._moment == "as it ends" and asyncio.isfuture(awaited):
                awaited.add_done_callback(lambda _: self._stop(self._times))
            else:
                asyncio.get_running_loop().call_soon(self._stop, self._times)
        self._number += 1

    def _stop(self, times: int) -> None:
        assert self.task is not None
        if times and not self.task.done():
            self.task.cancel()
            if self.exchange is not None and self._moment == "as it ends":
                self.exchange.close()
            asyncio.get_running_loop().call_soon(self._stop, times - 1)


def step_through_exchanges(steps: list[Stop]) -> None:
    """Have the last of `steps` also called at each await of the tasks in which the exchanges of its task are done."""

    async def stepped(work: Coroutine[Any, Any, Any], stop: Stop) -> Any:
        return await Stepper(work, stop)

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        if steps and asyncio.current_task() is steps[-1].task and work.__qualname__ == "HttpxExchange.run":
            steps[-1].exchange = inspect.getcoroutinelocals(work)["self"]
            work = stepped(work, steps[-1])
        return asyncio.Task(work, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(make)


async def stopped_at_each_await(
    transport: HttpxTransport, server: Server, scenario: Scenario, moment: str, times: int, *, together: int
) -> None:
    steps: list[Stop] = []
    step_through_exchanges(steps)
    for at in range(MAX_AWAITS):
        held = [await transport.send(request(), context()) for _ in range(together if scenario.busy else 0)]
        stop = Stop(at, moment, times)
        steps.append(stop)
        with suppress(UpstreamError):
            work = ask(transport, request(body=scenario.body), late=scenario.late)
            stop.task = asyncio.create_task(run_stepped(work, stop))
            for exchange in held:
                await asyncio.sleep(0.0005)
                exchange.close()
            await stop.task
        steps.clear()
        try:
            await serves_together(transport, server, together)
        except TimeoutError:
            pytest.fail(f"a connection was lost at await {at}")
        if not stop.done:
            break
    assert 1 < at < MAX_AWAITS - 1


@asynccontextmanager
async def transport_to(
    server: Server, client_context: ssl.SSLContext, *, http2: bool = False, most: int = MOST
) -> AsyncIterator[HttpxTransport]:
    transport = HttpxTransport(server.url, client_context, http2=http2, max_connections=most)
    before = asyncio.all_tasks()
    yield transport
    # Closed in the middle of things: nothing of it is left.
    server.serve_together(2)
    hanging = asyncio.create_task(ask(transport, request(b"/together")))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(transport.close(), PATIENCE_S)
    with pytest.raises(UpstreamError):
        await hanging
    await asyncio.sleep(0.01)
    left = [
        task for task in asyncio.all_tasks() - before if "transport_httpx" in repr(task) or "httpcore" in repr(task)
    ]
    assert left == []


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.002)


def run(new_loop: Any, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main, 120))
    gc.collect()


def contexts(authority: trustme.CA, *protocols: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    server.set_alpn_protocols(list(protocols))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("new_loop", LOOPS)
def test_no_connection_is_lost(name: str, moment: str, times: int, authority: trustme.CA, new_loop: Any) -> None:
    scenario = SCENARIOS[name]
    server_context, client_context = contexts(authority, "http/1.1")

    async def main() -> None:
        async with Upstream(scenario.script, server_context if scenario.tls else None) as server:
            async with transport_to(server, client_context) as transport:
                await stopped_at_each_await(transport, server, scenario, moment, times, together=MOST)
                assert server.open_connections <= MOST
            await until(lambda: server.open_connections == 0)
            # A request that was stopped after its head has no body; nothing else may be wrong with any.
            assert all("left inside a request" in error for error in server.protocol_errors)

    run(new_loop, main())


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_request_is_stopped_at_once(answered: bool, new_loop: Any) -> None:
    """Its provider sees the connection end, though it has much more to say."""
    head = [Send(response_head(200, [(b"content-length", b"1000")]) + b"begun")] if answered else []

    async def main() -> None:
        async with Upstream([*head, Stall()]) as server:
            async with transport_to(server, ssl.create_default_context()) as transport:
                task = asyncio.create_task(ask(transport, request()))
                await until(lambda: server.request_count == 1)
                await asyncio.sleep(0.02)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                await until(lambda: server.aborted == 1)

    run(new_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_connection_that_is_being_made_carries_nothing_for_who_has_left(authority: trustme.CA, new_loop: Any) -> None:
    server_context, client_context = contexts(authority, "http/1.1")

    async def main() -> None:
        async with Upstream(json_response(200, {}), server_context) as server:
            async with transport_to(server, client_context, most=1) as transport:
                task = asyncio.create_task(ask(transport, request()))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                await serves_together(transport, server, 1)
                assert [one.target for one in server.requests] == ["/together"]

    run(new_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_who_leaves_while_all_connections_are_taken_waits_for_none(new_loop: Any) -> None:
    async def main() -> None:
        async with Upstream([Send(response_head(200, [(b"content-length", b"9")])), Stall()]) as server:
            async with transport_to(server, ssl.create_default_context()) as transport:
                held = [await transport.send(request(), context()) for _ in range(MOST)]
                waiting = [asyncio.create_task(ask(transport, request())) for _ in range(5)]
                await asyncio.sleep(0.02)
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                assert len(transport._running) == MOST
                for exchange in held:
                    exchange.close()
                await serves_together(transport, server, MOST)
                assert server.request_count == 2 * MOST

    run(new_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_no_more_is_read_than_is_taken(new_loop: Any) -> None:
    size = 2 * 1024 * 1024

    async def main() -> None:
        script = [Send(response_head(200, [(b"content-length", b"%d" % size)])), *[Send(bytes(65_536))] * 32]
        async with Upstream(script) as server:
            async with transport_to(server, ssl.create_default_context()) as transport:
                exchange = await transport.send(request(), context())
                await asyncio.sleep(0.1)
                assert len(exchange.read()) <= transport_httpx.READ_AHEAD_BYTES + 65_536
                assert len(await rest_of(exchange)) >= size - transport_httpx.READ_AHEAD_BYTES - 65_536
                assert exchange.complete
                exchange.close()
                await serves_together(transport, server, MOST)
                # One that waits to be taken does not keep the transport from being closed.
                await transport.send(request(), context())
                await asyncio.sleep(0.05)

    run(new_loop, main())


# === HTTP/2 ===

BYSTANDER = b"".join(b"data: %d\n\n" % number for number in range(10))


class Upstream2(asyncio.Protocol):
    """A server of HTTP/2 for one connection after another: `/` is answered in pieces, `/long` in many of them,
    `/never` never, `/together` once as many as were said are there. errors: what clients did wrong."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._connections: list[_Connection2] = []
        self.connections = 0
        self.errors: list[str] = []
        self.seen: list[str] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection2(self), "127.0.0.1", 0, ssl=self._context)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.serve_together(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await asyncio.sleep(0.05)

    def serve_together(self, number: int) -> None:
        self._missing = number
        self._waiting: list[Callable[[], None]] = []

    def arrived(self, answer: Callable[[], None]) -> None:
        self._missing -= 1
        self._waiting.append(answer)
        if not self._missing:
            for one in self._waiting:
                one()


class _Connection2(asyncio.Protocol):
    def __init__(self, server: Upstream2) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._targets: dict[int, str] = {}

    def connection_made(self, transport: Any) -> None:
        self._server.connections += 1
        self._transport = transport
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MOST + 1}
        )
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._server.errors.append(repr(error))
            events = []
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self._targets[event.stream_id] = dict(event.headers)[b":path"].decode()
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id, self._targets[event.stream_id])
        self._flush()

    def _answer(self, stream: int, target: str) -> None:
        self._server.seen.append(target)
        if target == "/together":
            self._server.arrived(lambda: self._send(stream, [b"together"]))
        elif target == "/long":
            self._send(stream, BYSTANDER.splitlines(keepends=True))
        elif target != "/never":
            self._send(stream, [b"a", b"b", b"c"])

    def _send(self, stream: int, pieces: list[bytes]) -> None:
        self._h2.send_headers(stream, [(":status", "200")])
        self._more(stream, pieces)

    def _more(self, stream: int, pieces: list[bytes]) -> None:
        if self._transport.is_closing():
            return
        with suppress(h2.exceptions.StreamClosedError):
            self._h2.send_data(stream, pieces[0], end_stream=len(pieces) == 1)
        self._flush()
        if pieces[1:]:
            self._loop.call_later(0.0005, self._more, stream, pieces[1:])

    def _flush(self) -> None:
        self._transport.write(self._h2.data_to_send())


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("new_loop", LOOPS)
def test_no_stream_is_lost(moment: str, times: int, authority: trustme.CA, new_loop: Any) -> None:
    """And who shares the connection with a request that is stopped does not notice."""
    server_context, client_context = contexts(authority, "h2")

    async def main() -> None:
        async with Upstream2(server_context) as server:
            async with transport_to(server, client_context, http2=True, most=1) as transport:
                bystanders = []

                async def stand_by() -> None:
                    while True:
                        answer = await ask(transport, request(b"/long"))
                        bystanders.append(answer)
                        assert answer == BYSTANDER

                standing_by = asyncio.create_task(stand_by())
                await until(lambda: bool(bystanders))
                await stopped_at_each_await(transport, server, Scenario([]), moment, times, together=MOST)
                assert not standing_by.done(), standing_by
                assert len(bystanders) > 1
                assert server.connections == 1
                standing_by.cancel()
                await asyncio.gather(standing_by, return_exceptions=True)
                await until(lambda: not transport._running)
                await serves_together(transport, server, MOST + 1)
            assert server.errors == []

    run(new_loop, main())


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_connection_of_http2_is_lost_while_it_is_made(moment: str, authority: trustme.CA) -> None:
    server_context, client_context = contexts(authority, "h2")

    async def main() -> None:
        steps: list[Stop] = []
        step_through_exchanges(steps)
        async with Upstream2(server_context) as server:
            for at in range(MAX_AWAITS):
                async with transport_to(server, client_context, http2=True, most=1) as transport:
                    stop = Stop(at, moment, 1)
                    steps.append(stop)
                    stop.task = asyncio.create_task(run_stepped(ask(transport, request()), stop))
                    await stop.task
                    steps.clear()
                    await serves_together(transport, server, MOST)
                if not stop.done:
                    break
            assert 1 < at < MAX_AWAITS - 1
            assert server.errors == []

    run(uvloop.new_event_loop, main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_answer_over_http2_that_does_not_come_is_given_up(
    authority: trustme.CA, new_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_httpx, "UNWANTED_IDLE_S", 0.05)
    server_context, client_context = contexts(authority, "h2")

    async def main() -> None:
        async with Upstream2(server_context) as server:
            async with transport_to(server, client_context, http2=True, most=1) as transport:
                for _ in range(MOST):
                    task = asyncio.create_task(ask(transport, request(b"/never")))
                    await asyncio.sleep(0.02)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                await until(lambda: not transport._running)
                await ask(transport, request())
                assert server.seen[-1] == "/"

    run(new_loop, main())
