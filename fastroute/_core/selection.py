"""Choosing one endpoint among candidates over flat arrays. No clock, no RNG: random bits are an argument."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._selection_py import (
        RoundRobin,
        SmoothWeightedRoundRobin,
        least_load,
        least_load_segment,
        p2c,
        p2c_segment,
    )
else:
    from fastroute._core._selection_c import (
        RoundRobin,
        SmoothWeightedRoundRobin,
        least_load,
        least_load_segment,
        p2c,
        p2c_segment,
    )

__all__ = [
    "RoundRobin",
    "SmoothWeightedRoundRobin",
    "least_load",
    "least_load_segment",
    "p2c",
    "p2c_segment",
]
