"""The admin listener's ASGI application: probes now; the admin API will stand here."""

import hmac
from collections.abc import Callable
from typing import Final

import orjson

from fastroute.downstream.asgi import AsgiDownstream, Receive, Scope, Send

_JSON: Final = (b"content-type", b"application/json")


class AdminApp:
    """ASGI application of the control plane. key: the admin bearer token, None if no admin call is allowed."""

    def __init__(self, key: str | None, ready: Callable[[], bool]) -> None:
        self._key = key.encode() if key is not None else None
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        downstream = AsgiDownstream(scope, receive, send)
        path = downstream.path
        if path in (b"/livez", b"/readyz"):
            well = path == b"/livez" or self._ready()
            await _respond(downstream, 200 if well else 503, {"ready": well})
        elif path.startswith(b"/admin/") and not self._allowed(downstream):
            await _respond(downstream, 401, _error("invalid_api_key", "missing or unknown admin key"))
        else:
            await _respond(downstream, 404, _error("not_found", "unknown path"))

    def _allowed(self, downstream: AsgiDownstream) -> bool:
        if self._key is None:
            return False
        presented = b"".join(value for name, value in downstream.headers if name == b"authorization")
        return hmac.compare_digest(presented, b"Bearer " + self._key)


def _error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}


async def _respond(downstream: AsgiDownstream, status: int, document: object) -> None:
    body = orjson.dumps(document)
    await downstream.respond(status, [_JSON, (b"content-length", b"%d" % len(body))], body)
