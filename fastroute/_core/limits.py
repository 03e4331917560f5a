"""Ceilings on requests, tokens and concurrency, kept in a file that all workers of a gateway share."""

from typing import TYPE_CHECKING

from fastroute._core._limits_file import DIMENSIONS, SLOTS, LimitsFileError, Moment, Subject, read_boot_id, slots_for
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._limits_py import Ceilings, Grant, Limiter, Table
else:
    from fastroute._core._limits_c import Ceilings, Grant, Limiter, Table

__all__ = [
    "DIMENSIONS",
    "SLOTS",
    "Ceilings",
    "Grant",
    "Limiter",
    "LimitsFileError",
    "Moment",
    "Subject",
    "Table",
    "read_boot_id",
    "slots_for",
]
