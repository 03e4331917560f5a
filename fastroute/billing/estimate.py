"""Token counts for answers whose provider reported none, always marked as estimated.

Four bytes a token is the rule of thumb that OpenAI's help pages give for English text; a streamed event carries about
one token.
"""

from fastroute.interfaces import Usage

BYTES_PER_TOKEN = 4


def estimate_usage(request_bytes: int, events: int, content_bytes: int, partial: Usage | None) -> Usage:
    """Estimate from what went through. partial: what the provider had reported before the answer broke off."""
    output = events if events else content_bytes // BYTES_PER_TOKEN
    if partial is None:
        return Usage(input_tokens=max(1, request_bytes // BYTES_PER_TOKEN), output_tokens=output)
    if partial.total_output >= output:
        return partial
    return Usage(
        partial.input_tokens,
        partial.cache_read_tokens,
        partial.cache_write_5m_tokens,
        partial.cache_write_1h_tokens,
        partial.input_audio_tokens,
        output - partial.reasoning_tokens - partial.output_audio_tokens,
        partial.reasoning_tokens,
        partial.output_audio_tokens,
    )
