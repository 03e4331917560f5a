"""What the load asks and what the mock upstream answers: sizes and shapes of a real OpenAI chat exchange.

The request is about 1 KB, the answer about 1 KB, the stream 100 content chunks of about 260 bytes, one usage
chunk and `[DONE]`; the big request is 10 MiB of JSON with one long message.
"""

import json
from typing import Any, Final, Literal

MODEL: Final = "gpt-4o-mini"
CLIENT_KEY: Final = "sk-bench-client"
CHAT_PATH: Final = "/v1/chat/completions"
STREAM_CHUNKS: Final = 100
PACED_CHUNK_GAP_S: Final = 0.002
CHUNK_TEXT: Final = " token"
# The caller's name in a request whose stream is to come chunk by chunk instead of all at once.
PACED_USER: Final = "paced"

Kind = Literal["chat", "stream", "paced"]
KINDS: Final[tuple[Kind, ...]] = ("chat", "stream", "paced")
BIG_BODY_BYTES: Final = 10 * 1024 * 1024

HEADERS: Final[dict[str, str]] = {
    "content-type": "application/json",
    "accept": "application/json",
    "authorization": f"Bearer {CLIENT_KEY}",
    "user-agent": "OpenAI/Python 1.99.0",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-runtime": "CPython",
}

UPSTREAM_HEADERS: Final[dict[str, str]] = {
    "x-request-id": "req_5f1c2b7d",
    "openai-processing-ms": "12",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _usage(completion_tokens: int) -> dict[str, Any]:
    prompt_tokens = 211
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def answer() -> str:
    """Return the non-streamed chat answer, about 1 KB of JSON."""
    text = "Here is an answer of the length that chat models tend to give to a short question. " * 6
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    return _compact(
        {
            "id": "chatcmpl-bench000000000000000000001",
            "object": "chat.completion",
            "created": 1741569952,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _usage(98),
            "service_tier": "default",
            "system_fingerprint": "fp_0ba0d124f1",
        }
    )


def _chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> str:
    body = {
        "id": "chatcmpl-bench000000000000000000002",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_0ba0d124f1",
        "choices": choices,
        "usage": usage,
    }
    return f"data: {_compact(body)}"


def content_event() -> str:
    """Return one content event of the stream, without the blank line that ends it."""
    delta = {"index": 0, "delta": {"content": CHUNK_TEXT}, "logprobs": None, "finish_reason": None}
    return _chunk([delta], None)


def usage_event() -> str:
    """Return the last event before `[DONE]`: no choices, the usage of the whole stream."""
    return _chunk([], _usage(STREAM_CHUNKS))


def request_body(kind: Kind) -> str:
    """Return the chat request, about 1 KB of JSON."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Say in your own words what this sentence is about. " * 17},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    }
    if kind != "chat":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if kind == "paced":
        body["user"] = PACED_USER
    return _compact(body)


def big_request_body() -> bytes:
    """Return a valid chat request of exactly `BIG_BODY_BYTES` bytes."""
    shell = _compact({"model": MODEL, "messages": [{"role": "user", "content": ""}], "max_tokens": 16})
    sentence = "A long document pasted into a prompt, line after line.\\n"
    room = BIG_BODY_BYTES - len(shell)
    text = (sentence * (room // len(sentence))).ljust(room, "x")
    return shell.replace('"content":""', f'"content":"{text}"').encode()


def check_answer(body: bytes) -> str | None:
    """Return what is wrong with a chat answer that came through a gateway, or None."""
    try:
        value = json.loads(body)
        text = value["choices"][0]["message"]["content"]
        tokens = value["usage"]["completion_tokens"]
    except (ValueError, LookupError, TypeError) as error:
        return f"not a chat answer ({error!r})"
    expected = json.loads(answer())
    if text != expected["choices"][0]["message"]["content"]:
        return "the answer's text was changed"
    return None if tokens == expected["usage"]["completion_tokens"] else "the answer's usage was changed"


def check_stream(body: bytes) -> str | None:
    """Return what is wrong with a stream that came through a gateway, or None."""
    events = [line[5:].strip() for line in body.split(b"\n") if line.startswith(b"data:")]
    if not events or events[-1] != b"[DONE]":
        return "the stream does not end with [DONE]"
    try:
        chunks = [json.loads(event) for event in events[:-1]]
        texts = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
        usages = [c["usage"]["completion_tokens"] for c in chunks if c.get("usage")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"not a chat stream ({error!r})"
    if texts.count(CHUNK_TEXT) != STREAM_CHUNKS:
        return f"{texts.count(CHUNK_TEXT)} content chunks instead of {STREAM_CHUNKS}"
    return None if usages[-1:] == [STREAM_CHUNKS] else f"usage {usages} instead of [{STREAM_CHUNKS}]"
