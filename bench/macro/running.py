"""One system while it runs: started, checked, loaded, watched, stopped, its bill compared with the load."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from bench.macro import load, procstat
from bench.macro.children import Child
from bench.macro.faults import RunVoid
from bench.macro.ground import Ground, wait_for_port
from bench.macro.load import LoadResult, Shot
from bench.macro.payloads import Kind
from bench.macro.peers import System
from bench.macro.results import Metering, Results

_START_TIMEOUT_S: Final = 120
_SETTLE_TIMEOUT_S: Final = 15.0
_SETTLE_STEP_S: Final = 0.2
_IDLE_SHARE: Final = 0.05
_METER_TIMEOUT_S: Final = 300


@dataclass
class Running:
    """A started system. `completed` and `cut_off` count for the comparison with its bill."""

    ground: Ground
    system: System
    child: Child
    completed: int = 0
    cut_off: int = 0
    worker_peaks: dict[int, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the system listens."""
        return f"http://127.0.0.1:{self.system.port}"

    def tree(self) -> procstat.Tree:
        """Return the system's processes; RunVoid if it is gone."""
        if self.child.ended():
            raise RunVoid(f"{self.system.name} ended during the run:\n{self.child.log_tail()}")
        return procstat.tree(self.child.pid)

    def shoot(self, shot: Shot, *, tick: Callable[[], None] | None = None, every_s: float = 0.5) -> LoadResult:
        """Load the system with wrk and keep count; RunVoid on a failed request."""
        try:
            result = load.run_wrk(self.ground.folder, shot, self.system.name, tick=tick, every_s=every_s)
        except RunVoid as fault:
            raise RunVoid(f"{fault}\nlast output of {self.system.name}:\n{self.child.log_tail()}") from fault
        self.completed += result.requests
        self.cut_off += shot.connections
        return result

    def shot(self, kind: Kind, connections: int, seconds: int) -> Shot:
        """Describe a load on this system."""
        return Shot(kind, connections, seconds, self.url)

    def settle(self) -> None:
        """Wait, at most 15 s, until requests that the load left behind no longer use the CPU."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        spent = procstat.cpu_s(self.tree())
        while time.monotonic() < deadline:
            time.sleep(_SETTLE_STEP_S)
            now = procstat.cpu_s(self.tree())
            if now - spent <= _IDLE_SHARE * _SETTLE_STEP_S:
                return
            spent = now


def _wait_until_ready(child: Child, system: System) -> None:
    wait_for_port(child, system.port, _START_TIMEOUT_S)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while system.ready_path is not None:
        status = load.get_status(system.port, system.ready_path)
        if status == 200:
            return
        if child.ended() or time.monotonic() > deadline:
            raise RunVoid(f"{system.name}: {system.ready_path} answers {status}:\n{child.log_tail()}")
        time.sleep(0.1)


def _check_and_warm(running: Running) -> None:
    kinds: tuple[Kind, ...] = ("chat", "stream")
    for kind in kinds:
        load.check_once(running.system.port, kind, running.system.name)
        running.completed += 1
        running.shoot(running.shot(kind, 8, 3 if running.system.slow else 1))
    running.settle()


def _billed(system: System, command: tuple[str, ...]) -> int:
    env = {**os.environ, **system.env}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_METER_TIMEOUT_S, env=env)
    except subprocess.TimeoutExpired as error:
        raise RunVoid(f"{' '.join(command)}: no answer in {_METER_TIMEOUT_S} s") from error
    try:
        return sum(int(row["requests"]) for row in json.loads(done.stdout)["rows"])
    except (ValueError, LookupError, TypeError) as error:
        output = (done.stdout + done.stderr)[-1000:]
        raise RunVoid(f"{' '.join(command)}: exit {done.returncode}, {error!r}:\n{output}") from error


@contextmanager
def started(ground: Ground, system: System, results: Results) -> Iterator[Running]:
    """Start a system, check and warm it, yield it, stop it; record its bill if it keeps one."""
    child = ground.children.spawn(system.name, system.command, core=ground.gateway_core, env=system.env)
    try:
        _wait_until_ready(child, system)
        running = Running(ground, system, child)
        _check_and_warm(running)
        yield running
    finally:
        left = ground.children.stop(child)
        if left:
            results.notes.append(f"{system.name} left {len(left)} process(es) behind at its stop")
    if system.meter is not None:
        # The state folder outlives the rounds, and so does the bill in it.
        earlier = sum(metering.billed for metering in results.metering if metering.system == system.name)
        billed = _billed(system, system.meter) - earlier
        results.metering.append(Metering(system.name, running.completed, billed, running.cut_off))
