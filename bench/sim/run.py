"""One run: a scenario, a strategy and a seed become a trace. Nothing else has a say in it."""

import tempfile
from pathlib import Path
from random import Random

from bench.sim.clock import START_MS, Clock
from bench.sim.jobs import Job, jobs
from bench.sim.router import Router
from bench.sim.scenarios import Change, Scenario
from bench.sim.servers import Server
from bench.sim.trace import Trace
from fastroute.health.weighing import INTERVAL_S


def simulate(scenario: Scenario, strategy: str, seed: int) -> Trace:
    """Return what happens. Raises KeyError for a strategy that nobody registered."""
    with tempfile.TemporaryDirectory(prefix="fastroute-sim-") as folder:
        return _Run(scenario, strategy, seed, Path(folder)).trace


class Runs:
    """The runs of one seed, each made once."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._traces: dict[tuple[str, str], Trace] = {}

    def of(self, scenario: Scenario, strategy: str) -> Trace:
        """Return the trace of a scenario with a strategy."""
        key = (scenario.name, strategy)
        if key not in self._traces:
            self._traces[key] = simulate(scenario, strategy, self.seed)
        return self._traces[key]


class _Run:
    def __init__(self, scenario: Scenario, strategy: str, seed: int, folder: Path) -> None:
        self.trace = Trace()
        self._clock = Clock()
        # A generator for each, so that what one of them draws changes nothing for the others.
        first_byte_ms = scenario.config.routing.timeouts.first_byte_ms
        self._servers = [
            Server(spec, self._clock, Random(f"server {number} {seed}"), first_byte_ms)
            for number, spec in enumerate(scenario.fleet)
        ]
        self._routers = [
            Router(
                scenario.config,
                strategy,
                self._servers,
                self._clock,
                Random(f"router {number} {seed}"),
                self.trace,
                str(folder / f"segment{number}"),
                scenario.adaptive,
            )
            for number in range(scenario.routers)
        ]
        for change in scenario.changes:
            self._clock.after(change.at_s * 1000.0, self._change, change)
        self._clock.after(scenario.window[0] * 1000.0, self._begin_window)
        self._jobs = jobs(Random(f"jobs {seed}"), scenario.rate_per_s, scenario.seconds, scenario.routers)
        for second in range(1, int(scenario.seconds)):
            self._clock.after(second * INTERVAL_S * 1000.0, self._weigh)
        self._next_job()
        self._clock.run()
        blocks = sum(server.blocks for server in self._servers)
        if blocks:
            self.trace.hit_rate = sum(server.hits for server in self._servers) / blocks
        for router in self._routers:
            router.segment.close()

    def _next_job(self) -> None:
        job = next(self._jobs, None)
        if job is not None:
            self._clock.after(job.at_s * 1000.0 - (self._clock.now - START_MS), self._arrive, job)

    def _arrive(self, job: Job) -> None:
        self._routers[job.router].arrive(job)
        self._next_job()

    def _change(self, change: Change) -> None:
        self._servers[change.server].change(**change.condition)
        if not change.condition:
            until_ms = self._routers[0].attempts.state(change.server, self._clock.now_ms)[3]
            self.trace.probe_at_s[change.server] = max(self._clock.elapsed_s, (until_ms - START_MS) / 1000.0)

    def _weigh(self) -> None:
        for router in self._routers:
            router.weigh()

    def _begin_window(self) -> None:
        for server in self._servers:
            server.forget_hits()
