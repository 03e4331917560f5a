"""What routing may ask about a body."""

import json
from typing import Any

import pytest

from fastroute.context import Context
from fastroute.downstream.operations import find_operation
from fastroute.downstream.request import Limits, RequestReader, read_asked

PATHS = {
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}


def context(api: str, **body: Any) -> Context:
    ctx = Context(None, None, 1, "r", 0, 0, None)
    ctx.operation = find_operation("POST", PATHS[api].encode())[0]
    RequestReader(Limits(1 << 20, 64, 8192, 0)).take_body(ctx, json.dumps({"model": "m", **body}).encode())
    return ctx


TALK = [{"role": "user", "content": "hi"}]
TOOLS = [{"name": "f"}]


@pytest.mark.parametrize(
    ("api", "body", "conversation", "preamble"),
    [
        ("openai", {"messages": TALK}, TALK, []),
        ("openai", {"messages": TALK, "tools": TOOLS}, TALK, [TOOLS]),
        ("responses", {"input": "hi", "instructions": "be kind", "tools": TOOLS}, "hi", [TOOLS, "be kind"]),
        ("anthropic", {"system": "be kind", "messages": TALK, "tools": TOOLS}, TALK, [TOOLS, "be kind"]),
        ("anthropic", {"system": [{"type": "text", "text": "be kind"}], "messages": TALK}, TALK, [[
            {"type": "text", "text": "be kind"}
        ]]),
        ("gemini", {"contents": TALK, "systemInstruction": {"parts": []}}, TALK, [{"parts": []}]),
        ("gemini", {"contents": TALK, "system_instruction": {"parts": []}}, TALK, [{"parts": []}]),
    ],
)  # fmt: skip
def test_conversation_and_what_comes_before_it(api: str, body: Any, conversation: Any, preamble: Any) -> None:
    ctx = context(api, **body)
    asked = read_asked(ctx)
    assert json.loads(ctx.body[slice(*asked.span)]) == conversation
    assert [json.loads(ctx.body[start:end]) for start, end in asked.preamble] == preamble


def test_the_order_of_fields_in_the_body_says_nothing() -> None:
    one = context("anthropic", system="be kind", tools=TOOLS, messages=TALK)
    two = context("anthropic", messages=TALK, tools=TOOLS, system="be kind")
    spans = [[ctx.body[start:end] for start, end in read_asked(ctx).preamble] for ctx in (one, two)]
    assert spans[0] == spans[1]
