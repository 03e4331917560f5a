"""The five promises that routing is held to, each a comparison within one seed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from bench.sim.run import Runs
from bench.sim.scenarios import (
    AFFECTED,
    FAILBACK,
    INSTANT_500,
    ONE_ROUTER,
    OUTAGE,
    OUTAGE_OF_THREE,
    RECOVERY,
    SEVEN,
    STEP,
    TWO_ROUTERS,
    Scenario,
)
from bench.sim.trace import Trace

#: Half-open probes go one after the other, each as long as an answer: time enough for all that close a breaker.
PROBING_S: Final = 5.0
#: How long a share is looked at after it has been absorbed again.
ABSORBED_S: Final = 40.0
#: How long, and from when on, a share is looked at for comparison.
UNDISTURBED_S: Final = (5.0, 60.0)

#: Who promises to keep away from an endpoint for being slow. The others do not look at it, or (least_latency) give
#: whoever they know little of a small share in any case, which decides P99.
_AVOIDS_SLOW: Final = frozenset({"p2c", "least_latency"})
_AVOIDS_SLOW_AT_P99: Final = frozenset({"p2c"})
#: Whose share comes back more slowly than the weight: what an endpoint is worth has to be learnt anew (adaptive), and
#: conversations stay where their cache is until they end (prefix).
_COMES_BACK_LATE: Final = frozenset({"adaptive", "prefix"})


@dataclass(frozen=True)
class Verdict:
    """What a strategy did. promised: whether it is held to that."""

    gate: str
    what: str
    strategy: str
    measured: float
    limit: float
    sense: Literal["<", "<=", ">="]
    promised: bool = True

    @property
    def passed(self) -> bool:
        """Say whether the measured value is within the limit."""
        if self.sense == ">=":
            return self.measured >= self.limit
        return self.measured < self.limit if self.sense == "<" else self.measured <= self.limit

    @property
    def failed(self) -> bool:
        """Say whether a promise was broken."""
        return self.promised and not self.passed


def _slow(runs: Runs, strategy: str) -> Iterator[Verdict]:
    trace, seven = runs.of(STEP, strategy), runs.of(SEVEN, strategy)
    share = trace.share(AFFECTED, *STEP.window)
    yield Verdict("a", "share of the slow one of 8", strategy, share, 0.02, "<", strategy in _AVOIDS_SLOW)
    ratio = trace.quantile_ms(0.99, *STEP.window) / seven.quantile_ms(0.99, *STEP.window)
    yield Verdict("a", "P99 / that of 7 healthy", strategy, ratio, 1.2, "<=", strategy in _AVOIDS_SLOW_AT_P99)


def _instant_500(runs: Runs, strategy: str) -> Iterator[Verdict]:
    share = runs.of(INSTANT_500, strategy).share(AFFECTED, *INSTANT_500.window)
    yield Verdict("b", "share of the one that fails at once", strategy, share, 0.01, "<")


def _two_routers(runs: Runs, strategy: str) -> Iterator[Verdict]:
    if strategy == "prefix":
        lost = 100.0 * (_hit_rate(runs.of(ONE_ROUTER, strategy)) - _hit_rate(runs.of(TWO_ROUTERS, strategy)))
        yield Verdict("c", "points of hit rate lost to a 2nd router", strategy, lost, 3.0, "<=")


def _recovery(runs: Runs, strategy: str) -> Iterator[Verdict]:
    for scenario, what in ((RECOVERY, "among peers"), (FAILBACK, "before a standby")):
        share = _absorbed(runs, scenario, strategy)
        promised = strategy not in _COMES_BACK_LATE
        yield Verdict("d", f"share after recovery / undisturbed, {what}", strategy, share, 0.95, ">=", promised)


def _outage(runs: Runs, strategy: str) -> Iterator[Verdict]:
    for scenario, what in ((OUTAGE, "8 down"), (OUTAGE_OF_THREE, "3 down")):
        amplification = runs.of(scenario, strategy).amplification(*scenario.window)
        yield Verdict("e", f"attempts / requests, all {what}", strategy, amplification, 1.2, "<=")


GATES: Final[dict[str, Callable[[Runs, str], Iterator[Verdict]]]] = {
    "a": _slow,
    "b": _instant_500,
    "c": _two_routers,
    "d": _recovery,
    "e": _outage,
}


def judge(runs: Runs, strategies: list[str], gates: str = "abcde") -> list[Verdict]:
    """Return what the strategies did at the gates."""
    return [verdict for gate in gates for strategy in strategies for verdict in GATES[gate](runs, strategy)]


def _absorbed(runs: Runs, scenario: Scenario, strategy: str) -> float:
    """Return the share of the one that failed, after its probe and slow start, over that where nothing fails."""
    trace = runs.of(scenario, strategy)
    calm = replace(scenario, name=f"{scenario.name}, undisturbed", changes=(), seconds=UNDISTURBED_S[1])
    from_s = trace.probe_at_s[AFFECTED] + PROBING_S + scenario.config.routing.breaker.slow_start_ms / 1000.0
    to_s = min(from_s + ABSORBED_S, scenario.seconds)
    usual = runs.of(calm, strategy).share(AFFECTED, *UNDISTURBED_S)
    return trace.share(AFFECTED, from_s, to_s) / usual if usual else 1.0


def _hit_rate(trace: Trace) -> float:
    assert trace.hit_rate is not None  # every server of the scenario has a cache
    return trace.hit_rate
