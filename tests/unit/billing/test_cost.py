"""A cost is what exact arithmetic says, rounded once; an unknown price is never zero."""

from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.billing.cost import PriceCard, cost_nano_usd
from fastroute.interfaces import NO_USAGE, Usage

PARTS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "input_audio",
    "output",
    "reasoning",
    "output_audio",
)
PRICE = st.decimals(min_value=0, max_value=10_000, places=6)


@given(
    prices=st.fixed_dictionaries(dict.fromkeys(PARTS, PRICE)),
    tokens=st.lists(st.integers(0, 10**9), min_size=8, max_size=8),
)
def test_cost_equals_exact_arithmetic(prices: dict[str, Decimal], tokens: list[int]) -> None:
    card = PriceCard.from_usd_per_mtok(**prices)
    terms = (Fraction(prices[part]) / 10**6 * count for part, count in zip(PARTS, tokens, strict=True))
    exact_nano = sum(terms, Fraction()) * 10**9
    assert cost_nano_usd(card, Usage(*tokens)) == floor(exact_nano + Fraction(1, 2))


def test_rounding_happens_once_per_row() -> None:
    card = PriceCard.from_usd_per_mtok(input=Decimal("0.0004"), output=Decimal("0.0004"))  # 400 pico-USD
    assert cost_nano_usd(card, Usage(input_tokens=1)) == 0
    assert cost_nano_usd(card, Usage(input_tokens=1, output_tokens=1)) == 1


def test_absent_parts_take_their_documented_stand_in() -> None:
    card = PriceCard.from_usd_per_mtok(input=Decimal(2), output=Decimal(8))
    assert (card.cache_read, card.cache_write_5m, card.cache_write_1h) == (2_000_000,) * 3
    assert card.reasoning == 8_000_000
    card = PriceCard.from_usd_per_mtok(input=Decimal(2), output=Decimal(8), cache_write=Decimal(3))
    assert (card.cache_write_5m, card.cache_write_1h) == (3_000_000, 3_000_000)
    card = PriceCard.from_usd_per_mtok(input=Decimal(2), output=Decimal(8), cache_write_1h=Decimal(4))
    assert (card.cache_write_5m, card.cache_write_1h) == (2_000_000, 4_000_000)


def test_a_price_of_zero_must_be_said_and_then_counts() -> None:
    card = PriceCard.from_usd_per_mtok(input=Decimal(2), output=Decimal(8), cached_input=Decimal(0))
    assert cost_nano_usd(card, Usage(cache_read_tokens=1_000)) == 0
    card = PriceCard.from_usd_per_mtok(input=Decimal(2), output=Decimal(8))
    assert cost_nano_usd(card, Usage(cache_read_tokens=1_000)) == 2_000_000


@pytest.mark.parametrize("usage", [Usage(input_audio_tokens=1), Usage(output_audio_tokens=1)])
def test_audio_without_a_price_is_unpriced(usage: Usage) -> None:
    card = PriceCard.from_usd_per_mtok(input=Decimal(2), output=Decimal(8))
    assert cost_nano_usd(card, usage) is None


def test_output_without_a_price_is_unpriced_and_no_output_is_priced() -> None:
    card = PriceCard.from_usd_per_mtok(input=Decimal("0.02"))
    assert cost_nano_usd(card, Usage(input_tokens=50)) == 1_000
    assert cost_nano_usd(card, Usage(input_tokens=50, output_tokens=1)) is None
    assert cost_nano_usd(card, Usage(reasoning_tokens=1)) is None


def test_no_card_is_unpriced() -> None:
    assert cost_nano_usd(None, Usage(input_tokens=1)) is None
    assert cost_nano_usd(None, NO_USAGE) is None


def test_a_refused_price_names_its_part() -> None:
    with pytest.raises(ValueError, match=r"^cached_input: a price must not be negative$"):
        PriceCard.from_usd_per_mtok(input=Decimal(1), cached_input=Decimal(-1))
