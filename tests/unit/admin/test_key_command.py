"""The command line of virtual keys, in this process: options, many at once, what is printed, exit statuses."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute.auth.files import store_path
from fastroute.auth.keys import digest
from fastroute.auth.published import PublishedKeys
from fastroute.cli import main


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "FASTROUTE_API_KEY", "FASTROUTE_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield str(tmp_path / "state")


@pytest.fixture
def run(state: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        action, *rest = arguments
        status = main(["keys", action, "--state-dir", state, *rest])
        return status, *capsys.readouterr()

    return call


def published(state: str, secret: str) -> Any:
    keys = PublishedKeys(state)
    keys.refresh()
    return keys.find(digest(secret.encode()))


def test_every_option(run: Any, state: str) -> None:
    status, out, err = run(
        *("create", "--id", "one", "--tenant", "acme", "--model", "gpt-*", "--model", "claude-*", "--rpm", "5"),
        *(
            "--tpm",
            "6",
            "--concurrency",
            "7",
            "--rpd",
            "8",
            "--tpd",
            "9",
            "--budget-usd",
            "1.25",
            "--budget-per",
            "day",
        ),
        *("--budget-per", "day", "--expires-in", "90d", "--json"),
    )
    made = json.loads(out)
    assert (status, "not in force" in err) == (0, True)
    found = published(state, made["key"])
    assert (found.key.id, found.key.tenant, found.key.models) == ("one", "acme", ("gpt-*", "claude-*"))
    assert [getattr(found.key.limits, name) for name in ("rpm", "tpm", "concurrency", "rpd", "tpd")] == [5, 6, 7, 8, 9]
    assert (str(found.key.budget.usd), found.key.budget.per) == ("1.25", "day")
    assert found.until_ns > 0


def test_the_secret_is_printed_for_people_too(run: Any, state: str) -> None:
    status, out, err = run("create")
    lines = dict(line.split() for line in out.splitlines())
    assert (status, published(state, lines["key:"]).key.id) == (0, lines["id:"])
    assert "only time" in err
    assert lines["key:"] not in err


def test_the_key_that_closes_an_open_gateway_says_so(run: Any, state: str, tmp_path: Path) -> None:
    config = tmp_path / "closed.json"
    config.write_text('{"providers": [{"type": "echo"}], "auth": {"keys": [{"id": "app", "key": "sk-of-the-app"}]}}')
    said = [run("create")[2].count("from now on every caller needs one") for _ in range(2)]
    assert said == [1, 0]
    assert "from now on" not in run("create", "--state-dir", f"{state}-2", "-c", str(config))[2]


def test_a_digest_has_no_secret_to_print(run: Any, state: str) -> None:
    run("create")
    assert run("create", "--id", "old", "--key-sha256", digest(b"sk-old").hex()) == (0, "id:  old\n", "")
    assert published(state, "sk-old").key.id == "old"


def test_many_at_once(run: Any, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(json.dumps({"id": f"k{number}", "limits": {"rpm": 5}}) for number in range(30))
    (tmp_path / "keys.jsonl").write_text(lines + "\n")
    status, out, _ = run("create", "--from", str(tmp_path / "keys.jsonl"))
    made = [json.loads(line) for line in out.splitlines()]
    assert (status, [one["id"] for one in made]) == (0, [f"k{number}" for number in range(30)])
    assert all(published(state, one["key"]).key.id == one["id"] for one in made)
    text = io.TextIOWrapper(io.BytesIO(b'{"id":"new"}\n{"id":"k7"}\n'))
    monkeypatch.setattr("sys.stdin", text)
    status, out, err = run("create", "--from", "-")
    assert (status, out, "'k7'" in err) == (1, "", True)
    assert '"new"' not in run("list", "--json")[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"id": "c", "tennant": "x"}', "unknown field `tennant`"), ("{", "truncated"), ('{"id": "\xff"}', "")],
)
def test_a_line_that_is_no_key_is_named(run: Any, tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "keys.jsonl"
    path.write_bytes(b'{"id": "a"}\r\n\n' + line.encode("latin-1") + b'\n{"id": "b"}\n')
    status, _, err = run("create", "--from", str(path))
    assert status == 2
    assert f"{path}:3: " in err
    assert said in err
    assert json.loads(run("list", "--json")[1])["keys"] == []


def test_listing(run: Any) -> None:
    for key_id in "abc":
        run("create", "--id", key_id, "--tenant", f"of-{key_id}")
    run("revoke", "b")
    status, out, _ = run("list")
    assert status == 0
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [
        ["a", "active", "store", "of-a"],
        ["c", "active", "store", "of-c"],
    ]
    assert [one["state"] for one in json.loads(run("list", "--revoked", "--json")[1])["keys"]] == [
        "active",
        "revoked",
        "active",
    ]
    first = json.loads(run("list", "--limit", "1", "--json")[1])
    assert ([one["id"] for one in first["keys"]], first["next"] is None) == (["a"], False)
    second = json.loads(run("list", "--after", first["next"], "--json")[1])
    assert ([one["id"] for one in second["keys"]], second["next"]) == (["c"], None)


def test_revoking(run: Any, state: str) -> None:
    secret = json.loads(run("create", "--id", "one", "--json")[1])["key"]
    assert run("revoke", "one") == (0, "one is revoked\n", "")
    assert published(state, secret) is None
    status, out, err = run("revoke", "one")
    assert (status, out, err) == (1, "", "fastroute: there is no virtual key 'one'\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "--id", "a b"), "keys create: --id: must be 1 to 64 of the characters A-Z a-z 0-9 . _ -\n"),
        (("create", "--id", "a" * 10_000), "--id: must be 1 to 64 of"),
        (("create", "--id", ""), "--id: must be"),
        (("create", "--id", "\u043a"), "--id: must be"),
        (("create", "--id", "a\n"), "--id: must be"),
        (("create", "--tenant", ""), "--tenant: must be 1 to 64 of"),
        (("create", "--model", "gpt", "--model", ""), "--model: must be 1 to 256 characters without spaces\n"),
        (("create", *("--model", "m") * 257), "--model: may be given 256 times\n"),
        (("create", "--rpm", "0"), "keys create: --rpm: must be 1 to 1000000000000\n"),
        (("create", "--tpm", "-1"), "--tpm: must be 1 to 1000000000000\n"),
        (("create", "--rpd", str(10**12 + 1)), "--rpd: must be 1 to 1000000000000\n"),
        (("create", "--tpd", str(10**40)), "--tpd: must be 1 to 1000000000000\n"),
        (("create", "--concurrency", "0"), "--concurrency: must be 1 to 1000000\n"),
        (("create", "--budget-usd", "much"), "--budget-usd: must be a number from 0 to 1000000000 with"),
        (("create", "--budget-usd", ""), "--budget-usd: must be a number"),
        (("create", "--budget-per", "day"), "--budget-per: needs --budget-usd\n"),
        (("create", "--expires-in", ""), "--expires-in"),
        (("create", "--expires-in", "0d"), "--expires-in: must be 1s to 36600d\n"),
        (("create", "--from", ""), ": cannot be read"),
        (("create", "--from", "keys.jsonl", "--rpm", "5"), "--from: goes with no option that describes a key"),
        (("create", "--expires-in", "5"), "--expires-in"),
        (("create", "--expires-in", "1.5d"), "--expires-in"),
        (("create", "--expires-in", "99999999d"), "--expires-in: must be 1s to 36600d\n"),
        (("create", "--expires-at", "soon"), "--expires-at: must be a time such as 2030-01-31T00:00:00Z\n"),
        (("create", "--key-sha256", "beef"), "--key-sha256: must be 64 hexadecimal digits\n"),
        (("create", "--from", "missing.jsonl"), "missing.jsonl"),
        (("list", "--limit", "-1"), "--limit"),
    ],
)
def test_nonsense_is_usage(run: Any, state: str, arguments: tuple[str, ...], complaint: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out, complaint in err) == (2, "", True)
    assert not Path(store_path(state)).exists()


def test_a_database_that_cannot_be_used(run: Any, state: str) -> None:
    run("create", "--id", "one")
    Path(store_path(state)).write_bytes(b"\xff" * 9000)
    for name in ("-wal", "-shm"):
        Path(store_path(state) + name).unlink(missing_ok=True)
    for arguments in (("list",), ("create",), ("revoke", "one")):
        status, out, err = run(*arguments)
        assert (status, out, "damaged" in err) == (1, "", True)
