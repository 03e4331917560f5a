"""Starting, draining, dying and coming back: the process group as its operator meets it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.children import with_paths
from tests.e2e.client import ask, begin, chat, connect
from tests.e2e.harness import Gateway, ThreadedUpstream, get_status
from tests.e2e.test_streams import Director, let_go, until
from tests.ports import two_free_ports_in_a_row

KEY = "sk-life"
ECHO = {"providers": [{"id": "echo", "type": "echo", "models": ["m"]}]}


def config(url: str, **server: Any) -> dict[str, Any]:
    provider = {"id": "p", "type": "openai", "base_url": f"{url}/v1", "keys": ["up"], "include_usage": False}
    return {"server": server, "providers": [{**provider, "models": ["halves", "endless", "m"]}]}


def requests_of(gateway: Gateway) -> int:
    return sum(row["requests"] for row in gateway.usage())


@pytest.mark.parametrize("signalled", ["supervisor", "all processes"])
def test_a_drain_finishes_streams_and_exits_0(signalled: str, tmp_path: Path) -> None:
    director = Director()
    running = ThreadedUpstream(director)
    with (
        running as upstream,
        Gateway(config(upstream.url, drain={"readiness_delay_ms": 700, "grace_ms": 10_000}), tmp_path) as gateway,
    ):
        link = connect(gateway)
        response = begin(link, KEY, chat("halves", stream=True))
        assert response.read1() == b"data: 1\n\n"
        status: list[int] = []
        if signalled == "all processes":
            # As GNU timeout does: the one it has started, then its group. Service managers and terminals do the latter.
            os.kill(gateway.pid, signal.SIGTERM)
            os.killpg(gateway.pid, signal.SIGTERM)
        waiter = threading.Thread(target=lambda: status.append(gateway.terminate(15)))
        waiter.start()
        # Not ready any more, but still answering, before anything else happens.
        until(lambda: get_status(gateway.port, "/readyz") == 503, 3)
        assert get_status(gateway.port, "/livez") == 200
        assert ask(gateway, KEY, chat()).status == 200
        until(lambda: refused(gateway.port), 5)
        let_go(running, director)
        assert response.read() == b"data: 2\n\n"
        link.close()
        waiter.join(15)
        assert status == [0]
        rows = {row["model"]: row["requests"] for row in gateway.usage()}
        assert rows == {"halves": 1, "m": 1}


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def test_the_end_of_the_grace_time_ends_streams_honestly(tmp_path: Path) -> None:
    with (
        ThreadedUpstream(Director()) as upstream,
        Gateway(config(upstream.url, drain={"grace_ms": 500}), tmp_path) as gateway,
    ):
        link = connect(gateway)
        response = begin(link, KEY, chat("endless", stream=True))
        assert response.read1() == b"data: 1\n\n"
        assert gateway.terminate(10) == 0
        rest = response.read()
        assert json.loads(rest.split(b"\n")[0].removeprefix(b"data: "))["error"]["message"]
        assert rest.endswith(b"data: [DONE]\n\n")
        link.close()
        assert requests_of(gateway) == 1


def test_a_killed_worker_comes_back_and_nothing_settled_is_lost(tmp_path: Path) -> None:
    with Gateway({**ECHO, "server": {"workers": 2}}, tmp_path) as gateway:
        answered = 0
        for _ in range(3):
            control = gateway.control_plane()
            victim = next(pid for pid in gateway.children() if pid != control)
            answered += sum(ask(gateway, KEY, chat()).status == 200 for _ in range(20))
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: gone not in gateway.children() and len(gateway.children()) == 3, 10)
            answered += sum(ask(gateway, KEY, chat()).status == 200 for _ in range(5))
        assert answered == 75
        assert gateway.terminate(15) == 0
        assert requests_of(gateway) == 75


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are the kernel's")
def test_threads_of_the_children_do_not_preempt_each_other(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        policies = {
            os.sched_getscheduler(int(thread.name))
            for pid in gateway.children()
            for thread in Path(f"/proc/{pid}/task").iterdir()
        }
        assert policies == {os.SCHED_BATCH}


def test_a_killed_control_plane_disturbs_nobody(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        until(lambda: ask(gateway, KEY, chat()).status == 200, 10)
        before = requests_of(gateway)
        victim = gateway.control_plane()
        os.kill(victim, signal.SIGKILL)
        assert [ask(gateway, KEY, chat()).status for _ in range(20)] == [200] * 20
        until(lambda: gateway.control_plane() != victim, 10)
        until(lambda: get_status(gateway.admin_port, "/readyz") == 200, 5)
        assert requests_of(gateway) == before + 20


def test_a_killed_supervisor_takes_its_children_along(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        assert ask(gateway, KEY, chat()).status == 200
        children = gateway.children()
        os.kill(gateway.pid, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() and alive(pid) for pid in children), 10)
        gateway.kill()
        gateway.start()
        assert ask(gateway, KEY, chat()).status == 200
        assert requests_of(gateway) == 2


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LATE = """
import os, sys, time
from fastroute.cli import main
fork, forks = os.fork, []
def late():
    forks.append(1)
    pid = fork()
    if not pid and len(forks) == 3:
        time.sleep(1.5)
    return pid
