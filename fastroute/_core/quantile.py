"""Quantiles of what was observed lately, by position, and the choice of the candidate with the least."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._quantile_py import Quantiles
else:
    from fastroute._core._quantile_c import Quantiles

__all__ = ["Quantiles"]
