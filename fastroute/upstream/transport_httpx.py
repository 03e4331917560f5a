"""The httpx transport: for what the fast one does not speak (HTTP/2). Slower, selected per provider.

What serves a request inside httpx must not be cancelled at just any await: a cancellation that meets it between two of
its steps (a connection is made, but not taken over; an answer has ended, but its connection is not given back) leaves a
connection counted as busy for ever. So every exchange runs in a task of its own, which nobody cancels. Who waits for it
can be cancelled at any time, and closes it; closing asks the task to stop by a cancel scope, from which httpx shields
its cleaning up, and only while its request is on its way:

- before that a connection is being made, which connect_ms limits. It is made to its end, and nothing is sent on it.
- while it is on its way, its HTTP/1.1 connection is dropped at once. One of HTTP/2 is shared: a write that is cut short
  would spoil it for all, and httpx cannot end one stream. So the rest of the answer is read and thrown away.
- after that it ends by itself.
"""

import asyncio
import ssl
from collections import deque
from typing import Final

import httpx
from anyio import CancelScope

from fastroute._core.h1 import UpstreamError
from fastroute.context import FIRST_BYTE, Context
from fastroute.interfaces import Exchange, Header
from fastroute.upstream.headers import RESPONSE_DROP
from fastroute.upstream.transport import UpstreamRequest

#: No more is read from the provider while so much of an answer waits to be taken.
READ_AHEAD_BYTES: Final = 65_536

#: An answer over HTTP/2 that nobody wants is given up when nothing of it has come for so long, at most twice that.
UNWANTED_IDLE_S: Final = 60.0


class _UnwantedError(Exception):
    """Nobody waits for the answer to the request that was about to be sent."""


