"""The admin listener's ASGI application: probes, and the calls of the admin API."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import orjson

from fastroute.downstream.asgi import AsgiDownstream, Receive, Scope, Send
from fastroute.errors import GatewayError

MAX_BODY_BYTES: Final = 1 << 20

_JSON: Final = (b"content-type", b"application/json")

#: Answers a call with a JSON document, given the body that came with it. Raises GatewayError.
Call = Callable[[bytes], object]


class Asked(NamedTuple):
    """A call about the members of a collection. rest: the path below that of the collection, "" for itself."""

    method: str
    rest: bytes
    query: bytes
    body: bytes


#: Answers a call about a collection with status and JSON document. Raises GatewayError.
Collection = Callable[[Asked], Awaitable[tuple[int, object]]]


class AdminApp:
    """ASGI application of the control plane.

    key: the admin bearer token, None if no admin call is allowed. calls: by path, then by method. collections: by the
    path that theirs begin with.
    """

    def __init__(
        self,
        key: str | None,
        ready: Callable[[], bool],
        calls: Mapping[bytes, Mapping[str, Call]],
        collections: Mapping[bytes, Collection],
    ) -> None:
        self.key = key.encode() if key is not None else None
        self._ready = ready
        self._calls = calls
        self._collections = collections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        downstream = AsgiDownstream(scope, receive, send)
        headers = [_JSON]
        try:
            status, document = await self._serve(downstream)
        except GatewayError as error:
            status, document = error.status, _error(error.code, error.message)
            if error.status == 405 and error.param:
                headers.append((b"allow", error.param.encode()))
        body = orjson.dumps(document)
        await downstream.respond(status, [*headers, (b"content-length", b"%d" % len(body))], body)

    async def _serve(self, downstream: AsgiDownstream) -> tuple[int, object]:
        path = downstream.path
        if path in (b"/livez", b"/readyz"):
            well = path == b"/livez" or self._ready()
            return (200 if well else 503), {"ready": well}
        if path.startswith(b"/admin/") and not self._allowed(downstream):
            raise GatewayError(401, "invalid_api_key", "missing or unknown admin key")
        for top, collection in self._collections.items():
            if path == top or path.startswith(top + b"/"):
                body = await downstream.read_body(-1, MAX_BODY_BYTES)
                return await collection(Asked(downstream.method, path[len(top) + 1 :], downstream.query, body))
        methods = self._calls.get(path)
        if methods is None:
            raise GatewayError(404, "not_found", "unknown path")
        call = methods.get(downstream.method)
        if call is None:
            allowed = ", ".join(sorted(methods))
            raise GatewayError(405, "method_not_allowed", f"this path takes {allowed}", param=allowed)
        return 200, call(await downstream.read_body(-1, MAX_BODY_BYTES))

    def _allowed(self, downstream: AsgiDownstream) -> bool:
        if self.key is None:
            return False
        presented = b"".join(value for name, value in downstream.headers if name == b"authorization")
        return hmac.compare_digest(presented, b"Bearer " + self.key)


def _error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}
