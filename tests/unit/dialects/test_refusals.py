"""What a provider's error answer refuses: length, content, or for want of money."""

import pytest

from fastroute.dialects import anthropic, gemini, openai
from fastroute.dialects.refusals import error_kind

#: (kind, statuses it goes with, words of the body).
KINDS: list[tuple[str, tuple[int, ...], list[bytes]]] = [
    (
        "context_window",
        (400, 413, 422),
        [
            b'"code": "context_length_exceeded"',
            b"This model's maximum context length is 8192 tokens",
            b"Your input exceeds the context window of this model.",
            b"prompt is too long: 208310 tokens > 200000 maximum",
            b"Input is too long for requested model.",
            b"input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000",
            b"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            b"Too many tokens in the request",
            b"prompt too long; exceeded max context length by 1119046 tokens",
            b'"type": "too_many_prompt_tokens"',
            b"The model returned the following errors: Input Tokens Exceeded: Number of input tokens exceeds",
        ],
    ),
    (
        "content_policy",
        (400, 413, 422),
        [
            b'"code": "content_policy_violation"',
            b'"code": "content_filter"',
            b"triggering Azure OpenAI's content management policy",
            b"Output blocked by content filtering policy",
            b'{"blockReason": "SAFETY"}',
            b'{"blockReason": "PROHIBITED_CONTENT"}',
        ],
    ),
    (
        "quota",
        (400, 402, 403, 429),
        [
            b'"code": "insufficient_quota"',
            b"Your credit balance is too low to access the Anthropic API",
            b'"code": "billing_hard_limit_reached"',
            b'"code": "billing_not_active"',
            b"You exceeded your current quota, please check your plan and billing details.",
        ],
    ),
]
STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529)


@pytest.mark.parametrize(
    ("kind", "statuses", "words"), [(kind, statuses, words) for kind, statuses, all_ in KINDS for words in all_]
)
@pytest.mark.parametrize("status", STATUSES)
def test_words_count_only_with_their_statuses(kind: str, statuses: tuple[int, ...], words: bytes, status: int) -> None:
    wanted = kind if status in statuses else ""
    body = b'{"error": {"message": "%b"}}' % words
    assert error_kind(status, body) == wanted
    assert error_kind(status, body.upper()) == wanted


def test_every_dialect_has_them() -> None:
    for dialect in (openai, anthropic, gemini):
        assert dialect.error_kind is error_kind


@pytest.mark.parametrize("status", STATUSES)
def test_a_limit_per_minute_is_not_money_that_has_run_out(status: int) -> None:
    """Gemini has the same words for both; the status tells that it is a limit."""
    body = (
        b'{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing '
        b'details.", "status": "RESOURCE_EXHAUSTED"}}'
    )
    assert error_kind(status, body) == ""


def test_length_comes_before_content_and_both_before_money() -> None:
    length, content, money = b"context_length_exceeded ", b"content_filter ", b"insufficient_quota "
    assert error_kind(400, money + content + length) == "context_window"
    assert error_kind(400, money + content) == "content_policy"
    assert error_kind(400, money) == "quota"


@pytest.mark.parametrize("body", [b"", b"{}", b"\x00\xff\xfe", b"safety first", b"the context of windows", b"quota"])
@pytest.mark.parametrize("status", STATUSES)
def test_everything_else_is_of_no_kind(body: bytes, status: int) -> None:
    assert error_kind(status, body) == ""


def test_a_large_body_is_searched_in_linear_time() -> None:
    body = b"context context_length content credit balance exceeds the maximum " * 1000
    assert error_kind(400, body) == ""
    assert error_kind(400, body + b"context_length_exceeded") == "context_window"
