"""A scripted upstream: an HTTP/1.1 server whose every byte, pause and reset is written down by the test.

Public, for fastroute's own tests and for programs that embed fastroute. An answer is a `Script`, a sequence
of steps that run in order for one exchange; nothing is sent that no step sends, so any fault of a provider
can be acted out:

    def script_for(request: Request) -> Script:
        return [Send(b"HTTP/1.1 200 OK\\r\\ncontent-length: 10\\r\\n\\r\\nhalf "), Cut()]

    async with MockUpstream(script_for) as upstream:
        ...  # talk to upstream.url, then look at upstream.requests

Requests are parsed strictly (`mock_wire`), because a client that frames badly is what such a test wants to
catch: what is wrong goes to `protocol_errors` and is answered with 400.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import orjson

from fastroute.upstream.mock_wire import ProtocolError, Request, RequestReader

#: Requests and protocol errors that are kept; later ones are only counted.
MAX_KEPT: Final = 10_000
#: Connections open at one time; one more is reset at once.
MAX_CONNECTIONS: Final = 8_192

__all__ = [
    "Barrier", "Close", "Cut", "HalfClose", "MockUpstream", "Pause", "ProtocolError", "ReadHead",
    "ReadRequest", "Request", "Script", "ScriptError", "Send", "Stall", "Step", "TrickleSend",
    "chunk", "json_response", "raw", "response_head", "sse_response",
]  # fmt: skip

Headers = Sequence[tuple[bytes, bytes]]


class ScriptError(Exception):
    """The script cannot be carried out: none left, or a step that this connection cannot do."""


# === Steps ===


@dataclass(frozen=True, slots=True)
class ReadHead:
    """Read the next request's head only: what follows can answer before the body has arrived."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Read the next request whole. Implied at the front of a script that begins with no reading step."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write `data` and wait until the kernel has it (with TLS: until little of it waits)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TrickleSend:
    """Write `data` cut into TCP segments of `sizes` bytes (the last size repeats), `gap_s` seconds apart."""

    data: bytes
    sizes: Sequence[int] = (1,)
    gap_s: float = 0.0005


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Do nothing until the client leaves."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """Wait until the test sets `event`."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in order: TLS close_notify if there is TLS, then FIN."""


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection abruptly: by RST, or (`rst=False`) by a FIN with no TLS close_notify before it."""

    rst: bool = True


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send FIN, go on reading. Plain TCP only."""


Step = ReadHead | ReadRequest | Send | TrickleSend | Pause | Stall | Barrier | Close | Cut | HalfClose
Script = Sequence[Step]


# === Answers ready to use ===

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


def response_head(status: int, headers: Headers = ()) -> bytes:
    """Return the status line and `headers` (sent as they are, none added), blank line included."""
    lines = [b"HTTP/1.1 %d %s" % (status, _REASONS.get(status, "Status").encode())]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def raw(data: bytes) -> Script:
    """Return a script that sends exactly `data`."""
    return [Send(data)]


def json_response(status: int, body: object, headers: Headers = ()) -> Script:
    """Return a script that sends one JSON answer; `body` is bytes sent verbatim, or what orjson can print.

    Closes afterwards if `headers` say `connection: close`.
    """
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    return [Send(response_head(status, [*own, *headers]) + data), *_close_if_said(headers)]


def sse_response(events: Iterable[object], headers: Headers = (), *, chunked: bool = True) -> Script:
    """Return a script that streams `events`, one write each, with status 200.

    bytes are sent verbatim, a str becomes `data: <str>`, anything else `data: <JSON>`. Without `chunked` the
    end of the connection is the end of the answer.
    """
    own = [(b"content-type", b"text/event-stream")]
    own.append((b"transfer-encoding", b"chunked") if chunked else (b"connection", b"close"))
    steps: list[Step] = [Send(response_head(200, [*own, *headers]))]
    steps += [Send(chunk(data) if chunked else data) for data in map(_event_bytes, events) if data]
    if chunked:
        steps.append(Send(b"0\r\n\r\n"))
    return [*steps, *_close_if_said([*own, *headers])]


