"""Counters shared by the processes of one gateway: in-flight rows per worker and 64 control words.

`ATOMIC` says whether `add`, `add_word` and `cas_word` are exact between processes (the compiled half) or only
between the threads that share one `Segment` object (the pure half: one writing process per row).
"""

from typing import TYPE_CHECKING

from fastroute._core._counters_file import (
    COLUMNS,
    FAILURES,
    IN_FLIGHT,
    INPUT_TOKENS,
    LAST_USED_NS,
    OUTPUT_TOKENS,
    REQUESTS,
    SPARE_A,
    SPARE_B,
    WORDS,
    SegmentError,
)
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._counters_py import ATOMIC, Segment
else:
    from fastroute._core._counters_c import ATOMIC, Segment

__all__ = [
    "ATOMIC",
    "COLUMNS",
    "FAILURES",
    "INPUT_TOKENS",
    "IN_FLIGHT",
    "LAST_USED_NS",
    "OUTPUT_TOKENS",
    "REQUESTS",
    "SPARE_A",
    "SPARE_B",
    "WORDS",
    "Segment",
    "SegmentError",
]
