"""What a caller asks of the gateway itself, in header fields: where to go, where not, how long, how much.

Fields are optional and never go upstream. One that is malformed or misspelt is refused: a wish that is ignored in
silence would be worse than none.
"""

import difflib
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final

from fastroute.errors import GatewayError
from fastroute.interfaces import Header, Wishes

MAX_NAMES: Final = 32
MAX_SESSION_BYTES: Final = 256

#: What may be said of a feature.
_SWITCH: Final = {
    **dict.fromkeys(("true", "1", "on", "yes"), True),
    **dict.fromkeys(("false", "0", "off", "no"), False),
}

PRIORITIES: Final = ("low", "normal", "high", "critical")

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_NAME: Final = re.compile(r"[A-Za-z0-9._:=\-]{1,128}")
# W3C Trace Context, section 3.2.2: version 00 as it is; a later version may be longer.
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_PICO_PER_USD: Final = 1_000_000_000_000


def read_wishes(fields: dict[bytes, bytes]) -> Wishes:
    """Read the fields of a request. Raises GatewayError 400 naming the field that cannot be understood."""
    wishes = Wishes()
    for name, value in fields.items():
        if name == b"x-request-id":
            # One that could not stand in a log or a header is replaced, as for a request that has none.
            wishes.request_id = value.decode() if _REQUEST_ID.fullmatch(value) else ""
        elif name == b"traceparent":
            wishes.trace = read_traceparent(value)
        elif name.startswith(b"x-fastroute-"):
            _read(wishes, name.decode("latin-1"), value.decode("latin-1").strip())
    return wishes


def _read(wishes: Wishes, name: str, value: str) -> None:
    word = name.removeprefix("x-fastroute-")
    known = _READERS.get(word)
    if known is not None:
        attribute, reader = known
        setattr(wishes, attribute, reader(name, value))
    elif word not in _ANSWERS:
        # One that resembles none may be meant for a gateway of another version.
        near = difflib.get_close_matches(word[:64], _READERS, 1)
        if near:
            raise _malformed(name[:64], f"is no field of this gateway; x-fastroute-{near[0]} is")


def _names(field: str, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(item.strip() for item in value.split(",") if item.strip()))
    if not 0 < len(names) <= MAX_NAMES or not all(_NAME.fullmatch(item) for item in names):
        raise _malformed(field, f"must be 1 to {MAX_NAMES} names with commas between them")
    return names


def _feature(field: str, item: str) -> tuple[str, bool]:
    name, equals, value = item.partition("=")
    on = _SWITCH.get(value.lower()) if equals else True
    if not name or on is None:
        raise _malformed(field, "must be names of features, each alone or with =true or =false")
    return name, on


def _milliseconds(field: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 9 or int(value) == 0:
        raise _malformed(field, "must be a number of milliseconds")
    return int(value)


def _pico_usd(field: str, value: str) -> int:
    try:
        usd = Decimal(value) if len(value) <= 32 else Decimal("NaN")
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or not 0 <= usd <= 1_000_000:
        raise _malformed(field, "must be an amount in USD")
    return int(usd * _PICO_PER_USD)


def _malformed(field: str, what: str) -> GatewayError:
    return GatewayError(400, "invalid_request_error", f"{field} {what}", param=field)


def _tags(field: str, value: str) -> frozenset[str]:
    return frozenset(_names(field, value))


def _features(field: str, value: str) -> dict[str, bool]:
    return dict(_feature(field, item) for item in _names(field, value))


def _priority(field: str, value: str) -> str:
    if value not in PRIORITIES:
        raise _malformed(field, f"must be one of {', '.join(PRIORITIES)}")
    return value


def _session(field: str, value: str) -> bytes:
    if not 0 < len(value) <= MAX_SESSION_BYTES:
        raise _malformed(field, f"must be 1 to {MAX_SESSION_BYTES} bytes long")
    return value.encode("latin-1")


def _nanoseconds(field: str, value: str) -> int:
    return _milliseconds(field, value) * 1_000_000


#: Fields of answers. A client that sends them back asks for nothing.
_ANSWERS: Final = frozenset({"model", "attempts", "strategy", "rule", "overhead-us", "request-id"})

#: Which attribute of Wishes a field sets, by the field's name without `x-fastroute-`, and who reads its value.
_READERS: Final[dict[str, tuple[str, Callable[[str, str], object]]]] = {
    "provider": ("preferred", _names),
    "exclude": ("excluded", _names),
    "region": ("regions", _names),
    "tags": ("tags", _tags),
    "features": ("features", _features),
    "priority": ("priority", _priority),
    "session": ("session", _session),
    "max-cost-usd": ("max_cost_pico", _pico_usd),
    "timeout-ms": ("timeout_ns", _nanoseconds),
    "latency-target-ms": ("latency_target_ms", _milliseconds),
}


def read_traceparent(value: bytes) -> tuple[bytes, bytes] | None:
    """Return (trace id, flags) of a W3C traceparent field; None for one that its receivers must ignore."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == b"ff" or match[2] == b"0" * 32 or match[3] == b"0" * 16:
        return None
    if match[5] is not None and match[1] == b"00":
        return None
    return match[2], match[4]


def trace_header(trace: tuple[bytes, bytes], span_id: int) -> Header:
    """Return the traceparent field for the next hop: the same trace, this gateway's request as the parent."""
    return b"traceparent", b"00-%b-%016x-%b" % (trace[0], span_id, trace[1])
