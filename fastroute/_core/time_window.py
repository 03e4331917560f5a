"""Choosing the endpoint that no worker has used for the longest time."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._time_window_py import least_recently_used
else:
    from fastroute._core._time_window_c import least_recently_used

__all__ = ["least_recently_used"]
