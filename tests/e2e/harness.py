"""Runs the gateway as a user would (`python -m fastroute serve -c FILE`), and talks to it byte by byte."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from fastroute._core.counters import IN_FLIGHT, Segment
from fastroute.billing.ledger import Ledger, LedgerBusyError
from fastroute.billing.segments import journal_directory
from fastroute.control.plane import LEDGER_FILE
from fastroute.upstream.mock import MockUpstream, Request, Script
from tests.children import WATCHER, with_paths
from tests.ports import free_ports

T = TypeVar("T")

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
ADMIN_KEY = "admin-key-of-the-tests"
RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"

#: Who reads the clients' HTTP where a test does not say: the tests hold for either lane.
LANE = os.environ.get("FASTROUTE_TEST_LANE", "direct")

Json = dict[str, Any]


class Gateway:
    """One `fastroute serve` with its process group; a context manager, sync and async.

    config: the document to serve, as a dict. Listeners, admin key and state directory are put into it unless
    it has them. directory: where its files go. env: variables on top of this process's own (which say which
    half of the core runs); None as a value removes one.
    """

    program: Sequence[str] = (sys.executable, "-m", "fastroute")

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        env: Mapping[str, str | None] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.config_file = directory / "fastroute.json"
        self._log_file = directory / "fastroute.log"
        self._env = {**os.environ, **(env or {})}
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.config = self._complete(config)
        self.write_config(self.config)

    def _complete(self, config: Mapping[str, Any]) -> Json:
        server = dict(config.get("server", {}))
        admin = dict(server.get("admin", {}))
        ports = free_ports(2)
        server.setdefault("host", "127.0.0.1")
        server.setdefault("lane", LANE)
        server.setdefault("port", ports[0])
        server.setdefault("state_dir", str(self.directory / "state"))
        admin.setdefault("port", ports[1])
        admin.setdefault("key", ADMIN_KEY)
        return {**config, "server": {**server, "admin": admin}}

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration file in one step; `reload` makes the gateway read it."""
        draft = self.config_file.with_suffix(".draft")
        draft.write_text(json.dumps(config))
        draft.replace(self.config_file)

    # --- where it is, and what it says

    @property
    def port(self) -> int:
        return int(self.config["server"]["port"])

    @property
    def admin_port(self) -> int:
        return int(self.config["server"]["admin"]["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def log(self) -> str:
        """Return what all its processes have written to stdout and stderr."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    @property
    def pid(self) -> int:
        """Return the supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def children(self) -> list[int]:
        """Return the process ids of all descendants of the supervisor, in the order of their ids."""
        return descendants(self.pid)

    def control_plane(self) -> int:
        """Return the process id of the control plane, once there is one."""
        return wait_until(lambda: _holder_of_the_ledger(self.children()))

    def kill_control_plane(self) -> int:
        """Kill it and return its process id once it is gone: a process that is about to die is still found."""
        victim = self.control_plane()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in self.children())
        return victim

    # --- its life

    def start(self) -> Self:
        """Start it and return once it is ready. Raises AssertionError, with the log, if that fails."""
        command = self.serve_command()
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        WATCHER.watch(self._process.pid)
        try:
            self.wait_ready(START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise
        return self

    def serve_command(self) -> list[str]:
        """Return the command that it is started with."""
        return [*self.program, "serve", "-c", str(self.config_file), *self._arguments]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in self._env.items() if value is not None}
        return {**with_paths(kept), "PYTHONUNBUFFERED": "1"}

    def wait_ready(self, timeout_s: float) -> None:
        """Return once `GET /readyz` on the data port answers 200."""
        end = time.monotonic() + timeout_s
        while self.is_running:
            if get_status(self.port, "/readyz") == 200:
                return
            assert time.monotonic() < end, f"not ready after {timeout_s} s; its log:\n{self.log}"
            time.sleep(0.05)
        raise AssertionError(f"it ended before it was ready; its log:\n{self.log}")

    def reload(self) -> None:
        """Send SIGHUP to the supervisor."""
        os.kill(self.pid, signal.SIGHUP)

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send SIGTERM to the supervisor and return its exit status. Raises AssertionError if it stays."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {timeout_s} s after SIGTERM; its log:\n{self.log}") from None

    def kill(self) -> None:
        """End the supervisor and all its descendants with SIGKILL, and wait for it."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own, so nobody else's processes
        self._process.wait(STOP_TIMEOUT_S)
        WATCHER.forget(self._process.pid)

    def stop(self) -> None:
        """End it in order if it still runs; whatever is left of its process group is killed."""
        try:
            if self.is_running:
                self.terminate()
        finally:
            self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            # For whoever reads why a test has failed.
            print(self.log)

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
        if error is not None:
            print(self.log)

    # --- the command line beside it

    def command(self, *arguments: str, timeout_s: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """Run `fastroute ARGUMENTS` in its directory and environment; return whatever came of it."""
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def explain(self, question: Json) -> Json:
        """Return the answer of `POST /admin/v1/explain`."""
        return self.admin("POST", "/admin/v1/explain", question)

    def rule_counts(self) -> dict[str, int]:
        """Return how often each rule has applied, over all workers."""
        return {rule["id"]: rule["matches"] for rule in self.admin("GET", "/admin/v1/rules")["rules"]}

    def admin(self, method: str, path: str, document: Json | None = None) -> Json:
        """Return the answer to a call of the admin API. Raises AssertionError unless its status is 200."""
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
            body = json.dumps(document) if document is not None else None
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            answer: Json = json.loads(content)
            return answer
        finally:
            connection.close()

    def usage(self, by: str = "model") -> list[Json]:
        """Return the rows of `fastroute usage --json --by BY`."""
        done = self.command("usage", "-c", str(self.config_file), "--json", "--by", by)
        assert done.returncode == 0, done.stderr
        rows: list[Json] = json.loads(done.stdout)["rows"]
        return rows

    # --- what it leaves behind

    @property
    def state_dir(self) -> str:
        return str(self.config["server"]["state_dir"])

    def records(self) -> list[Json]:
        """Return every request settled so far, one dict per row of the ledger, in the order they came."""
        path = os.path.join(self.state_dir, LEDGER_FILE)
        wait_until(lambda: _ingested(path, journal_directory(self.state_dir)))
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM records ORDER BY at_ns, id")]

    def in_flight(self) -> int:
        """Return how many attempts are under way, over all endpoints and workers."""
        segment = Segment.open(os.path.join(self.state_dir, "segment"))
        try:
            return sum(segment.totals(IN_FLIGHT))
        finally:
            segment.close()

    def forget_health(self) -> None:
        """Make every endpoint as new: breakers closed, no cooldown, no latency known. Workers see it at once."""
        segment = Segment.open(os.path.join(self.state_dir, "segment"))
        try:
            for endpoint in range(segment.endpoints):
                segment.clear_endpoint(endpoint)
        finally:
            segment.close()

    def wait_idle(self) -> None:
        """Return once no attempt is under way. Raises AssertionError when a permit has leaked."""
        wait_until(lambda: self.in_flight() == 0)


def _ingested(path: str, directory: str) -> bool:
    try:
        with Ledger.open(path) as ledger:
            ledger.ingest(directory)
    except LedgerBusyError:  # the control plane is at it
        return False
    return True


def _holder_of_the_ledger(pids: list[int]) -> int:
    """Return which process has the ledger's file or lock open, 0 if none has."""
    for pid in pids:
        with suppress(OSError):  # it ended, or closed a file, meanwhile
            if any("ledger" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
    return 0


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0) -> T:
    """Return what `condition()` gives once that is true; it is asked every few milliseconds.

    Raises AssertionError if it never is.
    """
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
    return found


