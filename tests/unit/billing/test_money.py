"""Money is exact or refused."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.billing.money import format_usd, nano_from_pico, pico_from_usd_per_mtok


@pytest.mark.parametrize(
    ("usd", "pico"),
    [
        ("0", 0),
        ("-0", 0),
        ("0E-999999", 0),
        ("2.5", 2_500_000),
        ("2.500000000000", 2_500_000),
        ("0.0375", 37_500),
        ("0.000001", 1),
        ("1E+6", 10**12),
        ("1000000", 10**12),
    ],
)
def test_prices_convert_exactly(usd: str, pico: int) -> None:
    assert pico_from_usd_per_mtok(Decimal(usd)) == pico


@pytest.mark.parametrize(
    "usd",
    [
        "NaN",
        "sNaN",
        "Infinity",
        "-Infinity",
        "-1",
        "-1E-999999",
        "1000000.000001",
        "1E+999999",
        "0.0000001",
        "1.2345678",
        "1E-999999",
        "1234567.1E-12",
    ],
)
def test_prices_that_are_refused(usd: str) -> None:
    with pytest.raises(ValueError, match="price"):
        pico_from_usd_per_mtok(Decimal(usd))


def test_the_decimal_context_does_not_matter() -> None:
    with localcontext(prec=3):
        assert pico_from_usd_per_mtok(Decimal("123456.789012")) == 123_456_789_012


@given(st.decimals(min_value=0, max_value=10**6, places=6))
def test_every_price_of_six_decimals_is_exact(usd: Decimal) -> None:
    assert Fraction(pico_from_usd_per_mtok(usd)) == Fraction(usd) * 10**6


@pytest.mark.parametrize(("pico", "nano"), [(0, 0), (499, 0), (500, 1), (1_499, 1), (1_500, 2), (10**20, 10**17)])
def test_half_a_nano_rounds_up(pico: int, nano: int) -> None:
    assert nano_from_pico(pico) == nano


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (12_000_345_678, "12.000345678"),
        (-1, "-0.000000001"),
        (2**63 - 1, "9223372036.854775807"),
    ],
)
def test_amounts_are_printed_from_integers(nano: int, text: str) -> None:
    assert format_usd(nano) == text
