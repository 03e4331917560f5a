"""Find and check the top-level fields of a JSON object without decoding it: the compiled or the pure half."""

from typing import TYPE_CHECKING

from fastroute._core._jsonscan_errors import (
    KIND_ABSENT,
    KIND_ARRAY,
    KIND_FALSE,
    KIND_NULL,
    KIND_NUMBER,
    KIND_OBJECT,
    KIND_STRING,
    KIND_STRING_ESCAPED,
    KIND_TRUE,
    MAX_DEPTH,
    ScanError,
)
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._jsonscan_py import Scanner, unescape
else:
    from fastroute._core._jsonscan_c import Scanner, unescape

__all__ = [
    "KIND_ABSENT",
    "KIND_ARRAY",
    "KIND_FALSE",
    "KIND_NULL",
    "KIND_NUMBER",
    "KIND_OBJECT",
    "KIND_STRING",
    "KIND_STRING_ESCAPED",
    "KIND_TRUE",
    "MAX_DEPTH",
    "ScanError",
    "Scanner",
    "unescape",
]
