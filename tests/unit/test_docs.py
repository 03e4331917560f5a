"""What the documentation says is what the code does: commands, links, file names, tables.

docs/configuration.md has a test of its own in tests/unit/config.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from fastroute._core._candidates_gates import GATE_NAMES, TRIED
from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED
from fastroute.admin.explain import Question
from fastroute.config import doubts, load_file, not_in_force
from fastroute.config.schema import Backoff as BackoffConfig
from fastroute.config.schema import Breaker, Retry
from fastroute.failover.backoff import Backoff
from fastroute.failover.classify import Classifier
from fastroute.routing.refusals import refusal
from fastroute.upstream.headers import HOP_BY_HOP, OWN, QUERY_DROP, REQUEST_DROP, RESPONSE_DROP
from tests.unit.config.helpers import check_text
from tests.unit.routing.stand import Stand
from tests.unit.test_imports import LAYERS

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
#: A file of the repository or of the package, named in code or in a diagram.
FILE_NAME = re.compile(r"(?<![\w/.*])((?:[\w.-]+/)*[\w-]+\.(?:py|pyx|md|ini|toml))\b")
#: Files of that form that are not ours, or stand for many.
NOT_OURS = {"_x_py.py", "_x_c.pyx", "x.py", "gateway.yaml"}


def page(name: str) -> str:
    return (ROOT / name).read_text()


def between(name: str, marker: str) -> str:
    """Return what stands between `<!-- marker:begin -->` and `<!-- marker:end -->` of a page."""
    _, _, rest = page(name).partition(f"<!-- {marker}:begin -->\n")
    text, end, _ = rest.partition(f"<!-- {marker}:end -->")
    assert end, f"{name} has no {marker} markers"
    return text


def rows(name: str, marker: str) -> list[list[str]]:
    """Return the cells of the table between markers, its head left out."""
    lines = [line for line in between(name, marker).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(FENCE.sub("", text)))
    return {heading.replace(" ", "-") for heading in plain}


# --- commands


def test_ci_runs_the_test_command_of_the_readme_to_the_letter() -> None:
    printed = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--print"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    block = between("README.md", "test").strip()
    assert block == f"```sh\n{printed.strip()}\n```"
    assert ".venv/bin/tox" in printed


@pytest.mark.parametrize("data", [True, False], ids=["data", "no-data"])
def test_ci_runs_on_a_copy_that_has_the_data_beside_it(data: bool, tmp_path: Path) -> None:
    checkout, shared, scratch = tmp_path / "work" / "checkout", tmp_path / "elsewhere", tmp_path / "scratch"
    for folder in (checkout / ".ci", shared, scratch):
        folder.mkdir(parents=True)
    (checkout / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    command = "pwd && touch made && { cat ../shared/data || echo nothing; }"
    (checkout / "README.md").write_text(f"<!-- test:begin -->\n```sh\n{command}\n```\n<!-- test:end -->\n")
    (shared / "data").write_text("real\n")
    if data:
        (tmp_path / "work" / "shared").symlink_to(shared)
    ran = subprocess.run(
        ["bash", str(checkout / ".ci" / "run")],
        env={**os.environ, "TMPDIR": str(scratch), "GIT_CEILING_DIRECTORIES": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=True,
    ).stdout.splitlines()
    assert ran[0] == f"+ {command}"
    assert ran[1].startswith(f"{scratch}/")
    assert ran[2:] == (["real"] if data else ["nothing"])
    assert list(scratch.iterdir()) == []
    assert not (checkout / "made").exists()
    assert (shared / "data").read_text() == "real\n"


@pytest.mark.parametrize("marker", ["install", "test"])
def test_the_commands_of_the_readme_are_one_command_each(marker: str) -> None:
    command = between("README.md", marker).strip().removeprefix("```sh\n").removesuffix("\n```")
    # A syntax check, and nothing after the list of && and ||: a single exit status.
    checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr
    assert all(line.endswith(("&&", "||", "{")) for line in command.splitlines()[:-1])


# --- links and names


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall(page("README.md")))
    for path in PAGES[1:]:
        assert str(path.relative_to(ROOT)) in linked


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_resolve(path: Path) -> None:
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        assert found.is_file(), link
        assert found.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(found.read_text()), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    names = {name for name in FILE_NAME.findall(path.read_text()) if name.rpartition("/")[2] not in NOT_OURS}
    folders = [ROOT, ROOT / "fastroute", path.parent]
    assert [name for name in names if not any((folder / name).is_file() for folder in folders)] == []


def test_the_table_of_paths_names_what_exists() -> None:
    _, _, table = page("CONTRIBUTING.md").partition("| path | purpose |")
    named = [name for line in table.splitlines() if line.startswith("| `") for name in CODE.findall(line.split("|")[1])]
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_prose_is_at_most_120_columns_wide(path: Path) -> None:
    prose = FENCE.sub(lambda fenced: "\n" * fenced[0].count("\n"), path.read_text()).splitlines()
    wide = [number for number, line in enumerate(prose, 1) if len(line) > 120 and not line.startswith("|")]
    assert wide == []


# --- configurations

CONFIGS = [
    pytest.param(fenced[1], id=f"{path.name}-{number}")
    for path in PAGES
    for number, fenced in enumerate(re.finditer(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL), 1)
]
#: What is wrong with a part of a configuration only because the rest of it is not there.
MISSING = re.compile(
    r"at least one provider is needed$|unknown (provider|model) '[^']*'|leads nowhere: no model of that "
)


@pytest.mark.parametrize("text", CONFIGS)
def test_configurations_that_are_shown_can_be_loaded(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it where it has providers; else it is a part, and only the names of the other parts may be missing."""
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, f"sk-{name}")
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    faults = check_text(str(file))
    if re.search(r"^providers:", text, re.MULTILINE) is None:
        assert [fault for fault in faults if not MISSING.search(fault)] == []
        return
    assert faults == []
    config = load_file(str(file), os.environ)
    assert (not_in_force(config), doubts(config)) == ([], [])


