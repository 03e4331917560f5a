"""Delays before the same failure domain is tried again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.config.schema import Backoff as Config
from fastroute.failover.backoff import Backoff

#: All bits set: the longest draw there is.
ONES = (1 << 64) - 1
HUGE = 10**18


@pytest.mark.parametrize(
    ("values", "delays"),
    [
        ({"kind": "none"}, [0, 0, 0, 0, 0, 0]),
        ({"kind": "linear"}, [100, 200, 300, 400, 500, 600]),
        ({"kind": "exponential"}, [100, 200, 400, 800, 1600, 3200]),
        ({"kind": "exponential", "multiplier": 1.5}, [100, 150, 225, 337, 506, 759]),
        ({"kind": "exponential", "multiplier": 1.0}, [100, 100, 100, 100, 100, 100]),
        ({"kind": "fibonacci"}, [100, 100, 200, 300, 500, 800]),
        ({"kind": "linear", "max_ms": 250}, [100, 200, 250, 250, 250, 250]),
        ({"kind": "exponential", "max_ms": 250}, [100, 200, 250, 250, 250, 250]),
        ({"kind": "fibonacci", "max_ms": 250}, [100, 100, 200, 250, 250, 250]),
        ({"kind": "exponential", "base_ms": 0}, [0, 0, 0, 0, 0, 0]),
        ({"kind": "exponential", "base_ms": 300, "max_ms": 300}, [300, 300, 300, 300, 300, 300]),
    ],
)
def test_the_kinds(values: dict[str, Any], delays: list[int]) -> None:
    backoff = Backoff(Config(**values))
    assert [backoff.ceiling_ms(attempt) for attempt in range(1, 7)] == delays


@pytest.mark.parametrize("kind", ["none", "linear", "exponential", "fibonacci"])
@pytest.mark.parametrize("multiplier", [1.0, 2.0, 100.0])
@pytest.mark.parametrize("attempt", [64, 65, 66, 1000, 2**31, HUGE])
def test_a_huge_attempt_waits_no_longer_than_the_cap(kind: Any, multiplier: float, attempt: int) -> None:
    backoff = Backoff(Config(kind=kind, multiplier=multiplier, base_ms=3_600_000, max_ms=3_600_000))
    assert backoff.ceiling_ms(attempt) == (0 if kind == "none" else 3_600_000)
    assert backoff.delay_ms(attempt, 0) == backoff.ceiling_ms(attempt)


@pytest.mark.parametrize("attempt", [0, -1, -HUGE])
def test_there_is_no_attempt_before_the_first(attempt: int) -> None:
    backoff = Backoff(Config())
    assert backoff.ceiling_ms(attempt) == backoff.ceiling_ms(1) == 100


@pytest.mark.parametrize(
    ("jitter", "bits", "delay"),
    [
        (0.0, 0, 1000), (0.0, ONES, 1000), (1.0, 0, 1000), (1.0, ONES, 0), (1.0, 1 << 31, 500), (1.0, 3 << 30, 250),
        (0.5, 0, 1000), (0.5, ONES, 500), (0.5, 1 << 31, 750), (0.1, ONES, 900),
        # Only the lower half of the bits is drawn from.
        (1.0, ONES << 32, 1000),
    ],
)  # fmt: skip
def test_jitter_takes_its_share_off(jitter: float, bits: int, delay: int) -> None:
    assert Backoff(Config(base_ms=1000, jitter=jitter)).delay_ms(1, bits) == delay


def test_full_jitter_is_spread_evenly() -> None:
    backoff = Backoff(Config(base_ms=1000, jitter=1.0))
    delays = [backoff.delay_ms(1, at * (1 << 32) // 1000) for at in range(1000)]
    assert sorted(set(delays)) == sorted(delays)
    assert (min(delays), max(delays)) == (1, 1000)


@given(
    st.sampled_from(["none", "linear", "exponential", "fibonacci"]),
    st.integers(0, 3_600_000),
    st.integers(0, 3_600_000),
    st.floats(1, 100),
    st.floats(0, 1),
    st.integers(-10, 10**9),
    st.integers(0, ONES),
)
def test_a_delay_is_between_the_share_without_jitter_and_the_cap(
    kind: Any, base: int, more: int, multiplier: float, jitter: float, attempt: int, bits: int
) -> None:
    config = Config(kind=kind, base_ms=base, max_ms=min(base + more, 3_600_000), multiplier=multiplier, jitter=jitter)
    backoff = Backoff(config)
    ceiling = backoff.ceiling_ms(attempt)
    assert 0 <= ceiling <= config.max_ms
    assert int(ceiling * (1 - jitter)) <= backoff.delay_ms(attempt, bits) <= ceiling
    assert ceiling <= backoff.ceiling_ms(attempt + 1)
