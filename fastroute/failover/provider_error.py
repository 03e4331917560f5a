"""What a provider's error answer says, whatever shape it has: the words of it that `scope` looks at.

Shapes: `{"error": {...}}` of OpenAI, Anthropic, Gemini and most others, Gemini's array of such an object, `{"error":
"..."}` of xAI and Hugging Face, `{"message": ...}` of Bedrock, Cohere and Mistral, `{"detail": ...}` of Mistral and
Voyage. Bedrock names the exception in a header field.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from fastroute.interfaces import Header

#: Longer ones are cut: what counts stands at the beginning.
MAX_WORDS: Final = 2048
#: Of a list of details, this many are looked at.
_MAX_DETAILS: Final = 16
#: Of a document that is not whole, no more than this is read; none that is nested deeper is.
_MAX_CUT_BYTES: Final = 1 << 16
_MAX_CUT_TOKENS: Final = 4096
_MAX_CUT_DEPTH: Final = 32
_CLOSERS: Final = {b"{": b"}", b"[": b"]"}
#: Strings, the last of them as far as it goes and without half an escape at its end; brackets and commas.
_TOKENS: Final = re.compile(rb'"[^"\\]*+(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^"\\]*+)*+"?|[][{},]')


class ProviderError(NamedTuple):
    """The words of an error answer, "" or () where there are none.

    words: codes, types and status words, in lower case. message: for people. quotas: ids of Google's quotas. foreign:
    the body is something else than JSON, so that it was not the API that spoke but something before it.
    """

    words: frozenset[str] = frozenset()
    message: str = ""
    quotas: tuple[str, ...] = ()
    foreign: bool = False


def read_error(headers: list[Header], body: bytes) -> ProviderError:
    """Read an error answer. Anything can be read; what makes no sense says nothing."""
    fields = dict(headers)
    exception = fields.get(b"x-amzn-errortype", b"").partition(b":")[0].decode("latin-1")
    words = {exception.lower()} if exception else set()
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _read_cut(body)
        if document is None:
            return ProviderError(frozenset(words), foreign=bool(body.strip()))
    if isinstance(document, list):
        document = document[0] if document else None
    if not isinstance(document, dict):
        return ProviderError(frozenset(words))
    error = document.get("error")
    inner = error if isinstance(error, dict) else document
    for holder in (document, inner):
        words.update(_words(holder))
    details = list(_details(inner))
    words.update(word for detail in details for word in _words(detail))
    return ProviderError(frozenset(words), _message(document, inner)[:MAX_WORDS], tuple(_quotas(details)))


def _read_cut(body: bytes) -> Any:
    """Read a document of which only the beginning is there, None if it is none.

    What was open where it was cut is closed: a value that is a string keeps what there is of it, any other member that
    is not whole is left out.
    """
    body = body[:_MAX_CUT_BYTES]
    open_: list[bytes] = []
    sound, sound_open, end = 0, b"", 0
    for token in islice(_TOKENS.finditer(body), _MAX_CUT_TOKENS):
        mark = token[0]
        end = token.end()
        if mark in _CLOSERS:
            open_.append(_CLOSERS[mark])
            if len(open_) > _MAX_CUT_DEPTH:
                return None
        elif mark in (b"]", b"}"):
            if not open_ or open_.pop() != mark:
                return None
        elif mark != b",":
            continue
        sound, sound_open = (token.start() if mark == b"," else end), b"".join(reversed(open_))
    if not open_:
        return None
    text = body[:end].decode(errors="ignore").encode()
    closed = b"".join(reversed(open_))
    for draft in (text + b'"' + closed, text + closed, body[:sound] + sound_open):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(draft) or None
    return None


def _words(holder: dict[str, Any]) -> Iterator[str]:
    for name in ("code", "type", "status", "reason", "error_type", "__type"):
        value = holder.get(name)
        if isinstance(value, str) and value:
            yield value[:128].lower()
        elif type(value) is int:
            yield str(value)


def _message(document: dict[str, Any], inner: dict[str, Any]) -> str:
    """Return what is said to people; of an answer that was passed on, also what it was made of."""
    found = [inner.get("message"), inner.get("msg"), document.get("error"), document.get("detail")]
    said = next((value for value in found if isinstance(value, str) and value), "")
    metadata = inner.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{said} {raw}" if isinstance(raw, str) else said


def _details(inner: dict[str, Any]) -> Iterator[dict[str, Any]]:
    details = inner.get("details")
    if isinstance(details, list):
        yield from (detail for detail in details[:_MAX_DETAILS] if isinstance(detail, dict))


def _quotas(details: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the ids of the quotas that Google says were used up (google.rpc.QuotaFailure, ErrorInfo)."""
    for detail in details:
        metadata = detail.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("quota_limit"), str):
            yield metadata["quota_limit"]
        violations = detail.get("violations")
        for violation in violations[:_MAX_DETAILS] if isinstance(violations, list) else ():
            if isinstance(violation, dict) and isinstance(violation.get("quotaId"), str):
                yield violation["quotaId"]
