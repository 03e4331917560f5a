"""What happens to a fleet, and when. Times are seconds since the start."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.sim.servers import Spec
from fastroute._core.adaptive import Setting
from fastroute.config.schema import Config

AFFECTED: Final = 0

#: What is in force where a configuration says nothing.
DEFAULTS: Final = Config()
_CHEAP: Final = (800_000, 80_000, 3_200_000)


def _fleet(count: int, **what: Any) -> tuple[Spec, ...]:
    """Return alike servers, the first half of which are cheaper by a fifth: where cost leads, it leads to trouble."""
    return tuple(
        replace(Spec(**what), prices=_CHEAP) if number < (count + 1) // 2 else Spec(**what) for number in range(count)
    )


@dataclass(frozen=True)
class Change:
    """At a time, a server gets into a condition; none given: it is well again."""

    at_s: float
    server: int
    condition: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """window: the times that the figures are about. Server 0 is the one that things happen to. adaptive: how limits of
    servers are learnt; None for not at all.
    """

    name: str
    about: str
    fleet: tuple[Spec, ...]
    window: tuple[float, float]
    changes: tuple[Change, ...] = ()
    rate_per_s: float = 100.0
    seconds: float = 40.0
    routers: int = 1
    config: Config = DEFAULTS
    adaptive: Setting | None = None


_EIGHT: Final = _fleet(8)
_CACHED: Final = _fleet(8, cache_blocks=3000, prefill_ms=0.2)
_TWO: Final = _fleet(2, slots=256)
_PRIMARY_AND_STANDBY: Final = (_TWO[0], replace(_TWO[1], rank=1))

STEADY: Final = Scenario("steady", "all is well", _EIGHT, (5, 40))
SEVEN: Final = Scenario("seven", "all is well, with one server less", _fleet(7), (10, 40))
STEP: Final = Scenario("step", "10x slower from 5 s on", _EIGHT, (10, 40), (Change(5, AFFECTED, {"slow": 10.0}),))
DRIFT: Final = Scenario(
    "drift",
    "ever slower from 5 s on, 10x at 35 s",
    _EIGHT,
    (25, 40),
    tuple(Change(5 + i, AFFECTED, {"slow": 10.0 ** ((i + 1) / 30)}) for i in range(30)),
)
GREY: Final = Scenario(
    "grey",
    "10 % errors and 3x slower from 5 s on",
    _EIGHT,
    (10, 40),
    (Change(5, AFFECTED, {"slow": 3.0, "error_share": 0.1}),),
)
FLAPPING: Final = Scenario(
    "flapping",
    "down for 3 s of every 6 s",
    _EIGHT,
    (5, 40),
    tuple(Change(5 + 3 * i, AFFECTED, {"error_share": 1.0 - i % 2, "status": 503}) for i in range(12)),
)
LIMITED: Final = Scenario(
    "limited",
    "takes 5 requests/s, then 429 with Retry-After: 2",
    _EIGHT,
    (5, 40),
    (Change(0, AFFECTED, {"limit_per_s": 5.0, "retry_after_s": 2}),),
)
CROWDED: Final = Scenario(
    "crowded",
    "takes 4 at a time, then 429 with Retry-After: 1; nothing is learnt",
    _EIGHT,
    (5, 40),
    (Change(0, AFFECTED, {"takes": 4, "retry_after_s": 1}),),
)
CROWDED_LEARNT: Final = replace(
    CROWDED, name="crowded-learnt", about="the same, and what it takes is learnt", adaptive=Setting()
)
INSTANT_500: Final = Scenario(
    "instant-500",
    "500 at once from 5 s on",
    _EIGHT,
    (6, 40),
    (Change(5, AFFECTED, {"error_share": 1.0, "error_ms": 1.0}),),
)
OUTAGE: Final = Scenario(
    "outage",
    "all servers answer 503 from 5 s on",
    _EIGHT,
    (5, 35),
    tuple(Change(5, server, {"error_share": 1.0, "status": 503, "error_ms": 20.0}) for server in range(8)),
)
MAJORITY_DOWN: Final = replace(
    OUTAGE, name="majority-down", about="the same with five of the eight", changes=OUTAGE.changes[:5]
)
OUTAGE_OF_THREE: Final = replace(
    OUTAGE, name="outage-of-three", fleet=_fleet(3), changes=OUTAGE.changes[:3], about="the same with 3 servers"
)
RECOVERY: Final = Scenario(
    "recovery",
    "one of two is down from 10 to 30 s",
    _TWO,
    (95, 135),
    (Change(10, AFFECTED, {"error_share": 1.0}), Change(30, AFFECTED)),
    rate_per_s=150.0,
    seconds=135.0,
)
FAILBACK: Final = replace(
    RECOVERY,
    name="failback",
    about="the same with the other in a second tier",
    fleet=_PRIMARY_AND_STANDBY,
    rate_per_s=20.0,
)
ONE_ROUTER: Final = Scenario(
    "one-router", "all is well, with prefix caches", _CACHED, (20, 60), rate_per_s=40.0, seconds=60.0
)
TWO_ROUTERS: Final = replace(
    ONE_ROUTER, name="two-routers", about="the same through two routers that know nothing of each other", routers=2
)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        STEADY,
        SEVEN,
        STEP,
        DRIFT,
        GREY,
        FLAPPING,
        LIMITED,
        CROWDED,
        CROWDED_LEARNT,
        INSTANT_500,
        OUTAGE,
        OUTAGE_OF_THREE,
        MAJORITY_DOWN,
        RECOVERY,
        FAILBACK,
        ONE_ROUTER,
        TWO_ROUTERS,
    )
}
