"""A Granian worker on a socket that somebody else has bound: the supervisor keeps it open over a worker's death.

Granian's own servers bind their sockets, watch their processes and wrap the application in four layers. Here the
supervisor does the first two, so Granian's worker is driven directly: it reads HTTP in threads of its own and hands
each request to the event loop, where a task serves it, and then others.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from granian._granian import ASGIWorker, CallbackScheduler, SocketHolder, WorkerSignal
from granian.http import HTTP1Settings

from fastroute.downstream.asgi import Receive, Scope, Send
from fastroute.downstream.lane import AnswerCutError

#: How far hyper's read buffer may grow: bodies come in pieces of up to this size. Large heads are refused later, by
#: `HeadReader`.
_BUFFER_BYTES: Final = 1 << 18
_BLOCKING_THREADS: Final = 16
_THREAD_IDLE_S: Final = 30
#: So many tasks wait for further requests; those of a crowd beyond that end with it.
MAX_IDLE_TASKS: Final = 256

Hook = Callable[[], None]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# The stubs that come with Granian lag behind its classes.
_ASGIWorker: Any = ASGIWorker
_SocketHolder: Any = SocketHolder


class Tasks:
    """The tasks of an event loop that serve requests, one after another each.

    To begin a task for each request would take longer than to give it to one that waits for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, application: Application) -> None:
        self._loop = loop
        self._application = application
        self._all: set[asyncio.Task[None]] = set()
        #: Those that wait, by what they wait for.
        self._idle: list[asyncio.Future[Any]] = []

    def start(self, watcher: Any) -> None:
        """Have a request served; to be called in the event loop. watcher: Granian's, which is told of the end."""
        while self._idle:
            turn = self._idle.pop()
            if not turn.done():
                turn.set_result(watcher)
                return
        task = self._loop.create_task(self._serve(watcher))
        self._all.add(task)
        task.add_done_callback(self._all.discard)

    async def _serve(self, watcher: Any) -> None:
        while True:
            protocol = watcher.proto
            try:
                await self._application(watcher.scope, protocol.receive, protocol.send)
            except BaseException as error:  # noqa: BLE001 - Granian logs it and cuts the connection
                watcher.err(error)
                return
            watcher.done()
            # What was asked and answered is not to be kept for as long as the task is idle.
            del watcher, protocol
            if len(self._idle) >= MAX_IDLE_TASKS:
                return
            turn = self._loop.create_future()
            self._idle.append(turn)
            watcher = await turn


class _Scheduler(CallbackScheduler):
    """Called by Granian's thread for each request: has it served in the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, application: Application, task: None, enter: Hook, leave: Hook
    ) -> None:
        # The base class takes the same arguments in its `__new__`; the last three are for its own kind of task.
        super().__init__()
        context = self._ctx
        start = Tasks(loop, application).start

        def schedule(watcher: Any) -> None:
            loop.call_soon_threadsafe(start, watcher, context=context)

        self._schedule_fn = schedule


def _no_hook() -> None:
    """Nothing: asyncio's own tasks announce themselves."""


class Listener:
    """Serves an ASGI application in the running event loop until `stop`; then requests under way are finished."""

    def __init__(
        self,
        application: Application,
        sock: socket.socket,
        *,
        backlog: int,
        max_connections: int,
        max_header_bytes: int,
        header_timeout_ms: int,
    ) -> None:
        self._application = application
        self._socket = sock
        self._backlog = backlog
        self._max_connections = max_connections
        self._http1 = HTTP1Settings(
            header_read_timeout=header_timeout_ms,
            max_buffer_size=max(_BUFFER_BYTES, max_header_bytes),
        )
        self._signal = WorkerSignal()

    async def serve(self) -> None:
        """Serve; returns once `stop` was called and every connection is finished."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        self._signal.add_cb(lambda: loop.call_soon_threadsafe(finished.set_result, None))
        no_tls: tuple[object, ...] = (False, None, None, None, "1.3", None, [], False)
        # Granian closes the descriptor when it stops accepting, so nobody else may.
        descriptor = self._socket.detach()
        worker = _ASGIWorker(
            1,
            (None, _SocketHolder(descriptor, False, self._backlog)),
            None,
            1,
            _BLOCKING_THREADS,
            1,
            _THREAD_IDLE_S,
            self._max_connections,
            "1",
            self._http1,
            None,
            False,
            None,
            *no_tls,
            (None, None),
        )
        worker.serve_async(_Scheduler(loop, self._application, None, _no_hook, _no_hook), loop, self._signal)
        await finished

    def stop(self) -> None:
        """Accept no more."""
        self._signal.set()


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
