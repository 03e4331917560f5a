"""The promises of routing, on a virtual clock: `bench.sim` with the strategy that is the default, on both halves."""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from fastroute._core._switch import missing_modules
from tests.children import with_paths

_COMPILED_REQUIRED = os.environ.get("FASTROUTE_REQUIRE_EXTENSIONS") == "1"
#: The switches of the two halves; the compiled one is left out where it is not built.
_HALVES = {
    "pure": {"FASTROUTE_NO_EXTENSIONS": "1", "FASTROUTE_REQUIRE_EXTENSIONS": "0"},
    "compiled": {"FASTROUTE_NO_EXTENSIONS": "0", "FASTROUTE_REQUIRE_EXTENSIONS": "1"},
}
_ELSEWHERE = pytest.mark.skipif(
    os.environ.get("FASTROUTE_TEST_HALF") == "c", reason="the pure half is tested by itself, in another run"
)
_MISSING = pytest.mark.skipif(bool(missing_modules()) and not _COMPILED_REQUIRED, reason="the compiled half is missing")


@cache
def outcome(half: str) -> tuple[int, dict[str, Any]]:
    """Return exit status and figures of one run with p2c. Each half has a process: it is chosen when that begins."""
    command = ["-m", "bench.sim", "--seed", "1", "--strategy", "p2c", "--gates", "abde", "--json", "/dev/stderr"]
    done = subprocess.run(
        [sys.executable, *command, "--scenario", "grey", "limited"],
        env=with_paths({**os.environ, **_HALVES[half]}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr.startswith("{"), done.stderr
    return done.returncode, json.loads(done.stderr)


@pytest.fixture(params=[pytest.param("pure", marks=_ELSEWHERE), pytest.param("compiled", marks=_MISSING)])
def half(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def measured(half: str, gate: str) -> list[float]:
    return [verdict["measured"] for verdict in outcome(half)[1]["gates"] if verdict["gate"] == gate]


def test_the_half_that_ran_is_the_one_asked_for(half: str) -> None:
    assert outcome(half)[1]["half"] == half


def test_a_slow_replica_is_left_alone(half: str) -> None:
    share, p99 = measured(half, "a")
    assert share < 0.02
    assert p99 <= 1.2


def test_a_replica_that_fails_at_once_looks_idle_to_nobody(half: str) -> None:
    (share,) = measured(half, "b")
    assert share < 0.01


def test_a_primary_that_recovers_gets_its_share_back(half: str) -> None:
    among_peers, before_a_standby = measured(half, "d")
    assert among_peers >= 0.95
    assert before_a_standby >= 0.95


def test_an_outage_is_not_multiplied_by_retries(half: str) -> None:
    of_eight, of_three = measured(half, "e")
    assert of_eight <= 1.2
    assert of_three <= 1.2


def test_trouble_at_one_replica_reaches_no_client(half: str) -> None:
    rows = outcome(half)[1]["rows"]
    assert [row["scenario"] for row in rows] == ["grey", "limited"]
    assert all(row["error_rate"] == 0.0 for row in rows)
    assert all(row["p99_ms"] < 2 * row["p50_ms"] for row in rows)


def test_exit_status_zero(half: str) -> None:
    status, figures = outcome(half)
    assert status == 0
    assert all(verdict["passed"] for verdict in figures["gates"])


@_MISSING
def test_both_halves_decide_alike_to_the_last_request() -> None:
    """Same bits, same choices: whole runs must not differ in a single figure."""
    pure, compiled = outcome("pure")[1], outcome("compiled")[1]
    assert {**pure, "half": ""} == {**compiled, "half": ""}
