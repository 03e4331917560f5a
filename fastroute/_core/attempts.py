"""Attempts in and out of endpoints: in-flight counts, circuit breaker, cost and health, in one call each way."""

from typing import TYPE_CHECKING

from fastroute._core._attempts_rules import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED, Policy
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._attempts_py import Attempts
else:
    from fastroute._core._attempts_c import Attempts

__all__ = ["FAILED", "KEY_REJECTED", "NEUTRAL", "OK", "RATE_LIMITED", "Attempts", "Policy"]