def chunk(data: bytes) -> bytes:
    """Return `data` framed as one chunk (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event_bytes(event: object) -> bytes:
    if isinstance(event, bytes):
        return event
    text = event.encode() if isinstance(event, str) else orjson.dumps(event)
    return b"data: " + text + b"\n\n"


def _close_if_said(headers: Headers) -> list[Step]:
    said = any(name.lower() == b"connection" and value.lower() == b"close" for name, value in headers)
    return [Close()] if said else []


# === The server ===


class MockUpstream:
    """A server on 127.0.0.1 that answers by script; an async context manager.

    script_for: called with each request once it has been read whole; or scripts used in turn, one per
    exchange in the order in which requests begin to arrive, on whatever connection. A script of such a
    sequence may begin with a reading step of its own. One exchange too many is a `ScriptError`.
    on_connect: steps to run when a connection is accepted, before anything is read.

    After a script the connection waits for the next request (keep-alive), unless a step ended it or the
    request said `connection: close`. A client that closes its sending half counts as gone. Leaving the
    context raises what went wrong in a script. Not thread-safe: use it from the loop it runs in.
    """

    def __init__(
        self,
        script_for: Callable[[Request], Script] | Sequence[Script],
        *,
        on_connect: Script = (),
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self._script_for = script_for if callable(script_for) else None
        self._turns = iter(()) if callable(script_for) else iter(script_for)
        self._on_connect = on_connect
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self.port = port
        #: The first `MAX_KEPT` requests; `request_count` counts them all.
        self.requests: list[Request] = []
        self.request_count = 0
        #: Accepted so far, and open now.
        self.connections = 0
        self.open_connections = 0
        #: Clients that left while a script was answering them.
        self.aborted = 0
        #: One line per violation, the first `MAX_KEPT`.
        self.protocol_errors: list[str] = []

    def __repr__(self) -> str:
        return (
            f"<MockUpstream {self.url} requests={self.request_count} connections={self.connections} "
            f"open={self.open_connections} aborted={self.aborted} "
            f"protocol_errors={len(self.protocol_errors)}>"
        )

    @property
    def url(self) -> str:
        """Return `http://127.0.0.1:<port>` (https with TLS), no slash at the end."""
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._ssl_context, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if self._failure is not None and error is None:
            raise self._failure

    async def aclose(self) -> None:
        """Stop listening and drop every connection. May be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets on the next turn of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        connection = _Connection(self, self.connections, reader, writer)
        try:
            if self.open_connections > MAX_CONNECTIONS:
                connection.cut(rst=True)
            else:
                await connection.run(self._on_connect)
        except asyncio.CancelledError:
            pass  # aclose() cancels; there is nobody to hand the cancellation on to
        except Exception as error:  # noqa: BLE001 - a test's script can raise anything; __aexit__ raises it there
            self._failure = self._failure or error
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            connection.end()

    def _next_script(self) -> Script:
        script = next(self._turns, None)
        if script is None:
            raise ScriptError(f"no script left for exchange {self.request_count + 1}")
        return script

    def _record(self, request: Request, *, again: bool = False) -> None:
        """Keep `request`; `again`: it was kept when its head had come, and has its body now."""
        if again:
            for at in range(len(self.requests) - 1, -1, -1):
                if self.requests[at].connection == request.connection:
                    self.requests[at] = request
                    return
            return
        self.request_count += 1
        if len(self.requests) < MAX_KEPT:
            self.requests.append(request)

    def _record_error(self, connection: int, error: ProtocolError) -> None:
        if len(self.protocol_errors) < MAX_KEPT:
            self.protocol_errors.append(f"connection {connection}: {error}")


