"""What the dialects share: careful reading of provider JSON, and encoding of our own."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from fastroute._core.jsonscan import KIND_OBJECT, ScanError, Scanner

#: A count above this is a fault of the provider: ten times the largest context window there is.
MAX_TOKENS: Final = 10**8


def count(source: dict[str, Any], *names: str) -> int | None:
    """Return the largest sane count among the fields `names`; None if there is none.

    Anything but an integer from 0 to MAX_TOKENS is treated as absent. Look-alikes report one count under several
    names, and some of them fill only one and leave the others 0.
    """
    best: int | None = None
    for name in names:
        value = source.get(name)
        if type(value) is int and 0 <= value <= MAX_TOKENS and (best is None or value > best):
            best = value
    return best


def table(source: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the first of the fields `names` that is an object; an empty one if there is none."""
    for name in names:
        value = source.get(name)
        if isinstance(value, dict):
            return value
    return {}


def load(text: bytes) -> Any:
    """Decode JSON; None if it is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def load_object(text: bytes) -> dict[str, Any]:
    """Decode a JSON object; an empty one if it is anything else."""
    value = load(text)
    return value if isinstance(value, dict) else {}


def find_slice(scanner: Scanner, body: bytes) -> bytes | None:
    """Return the bytes of the object at the one top-level field `scanner` looks for; None if that is not plain."""
    try:
        kind, start, end, *_ = scanner.scan(body)
    except ScanError:
        return None
    return body[start:end] if kind == KIND_OBJECT else None


def find_object(scanner: Scanner, name: str, body: bytes) -> dict[str, Any]:
    """Return the object at the top-level field `name`, the only one `scanner` looks for; {} if there is none.

    The rest of the body is checked, but not decoded. A body that the scanner refuses (an array, too deep, a field
    twice) is decoded whole; of an array the last element that has the field counts.
    """
    try:
        kind, start, end, *_ = scanner.scan(body)
    except ScanError:
        return _find_slowly(name, load(body))
    return load_object(body[start:end]) if kind == KIND_OBJECT else {}


def _find_slowly(name: str, value: Any) -> dict[str, Any]:
    elements: Sequence[Any] = value if isinstance(value, list) else [value]
    for element in reversed(elements):
        if isinstance(element, dict) and isinstance(element.get(name), dict):
            return table(element, name)
    return {}


def encode(value: dict[str, Any]) -> bytes:
    """Encode as JSON without line breaks, fit for one `data:` line; lone surrogates become `?`."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(_clean(value))


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def header_value(key: str) -> bytes:
    """Return a provider key as a header value; ValueError (which does not show it) if it cannot be one."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("a provider key must be printable ASCII without spaces")
    return key.encode("ascii")
