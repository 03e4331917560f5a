"""Which row of the counter segment belongs to which endpoint, over the reloads of a configuration."""

from collections.abc import Callable, Sequence
from typing import Final

from fastroute.errors import FastrouteError

#: Rows beyond those of the first configuration, so that a reload has room for endpoints that are new.
SPARE_ROWS: Final = 64

#: What makes an endpoint the same one after a reload: provider, key, model, dialect.
Identity = tuple[str, str, str, str]


class RowsError(FastrouteError):
    """The segment has no row left."""


class Rows:
    """Hands out rows 0..capacity-1. An endpoint that stays keeps its row, and with it all that is counted there.

    clear: empties a row. in_flight: how many requests are in flight there. A row that has become free is used again
    only once the last request of its endpoint has ended, because that request still counts itself out.
    """

    def __init__(self, capacity: int, clear: Callable[[int], None], in_flight: Callable[[int], int]) -> None:
        self._capacity = capacity
        self._clear = clear
        self._in_flight = in_flight
        self._of: dict[Identity, int] = {}
        self._used = 0
        self._freed: list[int] = []

    def assign(self, identities: Sequence[Identity]) -> tuple[int, ...]:
        """Return the rows of a configuration's endpoints, in their order. Raises RowsError, and changes nothing."""
        kept = {identity: self._of[identity] for identity in identities if identity in self._of}
        new = [identity for identity in dict.fromkeys(identities) if identity not in kept]
        quiet = [row for row in self._freed if self._in_flight(row) == 0]
        fresh = range(self._used, self._capacity)
        if len(new) > len(quiet) + len(fresh):
            raise RowsError(f"room for {self._capacity} endpoints was made at the start, and more are needed: restart")
        self._freed = [row for row in self._freed if row not in quiet[: len(new)]]
        self._freed += [row for identity, row in self._of.items() if identity not in kept]
        for row in quiet[: len(new)]:
            self._clear(row)
        rows = [*quiet[: len(new)], *fresh[: max(0, len(new) - len(quiet))]]
        self._used += max(0, len(new) - len(quiet))
        self._of = kept | dict(zip(new, rows, strict=True))
        return tuple(self._of[identity] for identity in identities)
