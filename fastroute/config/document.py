"""The tree every file format is read into: scalars keep their source text, and every node knows its line.

Readers only build the tree; names, types and bounds are judged by `shape`.
"""

from typing import Final, Literal, TypeAlias

import msgspec

#: Bound of nesting: deeper documents are refused, so that walking the tree may recurse.
MAX_DEPTH: Final = 64
#: Bound of nodes after anchors are expanded (a configuration of 10,000 priced models has about 120,000).
MAX_NODES: Final = 500_000

Kind = Literal["string", "integer", "number", "boolean", "null", "date"]


class DocumentError(Exception):
    """The text cannot be read as a tree; says where and why, never quoting a value."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """A leaf. `text` is what the source says: "2.50" stays "2.50"."""

    kind: Kind
    text: str
    line: int

    @property
    def size(self) -> int:
        """Return the number of nodes: itself."""
        return 1


class Entry(msgspec.Struct, frozen=True):
    """One `key: value` of a table; `line` is the key's."""

    key: str
    line: int
    node: "Node"


class Table(msgspec.Struct, frozen=True):
    """A mapping in source order. Keys may repeat: `shape` reports that with its path."""

    entries: tuple[Entry, ...]
    line: int
    size: int


class List(msgspec.Struct, frozen=True):
    """A sequence."""

    items: "tuple[Node, ...]"
    line: int
    size: int


Node: TypeAlias = Scalar | Table | List


def describe(node: Node) -> str:
    """Return what a node is, for messages; never its value."""
    match node:
        case Table():
            return "a mapping"
        case List():
            return "a list"
        case Scalar(kind="integer"):
            return "an integer"
        case Scalar(kind="null"):
            return "null"
        case Scalar(kind=kind):
            return f"a {kind}"


class _Frame(msgspec.Struct):
    table: bool
    line: int
    anchor: str | None
    children: list[Node]


class TreeBuilder:
    """Builds a tree from the order in which a parser meets its parts, without recursion.

    In a table, keys and values are added in turn. `merge` honours YAML's `<<`. Raises DocumentError at the
    bounds.
    """

    def __init__(self, *, merge: bool) -> None:
        self._merge = merge
        self._stack: list[_Frame] = []
        self._root: Node | None = None

    @property
    def depth(self) -> int:
        """Return how many tables and lists are open."""
        return len(self._stack)

    def is_open(self, anchor: str) -> bool:
        """Return whether the node with this anchor is still being built."""
        return any(frame.anchor == anchor for frame in self._stack)

    def open(self, *, table: bool, line: int, anchor: str | None = None) -> None:
        """Begin a table or list."""
        if len(self._stack) == MAX_DEPTH:
            raise DocumentError(line, f"nested deeper than {MAX_DEPTH} levels")
        self._stack.append(_Frame(table, line, anchor, []))

    def close(self) -> tuple[Node, str | None]:
        """End the innermost table or list; return it and its anchor."""
        frame = self._stack.pop()
        node = self._table(frame) if frame.table else self._list(frame)
        self.add(node)
        return node, frame.anchor

    def add(self, node: Node) -> None:
        """Add a finished node to the innermost open table or list, or make it the root."""
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self._root = node

    def root(self) -> Node | None:
        """Return the whole tree; None if nothing was added."""
        return self._root

    def _list(self, frame: _Frame) -> List:
        size = _bounded(1 + sum(node.size for node in frame.children), frame.line)
        return List(tuple(frame.children), frame.line, size)

    def _table(self, frame: _Frame) -> Table:
        entries: list[Entry] = []
        merged: list[Entry] = []
        pairs = iter(frame.children)
        for key, value in zip(pairs, pairs, strict=True):
            if not isinstance(key, Scalar):
                raise DocumentError(key.line, "a key must be a plain name")
            if self._merge and key.text == "<<":
                merged += _merged(value)
            else:
                entries.append(Entry(key.text, key.line, value))
        names = {entry.key for entry in entries}
        for entry in merged:
            if entry.key not in names:
                names.add(entry.key)
                entries.append(entry)
        size = _bounded(1 + sum(entry.node.size for entry in entries), frame.line)
        return Table(tuple(entries), frame.line, size)


def _merged(value: Node) -> list[Entry]:
    """Return the entries that `<<: value` brings in, earlier tables of a list first."""
    tables = value.items if isinstance(value, List) else (value,)
    entries: list[Entry] = []
    for table in tables:
        if not isinstance(table, Table):
            raise DocumentError(value.line, "'<<' merges mappings only")
        entries += table.entries
        _bounded(len(entries), value.line)
    return entries


def _bounded(size: int, line: int) -> int:
    if size > MAX_NODES:
        raise DocumentError(line, f"more than {MAX_NODES} values once anchors are expanded")
    return size
