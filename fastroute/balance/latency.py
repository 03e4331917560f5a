"""The time to the first token, made comparable between requests of different sizes."""

from typing import Final

from fastroute._core.attempts import NEUTRAL, OK
from fastroute.interfaces import OUTPUT_TOKENS_PER_UNIT, PROMPT_TOKENS_PER_UNIT, Ask, Result

#: An attempt that failed counts for at least this long, lest an endpoint that fails fast look fast.
PENALTY_MS: Final = 5_000.0


def scale(ask: Ask, output_tokens: int) -> float:
    """Return how many times as long this request may take to its first byte as the smallest one."""
    late = 0.0 if ask.stream else output_tokens / OUTPUT_TOKENS_PER_UNIT
    return 1.0 + ask.prompt_tokens / PROMPT_TOKENS_PER_UNIT + late


def normalised_ms(ask: Ask, result: Result) -> float:
    """Return what an attempt says about its endpoint's latency, -1 for nothing.

    That is the time to the first token (to the end, where that was not measured) over `scale`; for a failure, which
    cannot be taken for a whole answer, what it took and at least PENALTY_MS. A request that is itself to blame, or
    whose client left, says nothing.
    """
    if result.verdict == NEUTRAL:
        return -1.0
    if result.verdict != OK:
        return max(result.total_ms, PENALTY_MS)
    took_ms = result.ttft_ms if result.ttft_ms >= 0.0 else result.total_ms
    return took_ms / scale(ask, result.output_tokens) if took_ms >= 0.0 else -1.0


def observed_ms(ask: Ask, result: Result) -> int:
    """Return the monotonic time at which an attempt ended: strategies have no clock."""
    return ask.now_ms + max(0, int(result.total_ms))
