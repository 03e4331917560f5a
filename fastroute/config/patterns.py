"""Model name patterns: a name in which `*` stands for any run of characters, the empty one included.

Nothing else is special. An exact name wins over a pattern, and patterns count in the order they are listed.
"""

from collections.abc import Iterable


def is_pattern(name: str) -> bool:
    """Return whether `name` is a pattern rather than the name of one model."""
    return "*" in name


def matches(pattern: str, name: str) -> bool:
    """Return whether `pattern` matches all of `name`. Time is at most len(pattern) * len(name): no
    backtracking.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    last = rest.pop()
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in rest:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def any_matches(patterns: Iterable[str], name: str) -> bool:
    """Return whether one of `patterns` matches `name`."""
    return any(matches(pattern, name) for pattern in patterns)
