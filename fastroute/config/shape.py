"""A tree against the schema: names, types and bounds, every fault at once.

The walk builds the Structs as it goes. A value that is wrong becomes BROKEN, so that `crosscheck` can still compare
the rest; a tree without faults has no BROKEN in it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from fastroute.config.document import List, Node, Scalar, Table, describe
from fastroute.config.expand import ExpandError, expand
from fastroute.config.faults import Faults, Path, quote
from fastroute.config.schema import INTERNAL_FIELDS, SHORTHANDS, Config
from fastroute.config.secret import Secret

#: Bounds of texts before anything looks into them.
_NUMBER_CHARS: Final = 64
_STRING_CHARS: Final = 65_536
_UNUSABLE: Final = re.compile(r"[\x00\ud800-\udfff]")
_INTEGER_TEXT: Final = re.compile(r"[-+]?[0-9]+\Z")
_BOOLEANS: Final = {"true": True, "false": False}
_WORDS: Final = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
}


class Broken:
    """Stands for a value that has a fault: false, empty, and broken in every attribute."""

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __getattr__(self, name: str) -> "Broken":
        return self


BROKEN: Final[Any] = Broken()


@cache
def struct_info(cls: type[msgspec.Struct]) -> inspect.StructType:
    """Return msgspec's description of a Struct; the schema never changes, so it is computed once."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return info


def build_config(tree: Node | None, env: Mapping[str, str], faults: Faults) -> Config:
    """Return the Config that `tree` spells, with BROKEN in place of what `faults` was told about."""
    walk = _Walk(env, faults)
    config: Config = walk.value(struct_info(Config), tree if tree is not None else Table((), 1, 1), ())
    return config if isinstance(config, Broken) else msgspec.structs.replace(config, given=frozenset(walk.given))


def build_struct(cls: type[msgspec.Struct], tree: Node, path: Path, faults: Faults) -> Any:
    """Return the `cls` that `tree` spells, for values that come from elsewhere than a file."""
    return _Walk({}, faults).value(struct_info(cls), tree, path)


