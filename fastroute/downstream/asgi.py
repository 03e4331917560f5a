"""The ASGI lane: the only code that knows how the server below hands over requests and takes answers.

The corridor sees this object and nothing of ASGI: see `lane`.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from fastroute.context import Context
from fastroute.downstream.lane import ClientGoneError, too_large
from fastroute.interfaces import Header

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

START: Final = "http.response.start"
BODY: Final = "http.response.body"


class AsgiDownstream:
    """One request on the client's side. Its head has not been looked at."""

    head = None
    length = -1
    whole_body = None

    __slots__ = ("_receive", "_send", "finished", "headers", "method", "path", "query", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope["query_string"]
        self.headers: list[Header] = scope["headers"]
        self.started = False
        self.finished = False

    async def read_body(self, length: int, limit: int, ctx: Context | None = None) -> bytes:
        """Return the whole request body; see `Downstream`."""
        if length > limit:
            raise too_large(limit)
        first = await self._receive()
        body: bytes = first.get("body", b"")
        if len(body) == length:
            # Complete: asking again would cost a round trip through the server's threads only to be told so.
            return body
        return await self._read_rest(first, length, limit, ctx)

    async def _read_rest(
        self, message: MutableMapping[str, Any], length: int, limit: int, ctx: Context | None
    ) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise ClientGoneError
            piece = message.get("body", b"")
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            if not message.get("more_body", False):
                break
            if size == length:
                break
            if ctx is not None:
                ctx.progress += 1
            message = await self._receive()
        return b"".join(pieces)

    async def departed(self) -> None:
        """Return once the client has left (or the answer is complete)."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def respond(self, status: int, headers: list[Header], body: bytes) -> None:
        """Send a whole answer."""
        self.started = True
        await self._send({"type": START, "status": status, "headers": headers})
        await self._send({"type": BODY, "body": body, "more_body": False})
        self.finished = True

    async def start(self, status: int, headers: list[Header]) -> None:
        """Send the head of an answer whose body follows in pieces."""
        self.started = True
        await self._send({"type": START, "status": status, "headers": headers})

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a piece of the body; to be awaited, which takes as long as the client makes it take."""
        return self._send({"type": BODY, "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the answer."""
        await self._send({"type": BODY, "body": data, "more_body": False})
        self.finished = True
