"""A Granian server on a socket that somebody else has bound: the supervisor keeps it open over a worker's death."""

import logging
import socket
from typing import Any, Final

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from fastroute.downstream.asgi import AnswerCutError

#: hyper's smallest read buffer.
_MIN_BUFFER_BYTES: Final = 8192


class Listener(Server):
    """Serves an ASGI application in the running event loop until `stop`; then requests under way are finished."""

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        *,
        backlog: int,
        max_connections: int,
        max_header_bytes: int,
        header_timeout_ms: int,
    ) -> None:
        host, port = sock.getsockname()[:2]
        super().__init__(
            target=app,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=backlog,
            backpressure=max_connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=header_timeout_ms,
                max_buffer_size=max(_MIN_BUFFER_BYTES, max_header_bytes),
            ),
            log_enabled=False,
        )
        self._inherited = sock

    def _init_shared_socket(self) -> None:
        # The stub of SocketHolder has no constructor; the class does.
        holder: Any = SocketHolder
        self._ssp = None
        self._shd = holder(self._inherited.fileno(), False, self.backlog)

    def stop(self) -> None:
        """Accept no more; `serve` returns once the requests under way are finished."""
        self.signal_handler_interrupt()


def open_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Return a listening socket. Raises OSError: the address cannot be had."""
    info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(info[0], info[1], info[2])
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it: a stream's chunks must not wait for each other.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(info[4])
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class QuietCuts(logging.Filter):
    """Keeps out the server's report of a connection that was cut on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged."""
        return AnswerCutError.__name__ not in record.getMessage()
