"""Choosing by the expected cost of a success."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._cheapest_py import Cheapest
else:
    from fastroute._core._cheapest_c import Cheapest

__all__ = ["Cheapest"]
