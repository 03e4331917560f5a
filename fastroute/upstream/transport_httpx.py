"""The httpx transport: for what the fast one does not speak (HTTP/2). Slower, selected per provider."""

import asyncio
import ssl

import httpx

from fastroute._core.h1 import UpstreamError
from fastroute.context import FIRST_BYTE, Context
from fastroute.interfaces import Exchange, Header
from fastroute.upstream.headers import RESPONSE_DROP
from fastroute.upstream.transport import UpstreamRequest


class HttpxExchange:
    """A streamed httpx response behind the exchange interface. error: not known before somebody waits."""

    error = None

    def __init__(self, transport: "HttpxTransport", response: httpx.Response) -> None:
        self._transport = transport
        self._response = response
        self._chunks = response.aiter_raw()
        self._data = b""
        self._closed = False
        self.status = response.status_code
        self.headers = _end_to_end(response)
        length = response.headers.get("content-length", "")
        self.length = int(length) if length.isdigit() else -1
        self._left = self.length
        self.complete = self.length == 0 or self.status in (204, 304)

    def read(self) -> bytes:
        """Return what the last `wait` brought."""
        data, self._data = self._data, b""
        return data

    async def wait(self) -> None:
        """Fetch the next piece. Raises UpstreamError."""
        self._data = await self._next()
        self._left -= len(self._data)
        if self._left == 0 and not self.complete:
            # The end is known with the last byte, and httpx wants to hear of it to use the connection again.
            self._data += await self._next()

    async def _next(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self.complete = True
            return b""
        except httpx.HTTPError as error:
            raise _mapped(error) from None

    def close(self) -> None:
        """Give the connection back, or drop it. httpx wants to do so asynchronously."""
        if not self._closed:
            self._closed = True
            self._transport.spawn_close(self._response)


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
        self._closing: set[asyncio.Task[None]] = set()

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
        try:
            response = await self._client.send(message, stream=True)
        except httpx.HTTPError as error:
            raise _mapped(error) from None
        return HttpxExchange(self, response)

    def spawn_close(self, response: httpx.Response) -> None:
        """Close a response in a task that is kept until it is done."""
        task = asyncio.get_running_loop().create_task(response.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the client and what is still being closed."""
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
        await self._client.aclose()


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
