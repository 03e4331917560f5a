"""A client's connection of the direct lane: HTTP/1.1, one request at a time, in the worker's own event loop."""

import asyncio
import fcntl
import logging
import re
import struct
import termios
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from fastroute.downstream.http1.body import IncomingBody
from fastroute.downstream.http1.exchange import Exchange
from fastroute.downstream.http1.heads import LENGTH, NO_BODY, BadHeadError, RequestHead, check_begun, read_begun
from fastroute.downstream.lane import AnswerCutError
from fastroute.errors import GatewayError
from fastroute.outgoing import Outgoing

if TYPE_CHECKING:
    from fastroute.downstream.http1.listener import DirectListener

log = logging.getLogger("fastroute")

#: Of an answer to what is no request.
NO_HEAD: Final = RequestHead("GET", b"", b"", [], -1, NO_BODY, False, False, False, False)

#: What is said of it, by status: (code, message).
_NO_REQUEST: Final = {
    400: ("invalid_request_error", "the request head is malformed"),
    408: ("request_timeout", "the request head did not arrive in time"),
    431: ("headers_too_large", "the request head is too large"),
}

#: A task that is given a name makes none up, which takes longer than to begin it.
_TASK: Final = "request"

#: What a client may send before somebody wants it; the kernel holds back the rest.
HELD_BYTES: Final = 1 << 18
#: How long a connection without a request is kept (nginx's keepalive_timeout).
IDLE_S: Final = 75
#: The same while there are as many connections as there may be: others may wait for a place.
FULL_IDLE_S: Final = 5
#: A client that is still sending gets so long, and so many bytes, to read why nobody listens any more.
LINGER_S: Final = 2
LINGER_BYTES: Final = 1 << 22
#: Who was not told that the connection will end has so long for a request that is on its way already. A connection that
#: is closed with bytes unread is reset.
LAST_CALL_S: Final = 0.1
#: Who comes in as the worker stops, and sends nothing: at least one second, for the first tick may come at once.
LAST_IDLE_S: Final = 1
_BLANK_LINES: Final = re.compile(rb"(?:\r\n)*+")


def held_by_kernel(transport: Outgoing) -> int:
    """Return how many bytes were written to a client that it has not acknowledged; 0 if the kernel does not say."""
    return _ask_kernel(transport, termios.TIOCOUTQ)


def unread_by_us(transport: Outgoing) -> int:
    """Return how many bytes a client has sent that the loop has not read yet; 0 if the kernel does not say."""
    return _ask_kernel(transport, termios.FIONREAD)


def _ask_kernel(transport: Outgoing, what: int) -> int:
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), what, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


