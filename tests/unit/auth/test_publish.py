"""Sequences of changes, crashes and damage against a model: workers know what was published last, and nobody else."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fastroute.auth.files import lock_path, recent_path, store_path, table_path
from fastroute.auth.keys import digest
from fastroute.auth.publication import count_published
from fastroute.auth.publish import BusyError, Publisher, _lock, repair
from fastroute.auth.published import PublishedKeys
from fastroute.auth.store import KeyStore, KeyStoreError, NewKey
from tests.unit.auth.test_published import Words
from tests.unit.auth.test_store import Wall


class Keys(RuleBasedStateMachine):
    """One gateway: a database, publishers, and workers that come and go.

    The model is the list of states that were published. While the files are whole, whoever looks knows the last one.
    Once they are harmed, a worker stays with what it knew, or takes over what is left if that is a state as young as
    any that a worker has taken over; one that starts then knows that, or nobody.
    """

    made = Bundle("made")

    def __init__(self) -> None:
        super().__init__()
        self.state = tempfile.mkdtemp(prefix="fastroute-keys-")
        self.wall = Wall()
        self.secrets: dict[str, bytes] = {}
        self.valid: dict[str, bytes] = {}
        self.published: list[frozenset[bytes]] = [frozenset()]
        self.seen = 0
        self.intact = True
        self.words = Words()
        self.publishers = [Publisher(self.state, min_recent=2), Publisher(self.state, min_recent=3)]
        self.workers = [PublishedKeys(self.state, self.words) for _ in range(2)]
        self.known = [frozenset[bytes](), frozenset[bytes]()]

    def store(self) -> KeyStore:
        return KeyStore.open(self.state, self.wall)

    @rule(target=made, tick=st.integers(-3, 3))
    def create(self, tick: int) -> str:
        self.wall.ms += tick
        key_id = f"k{len(self.secrets)}"
        self.secrets[key_id] = digest(f"sk-{key_id}".encode())
        with self.store() as store:
            store.add([NewKey(key_id, self.secrets[key_id], b"{}", 0)])
        self.valid[key_id] = self.secrets[key_id]
        return key_id

    @rule(key_id=consumes(made))
    def revoke(self, key_id: str) -> None:
        with self.store() as store:
            store.revoke(key_id)
        del self.valid[key_id]

    @precondition(lambda self: self.secrets)
    @rule(which=st.integers(0, 2))
    def publish(self, which: int) -> None:
        """By one of two that have seen different things, as a command and the control plane have, or by a new one."""
        if which < 2:
            with self.store() as store:
                self.publishers[which].publish(store)
        else:
            repair(self.state, self.wall)
        self.published.append(frozenset(self.valid.values()))
        self.intact = True

    @rule(which=st.sampled_from([table_path, recent_path]), how=st.sampled_from(["cut", "garbage", "gone"]))
    def harm(self, which: Callable[[str], str], how: str) -> None:
        path = which(self.state)
        if not os.path.exists(path):
            return
        if how == "gone":
            os.unlink(path)
        elif how == "cut":
            os.truncate(path, os.path.getsize(path) // 2)
        else:
            Path(path).write_bytes(os.urandom(200))
        self.intact = False

    @precondition(lambda self: self.intact and self.secrets and self.published[-1] == frozenset(self.valid.values()))
    @rule()
    def lose_the_database(self) -> None:
        """It is made again from what is published."""
        for name in ("", "-wal", "-shm"):
            Path(store_path(self.state) + name).unlink(missing_ok=True)
        with self.store() as store:
            assert {record.digest for record in store.page(0, 1000)} == self.published[-1]

    @rule(at=st.integers(0, 1))
    def start_worker(self, at: int) -> None:
        self.workers[at] = PublishedKeys(self.state, self.words)
        self.known[at] = frozenset()
        self.look(at)

    @rule(at=st.integers(0, 1))
    def look(self, at: int) -> None:
        keys = self.workers[at]
        before = keys.generation
        if keys.due():
            keys.refresh()
        now = frozenset(one for one in self.secrets.values() if keys.find(one) is not None)
        if self.intact:
            assert now == self.published[-1]
            self.seen = len(self.published) - 1
        elif keys.generation != before:
            states = [number for number, one in enumerate(self.published) if one == now]
            assert states[-1] >= self.seen
            self.seen = max(self.seen, states[0])
        else:
            assert now == self.known[at]
        self.known[at] = now

    @invariant()
    def nobody_else_is_known(self) -> None:
        for keys, expected in zip(self.workers, self.known, strict=True):
            assert {one for one in self.secrets.values() if keys.find(one) is not None} == expected
            assert keys.find(digest(b"sk-never-made")) is None
            assert keys.closed or not expected

    def teardown(self) -> None:
        shutil.rmtree(self.state)


Keys.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestKeys = Keys.TestCase


def make(store: KeyStore, *names: str) -> None:
    store.add([NewKey(name, digest(name.encode()), b"{}", 0) for name in names])


def known(state: str, *names: str) -> list[str]:
    keys = PublishedKeys(state)
    keys.refresh()
    return [name for name in names if keys.find(digest(name.encode())) is not None]


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path)


def test_few_changes_are_published_beside_the_table(state: str) -> None:
    publisher = Publisher(state, min_recent=3)
    with KeyStore.open(state, Wall()) as store:
        make(store, *"abcdef")
        assert publisher.publish(store)
        table = os.stat(table_path(state)).st_ino
        assert not os.path.exists(recent_path(state))
        for name in "abc":
            store.revoke(name)
            assert publisher.publish(store)
            assert os.stat(table_path(state)).st_ino == table
        assert known(state, *"abcdef") == ["d", "e", "f"]
        store.revoke("d")
        assert publisher.publish(store)
        assert os.stat(table_path(state)).st_ino != table
        assert not os.path.exists(recent_path(state))
        assert known(state, *"abcdef") == ["e", "f"]
        assert not publisher.publish(store)


def test_a_table_that_is_lost_again_is_published_again(state: str) -> None:
    publisher = Publisher(state)
    with KeyStore.open(state, Wall()) as store:
        make(store, "a")
        publisher.publish(store)
        for _ in range(3):
            os.unlink(table_path(state))
            assert publisher.publish(store)
            assert known(state, "a") == ["a"]
            assert not publisher.publish(store)


def test_a_worker_notices_that_a_table_is_lost_again(state: str) -> None:
    worker = PublishedKeys(state)
    with KeyStore.open(state, Wall()) as store:
        make(store, "a")
        for _ in range(3):
            Publisher(state).publish(store)
            assert worker.due()
            worker.refresh()
            assert not worker.fault
            os.unlink(table_path(state))
            assert worker.due()
            worker.refresh()
            assert worker.fault
            assert not worker.due()


def test_the_database_is_made_again_from_what_is_published(state: str) -> None:
    wall = Wall()
    with KeyStore.open(state, wall) as store:
        make(store, "a", "b")
        Publisher(state).publish(store)
        store.revoke("b")
        Publisher(state).publish(store)
    os.unlink(store_path(state))
    with KeyStore.open(state, wall) as store:
        assert [record.id for record in store.page(0, 10)] == ["a"]
        make(store, "c")
        Publisher(state).publish(store)
    assert known(state, "a", "b", "c") == ["a", "c"]


def test_what_a_lost_database_leaves_behind_does_not_matter(state: str) -> None:
    path = store_path(state)
    with KeyStore.open(state, Wall()) as store:
        make(store, "a", "b")
        Publisher(state).publish(store)
        store.revoke("b")
        Publisher(state).publish(store)
        for name in ("-wal", "-shm"):
            shutil.copy(path + name, path + name + ".left")
    os.rename(path, path + ".away")
    for name in ("-wal", "-shm"):
        os.replace(path + name + ".left", path + name)
    with KeyStore.open(state, Wall()) as store:
        assert [record.id for record in store.page(0, 10, revoked=True)] == ["a"]
        make(store, "c")
        Publisher(state).publish(store)
    assert known(state, "a", "b", "c") == ["a", "c"]


def test_a_gateway_all_of_whose_keys_were_revoked_stays_closed_without_its_database(state: str) -> None:
    with KeyStore.open(state, Wall()) as store:
        make(store, "a")
        store.revoke("a")
        Publisher(state).publish(store)
    os.unlink(store_path(state))
    repair(state, Wall())
    with KeyStore.open(state, Wall()) as store:
        Publisher(state).publish(store)
    keys = PublishedKeys(state)
    keys.refresh()
    assert keys.closed


def test_an_older_database_put_back_is_what_counts(state: str) -> None:
    wall = Wall()
    worker = PublishedKeys(state, Words())
    with KeyStore.open(state, wall) as store:
        make(store, "a", "b")
        Publisher(state).publish(store)
    shutil.copy(store_path(state), store_path(state) + ".backup")
    with KeyStore.open(state, wall) as store:
        make(store, "c")
        store.revoke("b")
        Publisher(state).publish(store)
    assert worker.refresh()
    os.replace(store_path(state) + ".backup", store_path(state))
    repair(state, wall)
    assert worker.refresh()
    assert [name for name in "abc" if worker.find(digest(name.encode()))] == ["a", "b"]


def test_one_publisher_at_a_time(state: str) -> None:
    with KeyStore.open(state, Wall()) as store:
        make(store, "a")
        with _lock(state, True), pytest.raises(BusyError):
            Publisher(state).publish(store, wait=False)
        with _lock(state, True):
            repair(state, Wall())
        assert known(state, "a") == []
        assert os.path.exists(lock_path(state))
        repair(state, Wall())
        assert known(state, "a") == ["a"]


def test_a_table_that_cannot_be_written_leaves_the_one_before(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(state)
    with KeyStore.open(state, Wall()) as store:
        make(store, "a")
        publisher.publish(store)
        store.revoke("a")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", full)
            with pytest.raises(KeyStoreError, match="No space"):
                publisher.publish(store)
        assert known(state, "a") == ["a"]
        assert [name for name in os.listdir(state) if name.startswith(".")] == []
        publisher.publish(store)
    assert known(state, "a") == []


def test_whatever_stands_in_the_way_is_said(state: str) -> None:
    publisher = Publisher(state, min_recent=1)
    with KeyStore.open(state, Wall()) as store:
        make(store, "a", "b", "c")
        publisher.publish(store)
        for name in (recent_path(state), table_path(state)):
            if os.path.exists(name):
                os.unlink(name)
            os.mkdir(name)
            make(store, f"of-{os.path.basename(name)}")
            with pytest.raises(KeyStoreError, match=re.escape(name)):
                publisher.publish(store)
            os.rmdir(name)
        publisher.publish(store)
    assert known(state, "a", "of-keys.table", "of-keys.recent") == ["a", "of-keys.table", "of-keys.recent"]


def test_how_many_keys_are_published(tmp_path: Path) -> None:
    state = str(tmp_path)
    assert count_published(state) == 0
    with KeyStore.open(state, Wall()) as store:
        publisher = Publisher(state, min_recent=2)
        for number in range(5):
            store.add([NewKey(f"k{number}", digest(b"%d" % number), b"{}", 0)])
            publisher.publish(store)
        assert count_published(state) == 5
        Path(table_path(state)).write_bytes(b"x" * 200)
        assert count_published(state) == 0
