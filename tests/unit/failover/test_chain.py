"""Failover chains of the configuration as steps."""

from fastroute.config.schema import Fallback
from fastroute.failover.chain import steps
from fastroute.interfaces import Step


def test_no_chain_is_no_steps() -> None:
    assert steps(()) == ()


def test_the_three_kinds_of_step_in_their_order() -> None:
    chain = (
        Fallback(provider="a"),
        Fallback(pool=("b", "c"), strategy="least_latency"),
        Fallback(model="other"),
        Fallback(provider="a", model="other", strategy="random"),
        Fallback(),
    )
    assert steps(chain) == (
        Step(("a",), None, None),
        Step(("b", "c"), "least_latency", None),
        Step((), None, "other"),
        Step(("a",), "random", "other"),
        Step((), None, None),
    )


def test_steps_of_any_iterable() -> None:
    assert steps(Fallback(provider=name) for name in "ab") == (Step(("a",), None, None), Step(("b",), None, None))
