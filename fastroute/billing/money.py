"""Money as integers: prices in pico-USD per token, ledger amounts in nano-USD. No float holds an amount."""

from decimal import Decimal
from typing import Final

#: One USD per million tokens is this many pico-USD per token (10^12 / 10^6).
PICO_PER_USD_PER_MTOK: Final = 1_000_000
#: No model costs more than a dollar per token; a larger figure is a slip of units.
MAX_USD_PER_MTOK: Final = 1_000_000
PICO_PER_NANO: Final = 1_000
NANO_PER_USD: Final = 1_000_000_000

_DECIMALS: Final = 6


def pico_from_usd_per_mtok(usd_per_mtok: Decimal) -> int:
    """Return a price of `usd_per_mtok` (USD per million tokens) in pico-USD per token, exactly.

    Raises ValueError for NaN, infinities, negative prices, prices above `MAX_USD_PER_MTOK`, and for a price
    with more than six significant decimals (which has no whole number of pico-USD per token).
    """
    if not usd_per_mtok.is_finite():
        raise ValueError("a price must be a finite number")
    if usd_per_mtok < 0:
        raise ValueError("a price must not be negative")
    if usd_per_mtok > MAX_USD_PER_MTOK:
        raise ValueError(f"a price above {MAX_USD_PER_MTOK} USD per million tokens is a slip of units")
    if not usd_per_mtok:
        return 0
    return _scaled(usd_per_mtok)


def _scaled(value: Decimal) -> int:
    """Return `value` * 10^6, from the digits: Decimal arithmetic would round at its context's precision."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # finite, by the caller
    number = int("".join(map(str, digits)))
    shift = exponent + _DECIMALS
    if shift >= 0:
        return number * int(10**shift)
    # The length test keeps an exponent such as -999999 from becoming a number of a million digits.
    divisor = 10**-shift if -shift < len(digits) else 0
    if not divisor or number % divisor:
        raise ValueError("a price has at most six decimals in USD per million tokens")
    return number // divisor


def nano_from_pico(pico_usd: int) -> int:
    """Return `pico_usd` (>= 0) in nano-USD, half a nano-USD rounded up."""
    return (pico_usd + PICO_PER_NANO // 2) // PICO_PER_NANO


def format_usd(nano_usd: int) -> str:
    """Return an amount as USD with nine decimals, such as "12.000345678"."""
    whole, fraction = divmod(abs(nano_usd), NANO_PER_USD)
    return f"{'-' if nano_usd < 0 else ''}{whole}.{fraction:09d}"
