"""The first path segment as a credential: `/{token}/v1/...` and `/{token}/lb/v1/...`.

Tokens are known by their digests, as keys are. A first segment that is none leaves the path as it is, which is then as
unknown as any other: the same is done for it, and the same said.
"""

import hmac
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fastroute.auth.keys import digest
from fastroute.interfaces import Principal

#: First segments of the gateway's own paths.
_OWN: Final = frozenset({b"v1", b"v1beta"})
_POOLED: Final = b"/lb/"
#: Under the pool's prefix, these paths are not a provider's. What stands for them cannot come from a client: a path
#: begins with a slash.
_STATUS: Final = b"/lb/v1/load-balancer/"
STATUS_PREFIX: Final = b"load-balancer/"


class PathCaller:
    """Whoever has come by a token's path: known already, whatever credential an SDK has to send along."""

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def identify(self, fields: Mapping[bytes, bytes], query: bytes) -> Principal:
        """Return the caller."""
        return self._principal

    def expired(self, principal: Principal) -> bool:
        """Return that it has not: tokens go with the configuration."""
        return False

    def forget(self) -> None:
        """Remember nothing."""


class Lane(NamedTuple):
    """What a token leads to: the snapshot of its paths with a single key, and of those with all of them."""

    single: Any
    pooled: Any


class Lanes:
    """The lanes of some tokens, by digest."""

    def __init__(self, lanes: Mapping[bytes, Lane]) -> None:
        self._lanes = {known: (known, lane) for known, lane in lanes.items()}

    def find(self, token: bytes) -> Lane | None:
        """Return the lane of a presented token, None if it is unknown."""
        presented = digest(token)
        found = self._lanes.get(presented)
        if found is None or not hmac.compare_digest(found[0], presented):
            return None
        return found[1]

    def enter(self, downstream: Any) -> Any:
        """Return the snapshot of the lane that a request has come by, and take the token out of its path; else None."""
        path: bytes = downstream.path
        first, slash, _ = path[1:].partition(b"/")
        if not slash or first in _OWN:
            return None
        lane = self.find(first)
        if lane is None:
            return None
        path = path[1 + len(first) :]
        if path.startswith(_STATUS):
            downstream.path = STATUS_PREFIX + path[len(_STATUS) :]
            return lane.pooled
        if path.startswith(_POOLED):
            downstream.path = path[len(_POOLED) - 1 :]
            return lane.pooled
        downstream.path = path
        return lane.single
