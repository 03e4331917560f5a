"""Header fields of requests and answers: recognised as a whole, written as lines, and looked through once."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._heads_py import (
        answer_flags,
        answer_head,
        find_head,
        head_key,
        request_head,
        whole_answer,
    )
else:
    from fastroute._core._heads_c import (
        answer_flags,
        answer_head,
        find_head,
        head_key,
        request_head,
        whole_answer,
    )

__all__ = [
    "answer_flags",
    "answer_head",
    "find_head",
    "head_key",
    "request_head",
    "whole_answer",
]
