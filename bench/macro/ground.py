"""The ground every system stands on: scratch folder, free ports, certificate, two cores, mock upstream."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.macro import nginx
from bench.macro.children import Child, Children
from bench.macro.faults import CannotRun, RunVoid

_TOOLS: Final = ("nginx", "wrk", "openssl", "taskset")
_PORT_TRIES: Final = 100


@dataclass
class Ground:
    """Where a run takes place. `port` and `tls_port` are the mock upstream's."""

    folder: Path
    children: Children
    gateway_core: int
    load_core: int
    given_ports: set[int] = field(default_factory=set)
    port: int = 0
    tls_port: int = 0

    @property
    def certificate(self) -> Path:
        """The upstream's self-signed certificate, for 127.0.0.1 and localhost."""
        return self.folder / "upstream.crt"

    def free_port(self) -> int:
        """Return a port nothing listens on and that was not given out before."""
        for _ in range(_PORT_TRIES):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in self.given_ports:
                self.given_ports.add(port)
                return port
        raise CannotRun("no free port found")


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotRun("two cores are needed: one for the gateway, one for load and upstream")
    return cores[0], cores[1]


def _require_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        packages = "nginx-light libnginx-mod-http-lua wrk openssl util-linux"
        raise CannotRun(f"not installed: {', '.join(missing)} (Debian packages: {packages})")


def _make_certificate(ground: Ground, key: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(ground.certificate)]
    made = subprocess.run([*command, *names, *files], capture_output=True, text=True, timeout=60)
    if made.returncode:
        raise CannotRun(f"openssl made no certificate: {made.stderr[-500:]}")


def wait_for_port(child: Child, port: int, timeout_s: float) -> None:
    """Return once `port` accepts; RunVoid if the child ends or the time is over before that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if child.ended():
            raise RunVoid(f"{child.name} ended at start ({child.process.returncode}):\n{child.log_tail()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RunVoid(f"{child.name} does not listen after {timeout_s:.0f} s:\n{child.log_tail()}")


def _start_upstream(ground: Ground) -> None:
    key = ground.folder / "upstream.key"
    _make_certificate(ground, key)
    ground.port, ground.tls_port = ground.free_port(), ground.free_port()
    config = ground.folder / "upstream.conf"
    ports = (ground.port, ground.tls_port)
    config.write_text(nginx.upstream_config(ground.folder, *ports, ground.certificate, key))
    child = ground.children.spawn("upstream", ["nginx", "-c", str(config)], core=ground.load_core)
    wait_for_port(child, ground.port, 30)


@contextmanager
def prepared(*, keep_logs: bool) -> Iterator[Ground]:
    """Yield the ground with the upstream running; on every way out end all children and remove the folder.

    The rig itself moves to the load core, so that its sampling costs the gateway nothing.
    Raises CannotRun when tools or cores are missing.
    """
    _require_tools()
    gateway_core, load_core = _two_cores()
    cores_before = os.sched_getaffinity(0)
    folder = Path(tempfile.mkdtemp(prefix="fastroute-bench-"))
    ground = Ground(folder, Children(folder), gateway_core, load_core)
    try:
        os.sched_setaffinity(0, {load_core})
        _start_upstream(ground)
        yield ground
    finally:
        ground.children.stop_all()
        os.sched_setaffinity(0, cores_before)
        if keep_logs:
            print(f"logs and configurations kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
