import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.config.document import DocumentError, List, Node, Scalar, Table
from fastroute.config.read_json import read_json


def plain(node: Node | None) -> object:
    match node:
        case Table():
            return {entry.key: plain(entry.node) for entry in node.entries}
        case List():
            return [plain(item) for item in node.items]
        case Scalar(kind="string"):
            return node.text
        case Scalar():
            return json.loads(node.text)
    return None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_it_reads_what_json_writes(value: object, indent: int | str | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert repr(plain(read_json(text))) == repr(json.loads(text))


@given(st.text(alphabet='{}[],:"\\ \n\t0123456789.eE+-truefalsn/*', max_size=40))
def test_it_refuses_what_json_refuses(text: str) -> None:
    try:
        expected = repr(json.loads(text))
    except ValueError:
        expected = None
    try:
        node = read_json(text)
        found = None if node is None else repr(plain(node))
    except DocumentError:
        found = None
    if found is not None and expected is not None and "{" not in text:  # repeated keys are no fault here
        assert found == expected
    assert (found is None) == (expected is None)


def test_lines_and_text() -> None:
    node = read_json('{\n\t"a": [1,\n\t2.50],\n\t"b":\n\t"x"}')
    assert isinstance(node, Table)
    first = node.entries[0].node
    assert isinstance(first, List)
    assert [item.line for item in first.items] == [2, 3]
    assert isinstance(first.items[1], Scalar)
    assert first.items[1].text == "2.50"
    assert (node.entries[1].line, node.entries[1].node.line) == (4, 5)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"a": 1\n "b": 2}', 2, "expected ',' or '}'"),
        ('{"a": 1,\n}', 2, "a comma before the closing bracket"),
        ("[1,\n\n2", 3, "expected ',' or ']'"),
        ("{a: 1}", 1, "expected a key in double quotes"),
        ('{"a" 1}', 1, "expected ':'"),
        ('{"a": 1}\n// note', 2, "text after the end"),
        ('{"a": sk-leaked}', 1, "expected a value"),
        ('{"a": 01}', 1, "expected a value"),
        ('{"a": "sk-leaked\n"}', 1, "a string that does not end"),
        ('{"a": "\\x"}', 1, "a string that does not end"),
        ("[" * 100, 1, "nested deeper than 64 levels"),
    ],
)
def test_faults(text: str, line: int, message: str) -> None:
    with pytest.raises(DocumentError) as error:
        read_json(text)
    assert message in error.value.message
    assert error.value.line == line
    assert "leaked" not in error.value.message


def test_nothing() -> None:
    assert read_json(" \n ") is None
