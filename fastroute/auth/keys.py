"""Who is calling: virtual keys, found by digest.

Only SHA-256 digests are kept. The dictionary lookup compares digests, not secrets, so its timing says nothing about a
key; the digest itself is compared in constant time all the same. Presenting a stored digest does not authenticate.
"""

import fnmatch
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from fastroute.errors import GatewayError
from fastroute.interfaces import Principal

MAX_KEY_BYTES: Final = 4096


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


class KeyTable:
    """Immutable set of known keys. An empty table is an open gateway: everybody is `anonymous`."""

    def __init__(self, principals: dict[bytes, Principal], anonymous: Principal = ANONYMOUS) -> None:
        self._anonymous = anonymous
        self._principals = {key: (key, principal) for key, principal in principals.items()}
        self.open = not principals

    def __len__(self) -> int:
        return len(self._principals)

    def find(self, key: bytes) -> Principal | None:
        """Return the principal of a presented key, None if it is unknown."""
        presented = digest(key)
        found = self._principals.get(presented)
        if found is None or not hmac.compare_digest(found[0], presented):
            return None
        return found[1]

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
        if principal is None:
            raise _unauthorized()
        return principal


def _query_key(query: bytes) -> bytes:
    for pair in query.split(b"&"):
        if pair.startswith(b"key="):
            return unquote_to_bytes(pair[4:])
    return b""


def _unauthorized() -> GatewayError:
    return GatewayError(401, "invalid_api_key", "missing or unknown API key")
