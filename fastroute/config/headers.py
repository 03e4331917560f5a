"""Header fields a configuration may name: which are well formed, and which are the gateway's own business."""

import re
from typing import Final

MAX_HEADERS: Final = 32
MAX_VALUE_BYTES: Final = 8192
# RFC 9110, 5.6.2 (token) and 5.5 (field values, obs-text left out).
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?\Z")
#: Fields that say who a client is. Rules neither read nor write them.
CREDENTIALS: Final = frozenset(
    {"api-key", "authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-goog-api-key"}
)
#: Fields that frame the message, name the host, carry our credential, or that the gateway sets itself.
RESERVED: Final = frozenset(
    {
        "accept-encoding", "api-key", "authorization", "connection", "content-encoding", "content-length",
        "content-type", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-api-key",
        "x-goog-api-key",
    }
)  # fmt: skip


def name_fault(name: str) -> str | None:
    """Return what is wrong with a field's name, None if it is well formed."""
    return None if _NAME.match(name) else "is not a valid header name"


def set_fault(name: str) -> str | None:
    """Return why a field must not be set on requests to providers, None if it may be."""
    lower = name.lower()
    if lower in RESERVED or lower.startswith("x-fastroute-"):
        return "must not be set here: the gateway sets or refuses this header itself"
    return name_fault(name)


def value_fault(text: str) -> str | None:
    """Return what is wrong with a field's value, None if it can be sent."""
    if len(text) <= MAX_VALUE_BYTES and _VALUE.match(text):
        return None
    return f"is not a valid header value: visible ASCII, spaces inside only, at most {MAX_VALUE_BYTES} bytes"
