"""Every module imports alone and without a warning, and imports point downward only."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fastroute

PACKAGE = Path(fastroute.__file__).parent

#: Top-level names of the package by layer, lowest first. A module imports from lower layers and from its own
#: package only.
LAYERS = (
    ("interfaces", "errors", "clock", "_pure"),
    ("_core",),
    ("config", "context", "descriptors", "outgoing", "words", "rows", "sqlite"),
    (
        "downstream", "auth", "routing", "load", "balance", "health", "failover", "limits", "billing", "upstream",
        "dialects", "observe",
    ),
    ("snapshot", "keypools", "transports"),
    (
        "admission", "attempt", "books", "dispatch", "recorder", "gateway", "race", "relay", "build", "handout",
        "keylanes",
    ),
    ("app", "admin", "control"),
    ("worker", "serve", "cli", "__main__"),
)  # fmt: skip

#: Imports within a layer, each with its reason. One that is no longer made has to go.
WITHIN_A_LAYER = {
    ("gateway", "attempt"),  # the corridor makes attempts
    ("gateway", "admission"),  # lets requests in by their ceilings
    ("gateway", "dispatch"),  # finds an endpoint for each attempt
    ("dispatch", "attempt"),
    ("dispatch", "admission"),  # lets attempts in by the ceilings of their keys
    ("dispatch", "recorder"),  # takes back what was not sent
    ("admission", "attempt"),
    ("gateway", "recorder"),  # judges and records how they end
    ("recorder", "attempt"),
    ("recorder", "admission"),  # and settles them
    ("gateway", "race"),  # and lets two of them race
    ("gateway", "relay"),  # and passes the answer on
    ("gateway", "books"),  # and writes down what it was
    ("relay", "attempt"),
    ("race", "attempt"),
    ("build", "keylanes"),  # the converter's part for paths with a token
    ("race", "gateway"),  # only for the name of a type
    ("control", "admin"),  # the control plane runs the admin application
    ("serve", "worker"),  # the supervisor forks into a worker
    ("cli", "serve"),  # a command runs the supervisor
    ("__main__", "cli"),
}

# Forks for each module: an interpreter start costs more than most of the imports. What is not ours is there already: to
# import it again in each of hundreds of processes takes most of the time.
IMPORT_EACH_ALONE = """
import importlib, json, os, sys, traceback
import asyncio, granian, httpx, importlib.metadata, msgspec, multiprocessing, orjson, sqlite3, ssl, uvloop, yaml
root, names = sys.argv[1], sys.argv[2:]
sys.path.insert(0, root)
failed = []
for name in names:
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(name)
            os._exit(0)
        except BaseException:
            print(name, file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
print(json.dumps(failed))
"""


def modules() -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, file) of every module of the package that is installed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["fastroute", *path.relative_to(PACKAGE).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path, module: str) -> Iterator[str]:
    """Yield the dotted names a module imports from the package, wherever in the file and however."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: 1 - node.level or None], node.module or ""]) if node.level else ""
            yield from (f"{base.rstrip('.') or node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def top(name: str) -> str:
    """Return the name below `fastroute`: `fastroute.upstream.pool` -> `upstream`; "" for the package itself."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "fastroute" else ""


def test_every_module_has_a_layer() -> None:
    placed = [name for layer in LAYERS for name in layer]
    assert len(placed) == len(set(placed))
    assert {top(name) for name, _ in modules()} - {""} <= set(placed)


def test_imports_point_downward() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upward: list[str] = []
    within: set[tuple[str, str]] = set()
    for module, path in modules():
        for name in imported(path, module):
            here, there = top(module), top(name)
            if not here or there not in level or here == there:
                continue
            if level[there] > level[here]:
                upward.append(f"{module} imports {name}")
            elif level[there] == level[here]:
                within.add((here, there))
    assert upward == []
    assert within == WITHIN_A_LAYER


def test_every_module_imports_alone_and_silently() -> None:
    names = [name for name, _ in modules() if not name.endswith("__main__")]
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", IMPORT_EACH_ALONE, str(PACKAGE.parent), *names],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [], result.stderr