class Connection:
    """Reads requests, hands each to the application, and looks after what stands still. Ticks are seconds.

    An `asyncio.Protocol`, though not by descent: a C structure cannot have a class of Python's for a parent.
    """

    __slots__ = (
        "_buffer",
        "_held",
        "_lingered",
        "_lingering",
        "_loop",
        "_lost",
        "_rest",
        "_since",
        "_stalled",
        "_stalled_since",
        "_task",
        "_turn",
        "_waiters",
        "_write_paused",
        "eof",
        "exchange",
        "listener",
        "transport",
    )

    def __init__(self, listener: "DirectListener", loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self._loop = loop
        self.transport: Outgoing = None  # type: ignore[assignment]  # until it is connected
        #: The request under way.
        self.exchange: Exchange | None = None
        #: Serves one request after another; between two of them it waits for its turn.
        self._task: asyncio.Task[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        #: Bytes of the next request.
        self._buffer = b""
        #: A body that nobody wanted, whose rest is thrown away.
        self._rest: IncomingBody | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._since = listener.tick
        self.eof = False
        self._held = False
        self._lost = False
        self._lingering = False
        self._lingered = 0
        self._write_paused = False
        self._stalled = 0
        self._stalled_since = 0

    # --- what the corridor asks for

    def expect(self, incoming: IncomingBody) -> None:
        """Begin to want a body."""
        incoming.began = self.listener.tick
        self._resume()

    def drain(self) -> Awaitable[None]:
        """Return what to await before sending more."""
        return self._wait() if self._write_paused and not self._lost else self.listener.done

    async def departed(self) -> None:
        """Return once the client has left."""
        while not self.eof and not self._lost:
            await self._wait()

    def write(self, data: bytes) -> None:
        """Send bytes; what is sent to somebody who has left is lost."""
        if not self._lost:
            self.transport.write(data)

    def _wait(self) -> "asyncio.Future[None]":
        """Return a future that is done when something has changed."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- what comes in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection."""
        self.transport = self.listener.outbox.take_over(transport)
        self.listener.enter(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent."""
        exchange = self.exchange
        if exchange is None:
            if self._lingering:
                self._linger(data)
                return
            if self._rest is not None:
                data = self._throw_away(self._rest, data)
            if data:
                self._begin(self._buffer + data if self._buffer else data)
            return
        incoming = exchange.incoming
        if incoming is not None and not incoming.complete:
            data = incoming.feed(data)
            if incoming.began < 0 and incoming.size > HELD_BYTES:
                self._hold()
        if data:
            self._buffer += data
            if len(self._buffer) > HELD_BYTES:
                self._hold()

    def eof_received(self) -> bool:
        """Note that the client will send no more: it has left, or might as well have.

        Who waits for the rest of its request is told; and whoever still reads there gets an answer.
        """
        self.eof = True
        self._wake()
        if self.exchange is None:
            # That closes the connection.
            self.transport.flush()
            return False
        if self.exchange.incoming is not None and not self.exchange.incoming.complete:
            self.exchange.incoming.spoil()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone."""
        self._lost = True
        self._call()
        if self.exchange is not None and self.exchange.incoming is not None:
            self.exchange.incoming.spoil()
        self._wake()
        self.listener.leave(self)

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as is sent."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Note that it does again."""
        self._write_paused = False
        self._wake()
        if self.exchange is None and self._buffer and not self._lingering:
            self._next()

    # --- requests

    def _begin(self, data: bytes) -> None:
        """Begin to serve the request that `data` begins with, if its head is complete."""
        if data.startswith(b"\r\n"):
            # RFC 9112, section 2.2. However many there are, the rest is copied once.
            data = data[_BLANK_LINES.match(data).end() :]  # type: ignore[union-attr]
        try:
            found = self.listener.heads.read(data)
            if found is None:
                self._wait_for_more(data)
                return
        except BadHeadError as error:
            self._reject(error.status, data)
            return
        at, head, digits = found
        length = -1
        body = b""
        incoming: IncomingBody | None = None
        if digits:
            length = int(digits)
            body = data[at : at + length]
            at += length
            if len(body) < length:
                incoming = IncomingBody(LENGTH, length)
                incoming.feed(body)
        elif head.framing != NO_BODY:
            incoming = IncomingBody(head.framing, 0)
            data = incoming.feed(data[at:])
            at = 0
        self._buffer = data[at:]
        self.exchange = Exchange(self, head, digits, length, body, incoming)
        if not self._call() and self._task is None:
            self._task = self._loop.create_task(self._serve(), name=_TASK)

    def _wait_for_more(self, data: bytes) -> None:
        """Keep the beginning of a head. Raises BadHeadError if it cannot become one."""
        if data and not self._buffer:
            # Blank lines are no head yet: they do not make a connection less idle.
            self._since = self.listener.tick
        checked = len(self._buffer) if data.startswith(self._buffer) else 0
        self._buffer = data
        if len(data) > self.listener.max_head_bytes:
            raise BadHeadError(431)
        if data:
            check_begun(data, checked)

    async def _serve(self) -> None:
        """Serve one request after another: to begin a task for each would take longer than to wait for it."""
        try:
            while (exchange := self.exchange) is not None:
                try:
                    await self.listener.application(exchange)
                except (AnswerCutError, asyncio.CancelledError):
                    exchange.finished = False
                except Exception:  # whatever it is, it concerns one request
                    log.exception("a request failed outside the corridor")
                    exchange.finished = False
                if not self._end(exchange):
                    return
                # What was asked and answered is not to be kept for as long as the connection is idle.
                del exchange
                if self.exchange is None:
                    self._turn = self._loop.create_future()
                    await self._turn
                else:
                    # The next one has come already. Others have waited for longer.
                    await asyncio.sleep(0)
        finally:
            self._task = None

    def _call(self) -> bool:
        """Give the task its turn; return whether it waits for that."""
        turn, self._turn = self._turn, None
        if turn is None or turn.done():
            return False
        turn.set_result(None)
        return True

    def _end(self, exchange: Exchange) -> bool:
        """Go on with the next request, or end the connection; return which."""
        self.exchange = None
        if self._waiters:
            # Of watchers for its departure, which end with the request.
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        if self._lost:
            return False
        if not exchange.finished:
            # Up to here it was sent.
            self.transport.flush()
            self.transport.abort()
            return False
        incoming = exchange.incoming
        unread = incoming if incoming is not None and not incoming.complete else None
        self._since = self.listener.tick
        if exchange.closing or self.eof:
            self._close(unread is not None or bool(self._buffer))
            return False
        if self.listener.stopping:
            # When the answer began, nobody knew: the client may be sending the next request already.
            self._loop.call_later(LAST_CALL_S, self.stop)
        if unread is not None:
            unread.drop()
            self._rest = unread
        self._resume()
        if self._buffer and not self._write_paused:
            self._next()
        return not self._lingering

    def _next(self) -> None:
        data, self._buffer = self._buffer, b""
        if self._rest is not None:
            data = self._throw_away(self._rest, data)
        if data:
            self._begin(data)

    def _throw_away(self, rest: IncomingBody, data: bytes) -> bytes:
        data = rest.feed(data)
        if rest.complete:
            self._rest = None
        return data

    # --- its end

    def _reject(self, status: int, data: bytes) -> None:
        """Answer what is no request, though it may begin like one."""
        code, message = _NO_REQUEST[status]
        method, path = read_begun(data)
        exchange = Exchange(self, NO_HEAD, b"", -1, b"", None)
        exchange.method = method
        exchange.respond(*self.listener.refuse(GatewayError(status, code, message, close=True), path))
        self._close(True)

    def _close(self, lingering: bool) -> None:
        """End the connection once everything is sent.

        lingering: the client may be sending. A connection that is closed with bytes unread is reset, and the answer
        may be lost with it (RFC 9112, section 9.6), so these are read first. What it has sent behind the last request
        is nobody's.
        """
        self._buffer = b""
        if not lingering or self.eof:
            self.transport.close()
            return
        self._lingering = True
        self._since = self.listener.tick
        self._resume()
        self.transport.write_eof()

    def _linger(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES:
            self.transport.abort()

    def stop(self) -> None:
        """End the connection if it is idle; else it ends with its request.

        One that has come, but that a loop which was held up has not read yet, is served too.
        """
        if self.exchange is not None or self._buffer or self._lingering or self._lost:
            return
        if not unread_by_us(self.transport):
            self._close(self._rest is not None)

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._held and not self._lost:
            self._held = False
            self.transport.resume_reading()

    # --- what stands still

    def check(self, tick: int) -> None:
        """End what has stood still for too long."""
        listener = self.listener
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            # The kernel takes more only when a third of its megabytes has gone, for which a slow client needs long.
            unsent += held_by_kernel(self.transport)
        if unsent and unsent == self._stalled:
            if tick - self._stalled_since >= listener.write_timeout_s:
                self.transport.abort()
                return
        else:
            self._stalled, self._stalled_since = unsent, tick
        waited_s = tick - self._since
        if self._lingering:
            if waited_s > LINGER_S:
                self.transport.abort()
        elif self.exchange is not None:
            incoming = self.exchange.incoming
            if incoming is not None and not incoming.complete:
                incoming.check_rate(tick, listener.min_body_rate)
        elif self._buffer:
            # It began somewhere between two ticks, and is not to be cut off before its time.
            if waited_s >= listener.header_timeout_s + 1:
                self._reject(408, self._buffer)
        elif waited_s > listener.idle_s and not unsent and not unread_by_us(self.transport):
            self.transport.close()
