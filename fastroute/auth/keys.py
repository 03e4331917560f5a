"""Who is calling: virtual keys, found by digest.

Only SHA-256 digests are kept. The dictionary lookup compares digests, not secrets, so its timing says nothing about a
key; the digest itself is compared in constant time all the same. Presenting a stored digest does not authenticate.
"""

import fnmatch
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from fastroute.auth.published import StoredKey
from fastroute.errors import GatewayError
from fastroute.interfaces import Principal

MAX_KEY_BYTES: Final = 4096
#: Principals of stored keys that are kept ready, per worker.
MAX_RECENT: Final = 1024

ANONYMOUS: Final = Principal("anonymous", "default")


def digest(key: bytes) -> bytes:
    """Return the 32-byte digest a key is known by."""
    return hashlib.sha256(key).digest()


def model_pattern(globs: Iterable[str]) -> re.Pattern[str] | None:
    """Compile the globs of allowed models; None if they allow everything."""
    patterns = list(globs)
    if not patterns or "*" in patterns:
        return None
    return re.compile("|".join(fnmatch.translate(glob) for glob in patterns))


class Stored(Protocol):
    """Keys that were made at run time."""

    @property
    def closed(self) -> bool:
        """Return whether callers need a key."""

    def find(self, known: bytes) -> StoredKey | None:
        """Return the key with a digest."""


class KeyTable:
    """The known keys of one configuration, and beside them those made at run time.

    principals: of the configuration's keys, by digest. stored: the others; None for none. make: returns the principal
    of one of those. wall_ns: what they expire by. closed: callers need a key although there is none, because there is
    another way in.

    Without any key the gateway is open: everybody is `anonymous`. It is so no longer once a first key was made at run
    time, and stays closed when that one is revoked.
    """

    def __init__(
        self,
        principals: dict[bytes, Principal],
        anonymous: Principal = ANONYMOUS,
        stored: Stored | None = None,
        make: Callable[[StoredKey], Principal] | None = None,
        wall_ns: Callable[[], int] | None = None,
        *,
        closed: bool = False,
    ) -> None:
        self._anonymous = anonymous
        self._principals = {key: (key, principal) for key, principal in principals.items()}
        self._stored = stored
        self._make = make
        self._wall_ns = wall_ns
        self._closed = closed
        self._recent: dict[bytes, Principal] = {}

    def __len__(self) -> int:
        return len(self._principals)

    @property
    def open(self) -> bool:
        """Return whether callers need no key."""
        return not self._principals and not self._closed and (self._stored is None or not self._stored.closed)

    def find(self, key: bytes) -> Principal | None:
        """Return the principal of a presented key, None if it is unknown."""
        presented = digest(key)
        found = self._principals.get(presented)
        if found is None:
            return self._find_stored(presented)
        if not hmac.compare_digest(found[0], presented):
            return None
        return found[1]

    def expired(self, principal: Principal) -> bool:
        """Return whether a caller's key has expired."""
        return principal.until_ns != 0 and self._wall_ns is not None and self._wall_ns() >= principal.until_ns

    def forget(self) -> None:
        """Look every key that was made at run time up again: one may have been revoked."""
        self._recent.clear()

    def _find_stored(self, presented: bytes) -> Principal | None:
        principal = self._recent.get(presented)
        if principal is not None:
            return principal
        if self._stored is None or self._make is None:
            return None
        found = self._stored.find(presented)
        if found is None:
            return None
        if len(self._recent) >= MAX_RECENT:
            # Whoever still calls is soon known again.
            self._recent.clear()
        principal = self._recent[presented] = self._make(found)
        return principal

    def identify(self, fields: Mapping[bytes, bytes], query: bytes) -> Principal:
        """Return the caller, by header fields or query. Raises GatewayError 401, whatever was wrong."""
        if self.open:
            return self._anonymous
        authorization = fields.get(b"authorization")
        if authorization is not None:
            scheme, _, key = authorization.partition(b" ")
            if scheme != b"Bearer" and scheme.lower() != b"bearer":
                key = b""
            key = key.strip()
        else:
            key = fields.get(b"x-api-key") or fields.get(b"x-goog-api-key") or _query_key(query)
        if not key or len(key) > MAX_KEY_BYTES:
            raise _unauthorized()
        principal = self.find(key)
        if principal is None or self.expired(principal):
            raise _unauthorized()
        return principal


def _query_key(query: bytes) -> bytes:
    for pair in query.split(b"&"):
        if pair.startswith(b"key="):
            return unquote_to_bytes(pair[4:])
    return b""


def _unauthorized() -> GatewayError:
    return GatewayError(401, "invalid_api_key", "missing or unknown API key")
