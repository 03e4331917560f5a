"""Virtual keys made and revoked while the gateway runs: on every worker, whatever has happened to the control plane."""

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastroute.auth.files import recent_path, store_path, table_path
from tests.children import with_paths
from tests.e2e.client import ask, begin, chat, connect
from tests.e2e.harness import ADMIN_KEY, Gateway, wait_until

CONFIGURED = "sk-of-the-configuration"
ECHO: dict[str, Any] = {"providers": [{"id": "echo", "type": "echo", "models": ["m", "other"]}]}
CONFIG: dict[str, Any] = {**ECHO, "server": {"workers": 4}, "auth": {"keys": [{"id": "app", "key": CONFIGURED}]}}
KEYS = "/admin/v1/keys"


def call(gateway: Gateway, method: str, path: str = KEYS, body: object = None, key: str = ADMIN_KEY) -> tuple[int, Any]:
    """Make an admin call; return status and document."""
    link = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=20)
    with closing(link):
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        link.request(method, path, data, {"authorization": f"Bearer {key}"})
        answer = link.getresponse()
        return answer.status, json.loads(answer.read())


def make(gateway: Gateway, **fields: object) -> str:
    status, document = call(gateway, "POST", body=fields)
    assert status == 201, document
    return str(document["key"])


def revoke(gateway: Gateway, key_id: str) -> None:
    status, document = call(gateway, "DELETE", f"{KEYS}/{key_id}")
    assert (status, document["state"]) == (200, "revoked")


class Links:
    """A connection to every worker of a gateway, so that each can be asked.

    A refusal that comes before the body was read may close its connection, and the next one may lead to any worker.
    """

    def __init__(self, gateway: Gateway, workers: int) -> None:
        self._gateway = gateway
        self._workers = workers
        self._links: dict[str, http.client.HTTPConnection] = {}
        self._connect()

    def _connect(self) -> None:
        """Connect to the workers that there is no connection to; some may not have begun to accept yet."""
        wait_until(self._connect_to_one_more, 20)

    def _connect_to_one_more(self) -> bool:
        link = connect(self._gateway)
        link.connect()
        link.auto_open = 0
        worker = self._ask(link, CONFIGURED)[1]
        if not worker or self._links.setdefault(worker, link) is not link:
            link.close()
        return len(self._links) == self._workers

    def statuses(self, secret: str) -> list[int]:
        """Return what each worker answers to a request with this key."""
        found: dict[str, int] = {}
        while True:
            for worker in self._links.keys() - found.keys():
                status, by = self._ask(self._links[worker], secret)
                if by:
                    found[worker] = status
                if self._links[worker].sock is None:
                    del self._links[worker]
            if len(found) == self._workers:
                return [found[worker] for worker in sorted(found)]
            self._connect()

    def _ask(self, link: http.client.HTTPConnection, secret: str) -> tuple[int, str]:
        """Return the status of an answer and the worker that gave it, "" if there is none."""
        try:
            answer = begin(link, secret, chat())
            answer.read()
        except (OSError, http.client.HTTPException):
            link.close()
            return 0, ""
        return answer.status, (answer.getheader("x-request-id") or "").rpartition("-")[0]

    def wait(self, secret: str, status: int) -> None:
        wait_until(lambda: set(self.statuses(secret)) == {status})

    def close(self) -> None:
        for link in self._links.values():
            link.close()


@contextmanager
def linked(gateway: Gateway, workers: int = 4) -> Iterator[Links]:
    with closing(Links(gateway, workers)) as links:
        yield links


