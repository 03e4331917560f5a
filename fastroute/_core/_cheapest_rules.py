"""What both halves of `cheapest` agree on."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from fastroute._core._counters_file import WINDOW_BUCKETS

#: So many attempts, of which one failed, are added to those of an endpoint: what is thought of one nobody has tried.
PRIOR_GOOD: Final = 4.0
PRIOR: Final = 5.0
MAX_POSITIONS: Final = 65_536

#: pico-USD per token of (input, cached input, output), None where it is not known.
Prices = tuple[int, int, int] | None


class Checked(NamedTuple):
    """Prices of input and output in pico-USD per token by position, -1 where unknown, and a window's bucket in ms."""

    inward: list[float]
    outward: list[float]
    bucket_ms: int


def checked(prices: Sequence[Prices], window_ms: int) -> Checked:
    """Return the prices one by one, or raise ValueError for what cannot be."""
    if len(prices) > MAX_POSITIONS:
        raise ValueError(f"at most {MAX_POSITIONS} positions")
    if window_ms < 1:
        raise ValueError("window_ms must be at least 1")
    if any(price is not None and min(price[0], price[2]) < 0 for price in prices):
        raise ValueError("prices must not be negative")
    return Checked(
        [-1.0 if price is None else float(price[0]) for price in prices],
        [-1.0 if price is None else float(price[2]) for price in prices],
        max(1, window_ms // WINDOW_BUCKETS),
    )
