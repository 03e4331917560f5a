"""The embedded provider (`type: echo`): answers every dialect by repeating the caller, without a network.

It makes a first run work offline and gives tests a provider whose every byte can be predicted. The text of
the answer is the text of the last user turn; a token is four bytes of UTF-8. Tools, `n` and response formats
are not acted on. Shapes: platform.openai.com/docs/api-reference, docs.anthropic.com/en/api and
ai.google.dev/api.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import orjson

from fastroute.interfaces import DialectName

DEFAULT_TEXT: Final = "Hello from fastroute"
#: Longest text that is echoed; the rest is left out. It bounds a stream to so many events.
MAX_TEXT_CHARS: Final = 16_384
#: Numbers in one answer to an embeddings request (inputs x dimensions); more is refused with 400.
MAX_EMBEDDING_NUMBERS: Final = 262_144
DEFAULT_DIMENSIONS: Final = 16
BYTES_PER_TOKEN: Final = 4

Json = dict[str, Any]
Turn = tuple[str, str]


class Answer(NamedTuple):
    """What an upstream would have sent: lower-case header names, and the body's pieces in order.

    One piece where the answer is not streamed, else one per event.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes]


class _Ask(NamedTuple):
    """One request, understood. `is_cut`: the caller's token limit took the end of `text` off."""

    doc: Json
    model: str
    text: str
    is_cut: bool
    input_tokens: int
    output_tokens: int
    wall_s: int
    ident: str

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def words(self) -> list[str]:
        """The text in pieces that add up to it, cut after each run of white space."""
        return re.findall(r"\S+\s*|\s+", self.text)


