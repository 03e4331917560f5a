"""From a file to a Config: read it, check all of it, fill in what follows."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Final

import msgspec

from fastroute.config.complete import complete
from fastroute.config.crosscheck import check, is_loopback
from fastroute.config.document import DocumentError, Entry, Kind, Node, Scalar, Table
from fastroute.config.faults import Faults
from fastroute.config.read_json import read_json
from fastroute.config.read_toml import read_toml
from fastroute.config.read_yaml import read_yaml
from fastroute.config.schema import Config, Server
from fastroute.config.shape import Broken, build_config, build_struct
from fastroute.errors import ConfigError

#: Larger files are refused unread.
MAX_FILE_BYTES: Final = 16 * 1024 * 1024

_READERS: Final[dict[str, Callable[[str], Node | None]]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".toml": read_toml,
    ".json": read_json,
}


def load_file(path: str, env: Mapping[str, str]) -> Config:
    """Return the Config in the file at `path` (YAML, TOML or JSON by its extension).

    Raises ConfigError with a line `file:line: path: what is wrong` for every fault.
    """
    faults = Faults(path)
    try:
        tree = _read(path)
    except DocumentError as error:
        faults.add((), error.message, error.line)
        raise ConfigError(faults.lines()) from None
    return load_tree(tree, env, faults)


def load_tree(tree: Node, env: Mapping[str, str], faults: Faults) -> Config:
    """Return the checked and completed Config that `tree` spells. Raises ConfigError with all faults."""
    config = build_config(tree, env, faults)
    if not isinstance(config, Broken):
        check(config, faults)
    if faults:
        raise ConfigError(faults.lines())
    return complete(config, faults.marks)


def with_overrides(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    state_dir: str | None = None,
) -> Config:
    """Return `config` with what the command line sets instead, checked as a whole again. Raises
    ConfigError.
    """
    given: dict[str, str | int | None] = {
        "host": host,
        "port": port,
        "workers": workers,
        "state_dir": state_dir,
    }
    entries = tuple(Entry(name, 0, _literal(value)) for name, value in given.items() if value is not None)
    faults = Faults("command line")
    server = build_struct(Server, Table(entries, 0, len(entries)), ("server",), faults)
    changes = {entry.key: getattr(server, entry.key) for entry in entries}
    changed = msgspec.structs.replace(
        config,
        server=msgspec.structs.replace(config.server, **changes),
        given=config.given | {f"server.{name}" for name in changes},
    )
    check(changed, faults)
    if faults:
        raise ConfigError(faults.lines())
    return changed


def refuse_open(config: Config, *, closed: bool = False) -> str | None:
    """Return why `config` must not be served: a listener beyond this machine that asks for no credential.

    closed: callers need one even if the configuration has no keys.
    """
    server = config.server
    if not is_loopback(server.host) and not config.auth.keys and not config.auth.path_tokens and not closed:
        return (
            f"refusing to listen on {server.host} without keys: add auth.keys or auth.path_tokens, make a key with"
            " `fastroute keys create`, or listen on 127.0.0.1"
        )
    if not is_loopback(server.admin.host) and server.admin.key is None:
        return f"refusing to serve the admin API on {server.admin.host} without server.admin.key"
    return None


def _literal(value: str | int) -> Scalar:
    kind: Kind = "string" if isinstance(value, str) else "integer"
    return Scalar(kind, str(value).replace("$", "$$"), 0)


def _read(path: str) -> Node:
    suffix = PurePath(path).suffix.lower()
    reader = _READERS.get(suffix)
    text = _read_text(path)
    if reader is None:
        raise DocumentError(1, "the file name must end in .yaml, .yml, .toml or .json")
    tree = reader(text)
    if tree is None or (isinstance(tree, Scalar) and tree.kind == "null"):
        raise DocumentError(1, "is empty")
    return tree


def _read_text(path: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DocumentError(1, "is not a regular file")
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the path.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no such file"
        raise DocumentError(1, f"cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise DocumentError(1, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(data.count(b"\n", 0, error.start) + 1, "is not UTF-8") from None
