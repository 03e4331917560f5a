"""docs/configuration.md explains every field of the schema, with the defaults and bounds that are in force."""

import re
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from fastroute.config.fields import STRATEGIES
from fastroute.config.presets import PRESETS, UNSUPPORTED_TYPES
from fastroute.config.schema import INTERNAL_FIELDS, Config, Reject, Rule, Then
from fastroute.config.shape import struct_info
from fastroute.routing.rules import Facts, compile_rules
from tests.unit.config.helpers import load

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"

Row = tuple[str, str]  # default, bounds


def bare(kind: inspect.Type) -> tuple[inspect.Type, dict[str, object]]:
    """Return the type without null and annotations, and what the annotations say."""
    extra: dict[str, object] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra |= kind.extra or {}
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
        else:
            return kind, extra


def bounds(kind: inspect.Type) -> str:
    kind, extra = bare(kind)
    match kind:
        case inspect.IntType() | inspect.FloatType():
            return f"{kind.ge} to {kind.le}"
        case inspect.DecimalType():
            return f"{extra['ge']} to {extra['le']}, {extra['places']} decimal places"
        case inspect.LiteralType():
            return " ".join(f"`{value}`" for value in kind.values)
        case inspect.BoolType():
            return "`true` `false`"
        case inspect.StrType() if "form" in extra:
            return str(extra["form"])
        case inspect.StrType():
            return f"{kind.min_length or 0} to {kind.max_length} characters"
        case inspect.VarTupleType():
            return ("list, not empty" if kind.min_length else "list") + item_bounds(kind.item_type)
        case inspect.DictType():
            return "mapping"
        case inspect.CustomType():
            return "secret"
        case _:
            return "mapping, see below"


def item_bounds(kind: inspect.Type) -> str:
    inner, _ = bare(kind)
    return "" if isinstance(inner, inspect.StructType) else f" of: {bounds(kind)}"


def default(field: inspect.Field) -> str:
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    match value:
        case _ if value is msgspec.NODEFAULT:
            return "required"
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float() | Decimal():
            return f"`{value}`"
        case str():
            return f"`{value}`" if value else "empty"
        case tuple():
            return " ".join(f"`{one}`" for one in value) or "empty"
        case _:
            return "empty" if value == {} else "as below"


def sections(kind: inspect.Type, path: str, found: dict[str, dict[str, Row]]) -> dict[str, dict[str, Row]]:
    """Return for every struct, by its path in the file, its fields."""
    kind, _ = bare(kind)
    match kind:
        case inspect.StructType() if path == "rules.when" or not path.startswith("rules.when."):
            rows = {}
            for field in kind.fields:
                if field.name in INTERNAL_FIELDS:
                    continue
                rows[field.encode_name] = (default(field), bounds(field.type))
                sections(field.type, f"{path}.{field.encode_name}".lstrip("."), found)
            found[path or "top level"] = rows
        case inspect.VarTupleType():
            sections(kind.item_type, path, found)
    return found


def documented() -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        heading = re.match(r"##(?:# (.+))?", line)
        row = re.match(r"\| `([a-z0-9_]+)` \|", line)
        if heading:
            section = (heading[1] or "").strip("`")
        elif row and section:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 5, line
            assert all(cells), f"an empty cell: {line}"
            found.setdefault(section, {})[row[1]] = (cells[3], cells[4])
    return found


EXPECTED = sections(struct_info(Config), "", {})

#: Sections that are explained at another place, by the path that theirs begins with: the structs are the same.
ELSEWHERE = {
    "tenants.limits": "auth.keys.limits",
    "tenants.budget": "auth.keys.budget",
    "providers.timeouts": "routing.timeouts",
    "routes.on_context_window": "routes.fallbacks",
    "routes.on_content_policy": "routes.fallbacks",
    "rules.then.chain.reject": "rules.then.reject",
}


@pytest.mark.parametrize("section", list(EXPECTED))
def test_every_field_is_documented_as_it_is(section: str) -> None:
    rows = documented().get(ELSEWHERE.get(section, section))
    if section == "rules.then.chain":
        rows = {name: row for name, row in documented()["rules.then"].items() if name != "chain"}
    assert rows is not None, f"no section ### `{section}`"
    assert rows == EXPECTED[section]


def test_what_is_documented_elsewhere_is_not_documented_twice() -> None:
    assert not documented().keys() & {*ELSEWHERE, "rules.then.chain"}


def test_nothing_else_is_documented() -> None:
    assert set(documented()) <= set(EXPECTED)


@pytest.mark.parametrize("name", [*PRESETS, *UNSUPPORTED_TYPES, *STRATEGIES])
def test_names_are_mentioned(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.base_url])
def test_presets_are_listed_with_their_url_and_variables(name: str) -> None:
    preset = PRESETS[name]
    row = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` | "))
    assert f"`{preset.base_url}`" in row
    assert all(f"`{variable}`" in row for variable in preset.variables)


def test_the_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    names = re.findall(r"\$\{([A-Z0-9_]+)\}", example[1])
    config = load(tmp_path, example[1], {name: f"value-of-{name}" for name in names})
    assert len(config.providers) > 1


def test_the_example_of_the_rules_loads(tmp_path: Path) -> None:
    page = (PAGE.parent / "rules.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    providers = ", ".join(f"{{id: {name}, type: echo, models: [m]}}" for name in ("cheap-1", "cheap-2"))
    keys = "auth: {keys: [{id: k, key: x, tenant: acme}]}"
    config = load(tmp_path, f"{example[1]}{keys}\nproviders: [{providers}]\n")
    assert [rule.id for rule in config.rules] == ["night", "vip", "works"]


def test_the_reasons_of_a_rejection_are_those_of_the_rules() -> None:
    page = (PAGE.parent / "rules.md").read_text(encoding="utf-8")
    kind = struct_info(Reject).fields[0].type
    for reason in bare(kind)[0].values:  # type: ignore[attr-defined]
        rule = Rule(id="r", then=Then(reject=Reject(reason=reason)))
        rejection = compile_rules(Config(rules=(rule,)), ()).decide(Facts()).reject
        assert rejection is not None
        status, code, _, wait_s = rejection
        assert f"| `{reason}` | {status} | `{code}` | {wait_s or 'none'} |" in page
