"""What a worker makes of published files: good ones are taken over, bad ones change nothing and let nobody in."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.auth.files import recent_path, store_path, table_path
from fastroute.auth.keys import digest
from fastroute.auth.publication import Publication
from fastroute.auth.published import PublishedKeys
from fastroute.auth.table import Row, Table, encode_table
from fastroute.words import KEYS_GENERATION

ALICE, BOB, CAROL = (digest(name) for name in (b"sk-alice", b"sk-bob", b"sk-carol"))


class Words:
    """Control words of one process."""

    def __init__(self) -> None:
        self.words = [0] * 64

    def word(self, index: int) -> int:
        return self.words[index]

    def cas_word(self, index: int, expected: int, value: int) -> bool:
        if self.words[index] != expected:
            return False
        self.words[index] = value
        return True


def row(known: bytes, key_id: str, *, revoked: bool = False, terms: bytes = b"{}", expires_ms: int = 0) -> Row:
    return Row(known, key_id, terms, expires_ms, revoked)


def write(path: str, *rows: Row, generation: int, base: int = 0) -> None:
    with open(path + ".new", "wb") as file:
        file.write(encode_table(sorted(rows), generation, base=base))
    os.replace(path + ".new", path)


def known(keys: PublishedKeys) -> set[str]:
    found = [keys.find(one) for one in (ALICE, BOB, CAROL)]
    return {one.key.id for one in found if one is not None}


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path)


def test_nothing_published_is_open(state: str) -> None:
    keys = PublishedKeys(state, Words())
    assert not keys.refresh()
    assert (keys.closed, known(keys), keys.due()) == (False, set(), False)


def test_a_database_without_a_table_is_closed(state: str) -> None:
    Path(store_path(state)).touch()
    keys = PublishedKeys(state, Words())
    keys.refresh()
    assert (keys.closed, known(keys)) == (True, set())


def test_changes_come_on_top_of_the_table(state: str) -> None:
    write(table_path(state), row(ALICE, "alice"), row(BOB, "bob"), generation=5)
    keys = PublishedKeys(state, Words())
    assert keys.refresh()
    assert (known(keys), keys.closed, keys.generation) == ({"alice", "bob"}, True, 5)
    assert not keys.due()
    write(recent_path(state), row(BOB, "", revoked=True), row(CAROL, "carol"), generation=7, base=5)
    assert keys.due()
    assert keys.refresh()
    assert (known(keys), keys.generation) == ({"alice", "carol"}, 7)
    assert [one.id for one in sorted(keys.rows(), key=lambda one: one.id)] == ["alice", "carol"]
    # the table has caught up: what the changes say is in it
    write(table_path(state), row(ALICE, "alice"), row(BOB, "bob-again"), generation=8)
    assert keys.refresh()
    assert (known(keys), keys.generation) == ({"alice", "bob-again"}, 8)


def test_terms_and_expiry(state: str) -> None:
    terms = b'{"tenant":"acme","models":["gpt-*"],"limits":{"rpm":5}}'
    write(table_path(state), row(ALICE, "alice", terms=terms, expires_ms=1_234), generation=1)
    keys = PublishedKeys(state)
    keys.refresh()
    found = keys.find(ALICE)
    assert found is not None
    assert found.until_ns == 1_234_000_000
    assert (found.key.tenant, found.key.models) == ("acme", ("gpt-*",))
    assert found.key.limits is not None
    assert found.key.limits.rpm == 5


@pytest.mark.parametrize("terms", [b'{"limits":{"parsecs":3}}', b'{"tenant":"\xff"}', b"", b"[]", b'{"budget":{}}'])
def test_a_key_whose_terms_are_not_understood_is_refused(state: str, terms: bytes) -> None:
    write(table_path(state), row(ALICE, "alice", terms=terms), row(BOB, "bob"), generation=1)
    keys = PublishedKeys(state)
    keys.refresh()
    assert known(keys) == {"bob"}


def damage(path: str, how: str) -> None:
    data = Path(path).read_bytes()
    if how == "truncated":
        os.truncate(path, len(data) // 2)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "garbage":
        Path(path).write_bytes(os.urandom(len(data)))
    elif how == "gone":
        os.unlink(path)
    elif how == "directory":
        os.unlink(path)
        os.mkdir(path)
    elif how == "longer":
        Path(path).write_bytes(data + data)


HOW = ["truncated", "empty", "garbage", "gone", "directory", "longer"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("which", [table_path, recent_path])
def test_damage_keeps_the_last_good_state(
    state: str, which: object, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(which)
    words = Words()
    write(table_path(state), row(ALICE, "alice"), row(BOB, "bob"), generation=5)
    write(recent_path(state), row(BOB, "", revoked=True), row(CAROL, "carol"), generation=7, base=5)
    keys = PublishedKeys(state, words)
    keys.refresh()
    damage(which(state), how)
    with caplog.at_level(logging.INFO, "fastroute"):
        for _ in range(3):
            assert not keys.refresh()
            assert (known(keys), keys.closed) == ({"alice", "carol"}, True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    # A worker that starts now knows nobody: above all not whoever was revoked.
    fresh = PublishedKeys(state, words)
    fresh.refresh()
    assert (known(fresh), fresh.closed) == (set(), True)
    # Mended as a publisher does it, both go on.
    for path in (recent_path(state), table_path(state)):
        if os.path.isdir(path):
            os.rmdir(path)
    Path(recent_path(state)).unlink(missing_ok=True)
    write(table_path(state), row(ALICE, "alice"), generation=9)
    for one in (keys, fresh):
        assert one.due()
        assert one.refresh()
        assert known(one) == {"alice"}


def test_a_damaged_file_is_looked_at_again_now_and_then(state: str) -> None:
    write(table_path(state), row(ALICE, "alice"), generation=5)
    keys = PublishedKeys(state, Words())
    keys.refresh()
    damage(table_path(state), "truncated")
    assert keys.due()
    keys.refresh()
    looks = [keys.due() for _ in range(20)]
    assert looks.index(True) == 10


def test_an_open_gateway_stays_open_once_garbage_is_gone_again(state: str) -> None:
    keys = PublishedKeys(state, Words())
    keys.refresh()
    Path(table_path(state)).write_bytes(b"garbage")
    keys.refresh()
    assert keys.closed
    os.unlink(table_path(state))
    assert keys.due()
    keys.refresh()
    assert not keys.closed


def test_nothing_older_than_what_has_been_in_force_anywhere(state: str) -> None:
    words = Words()
    write(table_path(state), row(ALICE, "alice"), row(BOB, "bob"), generation=5)
    shutil.copy(table_path(state), table_path(state) + ".backup")
    first = PublishedKeys(state, words)
    first.refresh()
    write(table_path(state), row(ALICE, "alice"), generation=6)
    first.refresh()
    assert words.words[KEYS_GENERATION] == 6
    os.replace(table_path(state) + ".backup", table_path(state))
    second = PublishedKeys(state, words)
    for keys, expected in ((first, {"alice"}), (second, set())):
        keys.refresh()
        assert (known(keys), keys.closed) == (expected, True)


def test_changes_of_another_table_are_not_taken(state: str) -> None:
    write(table_path(state), row(ALICE, "alice"), generation=5)
    write(recent_path(state), row(BOB, "bob"), generation=9, base=8)
    keys = PublishedKeys(state, Words())
    keys.refresh()
    assert (known(keys), keys.closed) == (set(), True)


def test_whoever_needs_no_keys_learns_the_same_of_the_files(state: str) -> None:
    path = table_path(state)
    write(path, *(row(digest(b"%d" % n), f"key-{n}") for n in range(5000)), generation=5)
    for data in (Path(path).read_bytes(), Path(path).read_bytes()[:-1], b"", os.urandom(200_000)):
        Path(path).write_bytes(data)
        outline, keys = Publication(state, Words()), PublishedKeys(state, Words())
        for one in (outline, keys):
            one.refresh()
        assert (outline.closed, outline.generation, outline.base) == (keys.closed, keys.generation, keys.base)
        assert outline.fault == keys.fault
        assert not isinstance(outline._table, Table) or outline.fault


@settings(max_examples=200, deadline=None)
@given(table=st.binary(max_size=300), recent=st.binary(max_size=300), cut=st.integers(0, 300))
def test_whatever_is_in_the_files_nobody_gets_in(
    tmp_path_factory: pytest.TempPathFactory, table: bytes, recent: bytes, cut: int
) -> None:
    state = str(tmp_path_factory.mktemp("keys"))
    good = encode_table([row(ALICE, "alice")], 5)
    Path(table_path(state)).write_bytes(good[:cut] + table)
    Path(recent_path(state)).write_bytes(recent)
    keys = PublishedKeys(state, Words())
    keys.refresh()
    assert (known(keys), keys.closed) == (set(), True)
    shutil.rmtree(state)
