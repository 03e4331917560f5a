"""What learning limits costs: both halves, 2 workers x 1000 endpoints; compare with `test_attempts` and
`test_candidates`.

Target, compiled: < 1 us for learning and gate together.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._adaptive_rules import GRADIENT2, Setting
from fastroute._core._attempts_rules import MARK_SHIFT, OK, RATE_LIMITED, Policy
from fastroute.interfaces import Allowance
from tests.unit.core.halves import Half, halves, need_of, pool_of, segment_at

NOW = 1_000_000
ROW = 500
CALM = Policy(failure_threshold=65_535, min_requests=10**9)
SETTINGS = {
    "off": None,
    "aimd": Setting(),
    "aimd limited": Setting(initial=2, maximum=10_000),
    "gradient2": Setting(GRADIENT2, initial=20),
}
#: As OpenAI has it.
ALLOWANCE = Allowance(10_000, 9_999, 6, 2_000_000, 1_999_000, 30)


@pytest.fixture(params=halves())
def half(request: pytest.FixtureRequest) -> Half:
    return request.param


@pytest.fixture
def segment(half: Half, tmp_path: Path) -> Iterator[Any]:
    made = segment_at(half, tmp_path, 1000)
    yield made
    made.close()


@pytest.mark.parametrize("kind", SETTINGS)
def test_in_and_out(benchmark: Any, half: Half, segment: Any, kind: str) -> None:
    setting = SETTINGS[kind]
    adaptive = half.adaptive.Adaptive(segment, {ROW: setting}) if setting is not None else None
    attempts = half.attempts.Attempts(segment, CALM, adaptive)

    def once() -> None:
        ticket = attempts.enter(1, ROW, 1000, NOW)
        attempts.leave(1, ROW, ticket, OK, 80.0, NOW, 0, 0, 1000)

    benchmark(once)


def test_what_header_fields_say(benchmark: Any, half: Half, segment: Any) -> None:
    adaptive = half.adaptive.Adaptive(segment, {ROW: Setting()})
    attempts = half.attempts.Attempts(segment, CALM, adaptive)
    mark = attempts.enter(1, ROW, 1000, NOW) >> MARK_SHIFT
    benchmark(adaptive.learn, ROW, mark, ALLOWANCE, NOW)
    assert adaptive.view(ROW, NOW).requests.limit == 10_000


@pytest.mark.parametrize("kind", ["off", "unknown", "known"])
@pytest.mark.parametrize("n", [10, 1000])
def test_gate(benchmark: Any, half: Half, segment: Any, kind: str, n: int) -> None:
    """known: every endpoint has a limit, and quotas."""
    adaptive = half.adaptive.Adaptive(segment, dict.fromkeys(range(n), Setting())) if kind != "off" else None
    if kind == "known":
        attempts = half.attempts.Attempts(segment, CALM, adaptive)
        for row in range(n):
            tickets = [attempts.enter(0, row, 1, NOW) for _ in range(8)]
            attempts.leave(0, row, tickets[0], OK, -1.0, NOW, 0, 0, 1)
            attempts.leave(0, row, tickets[1], RATE_LIMITED, -1.0, NOW, 0, 0, 1)
            for ticket in tickets[2:]:
                attempts.leave(0, row, ticket, OK, -1.0, NOW, 0, 0, 1)
            adaptive.learn(row, 8, ALLOWANCE, NOW)
    pool = pool_of(half, segment, [1.0] * n, adaptive=adaptive)
    assert benchmark(pool.gate, need_of(half, now_ms=NOW, panic_percent=50)) == n