class HttpxExchange:
    """A streamed httpx response behind the exchange interface, and the work of a task that reads it.

    error: not known before somebody waits.
    """

    error = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._scope = CancelScope()
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._failure: Exception | None = None
        self._ended = False
        self._unwanted = False
        # Whether the request is on its way, and by HTTP/2.
        self._under_way = False
        self._shared = False
        self._pieces = 0
        self._timer: asyncio.TimerHandle | None = None
        self._news: asyncio.Future[None] | None = None
        self._taken: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: list[Header] = []
        self.length = -1
        self.complete = False

    # --- for who wants the answer

    async def head(self) -> None:
        """Wait for the head of the answer. Raises UpstreamError."""
        while not self.status and not self._ended:
            await self._changed()
        if not self.status:
            raise self._error()

    def read(self) -> bytes:
        """Return what has come since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._waiting = 0
        _wake(self._taken)
        return data

    async def wait(self) -> None:
        """Wait for the next piece. Raises UpstreamError."""
        while not self._chunks and not self._ended:
            await self._changed()
        if not self._chunks and not self.complete:
            raise self._error()

    def close(self) -> None:
        """Give the connection back, or drop it: as soon as that can be done."""
        if self._unwanted or self._ended:
            return
        self._unwanted = True
        self._chunks.clear()
        if self._shared:
            _wake(self._taken)
            self._timer = self._loop.call_later(UNWANTED_IDLE_S, self._give_up, self._pieces)
        else:
            self.cut()

    def cut(self) -> None:
        """Stop the request if it is on its way, whoever shares its connection."""
        self._unwanted = True
        _wake(self._taken)
        if self._under_way:
            self._scope.cancel()

    def _give_up(self, pieces: int) -> None:
        if self._pieces == pieces:
            self.cut()
        else:
            self._timer = self._loop.call_later(UNWANTED_IDLE_S, self._give_up, self._pieces)

    async def _changed(self) -> None:
        self._news = self._loop.create_future()
        await self._news

    def _error(self) -> Exception:
        failure = self._failure
        if isinstance(failure, UpstreamError):
            # Another one each time: what was raised knows where, and that leads back to here.
            return UpstreamError(failure.kind, failure.message, sent=failure.sent)
        return failure or UpstreamError("truncated", "the provider's answer broke off")

    # --- the task

    async def run(self, client: httpx.AsyncClient, message: httpx.Request) -> None:
        """Send a request and read its answer to the end, or until it is to stop."""
        message.extensions["trace"] = self._trace
        try:
            with self._scope:
                if not self._unwanted:
                    await self._receive(await client.send(message, stream=True))
        except _UnwantedError:
            pass
        except httpx.HTTPError as error:
            self._failure = _mapped(error)
        except Exception as error:  # noqa: BLE001 - raised by who waits; if nobody does, nobody wants to know
            self._failure = error
        finally:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            _wake(self._news)

    async def _receive(self, response: httpx.Response) -> None:
        try:
            left = self._begin(response)
            async for data in response.aiter_raw():
                self._pieces += 1
                if self._unwanted:
                    continue
                self._chunks.append(data)
                self._waiting += len(data)
                left -= len(data)
                if left:
                    # Not with the last byte: that it was the last one is known in a moment, and told together with it.
                    _wake(self._news)
                    await self._until_taken()
            self.complete = True
        finally:
            with CancelScope(shield=True):
                await response.aclose()

    def _begin(self, response: httpx.Response) -> int:
        """Take the head of the answer; return the length of the body, negative if it is not declared."""
        length = response.headers.get("content-length", "")
        self.length = int(length) if length.isdigit() else -1
        self.headers = _end_to_end(response)
        self.status = response.status_code
        self.complete = self.length == 0 or self.status in (204, 304)
        _wake(self._news)
        return self.length

    async def _until_taken(self) -> None:
        while self._waiting > READ_AHEAD_BYTES and not self._unwanted:
            self._taken = self._loop.create_future()
            # A cancellation is left to the next read: there it passes through all of httpx, which cleans up behind it.
            with CancelScope(shield=True):
                await self._taken

    async def _trace(self, event: str, _: object) -> None:
        """Follow how far the request is; httpx awaits this at each step."""
        if event.endswith(".send_request_headers.started"):
            self._under_way = True
            self._shared = event.startswith("http2.")
            if self._unwanted:
                # From here on httpx cleans up behind what is raised, and nothing has been sent yet. Not by the scope:
                # it would take a turn of the loop, in which another request over HTTP/2 took the same stream.
                raise _UnwantedError
        elif event.endswith(".response_closed.started"):
            self._under_way = False


class HttpxTransport:
    """One origin, by an httpx client of its own. No redirects, no proxies from the environment."""

    def __init__(self, base: str, context: ssl.SSLContext, *, http2: bool, max_connections: int) -> None:
        self._base = base
        self._client = httpx.AsyncClient(
            http1=True,
            http2=http2,
            verify=context,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
        )
        # Where a connection serves one request at a time they wait here, and can be cancelled: in the queue of httpx
        # one that is cancelled as its turn comes takes with it the connection that it was to make.
        self._room = None if http2 else asyncio.Semaphore(max_connections)
        self._running: dict[asyncio.Task[None], HttpxExchange] = {}

    async def send(self, request: UpstreamRequest, ctx: Context) -> Exchange:
        """Send a request and return once the head of the answer is there. Raises UpstreamError."""
        ctx.enter(FIRST_BYTE, request.first_byte_ns)
        message = self._client.build_request(
            "POST",
            self._base + request.target.decode("ascii"),
            headers=_fields(request),
            content=request.body,
            timeout=httpx.Timeout(None, connect=request.connect_ns / 1e9),
        )
        if self._room is not None:
            await self._room.acquire()
        loop = asyncio.get_running_loop()
        exchange = HttpxExchange(loop)
        task = loop.create_task(exchange.run(self._client, message))
        self._running[task] = exchange
        task.add_done_callback(self._ended)
        try:
            await exchange.head()
        except BaseException:
            # Whatever it was - an error, the client's departure, a deadline - nobody else will close it.
            exchange.close()
            raise
        return exchange

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if self._room is not None:
            self._room.release()

    async def close(self) -> None:
        """Close the client, once what is under way has been stopped and connections being made have been made."""
        for exchange in self._running.values():
            exchange.cut()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.aclose()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _end_to_end(response: httpx.Response) -> list[Header]:
    """Return the fields that may cross: none that are hop-by-hop, by name or because a Connection field says so."""
    named = {token.strip() for token in response.headers.get("connection", "").lower().encode().split(b",")}
    dropped = RESPONSE_DROP | (named - {b"content-length", b"content-type"})
    fields = ((name.lower(), value) for name, value in response.headers.raw)
    return [(name, value) for name, value in fields if name not in dropped]


def _fields(request: UpstreamRequest) -> list[Header]:
    """Return the header fields: ours, then the client's that may cross. httpx adds content-length."""
    lines = (request.start + request.lines + request.extra).split(b"\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines if line)]


def _mapped(error: httpx.HTTPError) -> UpstreamError:
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return UpstreamError("timeout", "the provider did not connect in time", sent=False)
    if isinstance(error, httpx.ConnectError):
        tls = isinstance(error.__context__, ssl.SSLError)
        return UpstreamError("tls" if tls else "connect", "cannot connect", sent=False)
    if isinstance(error, httpx.TimeoutException):
        return UpstreamError("timeout", "the provider did not answer in time")
    if isinstance(error, httpx.RemoteProtocolError):
        return UpstreamError("malformed", "the provider's answer is not HTTP")
    return UpstreamError("truncated", "the provider's answer broke off")