class _Walk:
    def __init__(self, env: Mapping[str, str], faults: Faults) -> None:
        self._env = env
        self._faults = faults
        self.given: set[str] = set()
        self._leaves: dict[type[inspect.Type], Callable[[Any, Scalar, Path, bool], Any]] = {
            inspect.StrType: self._string,
            inspect.IntType: self._integer,
            inspect.FloatType: self._float,
            inspect.BoolType: self._boolean,
            inspect.LiteralType: self._literal,
            inspect.CustomType: self._secret,
        }

    def value(self, kind: inspect.Type, node: Node, path: Path) -> Any:
        """Return the value of `node` as `kind`, BROKEN after reporting why not."""
        self._faults.mark(path, node.line)
        kind, extra = _unwrap(kind)
        if isinstance(kind, inspect.UnionType):
            if isinstance(node, Scalar) and node.kind == "null":
                return None
            kind, extra = _unwrap(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
        match kind:
            case inspect.StructType():
                return self._struct(kind, node, path)
            case inspect.VarTupleType():
                return self._list(kind, node, path)
            case inspect.DictType():
                return self._dict(kind, node, path)
        if not isinstance(node, Scalar):
            return self._wrong(path, f"expected {_expected(kind)}, not {describe(node)}")
        return self._scalar(kind, extra, node, path)

    def _struct(self, kind: inspect.StructType, node: Node, path: Path) -> Any:
        shorthand = SHORTHANDS.get(kind.cls)
        if shorthand is not None and isinstance(node, Scalar):
            item = next(one for one in kind.fields if one.name == shorthand)
            value = self.value(item.type, node, path)
            return kind.cls(**{shorthand: value})
        if not isinstance(node, Table):
            return self._wrong(path, f"expected a mapping, not {describe(node)}")
        fields = {one.encode_name: one for one in kind.fields if one.name not in INTERNAL_FIELDS}
        values = self._entries(fields, node, path)
        for one in fields.values():
            if one.required and one.name not in values:
                self._faults.add((*path, one.encode_name), "is required")
                values[one.name] = BROKEN
        return kind.cls(**values)

    def _entries(self, fields: dict[str, inspect.Field], node: Table, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for entry in self._unique(node, path):
            where = (*path, entry.key)
            one = fields.get(entry.key)
            if one is None:
                near = self._faults.suggest(entry.key, fields) or f" (known here: {', '.join(fields)})"
                self._faults.add(where, f"unknown field {quote(entry.key)}{near}", entry.line)
            elif not (_is_null(entry.node) and _is_collection(one.type) and not one.required):
                self.given.add(".".join(part for part in where if isinstance(part, str)))
                values[one.name] = self.value(one.type, entry.node, where)
        return values

    def _unique(self, node: Table, path: Path) -> Iterator[Any]:
        seen: dict[str, int] = {}
        for entry in node.entries:
            if entry.key in seen:
                message = f"key is set twice (first on line {seen[entry.key]})"
                self._faults.add((*path, entry.key), message, entry.line)
                continue
            seen[entry.key] = entry.line
            yield entry

    def _list(self, kind: inspect.VarTupleType, node: Node, path: Path) -> Any:
        if not isinstance(node, List):
            return self._wrong(path, f"expected a list, not {describe(node)}")
        if kind.min_length is not None and len(node.items) < kind.min_length:
            return self._wrong(path, "must not be empty")
        return tuple(self.value(kind.item_type, item, (*path, at)) for at, item in enumerate(node.items))

    def _dict(self, kind: inspect.DictType, node: Node, path: Path) -> Any:
        if not isinstance(node, Table):
            return self._wrong(path, f"expected a mapping, not {describe(node)}")
        values: dict[str, Any] = {}
        for entry in self._unique(node, path):
            where = (*path, entry.key)
            value = self.value(kind.value_type, entry.node, where)
            key_kind, extra = _unwrap(kind.key_type)
            if isinstance(key_kind, inspect.StrType):
                fault = _text_fault(key_kind, extra, entry.key)
                if fault:
                    self._faults.add(where, f"its name {fault}", entry.line)
                    continue
            values[entry.key] = value
        return values

    def _scalar(self, kind: inspect.Type, extra: dict[str, Any], node: Scalar, path: Path) -> Any:
        expanded = False
        if node.kind == "string":
            try:
                text, variable = expand(node.text, self._env)
            except ExpandError as error:
                return self._wrong(path, str(error))
            if variable:
                expanded = True
                self._faults.mark(path, node.line, variable)
                self._faults.hide(text)
            node = Scalar("string", text, node.line)
        if len(node.text) > _STRING_CHARS:
            return self._wrong(path, f"is longer than {_STRING_CHARS} characters")
        if extra.get("places") is not None:
            return self._decimal(extra, node, path, expanded)
        leaf = self._leaves[type(kind)]
        if isinstance(kind, inspect.StrType):
            value = leaf(kind, node, path, expanded)
            fault = None if value is BROKEN else _text_fault(kind, extra, value)
            return value if fault is None else self._wrong(path, fault)
        return leaf(kind, node, path, expanded)

    def _string(self, kind: Any, node: Scalar, path: Path, expanded: bool) -> Any:
        if node.kind != "string":
            hint = "" if node.kind == "null" else ": put it in quotes"
            return self._wrong(path, f"expected a string, not {describe(node)}{hint}")
        if _UNUSABLE.search(node.text):
            return self._wrong(path, "holds a character that is not text")
        return node.text

    def _secret(self, kind: inspect.CustomType, node: Scalar, path: Path, expanded: bool) -> Any:
        assert kind.cls is Secret
        text = self._string(kind, node, path, expanded)
        if text is BROKEN:
            return BROKEN
        self._faults.hide(text)
        return Secret(text) if text else self._wrong(path, "must not be empty")

    def _integer(self, kind: inspect.IntType, node: Scalar, path: Path, expanded: bool) -> Any:
        text = self._number_text("integer", node, path, expanded)
        if text is None:
            return BROKEN
        base = {"0x": 16, "0o": 8}.get(text.lstrip("-")[:2], 10) if not expanded else 10
        return self._in_range(int(text, base), kind.ge, kind.le, path)

    def _float(self, kind: inspect.FloatType, node: Scalar, path: Path, expanded: bool) -> Any:
        number = self._finite(node, path, expanded)
        return BROKEN if number is None else self._in_range(float(number), kind.ge, kind.le, path)

    def _decimal(self, extra: dict[str, Any], node: Scalar, path: Path, expanded: bool) -> Any:
        number = self._finite(node, path, expanded)
        if number is None:
            return BROKEN
        if self._in_range(number, Decimal(extra["ge"]), Decimal(extra["le"]), path) is BROKEN:
            return BROKEN
        exponent = number.normalize().as_tuple().exponent
        if isinstance(exponent, int) and -exponent > extra["places"]:
            return self._wrong(path, f"has more than {extra['places']} decimal places")
        return number

    def _finite(self, node: Scalar, path: Path, expanded: bool) -> Decimal | None:
        text = self._number_text("number", node, path, expanded)
        if text is None:
            return None
        try:
            number = Decimal(int(text, 0)) if text[:2] in ("0x", "0o") else Decimal(text)
        except (InvalidOperation, ValueError):
            number = Decimal("nan")
        # Beyond a float's range it is infinite for all that is configured here.
        if not number.is_finite() or (number and not -300 < number.adjusted() < 300):
            self._faults.add(path, "must be a finite number")
            return None
        return number

    def _number_text(self, wanted: str, node: Scalar, path: Path, expanded: bool) -> str | None:
        """Return the digits of a number, reporting what is none. Texts out of the environment count as numbers."""
        text = node.text.strip() if expanded else node.text
        kinds = ("integer",) if wanted == "integer" else ("integer", "number")
        if len(text) > _NUMBER_CHARS:
            self._faults.add(path, f"has more than {_NUMBER_CHARS} digits")
        elif expanded:
            if wanted == "number" or _INTEGER_TEXT.match(text):
                return text
            self._faults.add(path, f"expected {_WORDS[wanted]}")
        elif node.kind in kinds:
            return text
        else:
            self._faults.add(path, f"expected {_WORDS[wanted]}, not {describe(node)}")
        return None

    def _in_range(self, number: Any, ge: Any, le: Any, path: Path) -> Any:
        low = -math.inf if ge is None else ge
        high = math.inf if le is None else le
        return number if low <= number <= high else self._wrong(path, f"must be from {ge} to {le}")

    def _boolean(self, kind: inspect.BoolType, node: Scalar, path: Path, expanded: bool) -> Any:
        if node.kind == "boolean" or expanded:
            value = _BOOLEANS.get(node.text.strip().lower())
            if value is not None:
                return value
        what = "" if expanded else f", not {describe(node)}"
        return self._wrong(path, f"expected true or false{what}")

    def _literal(self, kind: inspect.LiteralType, node: Scalar, path: Path, expanded: bool) -> Any:
        choices = {str(value): value for value in kind.values}
        wanted = "string" if isinstance(kind.values[0], str) else "integer"
        if node.kind != wanted and not expanded:
            return self._wrong(path, f"expected {_WORDS[wanted]}, not {describe(node)}")
        if node.text in choices:
            return choices[node.text]
        near = "" if expanded or wanted == "integer" else self._faults.suggest(node.text, choices)
        return self._wrong(path, f"must be one of {', '.join(choices)}{near}")

    def _wrong(self, path: Path, message: str) -> Any:
        self._faults.add(path, message)
        return BROKEN


def _unwrap(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """Return the bare type and the `extra` of its Meta."""
    extra: dict[str, Any] = {}
    while isinstance(kind, inspect.Metadata):
        extra = {**(kind.extra or {}), **extra}
        kind = kind.type
    return kind, extra


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType():
            return _WORDS["integer"]
        case inspect.FloatType() | inspect.DecimalType():
            return _WORDS["number"]
        case inspect.BoolType():
            return _WORDS["boolean"]
        case _:
            return _WORDS["string"]


def _text_fault(kind: inspect.StrType, extra: dict[str, Any], text: str) -> str | None:
    if _UNUSABLE.search(text):
        return "holds a character that is not text"
    if kind.pattern is not None and not re.search(kind.pattern, text):
        return f"must be {extra['form']}"
    if kind.min_length is not None and len(text) < kind.min_length:
        return "must not be empty"
    if kind.max_length is not None and len(text) > kind.max_length:
        return f"must have at most {kind.max_length} characters"
    return None


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.kind == "null"


def _is_collection(kind: inspect.Type) -> bool:
    """Return whether an empty value (`rules:`) reads as `nothing written` rather than as a wrong type."""
    return isinstance(_unwrap(kind)[0], inspect.StructType | inspect.VarTupleType | inspect.DictType)
