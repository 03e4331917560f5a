"""JSON (RFC 8259) into a tree, with the line of every value.

`NaN` and `Infinity` are read as numbers, so that they are refused where they stand, beside all other faults.
"""

import json
import re
from typing import Final

from fastroute.config.document import DocumentError, Kind, Node, Scalar, TreeBuilder

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"')
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_ATOM: Final = re.compile(
    r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![\w.+-])|(?:true|false|null|NaN|-?Infinity)(?!\w)"
)
_WORDS: Final[dict[str, Kind]] = {"true": "boolean", "false": "boolean", "null": "null"}


def read_json(text: str) -> Node | None:
    """Return the tree of a JSON text; None if it is blank. Raises DocumentError."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._builder = TreeBuilder(merge=False)
        self._closers: list[str] = []

    def read(self) -> Node | None:
        if self._peek() == "":
            return None
        self._value()
        while self._closers:
            self._next_member()
        if self._peek() != "":
            raise self._fault("text after the end of the JSON value")
        return self._builder.root()

    def _next_member(self) -> None:
        """Read from behind a value to behind the next value of the innermost table or list, or close it."""
        closer = self._closers[-1]
        char = self._peek()
        if char == closer:
            self._at += 1
            self._closers.pop()
            self._builder.close()
        elif char == ",":
            self._at += 1
            if self._peek() == closer:
                raise self._fault("a comma before the closing bracket")
            self._member()
        else:
            raise self._fault(f"expected ',' or '{closer}'")

    def _member(self) -> None:
        if self._closers[-1] == "}":
            if self._peek() != '"':
                raise self._fault("expected a key in double quotes")
            self._builder.add(self._string())
            if self._peek() != ":":
                raise self._fault("expected ':' after the key")
            self._at += 1
        self._value()

    def _value(self) -> None:
        char = self._peek()
        if char in ("{", "["):
            self._at += 1
            self._builder.open(table=char == "{", line=self._line)
            self._closers.append("}" if char == "{" else "]")
            if self._peek() != self._closers[-1]:
                self._member()
        elif char == '"':
            self._builder.add(self._string())
        else:
            self._builder.add(self._atom())

    def _string(self) -> Scalar:
        found = _STRING.match(self._text, self._at)
        if found is None:
            raise self._fault("a string that does not end, or holds a control character or unknown escape")
        self._at = found.end()
        raw = found.group()
        return Scalar("string", json.loads(raw) if "\\" in raw else raw[1:-1], self._line)

    def _atom(self) -> Scalar:
        found = _ATOM.match(self._text, self._at)
        if found is None:
            raise self._fault("expected a value")
        self._at = found.end()
        raw = found.group()
        kind = _WORDS.get(raw) or ("integer" if _INTEGER.match(raw) else "number")
        return Scalar(kind, raw, self._line)

    def _peek(self) -> str:
        """Skip white space; return the next character, "" at the end."""
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._text[self._at : self._at + 1]

    def _fault(self, message: str) -> DocumentError:
        return DocumentError(self._line, f"not valid JSON: {message}")
