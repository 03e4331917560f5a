"""Kills under load: what was answered whole is in the ledger exactly once. Drains in each dialect. Refused starts."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

import pytest

from fastroute.serve import SAME_ORDER_S
from fastroute.upstream.mock import Barrier, Stall, json_response
from tests.children import with_paths
from tests.e2e.client import ask, begin, connect
from tests.e2e.harness import ADMIN_KEY, Gateway, get_status, wait_until
from tests.e2e.stage import ASK, CHAT, DONE, KEY, MODEL, Stage, event, piece, sent, stream_head, streamed

ECHO = {"providers": [{"id": "echo", "type": "echo", "models": [MODEL]}]}
STREAM = {**ASK, "stream": True}


class Load:
    """Clients that ask again and again, some for streams, until told to stop; they note what was answered whole."""

    def __init__(self, gateway: Gateway, clients: int = 4) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        self._lock = threading.Lock()
        self.answered: list[str] = []
        self.strange: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def wait_answers(self, more: int) -> None:
        """Return once that many further requests have been answered whole."""
        wanted = len(self.answered) + more
        wait_until(lambda: len(self.answered) >= wanted, 20)

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            with suppress(OSError, HTTPException):  # whoever was asked has just been killed
                answer = ask(self._gateway, KEY, {**ASK, "stream": bool(number % 2)})
                if answer.status == 200:
                    whole = answer.body.endswith(DONE) or b'"usage"' in answer.body
                    with self._lock:
                        (self.answered if whole else self.strange).append(answer.headers["x-request-id"])
                else:
                    self.strange.append(str(answer))


def check_ledger(gateway: Gateway, load: Load) -> None:
    """Check that every whole answer has one row, and that no row stands twice."""
    assert load.strange == []
    found = [record["request_id"] for record in gateway.records()]
    assert len(found) == len(set(found))
    assert set(load.answered) <= set(found)
    # The rest was settled, but its answer was lost on the way, with the process that sent it.
    rest = set(found) - set(load.answered)
    assert len(rest) <= 4 * 8, "rows for requests that nobody made"


def test_workers_killed_under_load(tmp_path: Path) -> None:
    with Gateway({**ECHO, "server": {"workers": 2}}, tmp_path) as gateway:
        with Load(gateway) as load:
            for _ in range(3):
                load.wait_answers(50)
                before = gateway.children()
                control = gateway.control_plane()
                victim = next(pid for pid in before if pid != control)
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda gone=victim: gone not in gateway.children() and len(gateway.children()) == 3)
            load.wait_answers(50)
        check_ledger(gateway, load)
        gateway.wait_idle()
        assert gateway.terminate() == 0
        check_ledger(gateway, load)


def test_the_control_plane_killed_under_load(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        with Load(gateway) as load:
            for _ in range(3):
                victim = gateway.control_plane()
                load.wait_answers(30)
                os.kill(victim, signal.SIGKILL)
                load.wait_answers(30)
                wait_until(lambda gone=victim: gateway.control_plane() != gone)
        check_ledger(gateway, load)
        assert len(gateway.records()) == len(load.answered), "traffic was disturbed"


def test_the_supervisor_killed_under_load(tmp_path: Path) -> None:
    with Gateway({**ECHO, "server": {"workers": 2}}, tmp_path) as gateway:
        with Load(gateway) as load:
            for _ in range(2):
                load.wait_answers(50)
                children = gateway.children()
                os.kill(gateway.pid, signal.SIGKILL)
                wait_until(lambda group=children: not any(is_alive(pid) for pid in group), 15)
                gateway.kill()
                gateway.start()
            load.wait_answers(50)
        check_ledger(gateway, load)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_keeps_dying_is_restarted_more_and_more_slowly(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        for _ in range(3):
            wait_until(lambda: get_status(gateway.port, "/livez") == 200)
            control = gateway.control_plane()
            [worker] = [pid for pid in gateway.children() if pid != control]
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda gone=worker: gone not in gateway.children())
        wait_until(lambda: get_status(gateway.port, "/livez") == 200)
        assert "restart in 0.0 s" in gateway.log
        assert "restart in 0.2 s" in gateway.log
        assert "restart in 0.4 s" in gateway.log


def test_connections_wait_while_the_only_worker_is_away(tmp_path: Path) -> None:
    """The supervisor keeps the socket: a request made while nobody serves is answered by the next worker."""
    with Gateway(ECHO, tmp_path) as gateway:
        control = gateway.control_plane()
        [worker] = [pid for pid in gateway.children() if pid != control]
        os.kill(worker, signal.SIGSTOP)
        link = connect(gateway)
        link.connect()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in gateway.children())
        assert ask(gateway, KEY, ASK).status == 200
        link.close()


def test_a_drain_with_a_dead_worker_still_exits_0(tmp_path: Path) -> None:
    with Gateway({**ECHO, "server": {"workers": 2}}, tmp_path) as gateway:
        assert ask(gateway, KEY, ASK).status == 200
        control = gateway.control_plane()
        os.kill(next(pid for pid in gateway.children() if pid != control), signal.SIGKILL)
        assert gateway.terminate() == 0
        assert len(gateway.records()) == 1


# === Draining ===

DRAINS: dict[str, tuple[str, str, dict[str, Any], bytes, bytes]] = {
    "openai": ("openai", CHAT, STREAM, piece("one"), b'"error"'),
    "responses": ("openai", "/v1/responses", STREAM, event({"type": "response.created"}), b"event: error\n"),
    "anthropic": (
        "anthropic", "/v1/messages", {**STREAM, "max_tokens": 1}, event({"type": "ping"}, "ping"), b"event: error\n",
    ),
    "gemini": (
        "gemini", f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", {"contents": []}, event({"candidates": []}),
        b'"error"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DRAINS)
def test_grace_that_runs_out_is_told_in_the_callers_dialect(dialect: str, tmp_path: Path, stage: Stage) -> None:
    kind, path, body, first, told = DRAINS[dialect]
    config = {"server": {"drain": {"grace_ms": 200}}, "providers": [stage.provider("p", kind)]}
    with Gateway(config, tmp_path) as gateway:
        stage.play([stream_head(), sent(first), Stall()])
        link = connect(gateway)
        response = begin(link, KEY, body, path)
        assert response.read1() == first
        assert gateway.terminate() == 0
        rest = response.read()
        assert told in rest
        assert rest.endswith(b"\n\n")
        link.close()
        [record] = gateway.records()
        assert (record["outcome"], record["usage_source"]) == ("stream_broken", "estimated")
        assert gateway.in_flight() == 0


def test_grace_that_runs_out_before_an_answer_is_a_503(tmp_path: Path, stage: Stage) -> None:
    config = {"server": {"drain": {"grace_ms": 200}}, "providers": [stage.provider("p")]}
    with Gateway(config, tmp_path) as gateway:
        stage.play([Stall()])
        link = connect(gateway)
        link.request("POST", CHAT, *body_and_headers())
        wait_until(lambda: gateway.in_flight() == 1)
        assert gateway.terminate() == 0
        response = link.getresponse()
        assert response.status == 503
        assert response.headers["retry-after"]
        assert b"shutting_down" in response.read()
        link.close()


def body_and_headers() -> tuple[bytes, dict[str, str]]:
    return json.dumps(ASK).encode(), {"content-type": "application/json"}


def test_a_drain_waits_for_every_kind_of_answer(tmp_path: Path, stage: Stage) -> None:
    """A whole answer and a stream, neither begun when the drain begins: both arrive, both are in the ledger."""
    with Gateway({"providers": [stage.provider("p")]}, tmp_path) as gateway:
        go = asyncio.Event()
        stage.play(lambda request: [Barrier(go), *(streamed("a")(request) if b"stream" in request.body else OK)])
        results: list[int] = []
        asking = [
            threading.Thread(target=lambda body=body: results.append(ask(gateway, KEY, body).status))
            for body in (ASK, STREAM)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: gateway.in_flight() == 2)
        with terminating(gateway) as status:
            wait_until(lambda: not accepts(gateway.port))
            stage.set(go)
            for thread in asking:
                thread.join(10)
        assert (results, status) == ([200, 200], [0])
        assert [record["outcome"] for record in gateway.records()] == ["ok", "ok"]


OK = json_response(200, {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})


@contextmanager
def terminating(gateway: Gateway) -> Iterator[list[int]]:
    """SIGTERM for the time of the block; the list then holds the exit status."""
    status: list[int] = []
    waiter = threading.Thread(target=lambda: status.append(gateway.terminate(20)))
    waiter.start()
    yield status
    waiter.join(20)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("drain", [{"grace_ms": 60_000}, {"readiness_delay_ms": 60_000}], ids=["grace", "delay"])
def test_a_late_second_sigterm_does_not_wait(drain: dict[str, int], tmp_path: Path, stage: Stage) -> None:
    config = {"server": {"drain": drain}, "providers": [stage.provider("p")]}
    with Gateway(config, tmp_path) as gateway:
        stage.play([stream_head(), sent(piece("one")), Stall()])
        link = connect(gateway)
        response = begin(link, KEY, STREAM)
        assert response.read1() == piece("one")

        def insist() -> bool:
            if not status and gateway.is_running:
                os.kill(gateway.pid, signal.SIGTERM)
            return bool(status)

        begun = time.monotonic()
        with terminating(gateway) as status:
            wait_until(insist)
        assert status == [1]
        # What came at once was the same order.
        assert time.monotonic() - begun >= SAME_ORDER_S
        link.close()


def test_an_idle_keep_alive_connection_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    with Gateway({**ECHO, "server": {"drain": {"grace_ms": 30_000}}}, tmp_path) as gateway:
        link = connect(gateway)
        assert begin(link, KEY, ASK).read()
        assert gateway.terminate(10) == 0
        link.close()


# === Listeners and starting ===


def admin(gateway: Gateway, path: str, key: str) -> int:
    link = HTTPConnection("127.0.0.1", gateway.admin_port, timeout=10)
    try:
        link.request("GET", path, headers={"authorization": key})
        return link.getresponse().status
    finally:
        link.close()


def test_the_admin_key_opens_the_admin_listener_only(tmp_path: Path) -> None:
    with Gateway({**ECHO, "auth": {"keys": [{"id": "app", "key": KEY}]}}, tmp_path) as gateway:
        wait_until(lambda: get_status(gateway.admin_port, "/readyz") == 200)
        for key in ("", f"Bearer {KEY}", "Bearer ", ADMIN_KEY, f"Basic {ADMIN_KEY}"):
            assert admin(gateway, "/admin/v1/none", key) == 401
        assert admin(gateway, "/admin/v1/none", f"Bearer {ADMIN_KEY}") == 404
        assert ask(gateway, ADMIN_KEY, ASK).status == 401
        assert get_status(gateway.admin_port, CHAT) == 404
        assert get_status(gateway.port, "/admin/v1/none") == 404


AUTH = {"keys": [{"id": "app", "key": KEY}]}
STARTS: list[tuple[str, Callable[[Path], dict[str, Any]], int, str]] = [
    ("unknown field", lambda _: {**ECHO, "servr": {}}, 2, ":1: servr: "),
    ("no model", lambda _: {"providers": [{"id": "e", "type": "echo", "models": [""]}]}, 2,
     ":1: providers[0].models[0]"),
    ("weight", lambda _: {"providers": [{"id": "e", "type": "echo", "weight": 1001}]}, 2, ":1: providers[0].weight"),
    ("public", lambda _: {**ECHO, "server": {"host": "0.0.0.0"}}, 2, "key"),
    ("public v6", lambda _: {**ECHO, "server": {"host": "::"}}, 2, "key"),
    ("no such host", lambda _: {**ECHO, "server": {"host": "192.0.2.1"}, "auth": AUTH}, 1,
     "cannot listen on 192.0.2.1"),
    ("state directory", lambda at: {**ECHO, "server": {"state_dir": str(at / "fastroute.json" / "x")}}, 1,
     "cannot use the state directory"),
]  # fmt: skip


@pytest.mark.parametrize(("config_for", "status", "said"), [row[1:] for row in STARTS], ids=[row[0] for row in STARTS])
def test_a_start_that_is_refused(
    config_for: Callable[[Path], dict[str, Any]], status: int, said: str, tmp_path: Path
) -> None:
    gateway = Gateway(config_for(tmp_path), tmp_path)
    done = gateway.command("serve", "-c", str(gateway.config_file))
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert said in done.stderr
    assert KEY not in done.stderr


@pytest.mark.parametrize("name", ["segment", "limits"])
def test_a_file_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    """As on a full disk; here something else is in its place."""
    gateway = Gateway(ECHO, tmp_path)
    (Path(gateway.state_dir) / name / "taken").mkdir(parents=True)
    done = gateway.command("serve", "-c", str(gateway.config_file))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"cannot make {gateway.state_dir}/{name}: Is a directory" in done.stderr


def test_a_taken_admin_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = Gateway({**ECHO, "server": {"admin": {"port": port}}}, tmp_path)
        done = gateway.command("serve", "-c", str(gateway.config_file))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_every_fault_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    gateway = Gateway(ECHO, tmp_path)
    file = tmp_path / "bad.yaml"
    routes = "routes:\n  - {model: m, tiers: [[nobody]]}\n"
    file.write_text(f"server:\n  prot: 1\nproviders:\n  - id: e\n    type: ecko\n{routes}")
    for command in (["check", str(file)], ["serve", "-c", str(file)]):
        done = gateway.command(*command)
        lines = (done.stdout + done.stderr).splitlines()
        assert done.returncode == 2
        assert any(line.startswith(f"{file}:2: server.prot: ") and "port" in line for line in lines), lines
        assert any(line.startswith(f"{file}:5: providers[0].type: ") and "echo" in line for line in lines), lines
        assert any(line.startswith(f"{file}:7: routes[0].tiers[0][0]: ") for line in lines), lines


def test_a_start_after_sigkill_takes_the_same_ports_at_once(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        link = connect(gateway)
        assert begin(link, KEY, ASK).read()
        gateway.kill()
        gateway.start()
        assert ask(gateway, KEY, ASK).status == 200
        link.close()
        assert len(gateway.records()) == 2


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_tests_that_are_killed_leave_no_gateway_behind(signum: int, tmp_path: Path) -> None:
    program = (
        "import json, signal, sys, time; from pathlib import Path; from tests.e2e.harness import Gateway\n"
        # Whatever runs in the background of a shell ignores it, and so would this.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with Gateway(json.loads(sys.argv[1]), Path(sys.argv[2])) as gateway:\n"
        "    print(gateway.pid, *gateway.children(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(ECHO), str(tmp_path)]
    with subprocess.Popen(
        command, env=with_paths(os.environ), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tests:
        assert tests.stdout is not None
        pids = [int(word) for word in tests.stdout.readline().split()]
        assert len(pids) >= 3
        tests.send_signal(signum)
    wait_until(lambda: not any(map(is_alive, pids)), 20)
