"""The data plane's ASGI application: liveness and readiness here, everything else through the corridor."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastroute.downstream.asgi import AsgiDownstream, Receive, Scope, Send
from fastroute.downstream.lane import Downstream
from fastroute.gateway import Gateway

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class App:
    """ASGI application of one worker. ready: whether new requests are welcome."""

    def __init__(self, gateway: Gateway, ready: Callable[[], bool]) -> None:
        self._gateway = gateway
        self._ready = ready

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request that came by ASGI."""
        return self.serve(AsgiDownstream(scope, receive, send))

    def serve(self, downstream: Downstream) -> Awaitable[None]:
        """Serve one request, whichever lane it came by."""
        path = downstream.path
        if path == b"/livez" or path == b"/readyz":
            return probe_reply(downstream, path == b"/livez" or self._ready())
        return self._gateway.handle(downstream)


async def probe_reply(downstream: Downstream, well: bool) -> None:
    """Answer a liveness or readiness probe: 200, or 503 while draining."""
    body = b"ok\n" if well else b"not ready\n"
    await downstream.respond(200 if well else 503, [_TEXT, (b"content-length", b"%d" % len(body))], body)
