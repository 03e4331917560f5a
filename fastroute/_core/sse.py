"""Metering of a server-sent-event stream in passing; see `_sse_py` for the rules."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._sse_py import StreamMeter
else:
    from fastroute._core._sse_c import StreamMeter

__all__ = ["StreamMeter"]