os.fork = late
sys.exit(main())
"""


class LateWorker(Gateway):
    """A gateway whose second worker does nothing for a while after its birth, as on a busy machine."""

    program = (sys.executable, "-c", LATE)


def test_a_child_is_told_to_end_however_young_it_is(tmp_path: Path) -> None:
    config = {"providers": [{"id": "echo", "type": "echo", "models": ["m"]}]}
    server = {"workers": 2, "drain": {"grace_ms": 120_000}}
    with LateWorker({**config, "server": server}, tmp_path) as gateway:
        assert gateway.terminate(30) == 0


def test_the_two_listeners(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        until(lambda: get_status(gateway.admin_port, "/readyz") == 200, 10)
        assert get_status(gateway.admin_port, "/livez") == 200
        assert get_status(gateway.admin_port, "/admin/v1/anything") == 401
        for path in ("/admin/v1/anything", "/metrics", "/dashboard"):
            assert get_status(gateway.port, path) == 404


def start_fails(gateway: Gateway) -> tuple[int, str]:
    done = gateway.command("serve", "-c", str(gateway.config_file))
    return done.returncode, done.stderr


def test_what_keeps_it_from_starting(tmp_path: Path) -> None:
    with Gateway(ECHO, tmp_path) as gateway:
        status, said = start_fails(gateway)
        assert status == 1
        assert "another fastroute uses the state directory" in said
        other = Gateway({**ECHO, "server": {"port": gateway.port}}, mkdir(tmp_path / "other"))
        status, said = start_fails(other)
        assert status == 1
        assert f"cannot listen on 127.0.0.1:{gateway.port}" in said
    public = Gateway({**ECHO, "server": {"host": "0.0.0.0"}}, mkdir(tmp_path / "public"))
    status, said = start_fails(public)
    assert status == 2
    assert "key" in said
    faulty = Gateway({**ECHO, "server": {"wrokers": 1}}, mkdir(tmp_path / "faulty"))
    status, said = start_fails(faulty)
    assert status == 2
    assert f"{faulty.config_file}:1: server.wrokers" in said
    assert "workers" in said
    assert "Traceback" not in said


def mkdir(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_start_from_the_environment_alone(tmp_path: Path) -> None:
    """The first run of a newcomer: no file, no keys; the printed curl line works when pasted."""
    port = two_free_ports_in_a_row()
    env = with_paths({name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")})
    command = [sys.executable, "-m", "fastroute", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            curl = next(line.strip() for line in lines if line.strip().startswith("curl"))
            until(lambda: get_status(port, "/readyz") == 200, 20)
            done = subprocess.run(["sh", "-c", f"{curl} -sS"], capture_output=True, text=True, timeout=20, check=False)
            assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "Hello"
        finally:
            process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("half", ["", "1"])
def test_the_version_names_the_half(tmp_path: Path, half: str) -> None:
    env = {"FASTROUTE_NO_EXTENSIONS": half, "FASTROUTE_REQUIRE_EXTENSIONS": ""}
    said = Gateway(ECHO, tmp_path, env=env).command("--version").stdout
    assert said.startswith("fastroute 0.1.0 (")
    assert not half or "pure-Python core" in said
