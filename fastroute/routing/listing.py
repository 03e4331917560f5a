"""The list of models a caller may use, in the shape of the dialect that asks."""

from collections.abc import Sequence

import orjson

from fastroute.interfaces import DialectName
from fastroute.routing.table import unknown_model


def model_document(names: Sequence[str], shape: DialectName, model: bytes) -> bytes:
    """Return the JSON of the list, or of the one model named. Raises GatewayError 404 for an unknown one."""
    describe = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}[shape]
    if model:
        name = model.decode()
        if name not in names:
            raise unknown_model(model)
        return orjson.dumps(describe(name))
    entries = [describe(name) for name in names]
    if shape == "gemini":
        return orjson.dumps({"models": entries})
    if shape == "openai":
        return orjson.dumps({"object": "list", "data": entries})
    ends = {"first_id": names[0], "last_id": names[-1]} if names else {"first_id": None, "last_id": None}
    return orjson.dumps({"data": entries, "has_more": False, **ends})


def _openai(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "fastroute"}


def _anthropic(name: str) -> dict[str, object]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _gemini(name: str) -> dict[str, object]:
    return {
        "name": f"models/{name}",
        "displayName": name,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens", "embedContent"],
    }
