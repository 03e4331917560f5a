"""The run's tables in Markdown, and everything behind them as JSON."""

import dataclasses
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.macro.gates import Verdict
from bench.macro.peers import NAMES, System
from bench.macro.results import Results, Throughput, middle

_QUIET_LOAD: Final = 0.7


def _cell(value: float | int | str | None, digits: int = 0) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = "|".join(["---", *["---:"] * (len(head) - 1)])
    return "\n".join([f"| {' | '.join(head)} |", f"|{align}|", *(f"| {' | '.join(row)} |" for row in rows)])


def _largest(rounds: list[Throughput], values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _throughput_row(name: str, rounds: list[Throughput]) -> list[str]:
    return [
        name,
        _cell(middle(rounds, lambda r: r.cpu_us)),
        _cell(middle(rounds, lambda r: r.rate)),
        _cell(middle(rounds, lambda r: r.p50_us / 1000), 2),
        _cell(middle(rounds, lambda r: r.p90_us / 1000), 2),
        _cell(middle(rounds, lambda r: r.p99_us / 1000), 2),
        _cell(_largest(rounds, (r.worker_peak_mib for r in rounds))),
        _cell(_largest(rounds, (r.tree_peak_mib for r in rounds))),
        _cell(_largest(rounds, (r.tree_pss_mib for r in rounds))),
        _cell(sum(r.requests for r in rounds)),
        _cell(len(rounds)),
    ]


def _throughput(results: Results, kind: str, title: str) -> str:
    rows = [_throughput_row(name, rounds) for name in NAMES if (rounds := results.throughput_of(name, kind))]
    head = ["system", "CPU µs/request", "requests/s", "p50 ms", "p90 ms", "p99 ms"]
    head += ["worker peak RSS MiB", "tree peak RSS MiB", "tree PSS MiB", "requests", "rounds"]
    return f"### {title}\n\n{_table(head, rows)}" if rows else ""


def _single(results: Results) -> str:
    rows = []
    for name in NAMES:
        rounds = results.single_of(name)
        if rounds:
            measures = (
                middle(rounds, lambda r: r.direct_p50_us),
                middle(rounds, lambda r: r.p50_us),
                middle(rounds, lambda r: r.added_us),
                middle(rounds, lambda r: r.p99_us),
            )
            rows.append([name, *(_cell(measure) for measure in measures)])
    head = ["system", "upstream alone p50 µs", "p50 µs", "added p50 µs", "p99 µs"]
    return f"### Latency at one connection\n\n{_table(head, rows)}" if rows else ""


def _beside_big(results: Results) -> str:
    rows = []
    for name in ("direct", *NAMES):
        rounds = results.beside_big_of(name)
        if rounds:
            measures = (
                middle(rounds, lambda r: r.alone_p99_us / 1000),
                middle(rounds, lambda r: r.beside_p99_us / 1000),
                middle(rounds, lambda r: r.rise_us / 1000),
            )
            bodies = _cell(sum(r.big_requests for r in rounds))
            rows.append([name, *(_cell(measure, 2) for measure in measures), bodies])
    head = ["system", "p99 alone ms", "p99 beside ms", "rise ms", "10 MiB requests"]
    return f"### Chat at 8 connections beside a 10 MiB request\n\n{_table(head, rows)}" if rows else ""


def _soak(results: Results) -> str:
    rows = [
        [
            f"{s.system} worker {i}",
            *(_cell(s.requests), _cell(s.seconds), _cell(w.end_mib, 1)),
            *(_cell(w.growth_percent, 2), _cell(s.replaced)),
        ]
        for s in results.soak
        for i, w in enumerate(s.workers, 1)
    ]
    head = ["process", "requests", "seconds", "RSS at end MiB", "growth over last half %", "workers replaced"]
    return f"### Soak\n\n{_table(head, rows)}" if rows else ""


def _metering(results: Results) -> str:
    rows = [
        [
            m.system,
            *map(_cell, (m.completed, m.billed, m.billed - m.completed, m.allowed_excess)),
            "yes" if m.honest else "NO",
        ]
        for m in results.metering
    ]
    head = ["system", "completed by the load", "billed", "excess", "in flight at stops", "honest"]
    return f"### Metering\n\n{_table(head, rows)}" if rows else ""


def _remarks(results: Results) -> str:
    lines = [f"- missing: {missing.name} ({missing.reason})" for missing in results.missing]
    return "\n".join([*lines, *(f"- note: {note}" for note in results.notes)])


def _with_unit(verdict: Verdict, text: str) -> str:
    return f"{text} {verdict.unit}".strip()


def gate_table(verdicts: list[Verdict]) -> str:
    """Return the gates as a Markdown table; a gate the run did not measure says so."""
    words = {True: "pass", False: "**FAIL**", None: "not measured"}
    rows = [
        [
            v.gate,
            _with_unit(v, _cell(v.measured, 2)),
            _with_unit(v, f"{v.sense} {v.limit:g}"),
            words[v.passed],
        ]
        for v in verdicts
    ]
    return f"### Gates\n\n{_table(['gate', 'measured', 'limit', 'verdict'], rows)}"


def markdown(results: Results) -> str:
    """Return the tables of what was measured: medians over the rounds, highest memory over the rounds."""
    parts = [
        _throughput(results, "chat", "1 KB chat, 64 connections"),
        _throughput(results, "stream", "100-chunk stream, 16 connections"),
        _throughput(results, "paced", "100-chunk stream, chunks 2 ms apart, 64 connections"),
        _single(results),
        _beside_big(results),
        _soak(results),
        _metering(results),
        _remarks(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _version(system: System) -> str:
    try:
        done = subprocess.run(system.version, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return repr(error)
    return " ".join((done.stdout + done.stderr).split())[:200]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "unknown")


def surroundings(systems: list[System]) -> dict[str, Any]:
    """Return what the figures depend on besides the code: machine, kernel, load average, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "versions": {system.name: _version(system) for system in systems},
    }


def warnings(around: dict[str, Any]) -> list[str]:
    """Return what the surroundings say against the run's figures."""
    load = around["load_average"][0]
    if load < _QUIET_LOAD:
        return []
    return [f"load average {load:.1f} at the start: others use this machine, latencies mean little, ratios more"]


def as_json(
    results: Results,
    verdicts: list[Verdict],
    around: dict[str, Any],
    settings: dict[str, Any],
    void: str | None,
) -> dict[str, Any]:
    """Return the whole run: settings, machine, every round, gates; `void` says why it means nothing."""
    gates = [{**dataclasses.asdict(v), "passed": v.passed} for v in verdicts]
    return {
        "void": void,
        "settings": settings,
        "surroundings": around,
        "results": dataclasses.asdict(results),
        "gates": [] if void else gates,
    }
