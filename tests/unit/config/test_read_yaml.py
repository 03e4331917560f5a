import pytest
import yaml

from fastroute.config import read_yaml as module
from fastroute.config.document import MAX_NODES, DocumentError, List, Scalar, Table
from fastroute.config.read_yaml import read_yaml


@pytest.fixture(params=["c", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with libyaml and with PyYAML's own parser, which is what a machine without libyaml has."""
    if request.param == "c" and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(module, "_LOADER", yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader)


def scalar(text: str) -> Scalar:
    node = read_yaml(f"k: {text}")
    assert isinstance(node, Table)
    value = node.entries[0].node
    assert isinstance(value, Scalar)
    return value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "null"), ("~", "null"), ("null", "null"), ("true", "boolean"), ("False", "boolean"),
        ("no", "string"), ("on", "string"), ("22:00", "string"), ("2024-08-06", "string"), ("010", "string"),
        ("1_000", "string"), ("0", "integer"), ("-7", "integer"), ("0x1F", "integer"), ("0o17", "integer"),
        ("2.50", "number"), ("1e3", "number"), (".5", "number"), (".nan", "number"), ("-.inf", "number"),
        ("'1'", "string"), ('"true"', "string"), ("!!str 12", "string"), ("1.2.3", "string"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, kind: str) -> None:
    assert scalar(text).kind == kind


def test_text_is_kept() -> None:
    assert scalar("2.50").text == "2.50"


def test_lines() -> None:
    node = read_yaml("# comment\na:\n  - x\n\n  - {b: 1,\n     c: 2}\n")
    assert isinstance(node, Table)
    items = node.entries[0].node
    assert isinstance(items, List)
    assert (node.entries[0].line, items.items[0].line, items.items[1].line) == (2, 3, 5)
    inner = items.items[1]
    assert isinstance(inner, Table)
    assert [entry.line for entry in inner.entries] == [5, 6]


def test_anchors_and_merges() -> None:
    node = read_yaml("base: &b {x: 1, y: 2}\nmore: &m {z: 3, y: 9}\none: {<<: [*b, *m], x: 5}\n")
    assert isinstance(node, Table)
    one = node.entries[2].node
    assert isinstance(one, Table)
    assert [(entry.key, entry.node.text) for entry in one.entries if isinstance(entry.node, Scalar)] == [
        ("x", "5"),
        ("y", "2"),
        ("z", "3"),
    ]


def test_repeated_keys_are_kept_for_the_walk_to_report() -> None:
    node = read_yaml("a: 1\na: 2\n")
    assert isinstance(node, Table)
    assert [entry.line for entry in node.entries] == [1, 2]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_nothing(text: str) -> None:
    node = read_yaml(text)
    assert node is None or (isinstance(node, Scalar) and node.kind == "null")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 'x\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "more than one YAML document"),
        ("a: 1\nb: *sk-leaked\n", 2, "an alias to an anchor that is not defined"),
        ("a: &x [*x]\n", 1, "an alias to a node that contains it"),
        ("a: !secret sk-leaked\n", 1, "YAML tags are not supported"),
        ("a: !!python/object:os.system {}\n", 1, "YAML tags are not supported"),
        ("? [a, b]\n: 1\n", 1, "a key must be a plain name"),
        ("a:\n  <<: 5\n", 2, "'<<' merges mappings only"),
        ("a: " + "[" * 80, 1, "nested deeper than 64 levels"),
        ("a: \x01\n", 1, "not valid YAML"),
    ],
)
def test_faults(text: str, line: int, message: str) -> None:
    with pytest.raises(DocumentError) as error:
        read_yaml(text)
    assert error.value.message.startswith(message)
    assert error.value.line == line
    assert "leaked" not in error.value.message


def test_a_bomb_is_refused_without_being_expanded() -> None:
    levels = "\n".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 20))
    with pytest.raises(DocumentError, match=f"more than {MAX_NODES}"):
        read_yaml(f"a0: &a0 [x, x, x]\n{levels}\n")


def test_a_bomb_of_merges_is_refused() -> None:
    levels = "\n".join(f"a{at}: &a{at} {{k{at}: *a{at - 1}, l{at}: *a{at - 1}}}" for at in range(1, 40))
    with pytest.raises(DocumentError, match=f"more than {MAX_NODES}"):
        read_yaml(f"a0: &a0 {{x: 1}}\n{levels}\n")
