"""A gateway with many virtual keys beside one with few: memory, start, and how soon a revoked key stops working.

Run from the repository root: `python -m bench.keys`. Linux. Exit status: 0 the figures hold, 1 one does not.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.macro import procstat
from fastroute.admin.keys import KeyDesk, KeyRequest
from fastroute.config.load import load_file
from fastroute.config.schema import Limits

MAX_MEMORY_MIB = 100.0
MAX_START_S = 3.0
MAX_REVOKED_S = 1.0
ADMIN_KEY = "admin-key-of-the-bench"
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


class Figures(NamedTuple):
    """Of one gateway. made_s: to make all keys. Memory: PSS of all processes. Times: of the slowest worker."""

    keys: int
    made_s: float
    ready_s: float
    memory_mib: float
    revoked_s: list[float]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_config(folder: Path, workers: int) -> Path:
    config = {
        "server": {"port": free_port(), "workers": workers, "state_dir": str(folder / "state")},
        "providers": [{"id": "echo", "type": "echo", "models": ["m"]}],
    }
    config["server"]["admin"] = {"port": free_port(), "key": ADMIN_KEY}  # type: ignore[index]
    path = folder / "fastroute.json"
    path.write_text(json.dumps(config))
    return path


def make_keys(path: Path, count: int) -> tuple[list[str], float]:
    """Make keys of 100 tenants with limits; return some of their secrets, and how long that took."""
    desk = KeyDesk(load_file(str(path), os.environ), time.time_ns)
    begun = time.monotonic()
    limits = Limits(rpm=100_000, tpm=10_000_000)
    made = desk.create([KeyRequest(id=f"key-{n}", tenant=f"tenant-{n % 100}", limits=limits) for n in range(count)])
    desk.publish(wait=True)
    took = time.monotonic() - begun
    desk.close()
    return [one["key"] for one in made], took


def ask(port: int, secret: str) -> tuple[int, str]:
    """Return the status of a request and the worker that answered it."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as link:
        fields = {"content-type": "application/json", "authorization": f"Bearer {secret}"}
        link.request("POST", "/v1/chat/completions", BODY, fields)
        answer = link.getresponse()
        answer.read()
        return answer.status, (answer.getheader("x-request-id") or "").rpartition("-")[0]


@contextmanager
def serving(path: Path) -> Iterator[tuple[int, float]]:
    """Run a gateway; give its process id and how long it took until it was ready."""
    port = json.loads(path.read_text())["server"]["port"]
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastroute", "serve", "-c", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as link:
                    link.request("GET", "/readyz")
                    if link.getresponse().status == 200:
                        break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() - begun > 120:
                raise SystemExit("the gateway did not start")
            time.sleep(0.01)
        yield process.pid, time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def revoke(path: Path, key_id: str) -> None:
    port = json.loads(path.read_text())["server"]["admin"]["port"]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as link:
        link.request("DELETE", f"/admin/v1/keys/{key_id}", headers={"authorization": f"Bearer {ADMIN_KEY}"})
        answer = link.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{key_id} could not be revoked: {answer.status}")


def revoked_s(path: Path, port: int, workers: int, key_id: str, secret: str) -> float:
    """Revoke a key; return how long after the answer a worker let it in for the last time."""
    names: set[str] = set()
    while len(names) < workers:
        status, worker = ask(port, secret)
        if status != 200:
            raise SystemExit(f"{key_id} was refused before it was revoked")
        names.add(worker)
    revoke(path, key_id)
    begun = time.monotonic()
    last, refused = 0.0, set[str]()
    while refused != names:
        status, worker = ask(port, secret)
        if status == 401:
            refused.add(worker)
        else:
            last = time.monotonic() - begun
    return last


def measure(count: int, workers: int, rounds: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="fastroute-bench-") as folder:
        path = write_config(Path(folder), workers)
        port = json.loads(path.read_text())["server"]["port"]
        secrets, made_s = make_keys(path, count)
        with serving(path) as (pid, ready_s):
            # Every worker has served callers, as many of them as it keeps ready at most.
            for secret in secrets[:: max(1, count // 5000)]:
                ask(port, secret)
            pss = procstat.memory(procstat.tree(pid)).pss_mib
            if pss is None:
                raise SystemExit("this kernel does not tell the memory of a process")
            times = [revoked_s(path, port, workers, f"key-{n}", secrets[n]) for n in range(min(rounds, count - 1))]
        return Figures(count, made_s, ready_s, pss, times)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.keys", description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20, help="keys that are revoked")
    args = parser.parse_args()
    few, many = (measure(count, args.workers, args.rounds) for count in (10, args.keys))
    print(f"{args.workers} workers, PSS of all processes, after callers were served")
    print("| keys | made in | ready after | memory | of it for keys | revoked, slowest worker: median, most |")
    print("|---|---|---|---|---|---|")
    for one in (few, many):
        times = sorted(one.revoked_s)
        print(
            f"| {one.keys:,} | {one.made_s:.2f} s | {one.ready_s:.2f} s | {one.memory_mib:.1f} MiB"
            f" | {one.memory_mib - few.memory_mib:.1f} MiB | {times[len(times) // 2]:.2f} s, {times[-1]:.2f} s |"
        )
    gates: list[tuple[str, bool]] = [
        (f"keys take less than {MAX_MEMORY_MIB:.0f} MiB", many.memory_mib - few.memory_mib < MAX_MEMORY_MIB),
        (f"ready in less than {MAX_START_S:.0f} s", many.ready_s < MAX_START_S),
        (f"revoked within {MAX_REVOKED_S:.0f} s", max([*few.revoked_s, *many.revoked_s]) < MAX_REVOKED_S),
    ]
    for text, holds in gates:
        print(f"{'met ' if holds else 'MISS'} {text}")
    return 0 if all(holds for _, holds in gates) else 1


if __name__ == "__main__":
    raise SystemExit(main())
