"""How many retries there may be in all."""

import random
from collections import deque

import pytest

from fastroute.failover.retry_budget import SLOTS, RetryBudget

TTL_MS = 10_000
#: Retries that ten a second come to over ten seconds.
RESERVE = 100


def budget(percent: float = 20, min_per_s: float = 10) -> RetryBudget:
    return RetryBudget(percent, min_per_s, TTL_MS)


def drained(one: RetryBudget, now_ms: int) -> int:
    """Withdraw all there is; return how many retries that were."""
    count = 0
    while one.withdraw(now_ms):
        count += 1
    return count


def test_a_hundred_requests_are_twenty_retries_and_the_reserve() -> None:
    one = budget()
    for _ in range(100):
        one.deposit(1000)
    assert one.balance(1000) == 20 + RESERVE
    assert drained(one, 1000) == 20 + RESERVE
    assert one.balance(1000) == 0
    assert not one.withdraw(1000)


def test_the_reserve_is_there_without_any_request() -> None:
    one = budget()
    assert one.balance(0) == RESERVE
    assert drained(one, 0) == RESERVE


def test_requests_expire_after_their_time() -> None:
    one = budget()
    for _ in range(100):
        one.deposit(1000)
    assert one.balance(1000 + TTL_MS - 1) == 20 + RESERVE
    assert one.balance(1000 + TTL_MS) == RESERVE
    assert drained(one, 1000 + TTL_MS) == RESERVE


def test_what_was_withdrawn_comes_back_after_its_time() -> None:
    one = budget()
    assert drained(one, 0) == RESERVE
    assert one.balance(TTL_MS - 1) == 0
    assert one.balance(TTL_MS) == RESERVE


def test_slots_leave_the_window_one_at_a_time() -> None:
    one = budget(min_per_s=0)
    slot_ms = TTL_MS // SLOTS
    for slot in range(SLOTS):
        for _ in range(10):
            one.deposit(slot * slot_ms)
    left = [one.balance(TTL_MS - 1 + slot * slot_ms) for slot in range(SLOTS + 1)]
    assert left == [20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0]


@pytest.mark.parametrize(
    ("percent", "requests", "retries"),
    [
        (20, 4, 0), (20, 5, 1), (20, 9, 1), (20, 10, 2), (100, 7, 7), (1000, 7, 70), (0.5, 199, 0), (0.5, 200, 1),
        (0, 1000, 0),
    ],
)  # fmt: skip
def test_shares(percent: float, requests: int, retries: int) -> None:
    one = budget(percent, 0)
    for _ in range(requests):
        one.deposit(0)
    assert one.balance(0) == retries
    assert drained(one, 0) == retries


@pytest.mark.parametrize(("percent", "retries"), [(0, RESERVE), (20, RESERVE), (1000, RESERVE)])
def test_the_reserve_does_not_depend_on_the_share(percent: float, retries: int) -> None:
    assert drained(budget(percent), 0) == retries


@pytest.mark.parametrize("min_per_s", [1e-9, 0.0001, 10 / 256])
def test_a_reserve_is_never_rounded_away(min_per_s: float) -> None:
    """A worker has a share of the reserve; with many workers that may be less than one."""
    assert drained(budget(min_per_s=min_per_s), 0) == 1
    assert drained(budget(min_per_s=0), 0) == 0


def test_a_long_pause_and_a_late_beginning() -> None:
    one = budget()
    for _ in range(100):
        one.deposit(10**15)
    assert one.balance(10**15) == 20 + RESERVE
    assert one.balance(10**15 + 10**12) == RESERVE


def test_a_clock_that_went_back_moves_nothing() -> None:
    one = budget()
    for _ in range(100):
        one.deposit(1_000_000)
    assert one.balance(0) == 20 + RESERVE
    one.deposit(0)
    assert one.withdraw(0)
    assert one.balance(1_000_000) == 19 + RESERVE
    assert one.balance(1_000_000 + TTL_MS) == RESERVE


@pytest.mark.parametrize("seed", range(5))
def test_retries_of_any_window_stay_below_the_share_and_the_reserve(seed: int) -> None:
    """Every request asks to be retried, which is what an outage looks like: amplification stays bounded."""
    rng = random.Random(seed)
    one = budget(min_per_s=1)
    now_ms, requests, retries = 0, deque[int](), deque[int]()
    for _ in range(20_000):
        now_ms += rng.choice((0, 0, 1, 3, 40))
        one.deposit(now_ms)
        requests.append(now_ms)
        if one.withdraw(now_ms):
            retries.append(now_ms)
        # A window of the budget is one slot longer at most than its time.
        while requests[0] <= now_ms - TTL_MS - TTL_MS // SLOTS:
            requests.popleft()
        while retries and retries[0] <= now_ms - TTL_MS + TTL_MS // SLOTS:
            retries.popleft()
        assert len(retries) <= 0.2 * len(requests) + 10
