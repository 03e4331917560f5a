"""What the rate-limit fields of an answer's head say."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._ratelimit_py import read_allowance
else:
    from fastroute._core._ratelimit_c import read_allowance

__all__ = ["read_allowance"]
