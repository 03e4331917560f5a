"""One request of the direct lane and its answer, as the corridor sees them."""

from collections.abc import Awaitable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastroute._core.heads import answer_head, whole_answer
from fastroute.context import Context
from fastroute.downstream.http1.body import IncomingBody
from fastroute.downstream.http1.heads import BROKEN, RequestHead
from fastroute.downstream.lane import ClientGoneError, too_large
from fastroute.errors import GatewayError
from fastroute.interfaces import Header

if TYPE_CHECKING:
    from fastroute.downstream.http1.connection import Connection

#: A rest of an unread body up to this size is read and thrown away, so that the connection can be used again.
DISCARD_BYTES: Final = 1 << 18
#: Head and body of an answer up to this size are sent as one.
_JOIN_BYTES: Final = 1 << 16

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


class Exchange:
    """A `Downstream`. closing: the connection ends with this answer."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_digits",
        "_left",
        "closing",
        "finished",
        "head",
        "incoming",
        "length",
        "method",
        "path",
        "query",
        "started",
    )

    def __init__(
        self,
        connection: "Connection",
        head: RequestHead,
        digits: bytes,
        length: int,
        body: bytes,
        incoming: IncomingBody | None,
    ) -> None:
        """digits: of the content-length, which is `length`. incoming: a body that is not complete yet; else `body`
        is all of it.
        """
        self._connection = connection
        self._digits = digits
        self._body = body
        self.head = head
        self.length = length
        self.incoming = incoming
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.started = False
        self.finished = False
        self.closing = not head.persistent
        self._chunked = False
        self._left = -1

    # --- the request

    @property
    def whole_body(self) -> bytes | None:
        """Return the request body if all of it has come."""
        return self._body if self.incoming is None else None

    @property
    def headers(self) -> list[Header]:
        """Return the header fields, in a list of the caller's own."""
        headers = self.head.headers.copy()
        if self._digits:
            headers[self.head.length_at] = (b"content-length", self._digits)
        return headers

    async def read_body(self, length: int, limit: int, ctx: Context | None = None) -> bytes:
        """Return the whole request body; see `Downstream`."""
        if length > limit:
            raise too_large(limit)
        incoming = self.incoming
        if incoming is None:
            return self._body
        if self.head.framing == BROKEN:
            raise GatewayError(400, "invalid_request_error", "ambiguous request framing", close=True)
        if self.head.expects and not incoming.size:
            self._connection.write(_CONTINUE)
        self._connection.expect(incoming)
        while not incoming.complete and not incoming.broken and incoming.size <= limit:
            await incoming.wait()
            if ctx is not None:
                ctx.progress += 1
            if incoming.slow:
                raise GatewayError(408, "request_timeout", "the request body came too slowly", close=True)
        if incoming.size > limit:
            raise too_large(limit)
        if not incoming.complete:
            raise ClientGoneError
        return incoming.take()

    def departed(self) -> Awaitable[None]:
        """Return once the client has left."""
        return self._connection.departed()

    # --- the answer

    def respond(self, status: int, headers: list[Header], body: bytes) -> Awaitable[None]:
        """Send a whole answer."""
        connection = self._connection
        listener = connection.listener
        ends = connection.eof or listener.stopping
        if self.head.plain and self.incoming is None and not ends and status in _STATUS_LINES:
            whole = whole_answer(_STATUS_LINES[status], headers, listener.date_line, body)
            if whole:
                self.started = self.finished = True
                connection.write(whole)
                return connection.drain()
        head = self._answer_head(status, headers, len(body))
        if self._is_bodiless(status):
            body = b""
        write = connection.write
        if len(body) <= _JOIN_BYTES:
            write(head + body)
        else:
            write(head)
            write(body)
        self.finished = True
        return connection.drain()

    def start(self, status: int, headers: list[Header]) -> Awaitable[None]:
        """Send the head of an answer whose body follows in pieces."""
        self._connection.write(self._answer_head(status, headers, -1))
        return self._connection.drain()

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a piece of the body."""
        self._write(data)
        return self._connection.drain()

    def finish(self, data: bytes = b"") -> Awaitable[None]:
        """Send the last piece and end the answer."""
        if self._chunked:
            end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            self._connection.write(end)
        else:
            self._write(data)
        # Less than was announced: nobody must take what follows for the rest of it.
        self.finished = self._left <= 0
        return self._connection.drain()

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._left >= 0:
            data = data[: self._left]
            self._left -= len(data)
        self._connection.write(data)

    def _is_bodiless(self, status: int) -> bool:
        return self.method == "HEAD" or status in (204, 304)

    def _answer_head(self, status: int, headers: list[Header], length: int) -> bytes:
        """Return the head of the answer, and settle how its body and the connection end. length: -1 for unknown."""
        self.started = True
        head = self.head
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        lines, declared, closes = answer_head(line, headers, self._connection.listener.date_line)
        if declared >= 0:
            if length < 0:
                self._left = declared
        elif length >= 0:
            if status != 204:
                lines += b"content-length: %d\r\n" % length
        elif not self._is_bodiless(status):
            if head.http10:
                # It ends with the connection.
                self.closing = True
            else:
                self._chunked = True
                lines += b"transfer-encoding: chunked\r\n"
        if length < 0 and self._is_bodiless(status):
            self._left = 0
        if closes:
            self.closing = True
        else:
            self.closing = self.closing or self._must_close()
            if self.closing:
                lines += b"connection: close\r\n"
            elif head.http10:
                lines += b"connection: keep-alive\r\n"
        return lines + b"\r\n"

    def _must_close(self) -> bool:
        """Whether the connection cannot be used again, or is not to be."""
        connection = self._connection
        if connection.eof or connection.listener.stopping:
            return True
        incoming = self.incoming
        if incoming is None or incoming.complete:
            return False
        return self.head.expects or incoming.broken or not 0 <= incoming.left <= DISCARD_BYTES
