"""What a run measured: one record per system, scenario and round. Times in microseconds, memory in MiB."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from bench.macro.peers import Missing

T = TypeVar("T")


@dataclass(frozen=True)
class Throughput:
    """Chat or stream under many connections. CPU is of the whole process tree, per completed request.

    `worker_peak_mib` is the highest resident memory of a worker since its start, `tree_peak_mib` the highest
    sum seen over the tree, `tree_pss_mib` the tree's memory at the end with shared pages counted once.
    """

    system: str
    kind: str
    connections: int
    requests: int
    rate: float
    cpu_us: float
    p50_us: int
    p90_us: int
    p99_us: int
    worker_peak_mib: float
    tree_peak_mib: float
    tree_pss_mib: float | None


@dataclass(frozen=True)
class Single:
    """Latency at one connection, and that of the upstream itself measured just before."""

    system: str
    direct_p50_us: int
    p50_us: int
    p90_us: int
    p99_us: int

    @property
    def added_us(self) -> int:
        """What the system adds to the median."""
        return self.p50_us - self.direct_p50_us


@dataclass(frozen=True)
class BesideBig:
    """Chat at 8 connections, alone and with a 10 MiB request always in flight."""

    system: str
    alone_p99_us: int
    beside_p99_us: int
    big_requests: int

    @property
    def rise_us(self) -> int:
        """What the big request adds to the others' p99."""
        return self.beside_p99_us - self.alone_p99_us


@dataclass(frozen=True)
class WorkerMemory:
    """A worker process over the soak: memory at its end, growth over its last half in percent."""

    pid: int
    end_mib: float
    growth_percent: float
    samples_mib: tuple[float, ...]


@dataclass(frozen=True)
class Soak:
    """Many requests in a row. `replaced` counts worker processes that ended before the soak did."""

    system: str
    requests: int
    seconds: float
    workers: tuple[WorkerMemory, ...]
    replaced: int


@dataclass(frozen=True)
class Metering:
    """Requests the load saw completed, requests billed, and how many more may be billed.

    The excess is legitimate up to the connections that had a request in flight when their load stopped.
    """

    system: str
    completed: int
    billed: int
    allowed_excess: int

    @property
    def honest(self) -> bool:
        """Say whether every completed request was billed once, and nothing that was never sent."""
        return self.completed <= self.billed <= self.completed + self.allowed_excess


@dataclass
class Results:
    """Everything a run has measured so far."""

    throughput: list[Throughput] = field(default_factory=list)
    single: list[Single] = field(default_factory=list)
    beside_big: list[BesideBig] = field(default_factory=list)
    soak: list[Soak] = field(default_factory=list)
    metering: list[Metering] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def throughput_of(self, system: str, kind: str) -> list[Throughput]:
        """Return the rounds of one system and kind."""
        return [r for r in self.throughput if r.system == system and r.kind == kind]

    def single_of(self, system: str) -> list[Single]:
        """Return the rounds of one system at one connection."""
        return [r for r in self.single if r.system == system]

    def beside_big_of(self, system: str) -> list[BesideBig]:
        """Return the rounds of one system beside big requests."""
        return [r for r in self.beside_big if r.system == system]


def middle(rounds: Iterable[T], value: Callable[[T], float]) -> float | None:
    """Return the median of `value` over the rounds, None if there are none."""
    values = [value(r) for r in rounds]
    return median(values) if values else None
