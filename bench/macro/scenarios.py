"""What is done to a running system and what is recorded of it."""

import time
from collections.abc import Callable
from typing import Final

from bench.macro import load, procstat
from bench.macro.faults import RunVoid
from bench.macro.ground import Ground
from bench.macro.load import Shot
from bench.macro.payloads import Kind
from bench.macro.results import BesideBig, Results, Single, Soak, Throughput, WorkerMemory
from bench.macro.running import Running

CHAT_CONNECTIONS: Final = 64
STREAM_CONNECTIONS: Final = 16
PACED_CONNECTIONS: Final = 64
BESIDE_BIG_CONNECTIONS: Final = 8
SLOW_SECONDS: Final = 10

_SOAK_SLICE_S: Final = 20
_SOAK_FIRST_SLICE_S: Final = 4
_SOAK_SAMPLE_S: Final = 2.0
_SOAK_TIMEOUT_S: Final = 3600.0
_SOAK_LEAST_SAMPLES: Final = 4


def _throughput(running: Running, kind: Kind, connections: int, seconds: int) -> Throughput:
    peak = procstat.rss_mib(running.tree())

    def sample() -> None:
        nonlocal peak
        peak = max(peak, procstat.rss_mib(running.tree()))

    before = running.tree()
    result = running.shoot(running.shot(kind, connections, seconds), tick=sample)
    after = running.tree()
    memory = procstat.memory(after)
    worker_peak = max(map(procstat.peak_rss_mib, procstat.busy(before, after)), default=0.0)
    running.settle()
    return Throughput(
        system=running.system.name,
        kind=kind,
        connections=connections,
        requests=result.requests,
        rate=result.rate,
        cpu_us=(procstat.cpu_s(after) - procstat.cpu_s(before)) / result.requests * 1e6,
        p50_us=result.p50_us,
        p90_us=result.p90_us,
        p99_us=result.p99_us,
        worker_peak_mib=worker_peak,
        tree_peak_mib=max(peak, memory.rss_mib, worker_peak),
        tree_pss_mib=memory.pss_mib,
    )


def chat(running: Running, results: Results, seconds: int) -> None:
    """1 KB requests at 64 connections."""
    results.throughput.append(_throughput(running, "chat", CHAT_CONNECTIONS, seconds))


def stream(running: Running, results: Results, seconds: int) -> None:
    """100-chunk streams at 16 connections."""
    results.throughput.append(_throughput(running, "stream", STREAM_CONNECTIONS, seconds))


def paced(running: Running, results: Results, seconds: int) -> None:
    """100-chunk streams whose chunks come 2 ms apart, at 64 connections: none can be relayed with the next.

    In `stream` chunks come as fast as the upstream can write, and how many a gateway finds at one read is up
    to the scheduler: that halves or doubles its figures from round to round.
    """
    results.throughput.append(_throughput(running, "paced", PACED_CONNECTIONS, seconds))


def _direct(ground: Ground, tls: bool, connections: int, seconds: int) -> load.LoadResult:
    url = f"https://127.0.0.1:{ground.tls_port}" if tls else f"http://127.0.0.1:{ground.port}"
    return load.run_wrk(ground.folder, Shot("chat", connections, seconds, url), "direct to upstream")


def one(running: Running, results: Results, seconds: int) -> None:
    """One connection: the upstream by itself, then through the system, back to back."""
    direct = _direct(running.ground, running.system.tls, 1, seconds)
    through = running.shoot(running.shot("chat", 1, seconds))
    results.single.append(Single(running.system.name, direct.p50_us, through.p50_us, through.p90_us, through.p99_us))
    running.settle()


def big(running: Running, results: Results, seconds: int) -> None:
    """Chat at 8 connections without and with a 10 MiB request in flight; not for slow systems."""
    if running.system.slow:
        return
    shot = running.shot("chat", BESIDE_BIG_CONNECTIONS, seconds)
    alone = running.shoot(shot)
    who = running.system.name
    with load.big_bodies_in_flight(running.system.port, running.ground.load_core, who) as tally:
        beside = running.shoot(shot)
    running.completed += tally.completed
    results.beside_big.append(BesideBig(who, alone.p99_us, beside.p99_us, tally.completed))
    running.settle()


def big_direct(ground: Ground, results: Results, seconds: int) -> None:
    """Measure `big` without any gateway: the rig's own share of every rise."""
    alone = _direct(ground, False, BESIDE_BIG_CONNECTIONS, seconds)
    with load.big_bodies_in_flight(ground.port, ground.load_core, "direct to upstream") as tally:
        beside = _direct(ground, False, BESIDE_BIG_CONNECTIONS, seconds)
    results.beside_big.append(BesideBig("direct", alone.p99_us, beside.p99_us, tally.completed))


def growth_percent(samples: list[float]) -> float:
    """Return by how many percent the last samples exceed those at half time (medians of a tenth each)."""
    half, few = len(samples) // 2, max(1, len(samples) // 20)
    middle = sorted(samples[max(0, half - few) : half + few])
    end = sorted(samples[-2 * few :])
    at_half, at_end = middle[len(middle) // 2], end[len(end) // 2]
    return (at_end - at_half) / at_half * 100


def soak(running: Running, results: Results, requests: int) -> None:
    """Send `requests` chats at 64 connections and follow each worker's memory; RunVoid after an hour."""
    seen: dict[int, list[float]] = {}
    begin, done, rate, before = time.monotonic(), 0, 0.0, running.tree()

    def sample() -> None:
        processes = running.tree()
        for pid in procstat.busy(before, processes):
            seen.setdefault(pid, []).append(processes[pid].rss_bytes / 1024 / 1024)

    while done < requests:
        if time.monotonic() - begin > _SOAK_TIMEOUT_S:
            raise RunVoid(f"{running.system.name}: {done} of {requests} soak requests after an hour")
        wanted_s = int((requests - done) / rate) + 1 if rate else _SOAK_FIRST_SLICE_S
        shot = running.shot("chat", CHAT_CONNECTIONS, min(_SOAK_SLICE_S, wanted_s))
        result = running.shoot(shot, tick=sample, every_s=_SOAK_SAMPLE_S)
        done, rate = done + result.requests, result.rate
    sample()
    after = running.tree()
    alive = procstat.busy(before, after)
    workers = tuple(_worker_memory(pid, seen[pid]) for pid in alive if pid in seen)
    results.soak.append(
        Soak(running.system.name, done, time.monotonic() - begin, workers, len(seen.keys() - after.keys()))
    )


def _worker_memory(pid: int, samples: list[float]) -> WorkerMemory:
    growth = growth_percent(samples) if len(samples) >= _SOAK_LEAST_SAMPLES else 0.0
    return WorkerMemory(pid, samples[-1], growth, tuple(round(mib, 2) for mib in samples))


Scenario = Callable[[Running, Results, int], None]
# `soak` is not among them: it runs once, after the rounds, and only on request.
SCENARIOS: Final[dict[str, Scenario]] = {
    "chat": chat,
    "stream": stream,
    "paced": paced,
    "one": one,
    "big": big,
}
