"""The desk for virtual keys: what is made, listed, revoked, refused, and who gets to see a secret."""

import datetime
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from fastroute.admin.keys import PREFIX, KeyDesk, KeyRequest, clashes, stored_key
from fastroute.auth.files import store_path
from fastroute.auth.keys import digest
from fastroute.auth.published import PublishedKeys
from fastroute.auth.store import KeyRefusedError
from fastroute.config.schema import ApiKey, Auth, Config, Limits, Server, Tenant
from fastroute.config.secret import Secret

WALL_NS = 1_700_000_000_000_000_000


def config(state: Path, *ids: str, tenants: tuple[str, ...] = ()) -> Config:
    return Config(
        server=Server(state_dir=str(state)),
        auth=Auth(keys=tuple(ApiKey(id=one, key=Secret(f"sk-{one}")) for one in ids)),
        tenants=tuple(Tenant(id=one) for one in tenants),
    )


class MakeDesk(Protocol):
    def __call__(self, state: Path, *ids: str, tenants: tuple[str, ...] = ()) -> KeyDesk: ...


@pytest.fixture
def desk() -> Iterator[MakeDesk]:
    """Makes desks, which are closed after the test."""
    with ExitStack() as stack:

        def make(state: Path, *ids: str, tenants: tuple[str, ...] = ()) -> KeyDesk:
            made = KeyDesk(config(state, *ids, tenants=tenants), lambda: WALL_NS)
            stack.callback(made.close)
            return made

        yield make


def request(**fields: Any) -> KeyRequest:
    return msgspec.convert(fields, KeyRequest)


def test_a_secret_is_told_once(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    [made] = keys.create([request(id="one")])
    assert made["key"].startswith(PREFIX)
    assert len(made["key"]) == len(PREFIX) + 43
    assert made["key_sha256"] == digest(made["key"].encode()).hex()
    keys.publish(wait=True)
    for told in (keys.get("one"), keys.page("", 10), keys.revoke("one"), keys.page("", 10, revoked=True)):
        assert made["key"] not in json.dumps(told)
    keys.publish(wait=True)
    keys.close()
    for path in tmp_path.iterdir():
        assert made["key"].encode() not in path.read_bytes()
        assert made["key"].removeprefix(PREFIX).encode() not in path.read_bytes()


def test_a_document_says_everything(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    asked = {
        "id": "one",
        "tenant": "acme",
        "models": ["gpt-*"],
        "limits": {"rpm": 5},
        "budget": {"usd": "1.5", "per": "day"},
        "expires_in_s": 60,
    }
    [made] = keys.create([request(**asked)])
    told = keys.get("one")
    assert {**told, "key": made["key"]} == made
    assert told["limits"] == {**{name: None for name in Limits.__struct_fields__}, "rpm": 5}
    assert told["budget"] == {"usd": "1.5", "per": "day"}
    assert (told["source"], told["state"], told["tenant"], told["models"]) == ("store", "active", "acme", ["gpt-*"])
    assert (told["created_at"], told["revoked_at"]) == ("2023-11-14T22:13:20.000+00:00", None)
    assert told["expires_at"] == "2023-11-14T22:14:20.000+00:00"


def test_made_up_ids_differ(desk: MakeDesk, tmp_path: Path) -> None:
    made = desk(tmp_path).create([request() for _ in range(50)])
    assert len({one["id"] for one in made} | {one["key"] for one in made}) == 100


def test_states(tmp_path: Path) -> None:
    now = [WALL_NS]
    with closing(KeyDesk(config(tmp_path), lambda: now[0])) as keys:
        keys.create([request(id="a", expires_in_s=10), request(id="b"), request(id="c")])
        keys.revoke("c")
        now[0] += 10_000_000_000
        assert [(one["id"], one["state"]) for one in keys.page("", 10, revoked=True)["keys"]] == [
            ("a", "expired"),
            ("b", "active"),
            ("c", "revoked"),
        ]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 100])
def test_every_page_once(desk: MakeDesk, tmp_path: Path, limit: int) -> None:
    keys = desk(tmp_path, "c0", "c1", "c2")
    keys.create([request(id=f"s{number}") for number in range(3)])
    found, after = [], ""
    while after is not None:
        page = keys.page(after, limit)
        assert 0 < len(page["keys"]) <= limit
        found += [(one["id"], one["source"]) for one in page["keys"]]
        after = page["next"]
    assert found == [*((f"c{n}", "config") for n in range(3)), *((f"s{n}", "store") for n in range(3))]


def test_listing_makes_no_database(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path, "app")
    assert [one["id"] for one in keys.page("", 10)["keys"]] == ["app"]
    assert not keys.publish(wait=True)
    for ask in (keys.get, keys.revoke):
        with pytest.raises(KeyRefusedError, match="no virtual key 'x'"):
            ask("x")
    assert not Path(store_path(str(tmp_path))).exists()


