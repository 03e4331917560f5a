"""The limits fastroute holds itself to, each a ratio within the same run or a bound on its memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bench.macro.results import Results, middle


@dataclass(frozen=True)
class Verdict:
    """A gate's outcome; `measured` and `passed` are None where the run did not measure it."""

    gate: str
    measured: float | None
    limit: float
    sense: Literal["<=", ">=", "<"]
    unit: str

    @property
    def passed(self) -> bool | None:
        """Say whether the gate holds."""
        if self.measured is None:
            return None
        if self.sense == ">=":
            return self.measured >= self.limit
        return self.measured < self.limit if self.sense == "<" else self.measured <= self.limit


def _added_us(results: Results, system: str) -> float | None:
    return middle(results.single_of(system), lambda r: r.added_us)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None and below > 0 else None


def _cpu_ratio(system: str, peer: str, kind: str) -> Callable[[Results], float | None]:
    """Compare round by round, as both met the same machine; by medians if one ran fewer rounds."""

    def measure(results: Results) -> float | None:
        ours, theirs = results.throughput_of(system, kind), results.throughput_of(peer, kind)
        if len(ours) == len(theirs):
            pairs = [(a.cpu_us, b.cpu_us) for a, b in zip(ours, theirs, strict=True) if b.cpu_us > 0]
            return middle(pairs, lambda pair: pair[0] / pair[1])
        return _ratio(middle(ours, lambda r: r.cpu_us), middle(theirs, lambda r: r.cpu_us))

    return measure


def _added_ratio(system: str) -> Callable[[Results], float | None]:
    return lambda results: _ratio(_added_us(results, system), _added_us(results, "nginx"))


def _big_rise_ms(results: Results) -> float | None:
    rise = middle(results.beside_big_of("fastroute"), lambda r: r.rise_us)
    return None if rise is None else rise / 1000


def _soak_rss_mib(results: Results) -> float | None:
    return max((w.end_mib for s in results.soak if s.system == "fastroute" for w in s.workers), default=None)


def _soak_growth(results: Results) -> float | None:
    """Return the worst worker's growth; a worker that was replaced has no flat line to show."""
    soaks = [s for s in results.soak if s.system == "fastroute"]
    if any(s.replaced for s in soaks):
        return float("inf")
    return max((w.growth_percent for s in soaks for w in s.workers), default=None)


def _dishonest(results: Results) -> float | None:
    return sum(not m.honest for m in results.metering) if results.metering else None


_Sense = Literal["<=", ">=", "<"]
# Granian's lane is not held to Envoy's CPU per chat: docs/lanes.md says why it cannot be.
_GATES: Final[tuple[tuple[str, Callable[[Results], float | None], float, _Sense, str], ...]] = (
    ("CPU per 1 KB chat / Envoy", _cpu_ratio("fastroute", "envoy", "chat"), 1.0, "<=", "x"),
    ("CPU per 1 KB chat / nginx", _cpu_ratio("fastroute", "nginx", "chat"), 4.0, "<=", "x"),
    ("LiteLLM's CPU per 1 KB chat / fastroute", _cpu_ratio("litellm", "fastroute", "chat"), 80.0, ">=", "x"),
    ("CPU per 100-chunk stream / Envoy", _cpu_ratio("fastroute", "envoy", "stream"), 1.25, "<=", "x"),
    ("CPU per 100-chunk stream, Granian / Envoy", _cpu_ratio("fastroute-granian", "envoy", "stream"), 1.25, "<=", "x"),
    (
        "CPU per stream, TLS upstream / nginx",
        _cpu_ratio("fastroute-tls", "nginx-tls", "stream"),
        1.2,
        "<=",
        "x",
    ),
    ("p50 added at 1 connection / nginx", _added_ratio("fastroute"), 2.0, "<=", "x"),
    ("p50 added at 1 connection, Granian / nginx", _added_ratio("fastroute-granian"), 2.0, "<=", "x"),
    ("RSS per worker after the soak", _soak_rss_mib, 90.0, "<", "MiB"),
    ("RSS growth over the soak's last half", _soak_growth, 2.0, "<=", "%"),
    (
        "CPU per 1 KB chat, pure half / compiled",
        _cpu_ratio("fastroute-pure", "fastroute", "chat"),
        3.0,
        "<=",
        "x",
    ),
    ("p99 rise of others, 10 MiB body in flight", _big_rise_ms, 20.0, "<", "ms"),
    ("runs whose bill does not match the load", _dishonest, 0.0, "<=", ""),
)


def judge(results: Results) -> list[Verdict]:
    """Return every gate's verdict, those not measured included."""
    return [Verdict(name, measure(results), limit, sense, unit) for name, measure, limit, sense, unit in _GATES]
