"""The two halves of `candidates` let the same endpoints through, and `selection` chooses the same ones among them."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core import _candidates_gates as gates
from fastroute._core import counters as cells
from fastroute._core._adaptive_rules import Setting
from fastroute._core._channel_rules import State, pack_state
from fastroute.interfaces import Allowance
from tests.unit.core.halves import halves, need_of, pool_of, segment_at

PURE, COMPILED = (param.values[0] for param in halves())
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

ENDPOINTS = 8
PROVIDERS = 4
NOW = 1_000_000

time_ms = st.just(0) | st.integers(NOW - 20_000, NOW + 20_000)
breaker = st.builds(
    lambda state, probes, generation, until_ms: state | probes << 2 | generation << 10 | until_ms << 24,
    st.integers(0, 2),
    st.integers(0, 3) | st.integers(0, 255),
    st.integers(0, 0x3FFF),
    time_ms,
)
state = st.builds(
    lambda kind, rest, look, until_ms: pack_state(State(kind, rest & 31, rest >> 5, 1, 511, look, until_ms)),
    st.integers(0, 4),
    st.integers(0, 1023),
    st.integers(0, 1),
    time_ms,
)
cost = st.builds(lambda value, stamp_ms: value << 32 | stamp_ms, st.integers(0, 0x461C4000), time_ms)
endpoint = st.fixed_dictionaries(
    {
        "weight": st.sampled_from([0, 1, 1, 2, 100, 10**9]) | st.floats(1e-3, 1e9),
        "ranks": st.integers(0, 2),
        "providers": st.integers(0, PROVIDERS - 1),
        "regions": st.integers(0, 3) | st.just(63),
        "capabilities": st.integers(0, 7),
        "context_windows": st.integers(0, 3).map(lambda tokens: tokens * 1_000),
        "max_outputs": st.integers(0, 3).map(lambda tokens: tokens * 100),
        "input_prices": st.integers(-1, 5) | st.integers(0, 10**9),
        "output_prices": st.integers(-1, 5) | st.integers(0, 10**9),
        # What its cells hold, and what its health is worth.
        "key": st.just(0) | state,
        "model": st.just(0) | state,
        "breaker": st.just(0) | breaker,
        "cooldown": st.just(0) | time_ms,
        "slow_start": st.just(0) | time_ms,
        "cost": st.just(0) | cost,
        "in_flight": st.integers(-1, 4),
        "work": st.integers(-1, 4).map(lambda work: work * 1_000),
        "factor": st.just(1.0) | st.floats(0.01, 1.0),
        # How many it takes, and what is left of a hundred requests and tokens.
        "takes": st.integers(0, 3),
        "requests_left": st.just(-1) | st.integers(0, 100),
        "tokens_left": st.just(-1) | st.integers(0, 100),
        # The row of its key, whose breaker is that of whatever endpoint has it.
        "key_rows": st.just(-1) | st.integers(-1, ENDPOINTS - 1),
    }
)
COLUMNS = (
    "ranks", "providers", "regions", "capabilities", "context_windows", "max_outputs", "input_prices", "output_prices",
    "key_rows",
)  # fmt: skip
orders = st.none() | st.binary(min_size=PROVIDERS, max_size=PROVIDERS)
orders |= st.lists(st.integers(0, 2), min_size=PROVIDERS, max_size=PROVIDERS).map(bytes)
stages = st.lists(st.sampled_from([gates.REQUEST, gates.TENANT, gates.RULE]), min_size=PROVIDERS, max_size=PROVIDERS)
need = st.fixed_dictionaries(
    {},
    optional={
        "capabilities": st.integers(0, 7),
        "prompt_tokens": st.integers(0, 3_000),
        "output_tokens": st.integers(0, 300),
        "regions": st.integers(0, 15) | st.integers(0, 2**64 - 1),
        "order": orders,
        "stages": st.none() | stages.map(bytes),
        "max_cost_pico": st.integers(-1, 5_000) | st.integers(0, 10**12),
        "tried": st.lists(st.integers(0, ENDPOINTS), max_size=4) | st.lists(st.integers(-1, 9), max_size=80),
        "slow_start_ms": st.integers(0, 20_000),
        "panic_percent": st.integers(0, 100),
        "panic_min": st.integers(1, 4),
    },
)
bits = st.integers(0, 2**64 - 1) | st.integers(-(2**70), 2**70)


def built(half: Any, segment: Any, endpoints: list[dict[str, Any]], rows: list[int], max_calls: int) -> Any:
    """Return a pool whose endpoints are as described."""
    settings = {row: Setting(maximum=one["takes"]) for row, one in zip(rows, endpoints, strict=True) if one["takes"]}
    adaptive = half.adaptive.Adaptive(segment, settings) if settings else None
    pool = pool_of(
        half,
        segment,
        [one["weight"] for one in endpoints],
        rows=rows,
        adaptive=adaptive,
        half_open_max_calls=max_calls,
        **{name: [one[name] for one in endpoints] for name in COLUMNS},
    )
    for position, (row, one) in enumerate(zip(rows, endpoints, strict=True)):
        segment.set_cell(row, cells.KEY_STATE, one["key"])
        segment.set_cell(row, cells.MODEL_STATE, one["model"])
        segment.set_cell(row, cells.BREAKER, one["breaker"])
        segment.set_cell(row, cells.COOLDOWN_UNTIL_MS, one["cooldown"])
        segment.set_cell(row, cells.SLOW_START_MS, one["slow_start"])
        segment.set_cell(row, cells.COST, one["cost"])
        segment.set(row % 2, row, cells.IN_FLIGHT, one["in_flight"])
        segment.set(row % 2, row, cells.WORK, one["work"])
        pool.set_factor(position, one["factor"])
        if adaptive is not None:
            fields = {f"{name}_remaining": one[f"{name}_left"] for name in ("requests", "tokens")}
            allowance = Allowance(requests_limit=100, tokens_limit=100, requests_reset_ms=9_000, **fields)
            adaptive.learn(row, 0, allowance, NOW)
    return pool


def seen(half: Any, pool: Any, wants: dict[str, Any], now_ms: int, random_bits: int, decay_ms: int) -> list[Any]:
    """Gate the pool, choose in every way; return all there is to see."""
    wanted = need_of(half, now_ms=now_ms, **wants)
    selection = half.selection
    return [
        pool.gate(wanted),
        list(pool),
        pool.removed,
        pool.emptied_by,
        pool.panicking,
        pool.on_trial,
        pool.retry_at_ms,
        [pool.why(position, wanted) for position in range(pool.size)],
        [pool.weight(position, now_ms) for position in range(pool.size)],
        selection.least_connections(pool, random_bits, now_ms),
        selection.p2c(pool, random_bits, now_ms, decay_ms),
        selection.weighted_random(pool, random_bits, now_ms),
        selection.RoundRobin(pool.size, random_bits).pick(pool),
        selection.SmoothWeightedRoundRobin([int(weight) for weight in pool.weights]).pick(pool),
        [(pool.narrow(first, end), list(pool)) for first, end in ((0, 6), (2, 9), (3, 3))],
        pool.key_rows,
    ]


requests = st.lists(st.tuples(need, st.integers(0, 20_000), bits, st.integers(1, 20_000)), min_size=1, max_size=4)


@given(
    st.lists(endpoint, max_size=ENDPOINTS),
    st.permutations(range(ENDPOINTS)),
    st.integers(1, 3) | st.just(255),
    requests,
)
def test_same_candidates_same_choices(
    endpoints: list[dict[str, Any]],
    rows: list[int],
    max_calls: int,
    asked: list[tuple[dict[str, Any], int, int, int]],
) -> None:
    rows = list(rows[: len(endpoints)])
    with tempfile.TemporaryDirectory() as folder:
        segments = [segment_at(half, Path(folder), ENDPOINTS) for half in (PURE, COMPILED)]
        pure, compiled = (
            built(half, segment, endpoints, rows, max_calls)
            for half, segment in zip((PURE, COMPILED), segments, strict=True)
        )
        now_ms = NOW
        for wants, pause_ms, random_bits, decay_ms in asked:
            now_ms += pause_ms
            left = seen(PURE, pure, wants, now_ms, random_bits, decay_ms)
            assert left == seen(COMPILED, compiled, wants, now_ms, random_bits, decay_ms)
            # And what holds of both: whoever is chosen is a candidate, and none where there are none.
            positions = left[1]
            for chosen in left[9:14]:
                assert chosen in positions if positions and chosen >= 0 else chosen == -1
            assert sum(left[2]) + sum(1 for gate in left[7] if gate == gates.PASSED) == pure.size
            assert all(left[7][position] == gates.PASSED for position in positions)
        for segment in segments:
            segment.close()
