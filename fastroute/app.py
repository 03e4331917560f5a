"""The data plane's ASGI application: liveness and readiness here, everything else through the corridor."""

from collections.abc import Callable
from typing import Final

from fastroute.downstream.asgi import AsgiDownstream, Receive, Scope, Send
from fastroute.gateway import Gateway

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class App:
    """ASGI application of one worker. ready: whether new requests are welcome."""

    def __init__(self, gateway: Gateway, ready: Callable[[], bool]) -> None:
        self._gateway = gateway
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        downstream = AsgiDownstream(scope, receive, send)
        if downstream.path == b"/livez" or downstream.path == b"/readyz":
            await probe_reply(downstream, downstream.path == b"/livez" or self._ready())
        else:
            await self._gateway.handle(downstream)


async def probe_reply(downstream: AsgiDownstream, well: bool) -> None:
    """Answer a liveness or readiness probe: 200, or 503 while draining."""
    body = b"ok\n" if well else b"not ready\n"
    await downstream.respond(
        200 if well else 503, [_TEXT, (b"content-length", b"%d" % len(body))], body
    )
