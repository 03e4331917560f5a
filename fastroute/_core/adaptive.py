"""What endpoints take, learnt from how they answer: a limit on requests in flight, and what is left of their quotas."""

from typing import TYPE_CHECKING

from fastroute._core._adaptive_rules import AIMD, GRADIENT2, Quota, Setting, View, describe
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._adaptive_py import Adaptive
else:
    from fastroute._core._adaptive_c import Adaptive

__all__ = ["AIMD", "GRADIENT2", "Adaptive", "Quota", "Setting", "View", "describe"]
