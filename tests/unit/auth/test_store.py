"""The database of virtual keys: ids, digests, generations, and what happens when it is not well."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fastroute.auth import store as module
from fastroute.auth.files import store_path
from fastroute.auth.keys import digest
from fastroute.auth.store import KeyRefusedError, KeyStore, KeyStoreError, NewKey

WALL_MS = 1_700_000_000_000


class Wall:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = WALL_MS

    def __call__(self) -> int:
        return self.ms * 1_000_000


def new(key_id: str, secret: str | None = None, expires_ms: int = 0) -> NewKey:
    return NewKey(key_id, digest((secret or f"sk-{key_id}").encode()), b"{}", expires_ms)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def ids(store: KeyStore, *, revoked: bool = False) -> list[str]:
    return [record.id for record in store.page(0, 1000, revoked=revoked)]


def test_keys_are_kept(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        [record] = store.add([new("one", expires_ms=5)])
        assert (record.id, record.digest, record.terms) == ("one", digest(b"sk-one"), b"{}")
        assert (record.created_ms, record.expires_ms, record.revoked_ms) == (WALL_MS, 5, 0)
    with KeyStore.open(state, wall) as store:
        assert store.get("one") == record
        assert store.count() == 1


def test_only_digests_are_written(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        store.add([new("one", "sk-very-secret")])
    for path in Path(state).iterdir():
        assert b"very-secret" not in path.read_bytes()


def test_only_its_owner_can_read_it(state: str, wall: Wall) -> None:
    before = os.umask(0)
    try:
        with KeyStore.open(state, wall) as store:
            store.add([new("one")])
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path(state).iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(os.stat(state).st_mode) == 0o700


def test_ids_and_secrets_are_unique(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        store.add([new("one")])
        for again, kind in ((new("one", "sk-other"), "'one'"), (new("two", "sk-one"), "same secret")):
            with pytest.raises(KeyRefusedError, match=kind):
                store.add([again])
        with pytest.raises(KeyRefusedError, match="same secret"):
            store.add([new("a", "x"), new("b", "x")])
        assert ids(store) == ["one"]


def test_a_revoked_id_may_be_given_again_but_its_secret_never_works_again(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        store.add([new("one")])
        wall.ms += 10
        assert store.revoke("one").revoked_ms == WALL_MS + 10
        with pytest.raises(KeyRefusedError, match="no virtual key"):
            store.revoke("one")
        with pytest.raises(KeyRefusedError, match="was revoked"):
            store.add([new("one")])
        store.add([new("one", "sk-next")])
        assert ids(store) == ["one"]
        assert ids(store, revoked=True) == ["one", "one"]
        assert store.taken(["one", "two"]) == ["one"]


def test_generations_rise_with_every_change_and_with_the_clock(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        seen = [store.generation()]
        for number in range(3):
            store.add([new(f"k{number}")])
            seen.append(store.generation())
        assert seen == [WALL_MS, WALL_MS + 1, WALL_MS + 2, WALL_MS + 3]
        wall.ms += 1000
        store.revoke("k0")
        assert store.generation() == WALL_MS + 1000
        wall.ms -= 5000
        store.revoke("k1")
        assert store.generation() == WALL_MS + 1001
        with pytest.raises(KeyRefusedError):
            store.revoke("k1")
        assert store.generation() == WALL_MS + 1001


def test_pages(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        store.add([new(f"k{number}") for number in range(7)])
        store.revoke("k2")
        found, after = [], 0
        while page := store.page(after, 2):
            assert len(page) <= 2
            found += [record.id for record in page]
            after = page[-1].number
        assert found == ["k0", "k1", "k3", "k4", "k5", "k6"]


def test_there_is_an_upper_bound(state: str, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 3)
    with KeyStore.open(state, wall) as store:
        store.add([new("a"), new("b")])
        with pytest.raises(KeyRefusedError, match="room for 3"):
            store.add([new("c"), new("d")])
        store.revoke("a")
        store.add([new("c"), new("d")])


def test_the_oldest_revoked_are_forgotten(state: str, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REVOKED", 2)
    with KeyStore.open(state, wall) as store:
        store.add([new(f"k{number}") for number in range(5)])
        generations = []
        for number in (3, 1, 0, 4):
            store.revoke(f"k{number}")
            generations.append(store.generation())
        store.forget_revoked(generations[0] - 1)
        assert len(ids(store, revoked=True)) == 5
        store.forget_revoked(generations[-1])
        assert ids(store, revoked=True) == ["k0", "k2", "k4"]
        with store.snapshot() as rows:
            assert rows.closed


def damaged(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"\xff" * 4096)


def newer(path: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def directory(path: str) -> None:
    for name in ("", "-wal", "-shm"):
        Path(path + name).unlink(missing_ok=True)
    os.mkdir(path)


@pytest.mark.parametrize(("harm", "complaint"), [(damaged, "damaged"), (newer, "schema 99"), (directory, "keys.db")])
def test_what_cannot_be_used_is_said(state: str, wall: Wall, harm: Callable[[str], None], complaint: str) -> None:
    with KeyStore.open(state, wall) as store:
        store.add([new("one")])
    harm(store_path(state))
    with pytest.raises(KeyStoreError, match=complaint), KeyStore.open(state, wall) as store:
        store.page(0, 10)


def test_a_lock_is_waited_for_and_then_said(state: str, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_MS", 20)
    with KeyStore.open(state, wall) as store:
        store.add([new("one")])
        other = sqlite3.connect(store_path(state), isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(KeyStoreError, match="locked"):
            store.add([new("two")])
        other.execute("ROLLBACK")
        other.close()
        store.add([new("two")])
        assert ids(store) == ["one", "two"]


def test_a_database_that_was_moved_away_is_noticed(state: str, wall: Wall) -> None:
    with KeyStore.open(state, wall) as store:
        assert not store.moved
        os.rename(store_path(state), store_path(state) + ".away")
        assert store.moved


def test_half_a_database_is_finished(state: str, wall: Wall) -> None:
    os.makedirs(state)
    Path(store_path(state)).touch()
    with KeyStore.open(state, wall) as store:
        store.add([new("one")])
        assert ids(store) == ["one"]
