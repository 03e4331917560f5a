"""Command line of the simulation: `python -m bench.sim --help`.

Exit status: 0 when every gate holds, 1 when one fails, 2 when it cannot start.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.sim import gates, plot, report
from bench.sim.run import Runs
from bench.sim.scenarios import SCENARIOS
from fastroute.balance.registry import find_strategy
from fastroute.config.fields import STRATEGIES


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sim", description="Routing on a virtual clock.")
    parser.add_argument("--seed", type=int, default=1, help="all randomness follows from it (default 1)")
    parser.add_argument("--strategy", nargs="+", metavar="NAME", default=STRATEGIES, help="default: all there are")
    parser.add_argument("--scenario", nargs="+", metavar="NAME", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--gates", metavar="LETTERS", default="abcde", help="which gates (default abcde)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write a picture; needs matplotlib")
    arguments = parser.parse_args(argv)
    if not set(arguments.gates) <= set(gates.GATES):
        parser.error("--gates takes letters from a to e")
    return arguments


def _present(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (the strategies that are registered, the names that are not)."""
    present: list[str] = []
    absent: list[str] = []
    for name in names:
        try:
            find_strategy(name)
        except KeyError:
            absent.append(name)
        else:
            present.append(name)
    return present, absent


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation; return the exit status."""
    arguments = _arguments(argv)
    strategies, absent = _present(arguments.strategy)
    for name in absent:
        print(f"- skipped: strategy {name} is not there")
    if not strategies:
        print("no strategy left", file=sys.stderr)
        return 2
    if "c" in arguments.gates and "prefix" not in strategies:
        print("- skipped: gate (c) is about the strategy prefix")
    runs = Runs(arguments.seed)
    scenarios = [SCENARIOS[name] for name in arguments.scenario]
    table = report.rows(runs, scenarios, strategies)
    verdicts = gates.judge(runs, strategies, arguments.gates)
    print(report.markdown(table, scenarios))
    print()
    print(report.gate_table(verdicts))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(arguments.seed, table, verdicts, absent), indent=1) + "\n")
    if arguments.plot is not None:
        try:
            plot.draw(runs, scenarios, strategies, arguments.plot)
        except ImportError as error:
            print(f"no picture: {error}; pip install '.[bench]'", file=sys.stderr)
            return 2
    return 1 if any(verdict.failed for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
