"""In-flight permits: the one object that counts an attempt in, and out again on whichever way it ends."""

from fastroute._core.counters import FAILURES, IN_FLIGHT, REQUESTS, Segment


class Permit:
    """One attempt in flight at one endpoint. `release` may be called any number of times; the first one counts."""

    __slots__ = ("_endpoint", "_held", "_segment", "_worker")

    def __init__(self, segment: Segment, worker: int, endpoint: int) -> None:
        self._segment = segment
        self._worker = worker
        self._endpoint = endpoint
        self._held = True
        segment.add(worker, endpoint, IN_FLIGHT, 1)

    def release(self, failed: bool) -> None:
        """Count the attempt out. failed: the endpoint is to blame."""
        if not self._held:
            return
        self._held = False
        self._segment.add(self._worker, self._endpoint, IN_FLIGHT, -1)
        self._segment.add(self._worker, self._endpoint, REQUESTS, 1)
        if failed:
            self._segment.add(self._worker, self._endpoint, FAILURES, 1)
