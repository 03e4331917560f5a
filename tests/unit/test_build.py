"""The build recipe and the switch: what is compiled, what is asked for, and what then runs."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastroute
from fastroute._core._switch import COMPILED_MODULES, USE_EXTENSIONS, missing_modules
from fastroute._pure import CORRIDOR_MODULES

ROOT = Path(__file__).parents[2]
INSTALLED = Path(fastroute.__file__).parent
NO, REQUIRE = "FASTROUTE_NO_EXTENSIONS", "FASTROUTE_REQUIRE_EXTENSIONS"

# Runs setup.py with a setuptools that only says what it was asked to build.
RUN_SETUP = """
import json, runpy, sys, types
built = {}
fake = types.ModuleType("setuptools")
fake.Extension = lambda name, sources, optional=False, **_: (name, sources, optional)
fake.setup = lambda **given: built.update({n: [sources, optional] for n, sources, optional in given["ext_modules"]})
sys.modules["setuptools"] = fake
runpy.run_path("setup.py")
print(json.dumps(built))
"""

# Imports modules of the corridor and says which of them are compiled.
COMPILED = """
import importlib, json, sys
loaded = [importlib.import_module("fastroute." + name) for name in sys.argv[1:]]
print(json.dumps([module.__name__.removeprefix("fastroute.") for module in loaded if module.__file__[-3:] != ".py"]))
"""

# Imports a core module by its public name and says which twin came with it.
LOADED = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module("fastroute._core." + name)
print(json.dumps([name for name in sys.argv[1:] if f"fastroute._core._{name}_c" in sys.modules]))
"""


def run(*arguments: str, flags: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python over the package under test, with only the switches given."""
    env = {name: value for name, value in os.environ.items() if name not in (NO, REQUIRE)}
    env |= {"PYTHONPATH": str(INSTALLED.parent), **(flags or {})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def setup_modules(which: str = "CORE_MODULES") -> tuple[str, ...]:
    """Return a list of modules as setup.py has it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == which:
            value: tuple[str, ...] = ast.literal_eval(node.value)
            return value
    raise AssertionError(f"setup.py has no {which}")


# --- the lists agree


def test_setup_switch_and_files_name_the_same_modules() -> None:
    core = ROOT / "fastroute" / "_core"
    on_disk = sorted(path.name[1 : -len("_c.pyx")] for path in core.glob("_*_c.pyx"))
    assert list(setup_modules()) == on_disk
    assert list(COMPILED_MODULES) == on_disk
    for name in on_disk:
        assert (core / f"_{name}_py.py").is_file(), "a compiled module without its reference"
        assert (core / f"{name}.py").is_file(), "a compiled module without its dispatcher"


def test_what_is_installed_is_what_is_in_the_checkout() -> None:
    def sources(package: Path) -> set[str]:
        found = (path for path in package.rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".h", ".typed"))
        return {str(path.relative_to(package)) for path in found}

    assert sources(INSTALLED) == sources(ROOT / "fastroute")


def assigned(cls: ast.ClassDef) -> set[str]:
    """Return the attributes that a class gives itself."""
    targets = (node for node in ast.walk(cls) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return {node.attr for node in targets if isinstance(node.value, ast.Name) and node.value.id == "self"}


@pytest.mark.parametrize("name", CORRIDOR_MODULES)
def test_structures_have_the_attributes_of_their_classes(name: str) -> None:
    """Those of a class that has no structure may be what they like."""
    source = (ROOT / "fastroute" / name.replace(".", "/")).with_suffix(".py")
    classes = {node.name: node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)}
    declared: dict[str, set[str]] = {}
    for line in source.with_suffix(".pxd").read_text().splitlines():
        if line.startswith("cdef class "):
            declared[line.removeprefix("cdef class ").rstrip(":")] = fields = set()
        elif line.startswith("    cdef public "):
            fields |= {field.strip().split()[-1] for field in line.split("#")[0].split(",")}
    assert declared == {name: assigned(classes[name]) for name in declared}


@pytest.mark.parametrize("name", CORRIDOR_MODULES)
def test_nothing_waits_while_it_handles_an_exception(name: str) -> None:
    """A compiled coroutine that does crashes, should the exception's traceback be taken away meanwhile."""
    tree = ast.parse((ROOT / "fastroute" / name.replace(".", "/")).with_suffix(".py").read_text())
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    endings = [statement for node in ast.walk(tree) if isinstance(node, ast.Try) for statement in node.finalbody]
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert [node.lineno for part in handlers + endings for node in ast.walk(part) if isinstance(node, waits)] == []


def test_setup_and_switch_name_the_same_modules_of_the_corridor() -> None:
    assert setup_modules("CORRIDOR_MODULES") == CORRIDOR_MODULES
    structured = (path.relative_to(ROOT / "fastroute") for path in (ROOT / "fastroute").glob("**/*.pxd"))
    names = {str(path.with_suffix("")).replace("/", ".") for path in structured if path.parts[0] != "_core"}
    assert names <= set(CORRIDOR_MODULES)


# --- at build time


