"""Callers are known by the keys of the configuration and by those made at run time, until these are gone."""

import pytest

from fastroute.auth.keys import ANONYMOUS, MAX_RECENT, KeyTable, digest
from fastroute.auth.published import StoredKey
from fastroute.config.schema import ApiKey
from fastroute.errors import GatewayError
from fastroute.interfaces import Principal

ALICE = Principal("alice", "a")


class Store:
    """Stored keys, by their secrets."""

    def __init__(self, *secrets: str, until_ns: int = 0) -> None:
        self.keys = {digest(one.encode()): StoredKey(ApiKey(id=one), until_ns) for one in secrets}
        self.closed = bool(secrets)
        self.asked = 0

    def find(self, known: bytes) -> StoredKey | None:
        self.asked += 1
        return self.keys.get(known)


def make(stored: StoredKey) -> Principal:
    return Principal(stored.key.id, stored.key.tenant, until_ns=stored.until_ns)


def table(store: Store | None, *, configured: bool = False, wall: list[int] | None = None) -> KeyTable:
    now = wall if wall is not None else [0]
    configured_keys = {digest(b"sk-alice"): ALICE} if configured else {}
    return KeyTable(configured_keys, ANONYMOUS, store, make, lambda: now[0])


def identify(keys: KeyTable, secret: str) -> Principal:
    return keys.identify({b"authorization": b"Bearer " + secret.encode()}, b"")


def refused(keys: KeyTable, secret: str) -> bool:
    try:
        identify(keys, secret)
    except GatewayError as error:
        assert (error.status, error.message) == (401, "missing or unknown API key")
        return True
    return False


def test_both_kinds_are_known() -> None:
    keys = table(Store("bob"), configured=True)
    assert identify(keys, "sk-alice") is ALICE
    assert identify(keys, "bob").key_id == "bob"
    assert refused(keys, "carol")


def test_the_configuration_comes_first() -> None:
    assert identify(table(Store("sk-alice"), configured=True), "sk-alice") is ALICE


def test_open_until_a_key_is_made_and_closed_from_then_on() -> None:
    store = Store()
    keys = table(store)
    assert identify(keys, "whatever") is ANONYMOUS
    store.keys = Store("bob").keys
    store.closed = True
    assert refused(keys, "whatever")
    assert identify(keys, "bob").key_id == "bob"
    store.keys.clear()
    keys.forget()
    assert refused(keys, "bob")


def test_a_key_is_looked_up_once_until_something_changes() -> None:
    store = Store("bob")
    keys = table(store)
    for _ in range(3):
        identify(keys, "bob")
    assert store.asked == 1
    keys.forget()
    identify(keys, "bob")
    assert store.asked == 2


def test_what_is_kept_ready_is_bounded() -> None:
    store = Store(*(f"k{number}" for number in range(MAX_RECENT + 10)))
    keys = table(store)
    for number in range(MAX_RECENT + 10):
        identify(keys, f"k{number}")
    assert len(keys._recent) <= MAX_RECENT


@pytest.mark.parametrize("known", [True, False])
def test_a_key_expires_at_its_time(known: bool) -> None:
    wall = [999]
    keys = table(Store("bob", until_ns=1000), wall=wall)
    if known:
        assert identify(keys, "bob").key_id == "bob"
    wall[0] = 1000
    assert refused(keys, "bob")