def count_tokens(text: str) -> int:
    """Return the echo provider's token count of `text`: one per four bytes of UTF-8, at least 1."""
    return max(1, len(text.encode("utf-8")) // BYTES_PER_TOKEN)


def answer(
    dialect: DialectName,
    operation: str,
    model: str,
    body: bytes,
    stream: bool,
    *,
    wall_s: int,
    ident: str,
    alt_sse: bool = True,
) -> Answer:
    """Answer one request as the provider of `dialect` would.

    operation: chat.completions, completions, responses, embeddings (openai); messages, count_tokens
    (anthropic); generateContent, streamGenerateContent, countTokens, embedContent, batchEmbedContents
    (gemini: the operation alone says if it streams; with `alt_sse=False` the stream is one JSON array).
    wall_s: Unix seconds, for `created`. ident: goes into the ids of the answer.

    Never raises: a body that is no JSON object is a 400, an operation that the dialect lacks a 404.
    """
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        doc = None
    if not isinstance(doc, dict):
        return _refuse(dialect, 400, "the body is not a JSON object")
    ask = _understand(dialect, doc, model, wall_s, ident)
    if dialect == "gemini" and operation == "streamGenerateContent":
        return _gemini_stream(ask, alt_sse)
    if stream and (streamer := _STREAMS.get((dialect, operation))) is not None:
        return Answer(200, [(b"content-type", b"text/event-stream")], list(streamer(ask)))
    if dialect == "openai" and operation == "embeddings":
        return _openai_embeddings(ask)
    if dialect == "gemini" and operation in ("embedContent", "batchEmbedContents"):
        return _gemini_embeddings(ask, operation == "batchEmbedContents")
    if (whole := _WHOLES.get((dialect, operation))) is None:
        return _refuse(dialect, 404, f"no operation {operation[:100]}")
    return _json(200, whole(ask))


# === Understanding the request ===


def _understand(dialect: DialectName, doc: Json, model: str, wall_s: int, ident: str) -> _Ask:
    turns = _TURNS[dialect](doc)
    said = [text for role, text in turns if role == "user" and text.strip()]
    text = said[-1][:MAX_TEXT_CHARS] if said else DEFAULT_TEXT
    limit = _token_limit(doc)
    is_cut = limit is not None and count_tokens(text) > limit
    if limit is not None and is_cut:
        text = text.encode("utf-8")[: limit * BYTES_PER_TOKEN].decode("utf-8", "ignore")
    asked = count_tokens("".join(text for _, text in turns))
    return _Ask(doc, model, text, is_cut, asked, count_tokens(text), wall_s, ident)


def _token_limit(doc: Json) -> int | None:
    config = _either(doc, "generationConfig", "generation_config")
    places = [doc, config] if isinstance(config, dict) else [doc]
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens", "maxOutputTokens")
    limits = [place.get(name) for place in places for name in names]
    return next((n for n in limits if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


def _openai_turns(doc: Json) -> list[Turn]:
    turns = [("system", _text(doc.get("instructions"))), *_messages(doc.get("messages"))]
    given = doc.get("input", doc.get("prompt"))
    if isinstance(given, list) and any(isinstance(item, dict) and "role" in item for item in given):
        return turns + _messages(given)
    return [*turns, ("user", _text(given))]


def _anthropic_turns(doc: Json) -> list[Turn]:
    return [("system", _text(doc.get("system"))), *_messages(doc.get("messages"))]


def _gemini_turns(doc: Json) -> list[Turn]:
    nested = _either(doc, "generateContentRequest", "generate_content_request")
    if isinstance(nested, dict):
        doc = nested
    system = ("system", _text(_either(doc, "systemInstruction", "system_instruction")))
    contents = doc.get("contents", doc.get("content"))
    return [system, *_messages(contents if isinstance(contents, list) else [contents], default_role="user")]


def _messages(messages: object, default_role: str = "") -> list[Turn]:
    if not isinstance(messages, list):
        return []
    items = (item if isinstance(item, dict) else {"content": item} for item in messages)
    return [(str(item.get("role", default_role)), _text(item)) for item in items]


def _text(value: object, depth: int = 4) -> str:
    """Return the text of a string, a part, a message, or a list of them (joined by newlines)."""
    if isinstance(value, str):
        return value
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, (_text(item, depth - 1) for item in value)))
    if isinstance(value, dict):
        inner = next((value[name] for name in ("text", "content", "parts") if name in value), None)
        return _text(inner, depth - 1)
    return ""


def _either(doc: Json, name: str, other: str) -> object:
    return doc.get(name, doc.get(other))


_TURNS: Final[dict[DialectName, Callable[[Json], list[Turn]]]] = {
    "openai": _openai_turns,
    "anthropic": _anthropic_turns,
    "gemini": _gemini_turns,
}


# === OpenAI: chat completions and completions ===


def _openai_usage(ask: _Ask) -> Json:
    return {
        "prompt_tokens": ask.input_tokens,
        "completion_tokens": ask.output_tokens,
        "total_tokens": ask.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _openai_finish(ask: _Ask) -> str:
    return "length" if ask.is_cut else "stop"


def _chat(ask: _Ask) -> Json:
    message: Json = {"role": "assistant", "content": ask.text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _openai_finish(ask)}
    return {**_chat_top(ask, "chat.completion"), "choices": [choice], "usage": _openai_usage(ask)}


def _chat_top(ask: _Ask, kind: str) -> Json:
    top = {"id": f"chatcmpl-{ask.ident}", "object": kind, "created": ask.wall_s}
    return {**top, "model": ask.model, "service_tier": "default", "system_fingerprint": "fp_echo"}


def _chat_stream(ask: _Ask) -> Iterator[bytes]:
    def choice(delta: Json, finish: str | None = None) -> Json:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    choices = [choice({"role": "assistant", "content": "", "refusal": None})]
    choices += [choice({"content": word}) for word in ask.words]
    choices.append(choice({}, _openai_finish(ask)))
    return _openai_chunks(ask, _chat_top(ask, "chat.completion.chunk"), choices)


def _completion_top(ask: _Ask) -> Json:
    top = {"id": f"cmpl-{ask.ident}", "object": "text_completion", "created": ask.wall_s}
    return {**top, "model": ask.model, "system_fingerprint": "fp_echo"}


def _completion_choice(text: str, finish: str | None) -> Json:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def _completion(ask: _Ask) -> Json:
    choice = _completion_choice(ask.text, _openai_finish(ask))
    return {**_completion_top(ask), "choices": [choice], "usage": _openai_usage(ask)}


def _completion_stream(ask: _Ask) -> Iterator[bytes]:
    choices = [_completion_choice(word, None) for word in ask.words]
    choices.append(_completion_choice("", _openai_finish(ask)))
    return _openai_chunks(ask, _completion_top(ask), choices)


def _openai_chunks(ask: _Ask, top: Json, choices: Iterable[Json]) -> Iterator[bytes]:
    options = ask.doc.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    none_yet = {"usage": None} if wants_usage else {}
    for choice in choices:
        yield _event({**top, "choices": [choice], **none_yet})
    if wants_usage:
        yield _event({**top, "choices": [], "usage": _openai_usage(ask)})
    yield b"data: [DONE]\n\n"


# === OpenAI: responses ===


def _response(ask: _Ask, status: str = "", output: list[Json] | None = None) -> Json:
    """Return the response object: complete, or as it is at an earlier `status` with the `output` so far."""
    is_done = not status
    return {
        "id": f"resp_{ask.ident}",
        "object": "response",
        "created_at": ask.wall_s,
        "status": status or ("incomplete" if ask.is_cut else "completed"),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_done and ask.is_cut else None,
        "instructions": ask.doc.get("instructions"),
        "max_output_tokens": ask.doc.get("max_output_tokens"),
        "model": ask.model,
        "output": [_response_item(ask)] if output is None else output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _response_usage(ask) if is_done else None,
        "metadata": {},
    }


def _response_usage(ask: _Ask) -> Json:
    return {
        "input_tokens": ask.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": ask.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ask.total_tokens,
    }


def _response_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_item(ask: _Ask, status: str = "", content: list[Json] | None = None) -> Json:
    return {
        "id": f"msg_{ask.ident}",
        "type": "message",
        "role": "assistant",
        "status": status or ("incomplete" if ask.is_cut else "completed"),
        "content": [_response_part(ask.text)] if content is None else content,
    }


def _response_events(ask: _Ask) -> Iterator[Json]:
    item = {"output_index": 0}
    part = {"item_id": f"msg_{ask.ident}", "output_index": 0, "content_index": 0}
    for kind in ("created", "in_progress"):
        yield {"type": f"response.{kind}", "response": _response(ask, "in_progress", [])}
    yield {"type": "response.output_item.added", **item, "item": _response_item(ask, "in_progress", [])}
    yield {"type": "response.content_part.added", **part, "part": _response_part("")}
    for word in ask.words:
        yield {"type": "response.output_text.delta", **part, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **part, "text": ask.text, "logprobs": []}
    yield {"type": "response.content_part.done", **part, "part": _response_part(ask.text)}
    yield {"type": "response.output_item.done", **item, "item": _response_item(ask)}
    whole = _response(ask)
    yield {"type": f"response.{whole['status']}", "response": whole}


def _response_stream(ask: _Ask) -> Iterator[bytes]:
    for number, event in enumerate(_response_events(ask)):
        yield _event({**event, "sequence_number": number}, named=True)


# === Embeddings ===


def _vector(text: str, dimensions: int) -> list[float]:
    """Return numbers in [-1, 1) that depend on `text` alone, each exact in 32 bits."""
    digest = hashlib.shake_128(text.encode("utf-8")).digest(dimensions)
    return [(byte - 128) / 128 for byte in digest]


def _dimensions(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else DEFAULT_DIMENSIONS


def _openai_embeddings(ask: _Ask) -> Answer:
    given = ask.doc.get("input")
    # a list of integers is one input, already tokenised
    is_many = isinstance(given, list) and any(isinstance(item, str | list) for item in given)
    inputs = given if isinstance(given, list) and is_many else [given]
    dimensions = _dimensions(ask.doc.get("dimensions"))
    if len(inputs) * dimensions > MAX_EMBEDDING_NUMBERS:
        return _refuse("openai", 400, f"over {MAX_EMBEDDING_NUMBERS} numbers in one answer")
    texts = [item if isinstance(item, str) else str(item) for item in inputs]
    is_base64 = ask.doc.get("encoding_format") == "base64"
    data = [_embedding(at, _vector(text, dimensions), is_base64) for at, text in enumerate(texts)]
    tokens = sum(len(item) if isinstance(item, list) else count_tokens(str(item)) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _json(200, {"object": "list", "data": data, "model": ask.model, "usage": usage})


def _embedding(index: int, numbers: list[float], is_base64: bool) -> Json:
    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if is_base64 else numbers
    return {"object": "embedding", "index": index, "embedding": packed}


def _gemini_embeddings(ask: _Ask, is_batch: bool) -> Answer:
    requests = ask.doc.get("requests") if is_batch else [ask.doc]
    docs = [item for item in requests if isinstance(item, dict)] if isinstance(requests, list) else []
    sizes = [_dimensions(_either(doc, "outputDimensionality", "output_dimensionality")) for doc in docs]
    if sum(sizes) > MAX_EMBEDDING_NUMBERS:
        return _refuse("gemini", 400, f"over {MAX_EMBEDDING_NUMBERS} numbers in one answer")
    found = [{"values": _vector(_text(doc), size)} for doc, size in zip(docs, sizes, strict=True)]
    return _json(200, {"embeddings": found} if is_batch else {"embedding": found[0]})


# === Anthropic ===


def _message(ask: _Ask) -> Json:
    top = _message_top(ask, ask.output_tokens)
    content = [{"type": "text", "text": ask.text, "citations": None}]
    return {**top, "content": content, "stop_reason": _anthropic_stop(ask)}


def _message_top(ask: _Ask, output_tokens: int) -> Json:
    usage = {
        "input_tokens": ask.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    top = {"id": f"msg_{ask.ident}", "type": "message", "role": "assistant", "model": ask.model}
    return {**top, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def _anthropic_stop(ask: _Ask) -> str:
    return "max_tokens" if ask.is_cut else "end_turn"


def _message_stream(ask: _Ask) -> Iterator[bytes]:
    for event in _message_events(ask):
        yield _event(event, named=True)


def _message_events(ask: _Ask) -> Iterator[Json]:
    yield {"type": "message_start", "message": _message_top(ask, 1)}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for word in ask.words:
        delta = {"type": "text_delta", "text": word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": _anthropic_stop(ask), "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": ask.output_tokens}}
    yield {"type": "message_stop"}


def _anthropic_count(ask: _Ask) -> Json:
    return {"input_tokens": ask.input_tokens}


# === Gemini ===


def _gemini(ask: _Ask) -> Json:
    return _gemini_piece(ask, ask.text, is_last=True)


def _gemini_piece(ask: _Ask, text: str, *, is_last: bool) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    piece: Json = {"candidates": [candidate], "modelVersion": ask.model, "responseId": ask.ident}
    if is_last:
        candidate["finishReason"] = "MAX_TOKENS" if ask.is_cut else "STOP"
        piece["usageMetadata"] = {
            "promptTokenCount": ask.input_tokens,
            "candidatesTokenCount": ask.output_tokens,
            "totalTokenCount": ask.total_tokens,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": ask.input_tokens}],
        }
    return piece


def _gemini_stream(ask: _Ask, alt_sse: bool) -> Answer:
    words = ask.words
    pieces = [_gemini_piece(ask, word, is_last=at == len(words)) for at, word in enumerate(words, 1)]
    texts = [orjson.dumps(piece) for piece in pieces]
    if alt_sse:
        chunks = [b"data: " + text + b"\r\n\r\n" for text in texts]
        return Answer(200, [(b"content-type", b"text/event-stream")], chunks)
    chunks = [(b"," if at else b"[") + text + b"\r\n" for at, text in enumerate(texts)]
    return Answer(200, [(b"content-type", b"application/json; charset=UTF-8")], [*chunks, b"]\r\n"])


def _gemini_count(ask: _Ask) -> Json:
    details = [{"modality": "TEXT", "tokenCount": ask.input_tokens}]
    return {"totalTokens": ask.input_tokens, "promptTokensDetails": details}


# === Bytes ===

_WHOLES: Final[dict[tuple[DialectName, str], Callable[[_Ask], Json]]] = {
    ("openai", "chat.completions"): _chat,
    ("openai", "completions"): _completion,
    ("openai", "responses"): _response,
    ("anthropic", "messages"): _message,
    ("anthropic", "count_tokens"): _anthropic_count,
    ("gemini", "generateContent"): _gemini,
    ("gemini", "countTokens"): _gemini_count,
}

_STREAMS: Final[dict[tuple[DialectName, str], Callable[[_Ask], Iterator[bytes]]]] = {
    ("openai", "chat.completions"): _chat_stream,
    ("openai", "completions"): _completion_stream,
    ("openai", "responses"): _response_stream,
    ("anthropic", "messages"): _message_stream,
}


def _event(data: Json, *, named: bool = False) -> bytes:
    name = b"event: " + data["type"].encode() + b"\n" if named else b""
    return name + b"data: " + orjson.dumps(data) + b"\n\n"


def _json(status: int, data: Json) -> Answer:
    body = orjson.dumps(data)
    length = (b"content-length", b"%d" % len(body))
    return Answer(status, [(b"content-type", b"application/json"), length], [body])


def _refuse(dialect: DialectName, status: int, message: str) -> Answer:
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    if dialect == "anthropic":
        return _json(status, {"type": "error", "error": {"type": kind, "message": message}})
    if dialect == "gemini":
        word = "NOT_FOUND" if status == 404 else "INVALID_ARGUMENT"
        return _json(status, {"error": {"code": status, "message": message, "status": word}})
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": None}})
