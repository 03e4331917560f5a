"""Outboxes for tests that are to pass however busy the loop is."""

from fastroute.outgoing import Outbox, Outgoing


class BusyOutbox(Outbox):
    """Of a loop that always has many to write to."""

    def keeps(self, outgoing: Outgoing) -> bool:
        self._busy = True
        return super().keeps(outgoing)
