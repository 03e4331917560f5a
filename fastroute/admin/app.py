"""The admin listener's ASGI application: probes, and the calls of the admin API."""

import hmac
from collections.abc import Callable
from typing import Final

import msgspec
import orjson

from fastroute.admin.explain import Question
from fastroute.downstream.asgi import AsgiDownstream, ClientGoneError, Receive, Scope, Send
from fastroute.errors import GatewayError

MAX_BODY_BYTES: Final = 1 << 20

_JSON: Final = (b"content-type", b"application/json")

#: Answers a question with a JSON document. Raises GatewayError.
Explainer = Callable[[Question], object]


class AdminApp:
    """ASGI application of the control plane. key: the admin bearer token, None if no admin call is allowed."""

    def __init__(self, key: str | None, ready: Callable[[], bool], explain: Explainer) -> None:
        self.key = key.encode() if key is not None else None
        self._ready = ready
        self._explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        downstream = AsgiDownstream(scope, receive, send)
        try:
            status, document = await self._serve(downstream)
        except GatewayError as error:
            status, document = error.status, _error(error.code, error.message)
        except ClientGoneError:
            status, document = 400, _error("invalid_request_error", "the request body broke off")
        body = orjson.dumps(document)
        await downstream.respond(status, [_JSON, (b"content-length", b"%d" % len(body))], body)

    async def _serve(self, downstream: AsgiDownstream) -> tuple[int, object]:
        path = downstream.path
        if path in (b"/livez", b"/readyz"):
            well = path == b"/livez" or self._ready()
            return (200 if well else 503), {"ready": well}
        if path.startswith(b"/admin/") and not self._allowed(downstream):
            raise GatewayError(401, "invalid_api_key", "missing or unknown admin key")
        if path == b"/admin/v1/explain":
            if downstream.method != "POST":
                raise GatewayError(405, "method_not_allowed", "explain takes POST")
            return 200, self._explain(_question(await downstream.read_body(-1, MAX_BODY_BYTES)))
        raise GatewayError(404, "not_found", "unknown path")

    def _allowed(self, downstream: AsgiDownstream) -> bool:
        if self.key is None:
            return False
        presented = b"".join(value for name, value in downstream.headers if name == b"authorization")
        return hmac.compare_digest(presented, b"Bearer " + self.key)


def _question(body: bytes) -> Question:
    try:
        return msgspec.json.decode(body, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GatewayError(400, "invalid_request_error", str(error)) from None


def _error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}
