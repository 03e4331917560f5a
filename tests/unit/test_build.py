"""The build recipe and the switch: what is compiled, what is asked for, and what then runs."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastroute
from fastroute._core._switch import COMPILED_MODULES, USE_EXTENSIONS, missing_modules

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


def setup_modules() -> tuple[str, ...]:
    """Return CORE_MODULES as setup.py has it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CORE_MODULES":
            value: tuple[str, ...] = ast.literal_eval(node.value)
            return value
    raise AssertionError("setup.py has no CORE_MODULES")


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


# --- at build time


def test_the_build_is_optional_unless_required() -> None:
    default = json.loads(run("-c", RUN_SETUP).stdout)
    required = json.loads(run("-c", RUN_SETUP, flags={REQUIRE: "1"}).stdout)
    names = {f"fastroute._core._{name}_c" for name in COMPILED_MODULES}
    assert set(default) == set(required) == names
    assert all(optional for _, optional in default.values())
    assert not any(optional for _, optional in required.values())
    assert all((ROOT / source).is_file() for sources, _ in default.values() for source in sources)


def test_no_extensions_builds_none() -> None:
    assert json.loads(run("-c", RUN_SETUP, flags={NO: "1"}).stdout) == {}
    assert len(json.loads(run("-c", RUN_SETUP, flags={NO: "0", REQUIRE: "0"}).stdout)) == len(COMPILED_MODULES)


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
    version = run("-P", "-m", "fastroute", "--version", flags={NO: "1"})
    assert version.stdout.startswith(f"fastroute {fastroute.__version__} (pure-Python core")


@pytest.mark.skipif(bool(missing_modules()), reason="the compiled half is not built")
def test_the_compiled_half_is_the_default_and_complete() -> None:
    result = run("-P", "-c", LOADED, *COMPILED_MODULES)
    assert json.loads(result.stdout) == list(COMPILED_MODULES)
    version = run("-P", "-m", "fastroute", "--version", flags={REQUIRE: "1"})
    assert version.stdout == f"fastroute {fastroute.__version__} (compiled core)\n"


@pytest.mark.skipif(not missing_modules(), reason="the compiled half is built")
def test_a_missing_half_is_named_and_an_error_where_required() -> None:
    result = run("-P", "-m", "fastroute", "--version")
    assert " ".join(result.stdout.split()).endswith(f"not compiled: {', '.join(missing_modules())})")
    refused = run("-P", "-m", "fastroute", "--version", flags={REQUIRE: "1"})
    assert refused.returncode == 2
    missing = ", ".join(missing_modules())
    assert refused.stderr == f"fastroute: compiled core required, but not built: {missing}\n"
