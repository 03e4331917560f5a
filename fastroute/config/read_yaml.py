"""YAML into a tree: PyYAML finds the events, the scalars follow the YAML 1.2 core schema.

So `no`, `on` and `22:00` are strings, `010` is not a number, and `1e3` is one. Anchors, aliases and `<<` are
understood within the bounds of `document`; tags other than `!!str` are refused.
"""

import re
from typing import Any, Final

import yaml

from fastroute.config.document import DocumentError, Kind, Node, Scalar, TreeBuilder

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING_TAG: Final = "tag:yaml.org,2002:str"
_PLAIN: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    ("null", re.compile(r"(?:~|null|Null|NULL)?\Z")),
    ("boolean", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("integer", re.compile(r"(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
    (
        "number",
        re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
    ),
    ("number", re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")),
)


def read_yaml(text: str) -> Node | None:
    """Return the tree of one YAML document; None if there is none. Raises DocumentError."""
    builder = TreeBuilder(merge=True)
    anchors: dict[str, Node] = {}
    documents = 0
    try:
        events: Any = yaml.parse(text, Loader=_LOADER)
        for event in events:
            line: int = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise DocumentError(line, "more than one YAML document")
            elif isinstance(event, yaml.NodeEvent):
                _add(builder, anchors, event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                node, anchor = builder.close()
                if anchor:
                    anchors[anchor] = node
    except yaml.MarkedYAMLError as error:
        raise DocumentError(_line(error), f"not valid YAML: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, "not valid YAML: a character that is not allowed") from None
    return builder.root()


def _add(builder: TreeBuilder, anchors: dict[str, Node], event: Any, line: int) -> None:
    anchor: Any = event.anchor
    if isinstance(event, yaml.AliasEvent):
        if builder.is_open(anchor):
            raise DocumentError(line, "an alias to a node that contains it")
        if anchor not in anchors:
            raise DocumentError(line, "an alias to an anchor that is not defined (quote text that starts with '*')")
        builder.add(anchors[anchor])
    elif isinstance(event, yaml.ScalarEvent):
        node = Scalar(_kind(event, line), event.value, line)
        if anchor:
            anchors[anchor] = node
        builder.add(node)
    else:
        if event.tag is not None and not event.implicit:
            raise DocumentError(line, "YAML tags are not supported")
        builder.open(table=isinstance(event, yaml.MappingStartEvent), line=line, anchor=anchor)


def _kind(event: yaml.ScalarEvent, line: int) -> Kind:
    if event.tag == _STRING_TAG or event.implicit[1]:
        return "string"
    if not event.implicit[0]:
        raise DocumentError(line, "YAML tags are not supported (quote text that starts with '!')")
    return next((kind for kind, pattern in _PLAIN if pattern.match(event.value)), "string")


def _line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's words, but for what may quote the text: a value can be a credential."""
    problem = " ".join((error.problem or error.context or "syntax error").split())
    return re.sub(r"'[^']{2,}'", "'...'", problem) if "<" not in problem else problem
