"""TOML 1.0 into a tree: tomllib reads the values, a second scan finds the lines they stand on.

The scan relies on tomllib having accepted the text, so it only has to know where keys, strings and brackets are.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from fastroute.config.document import MAX_DEPTH, DocumentError, Entry, List, Node, Scalar, Table

Path = tuple[str | int, ...]

_WHERE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_TRIPLE: Final = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}' + r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_SINGLE: Final = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'[^']*'")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_LONG_INTEGER: Final = re.compile(r"[0-9_]{4000}")
_OTHER: Final = re.compile(r"[^,\]}\n#]+")


class _Number(str):
    """The source text of a float, kept by tomllib's `parse_float`."""

    __slots__ = ()


def read_toml(text: str) -> Node | None:
    """Return the tree of a TOML document; None if it sets nothing. Raises DocumentError."""
    try:
        data = tomllib.loads(text, parse_float=_Number)
    except tomllib.TOMLDecodeError as error:
        raise _decode_fault(text, str(error)) from None
    except ValueError:
        # The one other thing tomllib raises: Python refuses to convert integers of thousands of digits.
        found = _LONG_INTEGER.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        raise DocumentError(line, "not valid TOML: an integer with too many digits") from None
    except RecursionError:
        raise DocumentError(1, f"nested deeper than {MAX_DEPTH} levels") from None
    if not data:
        return None
    _check_depth(data)
    return _node(data, (), _Scan(text.replace("\r\n", "\n")).lines, 1)


def _decode_fault(text: str, message: str) -> DocumentError:
    where = _WHERE.search(message)
    if where is None:
        return DocumentError(1, f"not valid TOML: {message}")
    line = int(where[1]) if where[1] else text.rstrip("\n").count("\n") + 1
    return DocumentError(line, f"not valid TOML: {message[: where.start()]}")


def _check_depth(data: object) -> None:
    level: list[object] = [data]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise DocumentError(1, f"nested deeper than {MAX_DEPTH} levels")


def _children(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        yield from node.values()
    elif isinstance(node, list):
        yield from node


def _node(data: Any, path: Path, lines: dict[Path, int], above: int) -> Node:
    line = lines.get(path, above)
    if isinstance(data, dict):
        entries = tuple(
            Entry(key, lines.get((*path, key), line), _node(value, (*path, key), lines, line))
            for key, value in data.items()
        )
        return Table(entries, line, 1 + sum(entry.node.size for entry in entries))
    if isinstance(data, list):
        items = tuple(_node(value, (*path, index), lines, line) for index, value in enumerate(data))
        return List(items, line, 1 + sum(item.size for item in items))
    return _scalar(data, line)


def _scalar(data: object, line: int) -> Scalar:
    if isinstance(data, bool):
        return Scalar("boolean", "true" if data else "false", line)
    if isinstance(data, _Number):
        return Scalar("number", data.replace("_", ""), line)
    if isinstance(data, str):
        return Scalar("string", data, line)
    if isinstance(data, int):
        # Hexadecimal, because Python refuses to write very long integers in decimal.
        return Scalar("integer", str(data) if abs(data) < 1 << 63 else hex(data), line)
    return Scalar("date", str(data), line)


class _Scan:
    """Fills `lines`: the line on which each path is first set."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._arrays: dict[Path, int] = {}
        table: Path = ()
        while self._char():
            if self._char() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        """Read `[a.b]` or `[[a.b]]`; return the path of the table it opens."""
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        *parents, last = self._key()
        self._at += 2 if array else 1
        path: Path = ()
        for part in parents:
            path = self._inside((*path, part))
        path = (*path, last)
        if array:
            self._note(path)
            self._arrays[path] = self._arrays.get(path, -1) + 1
        path = self._inside(path)
        self._note(path)
        return path

    def _inside(self, path: Path) -> Path:
        """Return the path of the table meant by `path`: the last element where that is an array of tables."""
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _pair(self, table: Path) -> None:
        self._char()
        path = table
        for part in self._key():
            path = (*path, part)
            self._note(path)
        self._char()
        self._at += 1  # the "="
        self._value(path)

    def _key(self) -> list[str]:
        """Read a dotted key and leave the position at what follows it."""
        parts: list[str] = []
        while True:
            char = self._char()
            pattern = _SINGLE if char in ('"', "'") else _BARE
            raw = self._take(pattern)
            quoted = raw[:1] in ('"', "'")
            parts.append(next(iter(tomllib.loads(f"{raw} = 0"))) if quoted else raw)
            if self._char() != ".":
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        char = self._char()
        self._note(path)
        if char == "[":
            self._array(path)
        elif char == "{":
            self._inline(path)
        elif char in ('"', "'"):
            triple = self._text.startswith(char * 3, self._at)
            self._take(_TRIPLE if triple else _SINGLE)
        else:
            self._take(_OTHER)

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._char() != "]":
            self._value((*path, index))
            index += 1
            if self._char() == ",":
                self._at += 1
        self._at += 1

    def _inline(self, path: Path) -> None:
        self._at += 1
        while self._char() != "}":
            self._pair(path)
            if self._char() == ",":
                self._at += 1
        self._at += 1

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self._line)

    def _take(self, pattern: re.Pattern[str]) -> str:
        """Consume what `pattern` matches here, or one character, so that the scan always ends."""
        found = pattern.match(self._text, self._at)
        end = found.end() if found else self._at + 1
        raw, self._at = self._text[self._at : end], end
        return raw

    def _char(self) -> str:
        """Skip white space and comments; return the next character, "" at the end."""
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._text[self._at : self._at + 1]