def test_the_build_is_optional_unless_required() -> None:
    default = json.loads(run("-c", RUN_SETUP).stdout)
    required = json.loads(run("-c", RUN_SETUP, flags={REQUIRE: "1"}).stdout)
    names = {f"fastroute._core._{name}_c" for name in COMPILED_MODULES}
    names |= {f"fastroute.{name}" for name in CORRIDOR_MODULES}
    assert set(default) == set(required) == names
    assert all(optional for _, optional in default.values())
    assert not any(optional for _, optional in required.values())
    assert all((ROOT / source).is_file() for sources, _ in default.values() for source in sources)


def test_no_extensions_builds_none() -> None:
    assert json.loads(run("-c", RUN_SETUP, flags={NO: "1"}).stdout) == {}
    assert len(json.loads(run("-c", RUN_SETUP, flags={NO: "0", REQUIRE: "0"}).stdout)) == len(
        COMPILED_MODULES + CORRIDOR_MODULES
    )


BAD_FLAGS = [
    ({NO: "1", REQUIRE: "1"}, f"{NO} and {REQUIRE} exclude each other"),
    ({NO: "yes"}, f"{NO} must be 0 or 1, not 'yes'"),
    ({REQUIRE: "true"}, f"{REQUIRE} must be 0 or 1, not 'true'"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS)
def test_contradictions_and_other_words_are_errors(flags: dict[str, str], message: str) -> None:
    at_build_time = run("-c", RUN_SETUP, flags=flags)
    at_run_time = run("-P", "-m", "fastroute", "--version", flags=flags)
    assert at_build_time.returncode != 0
    assert at_run_time.returncode != 0
    assert at_build_time.stderr == f"{message}\n"
    assert (at_run_time.returncode, at_run_time.stderr) == (2, f"fastroute: {message}\n")


def test_the_command_is_the_one_that_says_so_in_one_line() -> None:
    """Whoever runs `fastroute` gets there the way of `python -m fastroute`."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"fastroute": "fastroute.__main__:main"}
    result = run("-P", "-c", "from fastroute.__main__ import main; main(['--version'])", flags={NO: "ja"})
    assert (result.returncode, result.stderr) == (2, f"fastroute: {NO} must be 0 or 1, not 'ja'\n")


# --- at run time


def test_the_half_that_was_asked_for_is_the_one_under_test() -> None:
    if os.environ.get(REQUIRE) == "1":
        assert USE_EXTENSIONS
    elif os.environ.get(NO) == "1":
        assert not USE_EXTENSIONS
    else:
        assert USE_EXTENSIONS is not bool(missing_modules())


def test_no_extensions_is_heeded_even_if_they_are_there() -> None:
    result = run("-P", "-c", LOADED, *COMPILED_MODULES, flags={NO: "1"})
    assert json.loads(result.stdout) == []
    assert json.loads(run("-P", "-c", COMPILED, *CORRIDOR_MODULES, flags={NO: "1"}).stdout) == []
    version = run("-P", "-m", "fastroute", "--version", flags={NO: "1"})
    assert version.stdout.startswith(f"fastroute {fastroute.__version__} (pure-Python core")


@pytest.mark.skipif(bool(missing_modules()), reason="the compiled half is not built")
def test_the_compiled_half_is_the_default_and_complete() -> None:
    result = run("-P", "-c", LOADED, *COMPILED_MODULES)
    assert json.loads(result.stdout) == list(COMPILED_MODULES)
    assert json.loads(run("-P", "-c", COMPILED, *CORRIDOR_MODULES).stdout) == list(CORRIDOR_MODULES)
    version = run("-P", "-m", "fastroute", "--version", flags={REQUIRE: "1"})
    assert version.stdout == f"fastroute {fastroute.__version__} (compiled core)\n"


@pytest.mark.skipif(bool(missing_modules()), reason="the compiled half is not built")
@pytest.mark.parametrize("lost", ["context", "books", "upstream.endpoint"])
def test_where_a_module_of_the_corridor_is_not_compiled_none_is_used(lost: str, tmp_path: Path) -> None:
    """A compiled module reads the objects of another as the structures it knows, and a class of Python's is none."""
    package = tmp_path / "fastroute"
    shutil.copytree(INSTALLED, package, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    (compiled,) = package.glob(f"{lost.replace('.', '/')}.*.so")
    compiled.unlink()
    here = {"PYTHONPATH": str(tmp_path)}
    result = run("-P", "-c", COMPILED, *CORRIDOR_MODULES, flags=here)
    assert (result.stdout, result.stderr) == ("[]\n", "")
    version = " ".join(run("-P", "-m", "fastroute", "--version", flags=here).stdout.split())
    assert version == f"fastroute {fastroute.__version__} (pure-Python core; not compiled: {lost})"
    assert run("-P", "-m", "fastroute", "--version", flags={**here, REQUIRE: "1"}).returncode == 2


@pytest.mark.skipif(not missing_modules(), reason="the compiled half is built")
def test_a_missing_half_is_named_and_an_error_where_required() -> None:
    result = run("-P", "-m", "fastroute", "--version")
    assert " ".join(result.stdout.split()).endswith(f"not compiled: {', '.join(missing_modules())})")
    refused = run("-P", "-m", "fastroute", "--version", flags={REQUIRE: "1"})
    assert refused.returncode == 2
    missing = ", ".join(missing_modules())
    assert refused.stderr == f"fastroute: compiled core required, but not built: {missing}\n"