class _Connection:
    """One accepted connection: its script, and a task that reads ahead so that leaving is seen at once."""

    def __init__(
        self, server: MockUpstream, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._number = number
        self._reader = reader
        self._writer = writer
        self._parser = RequestReader(number)
        self._pump = asyncio.ensure_future(self._read_ahead())
        self._ended = False
        self._answering = False
        self._last: Request | None = None
        self._is_tls = writer.get_extra_info("ssl_object") is not None
        if not self._is_tls:  # uvloop's TLS transport never resumes a writer that this paused
            writer.transport.set_write_buffer_limits(high=0)  # drain() then means: the kernel has it all

    async def run(self, on_connect: Script) -> None:
        """Serve exchanges until either side ends the connection."""
        self._answering = True
        await self._until_client_leaves(self._steps(on_connect))
        while not self._ended and await self._parser.has_data():
            await self._until_client_leaves(self._exchange())
            if self._last is not None and (self._last.header(b"connection") or b"").lower() == b"close":
                await self._close()

    def cut(self, *, rst: bool) -> None:
        """Drop the connection without a word; `rst` decides what the client's kernel is told."""
        self._ended, self._answering = True, False
        if rst:
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    def end(self) -> None:
        """Release what the connection holds."""
        self._pump.cancel()
        self._writer.transport.abort()

    async def _read_ahead(self) -> None:
        try:
            while data := await self._reader.read(65536):
                await self._parser.feed(data)
        except OSError:
            pass  # a reset is one more way to leave
        finally:
            self._parser.feed_eof()

    async def _until_client_leaves(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._pump}, return_when=asyncio.FIRST_COMPLETED)
            if self._answering:
                task.cancel()  # no effect on a script that has run to its end
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or isinstance(error, OSError):
            self._server.aborted += 1
            self._ended = True
        elif error is not None:
            raise error

    async def _exchange(self) -> None:
        server = self._server
        self._answering = False
        try:
            if server._script_for is not None:
                script = server._script_for(await self._read_request())
            else:
                script = server._next_script()
                if not isinstance(script[0] if script else None, ReadHead | ReadRequest):
                    await self._read_request()
            await self._steps(script)
        except ProtocolError as error:
            server._record_error(self._number, error)
            self._writer.write(response_head(400, [(b"content-length", b"0"), (b"connection", b"close")]))
            await self._close()
        if self._parser.head_only:
            await self._close()  # the rest of that request would be taken for the next one

    async def _read_request(self) -> Request:
        counted = self._parser.head_only
        self._answering = False
        self._last = await self._parser.request()
        self._server._record(self._last, again=counted)
        return self._answer(self._last)

    async def _read_head(self) -> Request:
        self._answering = False
        self._last = await self._parser.head()
        self._server._record(self._last)
        return self._answer(self._last)

    def _answer(self, request: Request) -> Request:
        self._answering = True
        if self._pump.done():
            raise ConnectionAbortedError("the client did not wait for its answer")
        return request

    async def _steps(self, script: Script) -> None:
        for step in script:
            if self._ended:
                return
            await self._step(step)

    async def _step(self, step: Step) -> None:
        match step:
            case Send(data):
                await self._send(data)
            case TrickleSend():
                await self._trickle(step)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Barrier(event):
                await event.wait()
            case Stall():
                await asyncio.Event().wait()
            case Close():
                await self._close()
            case Cut(rst):
                self.cut(rst=rst)
            case ReadHead():
                await self._read_head()
            case ReadRequest():
                await self._read_request()
            case HalfClose():
                if not self._writer.can_write_eof():
                    raise ScriptError("TLS cannot be closed in one direction")
                self._writer.write_eof()

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        if self._is_tls:
            await asyncio.sleep(0)  # uvloop hands the records to the kernel at the end of a turn

    async def _trickle(self, step: TrickleSend) -> None:
        at = turn = 0
        while at < len(step.data):
            size = max(1, step.sizes[min(turn, len(step.sizes) - 1)])
            await self._send(step.data[at : at + size])
            at, turn = at + size, turn + 1
            await asyncio.sleep(step.gap_s)

    async def _close(self) -> None:
        if self._ended:
            return
        self._ended, self._answering = True, False
        self._writer.close()
        if self._is_tls:
            await asyncio.wait({self._pump}, timeout=1.0)  # for the client's close_notify
