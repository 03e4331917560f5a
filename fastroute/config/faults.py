"""The list of what is wrong with a configuration, and the promise that no line of it shows a credential.

Values are quoted only where they stand literally in the file; what came out of the environment is named by
its variable. As a second line of defence every hidden value that is long enough to be recognised is masked in
the text.
"""

import difflib
import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

import msgspec

Path = tuple[str | int, ...]

#: At most this many faults are printed; the last line counts the others.
MAX_FAULTS: Final = 1000
#: Hidden values shorter than this are not searched for: they would mask ordinary words.
_MASKABLE: Final = 6
_QUOTED_CHARS: Final = 64
#: Looking for the nearest name is slow, so only the first faults get a suggestion, out of so many names at
#: most.
_SUGGESTIONS: Final = 50
_SUGGESTED_NAMES: Final = 2000
_BARE_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Where a value stands. `variable` names the environment variable it holds ("": it is literal)."""

    line: int
    variable: str = ""


class Faults:
    """Collects faults of one source (a file name, or `environment`) and prints them in source order."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.marks: dict[Path, Mark] = {}
        self._hidden: set[str] = set()
        self._found: list[tuple[int, str]] = []
        self._suggested = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def mark(self, path: Path, line: int, variable: str = "") -> None:
        """Remember where the value at `path` stands."""
        self.marks[path] = Mark(line, variable)

    def hide(self, value: str) -> None:
        """Never print `value`."""
        if len(value) >= _MASKABLE:
            self._hidden.add(value)

    def add(self, path: Path, message: str, line: int | None = None) -> None:
        """Report a fault at `path`, on the line where it stands, else where what encloses it stands."""
        mark = self.marks.get(path)
        if mark is not None and mark.variable:
            message += f" (its value comes from ${{{mark.variable}}})"
        where = self._line(path) if line is None else line
        self._found.append((where, f"{show_path(path)}: {message}"))

    def is_literal(self, path: Path) -> bool:
        """Return whether the value at `path` may be printed: it did not come from the environment."""
        mark = self.marks.get(path)
        return mark is None or not mark.variable

    def quote(self, path: Path, value: str) -> str:
        """Return how to print the value at `path`: quoted and cut, or nothing of it."""
        return quote(value) if self.is_literal(path) else "its value"

    def suggest(self, name: str, known: Iterable[str]) -> str:
        """Return `, did you mean 'x'?` for the nearest of `known`, "" if none is near. `known` must be
        printable.
        """
        self._suggested += 1
        if self._suggested > _SUGGESTIONS:
            return ""
        near = difflib.get_close_matches(name[:128], list(islice(known, _SUGGESTED_NAMES)), 1)
        return f", did you mean {quote(near[0])}?" if near else ""

    def unique(self, named: Iterable[tuple[Path, object]], what: str = "id") -> None:
        """Report names that occur twice; `named` yields each path and its name, which may be broken or
        empty.
        """
        first: dict[str, Path] = {}
        for path, name in named:
            if not isinstance(name, str) or not name:
                continue
            if name in first:
                self.add(path, f"{what} {self.quote(path, name)} is already used by {show_path(first[name])}")
            else:
                first[name] = path

    def lines(self) -> list[str]:
        """Return `source:line: path: message` per fault, in source order."""
        found = sorted(self._found, key=lambda fault: fault[0])
        lines = [self._print(line, text) for line, text in found[:MAX_FAULTS]]
        if len(found) > MAX_FAULTS:
            lines.append(self._print(found[-1][0], f"(file): {len(found) - MAX_FAULTS} more faults"))
        return lines

    def _print(self, line: int, text: str) -> str:
        for value in self._hidden:
            if value in text:
                text = text.replace(value, "***")
        return f"{self.source}:{line}: {text}" if line else f"{self.source}: {text}"

    def _line(self, path: Path) -> int:
        for end in range(len(path), -1, -1):
            mark = self.marks.get(path[:end])
            if mark is not None:
                return mark.line
        return 0


def show_path(path: Path) -> str:
    """Return `providers[0].models[1].price`; keys that are no plain names are quoted:
    `aliases["gpt-4.1"]`.
    """
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        elif _BARE_KEY.match(part):
            shown += f".{part}" if shown else part
        else:
            shown += f"[{json.dumps(part[:_QUOTED_CHARS])}]"
    return shown or "(file)"


def quote(value: str) -> str:
    """Return a literal value on one line, cut to a readable length."""
    return repr(value if len(value) <= _QUOTED_CHARS else value[: _QUOTED_CHARS - 3] + "...")
