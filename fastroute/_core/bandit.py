"""Choosing by discounted Thompson sampling: real draws from what all workers have learnt of each endpoint."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._bandit_py import beta, posterior, record, thompson
else:
    from fastroute._core._bandit_c import beta, posterior, record, thompson

__all__ = ["beta", "posterior", "record", "thompson"]
