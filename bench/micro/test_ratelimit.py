"""ratelimit, both halves: what reading the rate-limit fields of an answer costs, and finding that there are none.

Target, compiled: <= 1.5 us for an answer of OpenAI's with its six fields.
"""

from types import ModuleType
from typing import Any

import pytest

from bench.micro.test_h1 import HEAD
from fastroute._core.h1 import parse_response_head
from fastroute.upstream.headers import RESPONSE_DROP
from tests.unit.core.twins import twins

HEADERS = parse_response_head(HEAD, RESPONSE_DROP)[2]
SILENT = [field for field in HEADERS if b"ratelimit" not in field[0]]
ANTHROPIC = SILENT + [
    (b"anthropic-ratelimit-%s-%s" % (kind, what), value)
    for kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens")
    for what, value in ((b"limit", b"4000"), (b"remaining", b"3999"), (b"reset", b"2026-03-10T22:26:48Z"))
]
WALL_MS = 1_773_181_600_000


@pytest.mark.parametrize("half", twins("ratelimit"))
def test_six_fields(benchmark: Any, half: ModuleType) -> None:
    assert benchmark(half.read_allowance, HEADERS, WALL_MS)[:2] == (10_000, 9_999)


@pytest.mark.parametrize("half", twins("ratelimit"))
def test_twelve_fields_with_dates(benchmark: Any, half: ModuleType) -> None:
    assert benchmark(half.read_allowance, ANTHROPIC, WALL_MS)[2] == 8000


@pytest.mark.parametrize("half", twins("ratelimit"))
def test_none(benchmark: Any, half: ModuleType) -> None:
    assert benchmark(half.read_allowance, SILENT, WALL_MS) is None
