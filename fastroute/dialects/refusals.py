"""What a provider's error answer refuses, where another model or key may do better. Patterns of public API errors."""

import re
from typing import Final

# OpenAI: code context_length_exceeded, insufficient_quota, content_filter / content_policy_violation; many servers
# that speak its dialect only have the words of the message. Anthropic: "prompt is too long", "credit balance is too
# low". Gemini: "exceeds the maximum number of tokens", blocked by SAFETY.
# Ollama: "exceeded max context length"; Perplexity: too_many_prompt_tokens; Bedrock: "Input Tokens Exceeded".
_CONTEXT: Final = re.compile(
    rb"context_length_exceeded|maximum context length|context window|prompt is too long|input is too long"
    rb"|exceeds the maximum number of tokens|exceed context limit|too many tokens|max context length"
    rb"|too_many_prompt_tokens|input tokens exceeded",
    re.IGNORECASE,
)
_CONTENT: Final = re.compile(
    rb"content_policy_violation|content_filter|content management policy|\"SAFETY\"|PROHIBITED_CONTENT"
    rb"|blocked by content filtering",
    re.IGNORECASE,
)
_QUOTA: Final = re.compile(
    rb"insufficient_quota|credit balance is too low|billing_hard_limit_reached|billing_not_active"
    rb"|exceeded your current quota, please check",
    re.IGNORECASE,
)


def error_kind(status: int, body: bytes) -> str:
    """Return "context_window", "content_policy", "quota" or "" for the body of an error answer."""
    if status in (400, 413, 422):
        if _CONTEXT.search(body):
            return "context_window"
        if _CONTENT.search(body):
            return "content_policy"
    # Gemini says of a limit per minute what OpenAI says of money that has run out.
    if status in (400, 402, 403, 429) and _QUOTA.search(body) and b"RESOURCE_EXHAUSTED" not in body:
        return "quota"
    return ""
