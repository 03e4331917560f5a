"""Which paths exist, and what each means: dialect and operation. Matching is exact, on the path as it was sent.

No normalisation takes place: a path with dot segments, doubled slashes or escapes is not one of ours, so what is
authorised can never differ from what is dispatched.
"""

import re
from typing import Final

import msgspec

from fastroute.errors import GatewayError
from fastroute.interfaces import DialectName


class Operation(msgspec.Struct, frozen=True):
    """One API operation of a dialect.

    suffix: the path after the provider's base URL; for Gemini `{model}` stands for the upstream model name.
    version: the version segment that a base URL may or may not end with. streams: the path itself asks for a stream.
    metered: the answer is one a provider bills by tokens. silent: the answer itself has none, however long it is.
    model_in_path: the model is named by the path. local: it is answered here.
    """

    name: str
    dialect: DialectName
    suffix: bytes
    version: bytes
    methods: tuple[str, ...] = ("POST",)
    streams: bool = False
    metered: bool = True
    silent: bool = False
    model_in_path: bool = False
    include_usage: bool = False
    local: bool = False


_POST: Final = {
    b"/v1/chat/completions": Operation("chat.completions", "openai", b"/chat/completions", b"/v1", include_usage=True),
    b"/v1/completions": Operation("completions", "openai", b"/completions", b"/v1", include_usage=True),
    b"/v1/responses": Operation("responses", "openai", b"/responses", b"/v1"),
    b"/v1/embeddings": Operation("embeddings", "openai", b"/embeddings", b"/v1", silent=True),
    b"/v1/messages": Operation("messages", "anthropic", b"/messages", b"/v1"),
    b"/v1/messages/count_tokens": Operation(
        "count_tokens", "anthropic", b"/messages/count_tokens", b"/v1", metered=False
    ),
}


def _gemini_actions(version: bytes) -> dict[bytes, Operation]:
    """Return the Gemini operations under one API version; the provider is asked under the same one."""
    return {
        b"generateContent": Operation("generateContent", "gemini", b"", version, model_in_path=True),
        b"streamGenerateContent": Operation(
            "streamGenerateContent", "gemini", b"", version, streams=True, model_in_path=True
        ),
        b"countTokens": Operation("countTokens", "gemini", b"", version, metered=False, model_in_path=True),
        b"embedContent": Operation("embedContent", "gemini", b"", version, silent=True, model_in_path=True),
        b"batchEmbedContents": Operation("batchEmbedContents", "gemini", b"", version, silent=True, model_in_path=True),
    }


_GEMINI_ACTIONS: Final = {version: _gemini_actions(version) for version in (b"/v1beta", b"/v1")}

MODELS: Final = Operation("models", "openai", b"", b"", methods=("GET",), metered=False, local=True)
GEMINI_MODELS: Final = Operation("models", "gemini", b"", b"", methods=("GET",), metered=False, local=True)


def _balancer(name: str, method: str) -> Operation:
    return Operation(f"load_balancer.{name}", "openai", b"", b"", methods=(method,), metered=False, local=True)


#: By what stands for their paths once the token is taken out (`auth.path_tokens`): nothing that a client can send.
_BALANCER: Final = {
    b"load-balancer/status": _balancer("status", "GET"),
    b"load-balancer/config": _balancer("config", "GET"),
    b"load-balancer/reset": _balancer("reset", "POST"),
}

_GEMINI_PATH: Final = re.compile(rb"(/v1(?:beta)?)/models/([A-Za-z0-9][A-Za-z0-9._\-]{0,127}):([A-Za-z]{1,32})")
_MODEL_PATH: Final = re.compile(rb"/v1/models/([A-Za-z0-9][A-Za-z0-9._:/\-]{0,255})")
_GEMINI_MODEL_PATH: Final = re.compile(rb"/v1beta/models/([A-Za-z0-9][A-Za-z0-9._\-]{0,127})")


def find_operation(method: str, path: bytes) -> tuple[Operation, bytes]:
    """Return (operation, model named by the path or b"").

    Raises GatewayError 404 for a path we do not serve, 405 for a method it does not take.
    """
    operation = _POST.get(path)
    model = b""
    if operation is None:
        operation, model = _find_other(path)
    if method not in operation.methods:
        raise GatewayError(
            405,
            "method_not_allowed",
            f"method {method[:16]} is not allowed here",
            param=", ".join(operation.methods),
        )
    return operation, model


def _find_other(path: bytes) -> tuple[Operation, bytes]:
    match = _GEMINI_PATH.fullmatch(path)
    if match is not None and match[3] in _GEMINI_ACTIONS[match[1]]:
        return _GEMINI_ACTIONS[match[1]][match[3]], match[2]
    if path == b"/v1/models":
        return MODELS, b""
    if path == b"/v1beta/models":
        return GEMINI_MODELS, b""
    if path in _BALANCER:
        return _BALANCER[path], b""
    match = _MODEL_PATH.fullmatch(path)
    if match is not None:
        return MODELS, match[1]
    match = _GEMINI_MODEL_PATH.fullmatch(path)
    if match is not None:
        return GEMINI_MODELS, match[1]
    raise GatewayError(404, "not_found", "unknown path")


def guess_dialect(path: bytes) -> DialectName:
    """Return the dialect to refuse in, for a path that may not be ours."""
    if path.startswith(b"/v1/messages"):
        return "anthropic"
    if path.startswith(b"/v1beta/") or (path.startswith(b"/v1/models/") and b":" in path):
        return "gemini"
    return "openai"
