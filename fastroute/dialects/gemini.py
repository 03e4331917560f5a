"""The Gemini dialect: generateContent, streamGenerateContent and embeddings, on Google AI and Vertex.

Sources: https://ai.google.dev/api/generate-content (UsageMetadata, ModalityTokenCount) and
https://cloud.google.com/apis/design/errors (google.rpc status words, ErrorInfo).
"""

from collections.abc import Sequence
from typing import Any, Final

from fastroute._core.jsonscan import Scanner
from fastroute.dialects._body import count, encode, find_object, header_value, load_object, table
from fastroute.dialects.refusals import error_kind as error_kind
from fastroute.interfaces import DialectName, Usage

NAME: Final[DialectName] = "gemini"
#: Every chunk repeats the running total; the last one is the whole usage.
KEEP_ALL: Final = False
DEFAULT_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = ()
REQUEST_ID: Final = b"x-request-id"

_SCANNER: Final = Scanner(("usageMetadata",))
_AUDIO: Final = ("AUDIO", 4)  # the enum's name, or its number where a recorder or proxy left that

_STATUS_WORDS: Final = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}


def usage_from_json(body: bytes) -> Usage | None:
    """Return the usage of a whole response body; None if the provider reported none.

    The body may also be the JSON array that streamGenerateContent sends without `alt=sse`.
    """
    return _usage(find_object(_SCANNER, "usageMetadata", body))


def usage_from_events(payloads: Sequence[bytes]) -> Usage | None:
    """Return the usage of a stream: the last one reported."""
    for payload in reversed(payloads):
        usage = _usage(table(load_object(payload), "usageMetadata"))
        if usage is not None:
            return usage
    return None


def _usage(raw: dict[str, Any]) -> Usage | None:
    """Sort a UsageMetadata object into disjoint buckets.

    promptTokenCount includes cachedContentTokenCount; toolUsePromptTokenCount and thoughtsTokenCount come on top.
    Cached audio counts as cache read. Sub-counts are clipped to their total.
    """
    prompt = count(raw, "promptTokenCount")
    candidates = count(raw, "candidatesTokenCount")
    if prompt is None and candidates is None:
        return None
    prompt, candidates = prompt or 0, candidates or 0
    tools = count(raw, "toolUsePromptTokenCount") or 0
    cached = min(count(raw, "cachedContentTokenCount") or 0, prompt)
    audio = _audio(raw, "promptTokensDetails", "promptTokenDetails") - _audio(raw, "cacheTokensDetails")
    audio = min(max(audio, 0), prompt - cached)
    tools_audio = min(_audio(raw, "toolUsePromptTokensDetails"), tools)
    spoken = min(_audio(raw, "candidatesTokensDetails"), candidates)
    return Usage(
        input_tokens=prompt - cached - audio + tools - tools_audio,
        cache_read_tokens=cached,
        input_audio_tokens=audio + tools_audio,
        output_tokens=candidates - spoken,
        reasoning_tokens=count(raw, "thoughtsTokenCount") or 0,
        output_audio_tokens=spoken,
    )


def _audio(raw: dict[str, Any], *names: str) -> int:
    """Return the tokens with modality AUDIO in the first of the lists `names` that is there."""
    for name in names:
        entries = raw.get(name)
        if isinstance(entries, list):
            return sum(
                count(entry, "tokenCount") or 0
                for entry in entries
                if isinstance(entry, dict) and entry.get("modality") in _AUDIO
            )
    return 0


def error_body(status: int, code: str, message: str, param: str | None = None, request_id: str = "") -> bytes:
    """Return the JSON body of an error answer; our own word is the reason of its ErrorInfo, in capitals."""
    word = _STATUS_WORDS.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": code.upper(),
        "domain": "fastroute",
        "metadata": {"field": param} if param else {},
    }
    return encode({"error": {"code": status, "message": message, "status": word, "details": [info]}})


def error_event(status: int, code: str, message: str, request_id: str = "") -> bytes:
    """Return the event that ends a broken stream.

    google-genai raises on a chunk whose first key is `error`, and takes the class from its `code`.
    """
    return b"data: " + error_body(status, code, message) + b"\n\n"


def auth_headers(key: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that carry the provider key upstream."""
    return [(b"x-goog-api-key", header_value(key))]
