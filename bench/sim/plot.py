"""A picture of the runs: the share of server 0 over time, a panel for each scenario and a line for each strategy."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.sim.run import Runs
from bench.sim.scenarios import AFFECTED, Scenario

_STEPS: Final = 40
_COLUMNS: Final = 3


def draw(runs: Runs, scenarios: Sequence[Scenario], strategies: Sequence[str], path: Path) -> None:
    """Write a PNG. Raises ImportError without matplotlib, OSError if the file cannot be written."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    figures = importlib.import_module("matplotlib.figure")
    lines = -(-len(scenarios) // _COLUMNS)
    figure = figures.Figure(figsize=(5.0 * _COLUMNS, 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).flatten()
    for panel in panels[len(scenarios) :]:
        panel.set_visible(False)
    for panel, scenario in zip(panels, scenarios, strict=False):
        step_s = scenario.seconds / _STEPS
        times = [(step + 0.5) * step_s for step in range(_STEPS)]
        for number, strategy in enumerate(strategies):
            shares = runs.of(scenario, strategy).shares_over_time(AFFECTED, step_s, scenario.seconds)
            panel.plot(times[: len(shares)], [100.0 * share for share in shares], color=f"C{number}", label=strategy)
        panel.axvspan(*scenario.window, color="0.93", zorder=0)
        panel.set_title(f"{scenario.name}: {scenario.about}", fontsize=8)
        panel.set_xlabel("seconds", fontsize=8)
        panel.set_ylabel("share of server 0, %", fontsize=8)
        panel.set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)
