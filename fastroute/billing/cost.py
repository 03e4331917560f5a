"""What a request cost: a price card applied to disjoint token counts, in integers, rounded once.

An unknown price is a state of its own (`unpriced`), never a price of zero. A price of zero must be said.
"""

from decimal import Decimal

import msgspec

from fastroute.billing.money import nano_from_pico, pico_from_usd_per_mtok
from fastroute.interfaces import Usage


class PriceCard(msgspec.Struct, frozen=True, gc=False):
    """Pico-USD per token for each bucket of `Usage`. None: the price is not known."""

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    input_audio: int | None
    output: int | None
    reasoning: int | None
    output_audio: int | None

    @classmethod
    def from_usd_per_mtok(
        cls,
        *,
        input: Decimal,
        output: Decimal | None = None,
        cached_input: Decimal | None = None,
        cache_write: Decimal | None = None,
        cache_write_1h: Decimal | None = None,
        reasoning: Decimal | None = None,
        input_audio: Decimal | None = None,
        output_audio: Decimal | None = None,
    ) -> "PriceCard":
        """Build a card from USD per million tokens; a part that is absent is filled as follows, never with 0.

        cached_input <- input (the most a cached token can cost); cache_write <- input (providers that list no
        write price charge it as input); cache_write_1h <- cache_write, then input; reasoning <- output.
        Audio costs several times the price of text, so it has no stand-in: audio tokens on a card without an
        audio price leave the row unpriced. So do output tokens on a card without `output` (embeddings).

        Raises ValueError for a price that `pico_from_usd_per_mtok` refuses; the message names the part.
        """
        input_pico = _pico("input", input)
        output_pico = _optional("output", output)
        write_pico = _or_else("cache_write", cache_write, input_pico)
        return cls(
            input=input_pico,
            cache_read=_or_else("cached_input", cached_input, input_pico),
            cache_write_5m=write_pico,
            cache_write_1h=_or_else("cache_write_1h", cache_write_1h, write_pico),
            input_audio=_optional("input_audio", input_audio),
            output=output_pico,
            reasoning=output_pico if reasoning is None else _pico("reasoning", reasoning),
            output_audio=_optional("output_audio", output_audio),
        )


def _pico(part: str, usd_per_mtok: Decimal) -> int:
    try:
        return pico_from_usd_per_mtok(usd_per_mtok)
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from None


def _or_else(part: str, usd_per_mtok: Decimal | None, stand_in: int) -> int:
    return stand_in if usd_per_mtok is None else _pico(part, usd_per_mtok)


def _optional(part: str, usd_per_mtok: Decimal | None) -> int | None:
    return None if usd_per_mtok is None else _pico(part, usd_per_mtok)


def cost_nano_usd(card: PriceCard | None, usage: Usage) -> int | None:
    """Return the cost of `usage` in nano-USD, rounded once and half up; None when it is not known (unpriced).

    Not known means: no card, or tokens in a bucket that the card has no price for. The ledger row of an
    unpriced request has `priced=False` and `cost_nano_usd=0`.
    """
    if card is None:
        return None
    pico = (
        usage.input_tokens * card.input
        + usage.cache_read_tokens * card.cache_read
        + usage.cache_write_5m_tokens * card.cache_write_5m
        + usage.cache_write_1h_tokens * card.cache_write_1h
    )
    for tokens, price in (
        (usage.output_tokens, card.output),
        (usage.reasoning_tokens, card.reasoning),
        (usage.input_audio_tokens, card.input_audio),
        (usage.output_audio_tokens, card.output_audio),
    ):
        if tokens:
            if price is None:
                return None
            pico += tokens * price
    return nano_from_pico(pico)
