"""Counters shared by the processes of one gateway: rows per worker, cells per endpoint and 64 control words.

`ATOMIC` says whether `add`, `add_word` and `cas_word` are exact between processes (the compiled half) or only
between the threads that share one `Segment` object (the pure half: one writing process per row).
"""

from typing import TYPE_CHECKING

from fastroute._core._counters_file import (
    ADAPTIVE,
    BANDIT,
    BANDIT_TIME_MS,
    BREAKER,
    BREAKER_COUNTS,
    CELLS,
    CLOSED_AT_MS,
    COLUMNS,
    COOLDOWN_UNTIL_MS,
    COST,
    FAILURES,
    IN_FLIGHT,
    INPUT_TOKENS,
    KEY_FAILURES_BASE,
    KEY_REQUESTS_BASE,
    KEY_SINCE_MS,
    KEY_STATE,
    KEY_USED_AT_MS,
    LAST_USED_MS,
    LAST_USED_NS,
    LATENCY_0,
    LATENCY_CELLS,
    MODEL_SINCE_MS,
    MODEL_STATE,
    OUTPUT_TOKENS,
    PACE,
    QUOTA_REQUESTS,
    QUOTA_REQUESTS_TIMES,
    QUOTA_TOKENS,
    QUOTA_TOKENS_TIMES,
    REQUESTS,
    SLOW_START_MS,
    SPARE_B,
    WINDOW_0,
    WINDOW_BUCKETS,
    WORDS,
    WORK,
    SegmentError,
)
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._counters_py import ATOMIC, Segment
else:
    from fastroute._core._counters_c import ATOMIC, Segment

__all__ = [
    "ADAPTIVE",
    "ATOMIC",
    "BANDIT",
    "BANDIT_TIME_MS",
    "BREAKER",
    "BREAKER_COUNTS",
    "CELLS",
    "CLOSED_AT_MS",
    "COLUMNS",
    "COOLDOWN_UNTIL_MS",
    "COST",
    "FAILURES",
    "INPUT_TOKENS",
    "IN_FLIGHT",
    "KEY_FAILURES_BASE",
    "KEY_REQUESTS_BASE",
    "KEY_SINCE_MS",
    "KEY_STATE",
    "KEY_USED_AT_MS",
    "LAST_USED_MS",
    "LAST_USED_NS",
    "LATENCY_0",
    "LATENCY_CELLS",
    "MODEL_SINCE_MS",
    "MODEL_STATE",
    "OUTPUT_TOKENS",
    "PACE",
    "QUOTA_REQUESTS",
    "QUOTA_REQUESTS_TIMES",
    "QUOTA_TOKENS",
    "QUOTA_TOKENS_TIMES",
    "REQUESTS",
    "SLOW_START_MS",
    "SPARE_B",
    "WINDOW_0",
    "WINDOW_BUCKETS",
    "WORDS",
    "WORK",
    "Segment",
    "SegmentError",
]