def refusal(keys: KeyDesk, **fields: Any) -> tuple[str, str]:
    with pytest.raises(KeyRefusedError) as caught:
        keys.create([request(**fields)])
    return caught.value.kind, str(caught.value)


def test_what_clashes_is_refused(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path, "app", tenants=("acme",))
    keys.create([request(id="one", tenant="acme")])
    assert refusal(keys, id="app") == ("taken", "there is a key 'app' in the configuration already")
    assert refusal(keys, id="one")[0] == "taken"
    assert refusal(keys, key_sha256=digest(b"sk-app").hex().upper())[1].startswith("a key of the configuration has")
    assert refusal(keys, tenant="acne") == ("invalid", "no entry of tenants has the id 'acne'")
    keys.create([request(id="two", tenant="default")])
    with pytest.raises(KeyRefusedError, match="remove it there"):
        keys.revoke("app")


def test_all_or_none(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    keys.create([request(id="one")])
    with pytest.raises(KeyRefusedError):
        keys.create([request(id="two"), request(id="one")])
    assert [one["id"] for one in keys.page("", 10)["keys"]] == ["one"]


def test_expiry_makes_sense(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    soon = datetime.datetime.fromtimestamp(WALL_NS / 1e9 + 60, datetime.UTC)
    [made] = keys.create([request(expires_at=soon.isoformat().replace("+00:00", "Z"))])
    assert made["expires_at"] == soon.isoformat(timespec="milliseconds")
    assert "one of" in refusal(keys, expires_at="2030-01-01T00:00:00Z", expires_in_s=5)[1]
    assert "time zone" in refusal(keys, expires_at="2030-01-01T00:00:00")[1]
    for at in ("2020-01-01T00:00:00Z", "2200-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert "future" in refusal(keys, expires_at=at)[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "a b"},
        {"id": "a" * 65},
        {"id": "a\n"},
        {"tenant": "a/b"},
        {"models": []},
        {"models": ["a b"]},
        {"limits": {"rpm": 0}},
        {"limits": {"rpm": -1}},
        {"limits": {"rmp": 1}},
        {"budget": {}},
        {"expires_in_s": 0},
        {"expires_in_s": 10**12},
        {"expires_at": "tomorrow"},
        {"key_sha256": "12"},
        {"key": "sk-chosen"},
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        request(**fields)


@pytest.mark.parametrize("usd", ["-4", "-0.000000001", "1000000000.1", "1e300", "0.0000000001", "NaN", "Infinity"])
def test_a_budget_is_an_amount_of_money(desk: MakeDesk, tmp_path: Path, usd: str) -> None:
    assert refusal(desk(tmp_path), budget={"usd": usd})[0] == "invalid"


@pytest.mark.parametrize("usd", ["0", "4", "1000000000", "0.000000001", 12.5])
def test_amounts_of_money(desk: MakeDesk, tmp_path: Path, usd: Any) -> None:
    assert desk(tmp_path).create([request(budget={"usd": usd})])


def test_a_secret_that_exists_already(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    [made] = keys.create([request(id="old", key_sha256=digest(b"sk-from-elsewhere").hex())])
    assert "key" not in made
    keys.publish(wait=True)
    published = PublishedKeys(str(tmp_path))
    published.refresh()
    found = published.find(digest(b"sk-from-elsewhere"))
    assert found is not None
    assert found.key.id == "old"


def test_ids_that_the_configuration_has_too_are_named(desk: MakeDesk, tmp_path: Path) -> None:
    assert clashes(config(tmp_path, "one"), lambda: WALL_NS) == []
    keys = desk(tmp_path)
    keys.create([request(id="one"), request(id="two"), request(id="three")])
    keys.close()
    assert clashes(config(tmp_path, "one", "three", "four"), lambda: WALL_NS) == ["one", "three"]
    Path(store_path(str(tmp_path))).write_bytes(b"\xff" * 9000)
    assert clashes(config(tmp_path, "one"), lambda: WALL_NS) == []


def test_no_key_at_all_closes_no_gateway(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    with pytest.raises(KeyRefusedError, match="1 to"):
        keys.create([])
    assert not Path(store_path(str(tmp_path))).exists()


def test_a_first_key_that_is_refused_closes_no_gateway(desk: MakeDesk, tmp_path: Path) -> None:
    keys = desk(tmp_path)
    with pytest.raises(KeyRefusedError):
        keys.create([request(id="one"), request(id="one")])
    keys.publish(wait=True)
    published = PublishedKeys(str(tmp_path))
    published.refresh()
    assert not published.closed


def test_a_stored_key_by_its_id(desk: MakeDesk, tmp_path: Path) -> None:
    with pytest.raises(KeyRefusedError):
        stored_key(str(tmp_path), "one", lambda: WALL_NS)
    desk(tmp_path).create([request(id="one", tenant="acme")])
    assert stored_key(str(tmp_path), "one", lambda: WALL_NS).tenant == "acme"
    with pytest.raises(KeyRefusedError):
        stored_key(str(tmp_path), "two", lambda: WALL_NS)
