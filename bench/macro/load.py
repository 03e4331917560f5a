"""Load: wrk for many small requests, a thread for the big ones, single requests checked word for word."""

import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.macro import payloads
from bench.macro.faults import RunVoid
from bench.macro.payloads import Kind

_REQUEST_TIMEOUT_S: Final = 120
_GRACE_S: Final = 60
# Chunk framing differs between gateways; an answer cut short loses far more than this share.
_LEAST_SHARE_OF_ANSWER: Final = 0.9

# wrk calls `done` once, with latencies in microseconds; its own printed table rounds them.
_REPORT_LUA: Final = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,' ..
    '"not_2xx":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    e.status, e.connect, e.read, e.write, e.timeout))
end
"""


@dataclass(frozen=True)
class LoadResult:
    """What wrk saw: completed requests, wall time, latency percentiles in microseconds."""

    requests: int
    duration_us: int
    p50_us: int
    p90_us: int
    p99_us: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.duration_us * 1e6 if self.duration_us else 0.0


@dataclass(frozen=True)
class Shot:
    """One wrk run: which requests, over how many connections, for how long, against which URL."""

    kind: Kind
    connections: int
    seconds: int
    url: str


def write_scripts(folder: Path) -> None:
    """Write the Lua scripts wrk is given, one per kind."""
    for kind in payloads.KINDS:
        headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in payloads.HEADERS.items())
        body = payloads.request_body(kind)
        target = f'wrk.method = "POST"\nwrk.path = "{payloads.CHAT_PATH}"\n'
        (folder / f"{kind}.lua").write_text(f"{target}{headers}wrk.body = [==[{body}]==]\n{_REPORT_LUA}")


def _fewest_bytes(kind: Kind) -> float:
    if kind == "chat":
        return len(payloads.answer()) * _LEAST_SHARE_OF_ANSWER
    return (len(payloads.content_event()) + 2) * payloads.STREAM_CHUNKS * _LEAST_SHARE_OF_ANSWER


def _judge(text: str, shot: Shot, who: str) -> LoadResult:
    line = next((line for line in text.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RunVoid(f"{who}, {shot.kind}: wrk printed no result:\n{text[-1000:]}")
    seen = json.loads(line.removeprefix("RESULT "))
    failed = {name: seen[name] for name in ("not_2xx", "connect", "read", "write", "timeout") if seen[name]}
    if failed:
        raise RunVoid(f"{who}, {shot.kind} at {shot.connections} connections: failed requests {failed}")
    if not seen["requests"]:
        raise RunVoid(f"{who}, {shot.kind}: no request completed within {shot.seconds} s")
    if seen["bytes"] / seen["requests"] < _fewest_bytes(shot.kind):
        size = seen["bytes"] // seen["requests"]
        raise RunVoid(f"{who}, {shot.kind}: answers are cut short ({size} bytes per request)")
    return LoadResult(seen["requests"], seen["duration_us"], seen["p50_us"], seen["p90_us"], seen["p99_us"])


def run_wrk(
    folder: Path, shot: Shot, who: str, *, tick: Callable[[], None] | None = None, every_s: float = 0.5
) -> LoadResult:
    """Run wrk on this process's core, calling `tick` in between; RunVoid on a failed or shortened request."""
    command = ["wrk", "-t1", f"-c{shot.connections}", f"-d{shot.seconds}s"]
    command += ["--timeout", f"{_REQUEST_TIMEOUT_S}s", "-s", str(folder / f"{shot.kind}.lua"), shot.url]
    deadline = time.monotonic() + shot.seconds + _GRACE_S
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            while True:
                try:
                    text, _ = wrk.communicate(timeout=every_s)
                    return _judge(text, shot, who)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise RunVoid(f"{who}, {shot.kind}: wrk did not end in time") from None
                    if tick is not None:
                        tick()
        finally:
            if wrk.poll() is None:
                wrk.kill()


def _post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", payloads.CHAT_PATH, body=body, headers=payloads.HEADERS)
    response = connection.getresponse()
    return response.status, response.read()


def check_once(port: int, kind: Kind, who: str) -> None:
    """Send one request and compare the answer with what the upstream sent; RunVoid on any difference."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_TIMEOUT_S)
    try:
        status, body = _post(connection, payloads.request_body(kind).encode())
    except (OSError, http.client.HTTPException) as error:
        raise RunVoid(f"{who}, one {kind} request: {error!r}") from error
    finally:
        connection.close()
    if status != 200:
        raise RunVoid(f"{who}, one {kind} request: status {status}: {body[:300]!r}")
    fault = payloads.check_answer(body) if kind == "chat" else payloads.check_stream(body)
    if fault is not None:
        raise RunVoid(f"{who}, one {kind} request: {fault}")


def get_status(port: int, path: str) -> int | None:
    """Return the status of a GET, None when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@dataclass
class BigTally:
    """What the thread of big requests did so far."""

    completed: int = 0
    fault: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)


def _send_big(port: int, core: int, tally: BigTally) -> None:
    os.sched_setaffinity(0, {core})
    body = payloads.big_request_body()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_TIMEOUT_S)
    try:
        while not tally.stop.is_set():
            status, answer = _post(connection, body)
            fault = f"status {status}: {answer[:300]!r}" if status != 200 else payloads.check_answer(answer)
            if fault is not None:
                tally.fault = fault
                return
            tally.completed += 1
    except (OSError, http.client.HTTPException) as error:
        tally.fault = repr(error)
    finally:
        connection.close()


@contextmanager
def big_bodies_in_flight(port: int, core: int, who: str) -> Iterator[BigTally]:
    """Keep one 10 MiB request in flight, sent from `core`, until the block ends; RunVoid if one failed."""
    tally = BigTally()
    thread = threading.Thread(target=_send_big, args=(port, core, tally), name="big-bodies", daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        tally.stop.set()
        thread.join(_REQUEST_TIMEOUT_S)
    if thread.is_alive() or tally.fault is not None:
        raise RunVoid(f"{who}, 10 MiB request: {tally.fault or 'no answer in time'}")
