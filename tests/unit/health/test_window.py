"""Since when an endpoint has answered well, as far as the window tells in which both halves count attempts."""

from pathlib import Path
from typing import Any

import pytest

from fastroute._core._attempts_rules import FAILED, OK, Policy
from fastroute.health.window import answered_since
from tests.unit.core.halves import halves

NOW = 1_000_000
WINDOW_MS = 10_000
BUCKET_MS = 1_000


@pytest.mark.parametrize("half", halves())
def test_answered_since(half: Any, tmp_path: Path) -> None:
    segment = half.counters.Segment.create(str(tmp_path / "segment"), 1, 2)
    attempts = half.attempts.Attempts(segment, Policy(window_ms=WINDOW_MS))
    answered = answered_since(segment, WINDOW_MS)

    def end(verdict: int, now_ms: int) -> None:
        attempts.leave(0, 0, attempts.enter(0, 0, 0, now_ms), verdict, -1.0, now_ms, 0, 0, 0)

    assert not answered(0, 0, NOW)
    end(FAILED, NOW)
    assert not answered(0, NOW - 1, NOW)
    end(OK, NOW + 500)
    assert answered(0, NOW, NOW + 500)
    # Its bucket counts whole, and nothing that comes after it.
    assert answered(0, NOW + BUCKET_MS - 1, NOW + 5_000)
    assert not answered(0, NOW + BUCKET_MS, NOW + 5_000)
    assert not answered(1, 0, NOW + 5_000)
    # What is older than the window is not known.
    assert answered(0, 0, NOW + WINDOW_MS - 1)
    assert not answered(0, 0, NOW + WINDOW_MS)
    segment.close()
