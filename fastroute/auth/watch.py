"""A worker's eye on the published keys: looks every tenth of a second whether there are others."""

import asyncio
from collections.abc import Callable

from fastroute.auth.published import LOOK_S, PublishedKeys


class KeyWatch:
    """Takes over published keys. changed: called when what is known about keys is other than before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keys: PublishedKeys, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._keys = keys
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look)
        if (self._reading is None or self._reading.done()) and self._keys.due():
            self._reading = self._loop.create_task(self._read())

    async def _read(self) -> None:
        # In a thread: a large table takes some milliseconds, most of them without the interpreter's lock.
        if self._keys.take(await asyncio.to_thread(self._keys.read)):
            self._changed()
