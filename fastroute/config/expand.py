"""`${NAME}` and `${NAME:-default}` in strings; `$$` is a dollar sign."""

import re
from collections.abc import Mapping
from typing import Final

_TOKEN: Final = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
_REFERENCE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)


class ExpandError(Exception):
    """A reference that cannot be resolved; the message names the variable, never a value."""


def expand(text: str, env: Mapping[str, str]) -> tuple[str, str]:
    """Return `text` with its references resolved and the name of the first variable ("": there was none).

    As in a shell, `:-` also replaces a variable that is set but empty. Defaults are not expanded themselves.
    Raises ExpandError for a malformed reference and for an unset variable without a default.
    """
    if "$" not in text:
        return text, ""
    variable = ""

    def resolve(token: re.Match[str]) -> str:
        nonlocal variable
        if token.group() == "$$":
            return "$"
        reference = _REFERENCE.match(token[1]) if token[1] is not None else None
        if reference is None:
            raise ExpandError("malformed reference: write ${NAME} or ${NAME:-default}, and $$ for a dollar sign")
        name, default = reference[1], reference[2]
        variable = variable or name
        value = env.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ExpandError(f"environment variable {name} is not set")
        return value

    return _TOKEN.sub(resolve, text), variable