def halted_without_locks(pid: int) -> bool:
    """Stop a process; return whether that was at a moment at which others need not wait for it."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    # A database that is open has others for readers.
    return all(lock[3:5] != ["WRITE", str(pid)] for lock in locks)


@contextmanager
def without_control_plane(gateway: Gateway) -> Iterator[None]:
    """While this lasts the control plane does nothing, and nobody starts another."""
    pid = gateway.control_plane()
    while not halted_without_locks(pid):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def gateway_config() -> dict[str, Any]:
    return CONFIG


@pytest.fixture
def links(gateway: Gateway) -> Iterator[Links]:
    with linked(gateway) as made:
        yield made


# --- making and revoking


def test_a_key_works_on_every_worker_until_it_is_revoked(gateway: Gateway, links: Links) -> None:
    one, two = make(gateway, id="one"), make(gateway, id="two", tenant="acme")
    links.wait(one, 200)
    links.wait(two, 200)
    revoke(gateway, "one")
    links.wait(one, 401)
    assert links.statuses(two) == links.statuses(CONFIGURED) == [200] * 4
    revoke(gateway, "two")
    links.wait(two, 401)
    assert links.statuses(CONFIGURED) == [200] * 4


def test_other_keys_never_fail_while_keys_come_and_go(gateway: Gateway, links: Links) -> None:
    steady = make(gateway, id="steady")
    links.wait(steady, 200)
    stop = threading.Event()
    statuses: list[int] = []

    def load(secret: str) -> None:
        while not stop.is_set():
            statuses.append(ask(gateway, secret, chat()).status)

    threads = [threading.Thread(target=load, args=(secret,)) for secret in (steady, CONFIGURED)]
    for thread in threads:
        thread.start()
    for number in range(20):
        make(gateway, id=f"passing-{number}")
        revoke(gateway, f"passing-{number}")
    stop.set()
    for thread in threads:
        thread.join(20)
    assert set(statuses) == {200}
    revoke(gateway, "steady")


def test_what_a_key_may_do(gateway: Gateway, links: Links) -> None:
    secret = make(gateway, id="limited", tenant="acme", models=["oth*"])
    links.wait(secret, 404)
    assert ask(gateway, secret, chat("other")).status == 200
    assert gateway.records()[-1]["key_id"] == "limited"
    assert gateway.records()[-1]["tenant"] == "acme"
    assert gateway.explain({"model": "m", "key": "limited"})["choice"]
    revoke(gateway, "limited")


def test_the_limits_of_a_key_hold_over_all_workers(gateway: Gateway, links: Links) -> None:
    secret = make(gateway, id="slow", limits={"rpd": 6})
    free = make(gateway, id="free")
    links.wait(free, 200)
    statuses = [status for _ in range(3) for status in links.statuses(secret)]
    assert sorted(statuses) == [200] * 6 + [429] * 6
    assert links.statuses(free) == [200] * 4
    revoke(gateway, "slow")
    links.wait(secret, 401)
    revoke(gateway, "free")


def test_a_key_expires(gateway: Gateway, links: Links) -> None:
    guest, lodger = make(gateway, id="guest", expires_in_s=2), make(gateway, id="lodger", expires_in_s=3600)
    links.wait(lodger, 200)
    links.statuses(guest)
    wait_until(lambda: call(gateway, "GET", f"{KEYS}/guest")[1]["state"] == "expired")
    assert links.statuses(guest) == [401] * 4
    assert links.statuses(lodger) == [200] * 4
    revoke(gateway, "guest")
    revoke(gateway, "lodger")


def test_the_command_beside_a_running_gateway(gateway: Gateway, links: Links) -> None:
    at = ("-c", str(gateway.config_file))
    made = gateway.command("keys", "create", *at, "--id", "by-hand", "--model", "m", "--rpm", "5000", "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert (document["limits"]["rpm"], document["models"]) == (5000, ["m"])
    links.wait(document["key"], 200)
    listed = json.loads(gateway.command("keys", "list", *at, "--json").stdout)["keys"]
    assert {("app", "config"), ("by-hand", "store")} <= {(one["id"], one["source"]) for one in listed}
    assert document["key"] not in gateway.command("keys", "list", *at, "--revoked", "--json").stdout
    for key_id, complaint in (("app", "is a key of the configuration"), ("nobody", "no virtual key 'nobody'")):
        refused = gateway.command("keys", "revoke", *at, key_id)
        assert (refused.returncode, complaint in refused.stderr) == (1, True)
    clash = gateway.command("keys", "create", *at, "--id", "app")
    assert (clash.returncode, "in the configuration already" in clash.stderr) == (1, True)
    assert gateway.command("keys", "revoke", *at, "by-hand").returncode == 0
    links.wait(document["key"], 401)


def test_the_calls(gateway: Gateway) -> None:
    for method, path in (("GET", KEYS), ("POST", KEYS), ("DELETE", f"{KEYS}/x"), ("GET", f"{KEYS}/x")):
        assert call(gateway, method, path, key="wrong")[0] == 401
    assert call(gateway, "PUT")[0] == 405
    assert call(gateway, "POST", f"{KEYS}/x", b"{}")[0] == 405
    assert call(gateway, "GET", f"{KEYS}/x")[0] == 404
    assert call(gateway, "DELETE", f"{KEYS}/x")[0] == 404
    assert call(gateway, "DELETE", f"{KEYS}/app")[0] == 409
    assert call(gateway, "POST", body={"id": "app"})[0] == 409
    for body in (b"", b"{", b"null", b"\xff", b'{"id":5}', b'{"surprise":1}', b'{"limits":{"rpm":0}}'):
        status, document = call(gateway, "POST", body=body)
        assert (status, document["error"]["code"]) == (400, "invalid_request_error")
    for query in ("limit=0", "limit=1001", "limit=x", "after=x", "after=s", "revoked=2", "what=1"):
        assert call(gateway, "GET", f"{KEYS}?{query}")[0] == 400
    status, made = call(gateway, "POST", body=[{"id": f"b{number}"} for number in range(25)])
    assert (status, len({one["key"] for one in made["keys"]})) == (201, 25)
    found: list[str] = []
    query = "limit=7"
    while True:
        page = call(gateway, "GET", f"{KEYS}?{query}")[1]
        found += [one["id"] for one in page["keys"]]
        if page["next"] is None:
            break
        query = f"limit=7&after={page['next']}"
    assert found[0] == "app"
    assert found[-25:] == [f"b{number}" for number in range(25)]
    for number in range(25):
        revoke(gateway, f"b{number}")


def test_no_secret_in_any_log(gateway: Gateway, links: Links) -> None:
    secret = make(gateway, id="quiet")
    links.wait(secret, 200)
    revoke(gateway, "quiet")
    assert secret not in gateway.log
    assert "virtual key quiet is revoked" in gateway.log


# --- an open gateway


def test_the_first_key_closes_an_open_gateway_for_good(tmp_path: Path) -> None:
    with Gateway({**ECHO, "server": {"workers": 2}}, tmp_path) as gateway, linked(gateway, 2) as links:
        assert links.statuses("whatever") == [200, 200]
        assert "until a first key is made" in gateway.log
        assert gateway.log.count("$FASTROUTE_API_KEY") == 0
        secret = make(gateway, id="first")
        links.wait("whatever", 401)
        links.wait(secret, 200)
        revoke(gateway, "first")
        links.wait(secret, 401)
        assert links.statuses("whatever") == [401, 401]
        gateway.stop()
        gateway.start()
        assert ask(gateway, "whatever", chat()).status == 401
        # the second time nobody is told that everybody may come in
        assert gateway.log.count("no keys are configured") == 1
        # and what it says to try has a place for a key
        wait_until(lambda: gateway.log.count("try it") == 2)
        assert "once FASTROUTE_API_KEY holds a client key" in gateway.log.rpartition("try it")[2]
        assert "Bearer $FASTROUTE_API_KEY" in gateway.log.rpartition("try it")[2]


def test_keys_made_before_the_start(tmp_path: Path) -> None:
    wide = {**ECHO, "server": {"host": "0.0.0.0"}}
    gateway = Gateway(wide, tmp_path)
    at = ("-c", str(gateway.config_file))
    refused = gateway.command("serve", *at)
    assert (refused.returncode, "without keys" in refused.stderr) == (2, True)
    made = gateway.command("keys", "create", *at, "--id", "one")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.partition("key: ")[2].split()[0]
    with gateway:
        assert [ask(gateway, one, chat()).status for one in (secret, "other")] == [200, 401]


def test_rules_match_a_key_that_was_made_at_run_time_by_its_id_and_its_tenant(tmp_path: Path) -> None:
    rules = [
        {"id": "by-key", "when": {"key": ["later"]}, "then": {"tags": ["a"]}},
        {"id": "by-tenant", "when": {"tenant": ["acme"]}, "then": {"tags": ["b"]}},
    ]
    gateway = Gateway({**CONFIG, "server": {}, "rules": rules}, tmp_path)
    made = gateway.command("keys", "create", "-c", str(gateway.config_file), "--id", "later", "--tenant", "acme")
    assert made.returncode == 0, made.stderr
    with gateway:
        found = [ask(gateway, key, chat()) for key in (made.stdout.partition("key: ")[2].split()[0], CONFIGURED)]
    assert [(one.status, one.headers.get("x-fastroute-rule")) for one in found] == [
        (200, "by-key,by-tenant"),
        (200, None),
    ]


def test_an_id_cannot_be_in_the_file_and_in_the_store(tmp_path: Path) -> None:
    with Gateway(CONFIG, tmp_path) as gateway:
        make(gateway, id="one")
        also = {**gateway.config, "auth": {"keys": [{"id": "one", "key": "sk-also"}]}}
        gateway.write_config(also)
        gateway.reload()
        wait_until(lambda: "stays as it is" in gateway.log)
        assert "'one'" in gateway.log
        assert ask(gateway, CONFIGURED, chat()).status == 200
        gateway.stop()
        refused = gateway.command("serve", "-c", str(gateway.config_file))
        assert (refused.returncode, "'one'" in refused.stderr) == (2, True)


# --- while the control plane or its database is away


def test_known_keys_outlive_the_control_plane(tmp_path: Path) -> None:
    with Gateway(CONFIG, tmp_path) as gateway, linked(gateway) as links:
        one, two = make(gateway, id="one"), make(gateway, id="two")
        links.wait(one, 200)
        links.wait(two, 200)
        for _ in range(3):
            gateway.kill_control_plane()
            assert links.statuses(one) == links.statuses(two) == [200] * 4
            assert links.statuses("sk-unknown") == [401] * 4
        with without_control_plane(gateway):
            # the command needs no control plane
            done = gateway.command("keys", "revoke", "-c", str(gateway.config_file), "one")
            assert done.returncode == 0, done.stderr
            links.wait(one, 401)
            assert links.statuses(two) == [200] * 4


def test_a_worker_that_starts_without_the_control_plane_knows_what_was_published(tmp_path: Path) -> None:
    with Gateway(CONFIG, tmp_path) as gateway:
        with linked(gateway) as links:
            one, two = make(gateway, id="one"), make(gateway, id="two")
            links.wait(two, 200)
            revoke(gateway, "one")
            links.wait(one, 401)
        control = gateway.control_plane()
        with without_control_plane(gateway):
            before = set(gateway.children()) - {control}
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(set(gateway.children()) - before) == 5)
            gateway.wait_ready(10)
            with linked(gateway) as links:
                assert links.statuses(two) == [200] * 4
                assert links.statuses(one) == links.statuses("sk-unknown") == [401] * 4


@pytest.mark.parametrize("harm", ["locked", "damaged", "gone"])
def test_known_keys_outlive_the_database(tmp_path: Path, harm: str) -> None:
    with Gateway(CONFIG, tmp_path) as gateway, linked(gateway) as links:
        one = make(gateway, id="one")
        links.wait(one, 200)
        path = store_path(gateway.state_dir)
        lock = sqlite3.connect(path, isolation_level=None)
        with closing(lock):
            if harm == "locked":
                lock.execute("BEGIN EXCLUSIVE")
                status, document = call(gateway, "POST", body={"id": "two"})
                assert (status, document["error"]["code"]) == (503, "keys_unavailable")
            else:
                with without_control_plane(gateway):
                    for name in ("", "-wal", "-shm"):
                        Path(path + name).unlink(missing_ok=True)
                    if harm == "damaged":
                        Path(path).write_bytes(os.urandom(20_000))
                if harm == "damaged":
                    assert call(gateway, "GET")[0] == 503
                    wait_until(lambda: "is damaged" in gateway.log)
            assert links.statuses(one) == [200] * 4
            assert links.statuses("sk-unknown") == [401] * 4
        if harm == "damaged":
            # as the message says
            os.rename(path, path + ".away")
        two = make(gateway, id="two")
        links.wait(two, 200)
        revoke(gateway, "one")
        links.wait(one, 401)


@pytest.mark.parametrize("which", [table_path, recent_path])
def test_damaged_tables_hurt_nobody_and_are_mended(tmp_path: Path, which: Any) -> None:
    with Gateway(CONFIG, tmp_path) as gateway:
        make(gateway, id="zero")
        wait_until(lambda: os.path.exists(table_path(gateway.state_dir)))
        with linked(gateway) as links:
            one, two = make(gateway, id="one"), make(gateway, id="two")
            links.wait(two, 200)
            revoke(gateway, "one")
            links.wait(one, 401)
            workers = set(gateway.children())
            path = which(gateway.state_dir)
            with without_control_plane(gateway):
                for data in (Path(path).read_bytes()[:100], b"", os.urandom(5000)):
                    Path(path).write_bytes(data)  # in place: whoever had mapped the file would die of it
                    assert links.statuses(two) == [200] * 4
                    assert links.statuses(one) == [401] * 4
                wait_until(lambda: gateway.log.count("the virtual keys stay as they are") >= 4)
                os.unlink(path)
                assert links.statuses(two) == [200] * 4
            assert set(gateway.children()) == workers
            # The control plane mends it: a worker that starts now knows what there is to know.
            wait_until(lambda: os.path.exists(table_path(gateway.state_dir)))
            three = make(gateway, id="three")
            links.wait(three, 200)
            assert links.statuses(two) == [200] * 4
            assert links.statuses(one) == [401] * 4


COMMIT_AND_DIE = """
import os, sys, time
from fastroute.auth.store import KeyStore, NewKey
from fastroute.auth.keys import digest
store = KeyStore.open(sys.argv[1], time.time_ns)
if sys.argv[2] == "create":
    store.add([NewKey("late", digest(b"sk-late"), b"{}", 0)])
