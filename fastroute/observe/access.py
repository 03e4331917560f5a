"""The access log: one JSON line for each request a worker has ended, refused ones included.

No credential, no body and no path is written: the query may hold a key, and a path may be one.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import orjson

from fastroute.context import Context

#: Lines wait this long for others, so that a busy worker writes many at once.
FLUSH_S: Final = 0.2
#: More than this is not kept waiting.
FLUSH_BYTES: Final = 65_536
#: A pipe takes this much in one piece; lines of several workers do not mix then (POSIX, PIPE_BUF).
PIPE_BYTES: Final = 4_096
STDOUT: Final = "-"

_LOG = logging.getLogger(__name__)


class AccessLog:
    """Appends to the file at `path`; STDOUT is the standard output. `note` never fails and never waits for long."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, monotonic_ns: Callable[[], int]) -> None:
        """Raises OSError if the file cannot be opened."""
        self._path = path
        self._loop = loop
        self._now = monotonic_ns
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._fd = self._open()

    def note(self, ctx: Context) -> None:
        """Add the line of a request that has ended."""
        line = orjson.dumps(self._entry(ctx), option=orjson.OPT_APPEND_NEWLINE)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what waits. What the file does not take is dropped, and that is said once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines, self._size = self._lines, [], 0
        for piece in _pieces(lines, PIPE_BYTES if self._path == STDOUT else FLUSH_BYTES):
            try:
                os.write(self._fd, piece)
            except OSError as error:
                if not self._failing:
                    _LOG.error("access log %s: %s; lines are lost until it passes", self._path, error.strerror)
                self._failing = True
                return
        if lines:
            self._failing = False

    def reopen(self) -> None:
        """Open the path again, after the file was moved away by whoever rotates logs. On failure the old file stays."""
        self.flush()
        try:
            fd = self._open()
        except OSError as error:
            _LOG.error("access log %s cannot be opened again: %s", self._path, error.strerror)
            return
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        """Write what waits and let go of the file."""
        self.flush()
        os.close(self._fd)

    def _open(self) -> int:
        if self._path == STDOUT:
            return os.dup(1)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _entry(self, ctx: Context) -> dict[str, object]:
        plan = ctx.plan
        endpoint = ctx.endpoint
        at = datetime.fromtimestamp(ctx.arrived_wall_ns / 1e9, UTC)
        first_ns = ctx.first_byte_ns - ctx.started_ns if ctx.first_byte_ns >= 0 else None
        return {
            "at": at.isoformat(timespec="milliseconds"),
            "request_id": ctx.request_id,
            "key": ctx.principal.key_id if ctx.principal is not None else None,
            "tenant": ctx.principal.tenant if ctx.principal is not None else None,
            "operation": ctx.operation.name if ctx.operation is not None else None,
            "dialect": ctx.operation.dialect if ctx.operation is not None else None,
            "model": ctx.model or None,
            "stream": ctx.stream,
            "status": ctx.status,
            "outcome": ctx.outcome if ctx.admitted or ctx.error is not None else "ok",
            "error": ctx.error.code if ctx.error is not None else None,
            "provider": endpoint.provider if endpoint is not None else None,
            "endpoint": endpoint.id if endpoint is not None else None,
            "strategy": plan.chooser.label if plan is not None else None,
            "rules": _rules(ctx),
            "attempts": ctx.attempts,
            "input_tokens": ctx.usage.total_input,
            "output_tokens": ctx.usage.total_output,
            "cost_nano_usd": ctx.cost_nano_usd if ctx.cost_nano_usd >= 0 else None,
            "first_byte_ms": first_ns / 1e6 if first_ns is not None else None,
            "total_ms": (self._now() - ctx.started_ns) / 1e6,
            "request_bytes": ctx.request_bytes,
            "response_bytes": ctx.response_bytes,
        }


def _rules(ctx: Context) -> tuple[str, ...]:
    """Return the ids of the rules that applied, also where one of them is why there is no plan."""
    if ctx.error is not None and ctx.error.rules:
        return ctx.error.rules
    ids: tuple[str, ...] = ctx.plan.terms.decision.rule_ids if ctx.plan is not None else ()
    return ids


def _pieces(lines: list[bytes], limit: int) -> list[bytes]:
    """Join lines into pieces of at most `limit` bytes, or one line."""
    pieces: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        if gathered and size + len(line) > limit:
            pieces.append(b"".join(gathered))
            gathered, size = [], 0
        gathered.append(line)
        size += len(line)
    if gathered:
        pieces.append(b"".join(gathered))
    return pieces
