"""Small files and what is wrong with them."""

import os
from collections.abc import Mapping
from pathlib import Path

from fastroute.config import Config, load_file
from fastroute.errors import ConfigError

#: A provider that has everything it needs, as one YAML list item.
ECHO = "{id: echo, type: echo, models: [m1]}"


def load(tmp_path: Path, text: str, env: Mapping[str, str] | None = None, name: str = "c.yaml") -> Config:
    """Write `text` to a file and load it."""
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))
    return load_file(str(path), env or {})


def faults(tmp_path: Path, text: str, env: Mapping[str, str] | None = None, name: str = "c.yaml") -> list[str]:
    """Return the faults of `text`, without the directory they are printed with."""
    try:
        load(tmp_path, text, env, name)
    except ConfigError as error:
        return [line.removeprefix(f"{tmp_path}/") for line in error.faults]
    return []


def echo_with(extra: str) -> str:
    """Return a document with one echo provider, on its last line, after `extra`."""
    return f"{extra}\nproviders: [{ECHO}]\n"


def check_text(path: str, env: Mapping[str, str] | None = None) -> list[str]:
    """Return the faults of the file at `path`, one printable line each. env None: the process environment."""
    try:
        load_file(path, os.environ if env is None else env)
    except ConfigError as error:
        return error.faults
    return []
