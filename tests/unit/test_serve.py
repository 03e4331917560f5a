"""Which signals count, by a clock that the test sets."""

import signal

from fastroute.clock import Clock
from fastroute.serve import SAME_ORDER_S, Orders

SAME_ORDER_NS = int(SAME_ORDER_S * 1e9)


class Stopped:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def clock(self) -> Clock:
        return Clock(lambda: self.now_ns, lambda: 0)


def test_signals_are_taken_once() -> None:
    orders = Orders(Stopped().clock())
    assert not orders
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
        orders.note(number)
    assert orders
    assert orders.take() == {signal.SIGHUP, signal.SIGTERM}
    assert not orders
    assert orders.take() == set()


def test_what_comes_with_the_order_to_end_is_no_second_one() -> None:
    time = Stopped()
    orders = Orders(time.clock())
    orders.note(signal.SIGTERM)
    assert orders.take() == {signal.SIGTERM}
    orders.begin_drain()
    for _ in range(2):
        orders.note(signal.SIGTERM)
        time.now_ns += SAME_ORDER_NS // 2 - 1
    orders.note(signal.SIGINT)
    # Looked at late, it has come early all the same.
    time.now_ns += SAME_ORDER_NS
    assert orders.take() == set()
    orders.note(signal.SIGTERM)
    assert orders.take() == {signal.SIGTERM}


def test_a_second_order_counts_from_the_first_moment_on() -> None:
    time = Stopped()
    orders = Orders(time.clock())
    orders.begin_drain()
    time.now_ns += SAME_ORDER_NS
    orders.note(signal.SIGINT)
    assert orders.take() == {signal.SIGINT}
