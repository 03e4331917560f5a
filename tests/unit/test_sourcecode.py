"""House rules that no linter knows."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastroute._core._switch import COMPILED_MODULES

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "fastroute").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}

MAX_FILE_LINES = 500
P90_FUNCTION_LINES = 40
MAX_FUNCTION_LINES = 90
#: The corridor is one long, straight walk.
LONG = {"gateway.py"}
SWALLOWING = re.compile(r"^\s*except (?:\(.*)?(?:Base)?Exception\b.*:\s*$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[Path, Function]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield path, node


def lines(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_files_are_short() -> None:
    sizes = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    too_long = {name for name, size in sizes.items() if size > MAX_FILE_LINES}
    assert too_long - {"_h1_py.py"} == set()


def test_functions_are_short() -> None:
    sizes = sorted(lines(node) for _, node in functions())
    assert sizes[len(sizes) * 9 // 10] <= P90_FUNCTION_LINES
    assert [
        f"{where(path, node.lineno)} {node.name}: {lines(node)}"
        for path, node in functions()
        if lines(node) > MAX_FUNCTION_LINES and path.name not in LONG
    ] == []


def test_no_module_has_global_statements() -> None:
    found = [(path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.Global)]
    assert [where(path, node.lineno) for path, node in found] == []


def test_what_catches_everything_says_why() -> None:
    """A handler of Exception has its reason beside it, or on the first line under it."""
    found = []
    for path in SOURCES:
        text = path.read_text().splitlines()
        for number, line in enumerate(text):
            if SWALLOWING.match(line) and not text[number + 1].lstrip().startswith("#"):
                found.append(where(path, number + 1))
    assert [place for place in found if not _reraises(place)] == []


def _reraises(place: str) -> bool:
    """Tell whether the handler at `file:line` ends by raising."""
    name, _, line = place.rpartition(":")
    for node in ast.walk(TREES[ROOT / name]):
        if isinstance(node, ast.ExceptHandler) and node.lineno == int(line):
            return isinstance(node.body[-1], ast.Raise)
    return False


def test_public_names_have_docstrings() -> None:
    found = []
    for path, tree in TREES.items():
        public = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        found += [f"{where(path, node.lineno)} {node.name}" for node in public if ast.get_docstring(node) is None]
        # A package whose modules speak for themselves may be silent.
        if path.name not in ("__init__.py",) and ast.get_docstring(tree) is None:
            found.append(where(path, 1))
    assert found == []


@pytest.mark.parametrize("name", COMPILED_MODULES)
def test_a_dispatcher_binds_one_half_and_does_nothing_else(name: str) -> None:
    tree = TREES[ROOT / "fastroute" / "_core" / f"{name}.py"]
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign, ast.AnnAssign)
    assert [ast.unparse(node) for node in tree.body if not isinstance(node, allowed)] == []
    module = importlib.import_module(f"fastroute._core.{name}")
    reference = importlib.import_module(f"fastroute._core._{name}_py")
    [branch] = [node for node in tree.body if isinstance(node, ast.If)]
    pure, compiled = (
        {alias.name for node in body for alias in getattr(node, "names", [])} for body in (branch.body, branch.orelse)
    )
    assert pure == compiled
    assert all(hasattr(reference, one) for one in pure)
    assert pure <= set(module.__all__)
