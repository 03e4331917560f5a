"""The one door for refusals: a `GatewayError` becomes a status, headers and a body in the caller's dialect."""

from types import ModuleType
from typing import Final

from fastroute.errors import GatewayError, ceil_seconds

Header = tuple[bytes, bytes]

JSON_TYPE: Final[Header] = (b"content-type", b"application/json")
_CLOSE: Final[Header] = (b"connection", b"close")


def error_reply(error: GatewayError, dialect: ModuleType, request_id: str) -> tuple[int, list[Header], bytes]:
    """Return (status, headers, body) for a refusal."""
    param = error.param if error.status != 405 else None
    body: bytes = dialect.error_body(error.status, error.code, error.message, param, request_id)
    headers = [
        JSON_TYPE,
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    if dialect.REQUEST_ID != b"x-request-id":
        headers.append((dialect.REQUEST_ID, request_id.encode()))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.status == 405 and error.param:
        headers.append((b"allow", error.param.encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    headers.extend(error.headers)
    if error.close:
        headers.append(_CLOSE)
    return error.status, headers, body


def with_retry_after(headers: list[Header], wait_ms: int) -> list[Header]:
    """Return the fields with `retry-after` set to `wait_ms`, in whole seconds, whatever the provider had there.

    A provider that counts in milliseconds has `retry-after-ms` set as well: clients believe that one first.
    """
    kept = [pair for pair in headers if pair[0] not in (b"retry-after", b"retry-after-ms")]
    kept.append((b"retry-after", b"%d" % ceil_seconds(wait_ms)))
    if any(name == b"retry-after-ms" for name, _ in headers):
        kept.append((b"retry-after-ms", b"%d" % wait_ms))
    return kept
