"""The package as a user gets it: the source distribution, the wheel, and an installation without a compiler.

Slow, and in need of a package index: run once per change, by `tox -e install`, never as part of the other tests.
"""

import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import venv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from fastroute._pure import CORRIDOR_MODULES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastroute"
CORE = tuple(sorted(path.name[1 : -len("_c.pyx")] for path in (PACKAGE / "_core").glob("_*_c.pyx")))

#: What a developer's checkout has and a fresh one has not.
LITTER = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.pyc", "build", "dist", "*.egg-info", "*.c", "results")
LITTER_FOLDERS = {"__pycache__", "results", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
SWITCHES = ("FASTROUTE_NO_EXTENSIONS", "FASTROUTE_REQUIRE_EXTENSIONS")
INSTALL_TIMEOUT_S = 600
START_TIMEOUT_S = 30

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout without anything built."""
    copy = tmp_path_factory.mktemp("checkout") / "fastroute"
    shutil.copytree(ROOT, copy, ignore=LITTER)
    shutil.copytree(ROOT / ".ci", copy / ".ci")
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the source distribution of the checkout."""
    out = tmp_path_factory.mktemp("sdist")
    tools = Environment(tmp_path_factory.mktemp("tools"))
    tools.pip("install", "build")
    tools.run(str(tools.python), "-m", "build", "--sdist", "--outdir", str(out), str(checkout))
    [path] = out.glob("fastroute-*.tar.gz")
    return path


def run(command: Sequence[str], directory: Path, variables: Mapping[str, str]) -> str:
    """Run a command that must succeed; return its standard output."""
    result = subprocess.run(
        command,
        cwd=directory,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


class Environment:
    """A virtual environment of this Python."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=True, symlinks=True)
        self.bin = directory / "bin"
        self.python = self.bin / "python"

    def run(self, *command: str, **variables: str) -> str:
        return run(command, self.bin, variables)

    def pip(self, *arguments: str, **variables: str) -> None:
        self.run(str(self.python), "-m", "pip", *arguments, **variables)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would steer the build, the run or the configuration."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in SWITCHES and not name.startswith(("PYTHON", "FASTROUTE_")) and not name.endswith("_API_KEY")
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **variables}


def readme_command() -> str:
    """Return the block of README.md that installs and runs it."""
    _, _, rest = (ROOT / "README.md").read_text().partition("<!-- install:begin -->\n```sh\n")
    return rest.partition("\n```\n<!-- install:end -->")[0]


@contextmanager
def serving(
    command: Sequence[str], directory: Path, variables: Mapping[str, str], timeout_s: float = START_TIMEOUT_S
) -> Iterator[list[str]]:
    """Run what serves without a configuration file; yield the lines it printed up to the curl line.

    It is stopped with SIGTERM to the supervisor, whether `command` is that or a shell that waits for it.
    """
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment(variables),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True)
    reader.start()
    try:
        end = time.monotonic() + timeout_s
        printed = [lines.get(timeout=timeout_s)]
        while not printed[-1].strip().startswith("curl "):
            printed.append(lines.get(timeout=max(end - time.monotonic(), 0.1)))
        yield printed
        os.kill(supervisor(process.pid), signal.SIGTERM)
        assert process.wait(START_TIMEOUT_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(START_TIMEOUT_S)
        process.stdout.close()


def supervisor(pid: int) -> int:
    """Return `pid`, or the child that the shell of that id waits for (Linux: read from /proc)."""
    if (Path(f"/proc/{pid}/comm")).read_text().strip() != "bash":
        return pid
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def ask(curl: str) -> dict[str, object]:
    """Do what a printed curl line does, without curl; return the JSON that comes back."""
    words = shlex.split(curl)
    assert words[0] == "curl"
    options = list(zip(words[2::2], words[3::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in options if option == "-H")
    [data] = [value for option, value in options if option == "-d"]
    with urlopen(Request(words[1], data.encode(), headers), timeout=START_TIMEOUT_S) as answer:
        assert answer.status == 200
        document: dict[str, object] = json.load(answer)
        return document


def check_it_serves(
    command: Sequence[str],
    folder: Path,
    program: Path,
    state_dir: Path,
    timeout_s: float = START_TIMEOUT_S,
    **more: str,
) -> None:
    """Check that `command`, run in `folder`, serves and counts; `program` is the fastroute that it serves with."""
    state = {"FASTROUTE_STATE_DIR": str(state_dir)}
    with serving(command, folder, {**state, **more}, timeout_s) as printed:
        document = ask(printed[-1])
    assert document["choices"]
    usage = json.loads(run([str(program), "usage", "--json"], folder, state))
    assert [row["requests"] for row in usage["rows"]] == [1]


# --- tests


def test_the_source_distribution_is_complete(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("fastroute", "tests", "bench", "docs", ".ci"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        wanted = {
            str(path.relative_to(ROOT))
            for path in files
            if path.suffix not in (".so", ".pyc", ".c") and not LITTER_FOLDERS & set(path.parts)
        }
        assert wanted - names == set()
    assert {"setup.py", "pyproject.toml", "tox.ini", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert not [name for name in names if re.search(r"\.(so|pyc|html|c)$", name)]


def test_a_wheel_from_the_source_distribution_is_compiled_and_serves(sdist: Path, tmp_path: Path) -> None:
    installed = Environment(tmp_path / "venv")
    # What is looked at is that all is compiled and works; to do it well takes the compiler three times as long.
    quick = tmp_path / "cc"
    quick.write_text(f'#!/bin/sh\nexec {sysconfig.get_config_var("CC")} "$@" -O0\n')
    quick.chmod(0o755)
    settings = {"FASTROUTE_REQUIRE_EXTENSIONS": "1", "CC": str(quick)}
    installed.pip("wheel", "--no-deps", "-w", str(tmp_path), str(sdist), **settings)
    [wheel] = tmp_path.glob("fastroute-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    built = {name.partition(".")[0] for name in names if name.endswith(".so")}
    assert built == {
        *(f"fastroute/_core/_{name}_c" for name in CORE),
        *(f"fastroute/{name.replace('.', '/')}" for name in CORRIDOR_MODULES),
    }
    assert not [name for name in names if name.endswith(".c") or not name.startswith("fastroute")]
    installed.pip("install", str(wheel))
    program = str(installed.bin / "fastroute")
    assert "(compiled core)" in installed.run(program, "--version", FASTROUTE_REQUIRE_EXTENSIONS="1")
    assert "(pure-Python core)" in installed.run(program, "--version", FASTROUTE_NO_EXTENSIONS="1")
    check_it_serves([program, "serve", "--port", "0"], installed.bin, Path(program), tmp_path / "state")


def test_the_command_of_the_readme_installs_and_serves_without_a_compiler(checkout: Path, tmp_path: Path) -> None:
    """To the letter, in a checkout; only the port is another one, and the compiler does not work."""
    command = ["bash", "-euo", "pipefail", "-c", readme_command()]
    program = checkout / ".venv" / "bin" / "fastroute"
    without = {"CC": "/bin/false", "FASTROUTE_PORT": "0"}
    try:
        check_it_serves(command, checkout, program, tmp_path / "state", INSTALL_TIMEOUT_S, **without)
        version = " ".join(run([str(program), "--version"], tmp_path, {}).split())
        assert version.endswith(f"(pure-Python core; not compiled: {', '.join(CORE + CORRIDOR_MODULES)})")
    finally:
        shutil.rmtree(checkout / ".venv", ignore_errors=True)


def test_without_a_compiler_a_required_half_fails_the_install(checkout: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(checkout)],
        env=environment({"CC": "/bin/false", "FASTROUTE_REQUIRE_EXTENSIONS": "1"}),
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert result.returncode != 0
    assert "/bin/false" in result.stdout + result.stderr
    assert not list(tmp_path.glob("*.whl"))
