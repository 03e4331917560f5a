import tomllib

import pytest

from fastroute.config.document import DocumentError, List, Node, Scalar, Table
from fastroute.config.read_toml import read_toml

DOCUMENT = """\
# comment with "quotes" and [brackets]
title = "x # not a comment"
[server] # comment
port = 8080
admin.port = 8081
'quoted key' = 1
text = \"\"\"
[not.a.table]
key = 1
\"\"\"
literal = '''a
' b'''

[[providers]]
id = "one"
models = [
  "a", # first
  {name = "b", price = {input_usd_per_mtok = 2.50}},
  ["deep",
   "er"],
]
[providers.timeouts]
total_ms = 5

[[providers]]
"id" = "two"
  [[providers.models]]
  name = "c"
  [[providers.models]]
  name = "d"
[[providers]]
id = "three"
"""


def lines(node: Node, path: str = "") -> dict[str, int]:
    found = {path: node.line}
    if isinstance(node, Table):
        for entry in node.entries:
            found |= lines(entry.node, f"{path}.{entry.key}")
            assert entry.line <= entry.node.line
    elif isinstance(node, List):
        for at, item in enumerate(node.items):
            found |= lines(item, f"{path}[{at}]")
    return found


def test_lines() -> None:
    node = read_toml(DOCUMENT)
    assert node is not None
    found = lines(node)
    expected = {
        ".title": 2, ".server": 3, ".server.port": 4, ".server.admin.port": 5, ".server.quoted key": 6,
        ".server.text": 7, ".server.literal": 11, ".providers": 14, ".providers[0]": 14, ".providers[0].id": 15,
        ".providers[0].models": 16, ".providers[0].models[0]": 17, ".providers[0].models[1].name": 18,
        ".providers[0].models[1].price.input_usd_per_mtok": 18, ".providers[0].models[2]": 19,
        ".providers[0].models[2][1]": 20, ".providers[0].timeouts": 22, ".providers[0].timeouts.total_ms": 23,
        ".providers[1].id": 26, ".providers[1].models[0].name": 28, ".providers[1].models[1].name": 30,
        ".providers[2]": 31, ".providers[2].id": 32,
    }  # fmt: skip
    assert {path: found[path] for path in expected} == expected
    assert {path: line for path, line in lines(read_toml(DOCUMENT.replace("\n", "\r\n")) or node).items()} == found


def test_kinds_and_text() -> None:
    node = read_toml("a = 2.50\nb = 1_000\nc = nan\nd = true\ne = 1979-05-27\nf = 1_0.5\ng = 0x1F\n")
    assert isinstance(node, Table)
    scalars = [entry.node for entry in node.entries]
    assert [(one.kind, one.text) for one in scalars if isinstance(one, Scalar)] == [
        ("number", "2.50"), ("integer", "1000"), ("number", "nan"), ("boolean", "true"), ("date", "1979-05-27"),
        ("number", "10.5"), ("integer", "31"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\na = 2\n", 2),
        ("a = 1\nb = \n", 2),
        ("a = [1,\n2", 2),
        ("a = 'sk-leaked\n", 1),
        ("a = sk-leaked\n", 1),
        ("a = " + "[" * 80 + "]" * 80, 1),
        ("a = " + "[" * 30_000 + "]" * 30_000, 1),
        ("b = 1\na = " + "9" * 5000, 2),
    ],
)
def test_faults(text: str, line: int) -> None:
    with pytest.raises(DocumentError) as error:
        read_toml(text)
    assert error.value.line == line
    assert "leaked" not in error.value.message


def test_nothing() -> None:
    assert read_toml("# nothing\n") is None


def test_the_scan_survives_every_prefix() -> None:
    for end in range(len(DOCUMENT)):
        try:
            tomllib.loads(DOCUMENT[:end])
        except ValueError:
            with pytest.raises(DocumentError):
                read_toml(DOCUMENT[:end])
        else:
            read_toml(DOCUMENT[:end])
