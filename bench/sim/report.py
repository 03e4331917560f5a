"""The run's tables in Markdown, and what is behind them as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.sim.gates import Verdict
from bench.sim.run import Runs
from bench.sim.scenarios import AFFECTED, Scenario
from fastroute._core._switch import USE_EXTENSIONS


@dataclass(frozen=True)
class Row:
    """Figures of a strategy in a scenario's window. share: of server 0. hit_rate: of prefix caches, None without."""

    scenario: str
    strategy: str
    share: float
    p50_ms: float
    p99_ms: float
    error_rate: float
    attempts_per_request: float
    usd_per_1000: float
    hit_rate: float | None


def rows(runs: Runs, scenarios: Iterable[Scenario], strategies: Sequence[str]) -> list[Row]:
    """Return a row for each scenario and strategy."""
    return [_row(runs, scenario, strategy) for scenario in scenarios for strategy in strategies]


def _row(runs: Runs, scenario: Scenario, strategy: str) -> Row:
    trace = runs.of(scenario, strategy)
    window = scenario.window
    return Row(
        scenario.name,
        strategy,
        trace.share(AFFECTED, *window),
        trace.quantile_ms(0.5, *window),
        trace.quantile_ms(0.99, *window),
        trace.error_rate(*window),
        trace.amplification(*window),
        trace.usd_per_1000(*window),
        trace.hit_rate,
    )


def markdown(table: Sequence[Row], scenarios: Iterable[Scenario]) -> str:
    """Return a table for each scenario."""
    parts = []
    for scenario in scenarios:
        mine = [row for row in table if row.scenario == scenario.name]
        cached = any(row.hit_rate is not None for row in mine)
        head = ["strategy", "share %", "P50 ms", "P99 ms", "errors %", "attempts/request", "USD/1000"]
        cells = [
            [
                row.strategy,
                f"{100 * row.share:.2f}",
                # Where nobody was answered there are no times.
                f"{row.p50_ms:.0f}" if row.error_rate < 1.0 else "-",
                f"{row.p99_ms:.0f}" if row.error_rate < 1.0 else "-",
                f"{100 * row.error_rate:.2f}",
                f"{row.attempts_per_request:.3f}",
                f"{row.usd_per_1000:.3f}" if row.error_rate < 1.0 else "-",
                *([f"{100 * (row.hit_rate or 0):.1f}"] if cached else []),
            ]
            for row in mine
        ]
        title = f"### {scenario.name}: {scenario.about}"
        parts.append(f"{title}\n\n{_table([*head, *(['cache hits %'] if cached else [])], cells)}")
    return "\n\n".join(parts)


def gate_table(verdicts: Sequence[Verdict]) -> str:
    """Return the gates as a Markdown table."""
    cells = [
        [
            f"({verdict.gate}) {verdict.what}",
            verdict.strategy,
            f"{verdict.measured:.4f}",
            f"{verdict.sense} {verdict.limit:g}",
            "**FAIL**" if verdict.failed else "pass" if verdict.passed else "not promised",
        ]
        for verdict in verdicts
    ]
    return f"### Gates\n\n{_table(['gate', 'strategy', 'measured', 'limit', 'verdict'], cells)}"


def as_json(seed: int, table: Sequence[Row], verdicts: Sequence[Verdict], absent: Sequence[str]) -> dict[str, Any]:
    """Return the whole of it."""
    return {
        "seed": seed,
        "half": "compiled" if USE_EXTENSIONS else "pure",
        "absent": list(absent),
        "rows": [asdict(row) for row in table],
        "gates": [{**asdict(verdict), "passed": verdict.passed} for verdict in verdicts],
    }


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    align = "|".join(["---", *["---:"] * (len(head) - 1)])
    return "\n".join([f"| {' | '.join(head)} |", f"|{align}|", *(f"| {' | '.join(line)} |" for line in lines)])
