"""Choosing one endpoint among a pool's candidates. No clock, no RNG: time and random bits are arguments."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._selection_py import (
        RoundRobin,
        SmoothWeightedRoundRobin,
        least_connections,
        p2c,
        weighted_random,
    )
else:
    from fastroute._core._selection_c import (
        RoundRobin,
        SmoothWeightedRoundRobin,
        least_connections,
        p2c,
        weighted_random,
    )

__all__ = ["RoundRobin", "SmoothWeightedRoundRobin", "least_connections", "p2c", "weighted_random"]
