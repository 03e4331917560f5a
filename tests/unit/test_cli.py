"""`fastroute check` refuses what `fastroute serve` refuses, in the same words."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fastroute.admin.keys import KeyDesk, KeyRequest
from fastroute.cli import main
from fastroute.config import Config, load_file
from fastroute.serve import Supervisor

PUBLIC = {"host": "0.0.0.0"}
OPEN_ADMIN = {"admin": {"host": "0.0.0.0"}}
KEYS = {"keys": [{"id": "app", "key": "sk-app"}]}


def write(folder: Path, server: dict[str, Any], auth: dict[str, Any]) -> Path:
    config = {"server": {"state_dir": str(folder / "state"), **server}, "auth": auth, "providers": [ECHO]}
    file = folder / "c.json"
    file.write_text(json.dumps(config))
    return file


ECHO = {"id": "echo", "type": "echo", "models": ["m"]}


def make_key(file: Path, key_id: str, *, revoke: bool = False) -> None:
    desk = KeyDesk(load_file(str(file), {}), time.time_ns)
    desk.create([KeyRequest(id=key_id)])
    if revoke:
        desk.revoke(key_id)
    desk.publish(wait=True)
    desk.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Have `serve` go no further than to what runs the gateway; return with what it would."""
    configs: list[Config] = []

    def run(supervisor: Supervisor) -> int:
        configs.append(supervisor._config)
        return 0

    monkeypatch.setattr(Supervisor, "run", run)
    monkeypatch.setattr("fastroute.cli.configure_logging", lambda: None)
    return configs


def both(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return what `check` says, and that `serve` says the same."""
    status = main(["check", str(file)])
    said = capsys.readouterr().out
    assert main(["serve", "-c", str(file)]) == status
    if status:
        assert capsys.readouterr().err == said
    return status, said


@pytest.mark.parametrize(
    ("server", "auth", "refusal"),
    [
        (PUBLIC, {}, "refusing to listen on 0.0.0.0 without keys: "),
        (OPEN_ADMIN, KEYS, "refusing to serve the admin API on 0.0.0.0 without server.admin.key"),
        ({**PUBLIC, "port": 65535}, {}, "server.port: leaves no port above it"),
    ],
)
def test_what_must_not_be_served(
    server: dict[str, Any],
    auth: dict[str, Any],
    refusal: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    started: list[Config],
) -> None:
    file = write(tmp_path, server, auth)
    status, said = both(file, capsys)
    assert (status, started) == (2, [])
    assert said.startswith(f"{file}:")
    assert refusal in said


@pytest.mark.parametrize("auth", [KEYS, {"path_tokens": ["a-token"]}])
def test_keys_and_path_tokens_let_it_be_served(
    auth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list[Config]
) -> None:
    file = write(tmp_path, PUBLIC, auth)
    assert both(file, capsys) == (0, f"{file}: ok\n")
    assert len(started) == 1


@pytest.mark.parametrize("revoke", [False, True])
def test_so_does_a_virtual_key_now_or_ever(
    revoke: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list[Config]
) -> None:
    file = write(tmp_path, PUBLIC, {})
    make_key(file, "later", revoke=revoke)
    assert both(file, capsys) == (0, f"{file}: ok\n")
    assert len(started) == 1


def test_an_id_that_a_virtual_key_has_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list[Config]
) -> None:
    make_key(write(tmp_path, {}, {}), "app")
    file = write(tmp_path, OPEN_ADMIN, KEYS)
    status, said = both(file, capsys)
    assert (status, started) == (2, [])
    assert said.splitlines() == [
        f"{file}: refusing to serve the admin API on 0.0.0.0 without server.admin.key",
        f"{file}: auth.keys: a virtual key made at run time is called 'app' too",
    ]


def test_check_takes_its_file_like_the_other_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path, {}, KEYS))
    for arguments in ([file], ["-c", file], ["--config", file]):
        assert main(["check", *arguments]) == 0
        assert capsys.readouterr().out == f"{file}: ok\n"
    for arguments in ([], [file, "-c", file]):
        with pytest.raises(SystemExit):
            main(["check", *arguments])