def test_configurations_are_found() -> None:
    assert len(CONFIGS) >= 8


# --- tables


def test_the_layers_are_those_of_the_test() -> None:
    written = {int(level): set(CODE.findall(names)) for level, names in rows("docs/architecture.md", "layers")}
    package = {
        path.stem for path in (ROOT / "fastroute").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert written == {level: set(names) & package for level, names in enumerate(LAYERS)}


#: A sample of every row of the table in docs/failover.md, in its order.
VERDICT_SAMPLES: list[list[int | str]] = [
    [200, 204],
    [301, 302, 307],
    [401, 402, 403],
    [429, 529],
    [408, 500, 502, 503, 504],
    [409],
    [400, 404, 422],
    ["timeout"],
    ["connect", "tls", "closed", "truncated", "malformed"],
    ["overflow"],
]
VERDICTS = {
    OK: "is well",
    FAILED: "has failed",
    RATE_LIMITED: "has had enough",
    KEY_REJECTED: "refuses our key",
    NEUTRAL: "is not judged",
}


@pytest.mark.parametrize("index", range(len(VERDICT_SAMPLES)))
def test_the_verdicts_are_those_of_the_classifier(index: int) -> None:
    table = rows("docs/failover.md", "classify")
    assert len(table) == len(VERDICT_SAMPLES)
    _, name, retried, judged = table[index]
    with_all = Classifier(frozenset({*Retry().on_status, 409}), Retry().max_retry_after_ms)
    with_none = Classifier(frozenset(), Retry().max_retry_after_ms)
    for sample in VERDICT_SAMPLES[index]:
        if isinstance(sample, str):
            verdicts = [with_all.transport(sample), with_none.transport(sample)]
        else:
            verdicts = [with_all.status(sample)] + ([with_none.status(sample)] if sample != 409 else [])
        assert {f"`{verdict.name}`" for verdict in verdicts} == {name}
        assert {VERDICTS[verdict.verdict] for verdict in verdicts} == {judged}
        wanted = {"yes": [True, True], "no": [False, False], "if in `on_status`": [True, False]}[retried]
        assert [verdict.retryable for verdict in verdicts] == wanted[: len(verdicts)]


def test_the_gates_are_those_of_the_pool() -> None:
    assert [row[0] for row in rows("docs/explain.md", "gates")] == [f"`{name}`" for name in GATE_NAMES[1:]]


def test_the_refusals_are_those_of_the_gates() -> None:
    told = [(name, refusal(gate, 1000)) for gate, name in enumerate(GATE_NAMES) if gate > TRIED]
    expected = [[f"`{name}`", str(error.status), f"`{error.code}`"] for name, error in told]
    assert rows("docs/explain.md", "refusals") == expected


def test_the_question_has_the_fields_it_has() -> None:
    assert [row[0] for row in rows("docs/explain.md", "question")] == [
        f"`{name}`" for name in Question.__struct_fields__
    ]


def test_an_explanation_has_the_fields_it_has(tmp_path: Path) -> None:
    example = re.search(r"```json\n(.*?)```", page("docs/explain.md"), re.DOTALL)
    assert example is not None
    written = json.loads(example[1])
    with Stand(tmp_path) as stand:
        answered = stand.explain()
    assert list(written) == list(answered)
    assert list(written["candidates"][0]) == list(answered["candidates"][0])
    named = set(CODE.findall(page("docs/explain.md")))
    described = set(written) | set(written["candidates"][0])
    assert described - named <= {"endpoint", "provider", "upstream_model", "weight", "chosen"}


def test_the_numbers_of_the_breaker_are_its_defaults() -> None:
    text = " ".join(page("docs/breaker.md").split())
    breaker = Breaker()
    for name, shown in [
        ("failure_threshold", "`failure_threshold` failures in a row ({})"),
        ("min_requests", "`min_requests` attempts ({})"),
        ("failure_rate", "`failure_rate` ({})"),
        ("half_open_max_calls", "`half_open_max_calls` requests ({})"),
        ("success_threshold", "`success_threshold` ({})"),
        ("panic_min_endpoints", "`panic_min_endpoints` ({})"),
        ("panic_percent", "`panic_percent` ({})"),
    ]:
        assert shown.format(getattr(breaker, name)) in text, name
    for name, shown in [("window_ms", "{} s"), ("timeout_ms", "{} s"), ("slow_start_ms", "{} s")]:
        assert f"`{name}` ({shown.format(getattr(breaker, name) // 1000)})" in text, name
    assert f"`max_timeout_ms` ({breaker.max_timeout_ms // 60_000} min)" in text


def test_the_backoff_is_what_it_is_said_to_be() -> None:
    text = page("docs/failover.md")
    for kind, factors in [("linear", "1, 2, 3, 4, 5"), ("fibonacci", "1, 1, 2, 3, 5")]:
        backoff = Backoff(BackoffConfig(kind=kind, base_ms=1))  # type: ignore[arg-type]
        assert ", ".join(str(backoff.ceiling_ms(attempt)) for attempt in range(1, 6)) == factors
        assert f"| `{kind}` | {factors}, ... x `base_ms` |" in text


def test_default_retry_statuses_are_written_down() -> None:
    *most, last = Retry().on_status
    assert f"{', '.join(map(str, most))} and {last} by default" in page("docs/failover.md")


def test_header_tables_are_complete() -> None:
    dropped = set(CODE.findall(between("docs/security.md", "request-drop")))
    assert {name.decode() for name in REQUEST_DROP - OWN} <= dropped
    assert dropped - {name.decode() for name in REQUEST_DROP} == {"Connection", "x-fastroute-"}
    hidden = set(CODE.findall(between("docs/security.md", "response-drop")))
    assert {name.decode() for name in RESPONSE_DROP - OWN - HOP_BY_HOP} == hidden - {"Connection", "x-fastroute-"}
    query = page("docs/security.md").partition("Query parameters that do not go upstream.**")[2].partition("\n\n")[0]
    assert {name.decode() for name in QUERY_DROP} == set(CODE.findall(query))