else:
    store.revoke("late")
os.kill(os.getpid(), 9)
"""


def commit_and_die(gateway: Gateway, what: str) -> None:
    """Do what a command does that is killed between commit and publication."""
    command = [sys.executable, "-c", COMMIT_AND_DIE, gateway.state_dir, what]
    done = subprocess.run(command, env=with_paths(os.environ), timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_command_has_not_published_is_published_all_the_same(tmp_path: Path) -> None:
    gateway = Gateway(CONFIG, tmp_path)
    os.makedirs(gateway.state_dir)
    commit_and_die(gateway, "create")
    with gateway:  # at the start
        assert ask(gateway, "sk-late", chat()).status == 200
        with linked(gateway) as links:
            commit_and_die(gateway, "revoke")
            links.wait("sk-late", 401)  # by the control plane
        gateway.kill_control_plane()
    with gateway:
        assert ask(gateway, "sk-late", chat()).status == 401


def test_keys_survive_a_restart_and_a_kill(tmp_path: Path) -> None:
    with Gateway(CONFIG, tmp_path) as gateway:
        one, two = make(gateway, id="one"), make(gateway, id="two")
        revoke(gateway, "two")
        gateway.kill()
        gateway.start()
        assert [ask(gateway, secret, chat()).status for secret in (one, two, CONFIGURED)] == [200, 401, 200]