def descendants(pid: int) -> list[int]:
    """Return the ids of the living processes under `pid` (Linux: read from /proc)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                # the command is in brackets and may hold anything; state and parent follow the last one
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def get_status(port: int, path: str) -> int | None:
    """Return the status of a GET, None if there is no answer within two seconds."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


class ThreadedUpstream:
    """A `MockUpstream` in a thread of its own, for tests that block; a context manager that returns it.

    Its counters and lists may be read from the test's thread at any time.
    """

    def __init__(self, script_for: Callable[[Request], Script] | Sequence[Script], **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mock-upstream", daemon=True)
        self._script_for = script_for
        self._options = options
        self._upstream: MockUpstream | None = None

    def __enter__(self) -> MockUpstream:
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def set(self, event: asyncio.Event) -> None:
        """Set an event that a `Barrier` waits for."""
        self._loop.call_soon_threadsafe(event.set)

    async def _open(self) -> MockUpstream:
        self._upstream = MockUpstream(self._script_for, **self._options)
        return await self._upstream.__aenter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._upstream is not None
        try:
            done = asyncio.run_coroutine_threadsafe(self._upstream.__aexit__(kind, error, trace), self._loop)
            done.result(10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()


# === Bytes on a socket ===


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One HTTP/1.1 answer as it came. Header names are lower case; `body` is without framing."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of a header field."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came back for some bytes: whole answers, the bytes after them, and how the connection stands.

    closed: by the other side, in order or by a reset.
    """

    answers: list[RawAnswer]
    rest: bytes
    closed: bool
    reset: bool


def exchange(
    port: int,
    data: bytes,
    *,
    half_close: bool = False,
    timeout_s: float = 10.0,
    linger_s: float = 0.3,
) -> Exchange:
    """Send `data` on a connection of its own and collect what comes until it closes.

    Stops `linger_s` after the last whole answer if the connection stays open, after `timeout_s` in any case.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        # A peer that refuses early stops reading: send beside reading, and let a reset end both.
        sender = threading.Thread(target=_send, args=(sock, data, half_close), daemon=True)
        sender.start()
        try:
            return _collect(sock, timeout_s, linger_s)
        finally:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sender.join(timeout_s)


def _send(sock: socket.socket, data: bytes, half_close: bool) -> None:
    with suppress(OSError):
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)


def _collect(sock: socket.socket, timeout_s: float, linger_s: float) -> Exchange:
    end = time.monotonic() + timeout_s
    buffer, closed, reset = bytearray(), False, False
    while not closed and (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            piece = sock.recv(65536)
        except TimeoutError:
            break
        except OSError:
            piece, reset = b"", True
        buffer += piece
        closed = not piece
        answers, _ = parse_answers(bytes(buffer), closed)
        if answers and answers[-1].status >= 200:
            end = min(end, time.monotonic() + linger_s)
    answers, rest = parse_answers(bytes(buffer), closed)
    return Exchange(answers, rest, closed, reset)


def parse_answers(data: bytes, closed: bool) -> tuple[list[RawAnswer], bytes]:
    """Split `data` into whole answers and the rest. `closed`: no more will come."""
    answers: list[RawAnswer] = []
    while (parsed := _parse_answer(data, closed)) is not None:
        answers.append(parsed[0])
        data = data[parsed[1] :]
    return answers, data


def _parse_answer(data: bytes, closed: bool) -> tuple[RawAnswer, int] | None:
    at = data.find(b"\r\n\r\n")
    if at < 0 or not data.startswith(b"HTTP/1."):
        return None
    status_line, *lines = data[:at].decode("latin-1").split("\r\n")
    status = int(status_line.split(" ")[1])
    pairs = (line.partition(":") for line in lines)
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    fields = dict(headers)
    start = at + 4
    if status < 200 or status in (204, 304):
        return RawAnswer(status, headers, b""), start
    if fields.get("transfer-encoding") == "chunked":
        body = _dechunk(data, start)
        return None if body is None else (RawAnswer(status, headers, body[0]), body[1])
    if "content-length" in fields:
        end = start + int(fields["content-length"])
        return (RawAnswer(status, headers, data[start:end]), end) if end <= len(data) else None
    return (RawAnswer(status, headers, data[start:]), len(data)) if closed else None


def _dechunk(data: bytes, at: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].split(b";")[0], 16)
        at = end + 2 + size + 2
        if at > len(data):
            return None
        if size == 0:
            return bytes(body), at
        body += data[end + 2 : at - 2]
    return None


# === Recorded exchanges ===


def recordings(*, provider: str | None = None, api: str | None = None) -> Iterator[Json]:
    """Yield recorded exchanges of real providers, all or those of one provider or API.

    Skips the test where the recordings are not beside the checkout.
    """
    index = RECORDINGS / "index.json"
    if not index.exists():
        pytest.skip(f"no recordings at {RECORDINGS.name}")
    for entry in json.loads(index.read_text())["recordings"]:
        if provider in (None, entry["provider"]) and api in (None, entry["api"]):
            yield json.loads((RECORDINGS / entry["file"]).read_text())
