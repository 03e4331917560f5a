"""What the connections of one event loop send: in a busy loop kept until its next turn, and then sent all at once.

uvloop hands what is written to the kernel at once, and every time that wakes whoever waits for it in another process,
which takes the kernel longer than the sending. With many requests at hand, the peers are woken once for all that could
be done in one turn of the loop.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

log = logging.getLogger("fastroute")

#: More than this is not kept: it goes to the transport at once, behind what was kept.
KEPT_BYTES: Final = 65_536


class Outbox:
    """Those of one event loop's connections that have something to send.

    A turn lasts from the first of them to when all are sent. A loop is busy whose last turn had several: where there is
    one request at a time, nothing is won by its waiting.
    """

    __slots__ = ("_busy", "_count", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Outgoing] = []
        self._count = 0
        self._busy = False

    def take_over(self, transport: Any) -> "Outgoing":
        """Return what to use in place of a connection's transport from now on."""
        return Outgoing(transport, self)

    def keeps(self, outgoing: "Outgoing") -> bool:
        """Return whether a connection is to keep what it sends until it is told to flush, at the loop's next turn."""
        self._count += 1
        if self._count == 1:
            self._loop.call_soon(self._send)
            if not self._busy:
                return False
        self._waiting.append(outgoing)
        return True

    def _send(self) -> None:
        self._busy = self._count > 1
        self._count = 0
        waiting, self._waiting = self._waiting, []
        for outgoing in waiting:
            try:
                outgoing.flush()
            except Exception:  # whatever it is, it concerns one connection
                log.exception("a connection failed as it was written to")
                outgoing.abort()


class Outgoing:
    """The sending side of one connection: a transport that takes its time.

    In order with what is written before them are `close` and `write_eof`; `abort` throws away what was not sent.
    """

    __slots__ = ("_kept", "_outbox", "_transport")

    def __init__(self, transport: Any, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._kept = b""

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes, soon."""
        kept = self._kept
        if len(kept) + len(data) > KEPT_BYTES:
            self.flush()
            self._transport.write(data)
        elif kept:
            self._kept = kept + data
        elif self._outbox.keeps(self):
            self._kept = bytes(data)
        else:
            self._transport.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Send pieces that are too large to be kept."""
        self.flush()
        self._transport.writelines(pieces)

    def flush(self) -> None:
        """Send now what was kept; nothing once the connection has ended."""
        kept, self._kept = self._kept, b""
        if kept and not self._transport.is_closing():
            self._transport.write(kept)

    def close(self) -> None:
        """Close the connection once all is sent."""
        self.flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Say that this was all, once it is sent."""
        self.flush()
        self._transport.write_eof()

    def abort(self) -> None:
        """Drop the connection, and what was not sent."""
        self._kept = b""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Let the peer wait."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it wait no longer."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        return len(self._kept) + int(self._transport.get_write_buffer_size())

    def get_extra_info(self, name: str) -> Any:
        """Return what is known of the transport; see `asyncio.BaseTransport`."""
        return self._transport.get_extra_info(name)
