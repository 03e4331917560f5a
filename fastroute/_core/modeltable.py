"""Model names looked up straight from body bytes: a bloom filter in front of an exact table."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._modeltable_py import ModelTable
else:
    from fastroute._core._modeltable_c import ModelTable

__all__ = ["ModelTable"]
