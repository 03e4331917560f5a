"""Which half of the core runs, decided once per process.

FASTROUTE_NO_EXTENSIONS=1 uses the pure half; FASTROUTE_REQUIRE_EXTENSIONS=1 makes the absence of the compiled half
a SwitchError. Both are 0 or 1, at run time as at build time.
"""

import importlib.util
import os

from fastroute import _pure
from fastroute.errors import SwitchError

COMPILED_MODULES = (
    "adaptive",
    "affinity",
    "attempts",
    "bandit",
    "candidates",
    "cheapest",
    "counters",
    "h1",
    "heads",
    "jsonscan",
    "limits",
    "lines",
    "modeltable",
    "quantile",
    "ratelimit",
    "selection",
    "sse",
    "time_window",
)


def _flag(name: str) -> bool:
    value = os.environ.get(name, "0")
    if value not in ("0", "1", ""):
        raise SwitchError(f"{name} must be 0 or 1, not {value!r}")
    return value == "1"


def missing_modules() -> tuple[str, ...]:
    """Return the names of the modules that are not compiled in this installation and could be."""
    core = (m for m in COMPILED_MODULES if importlib.util.find_spec(f"fastroute._core._{m}_c") is None)
    return (*core, *_pure.missing_modules())


def _decide() -> bool:
    no, require = _flag("FASTROUTE_NO_EXTENSIONS"), _flag("FASTROUTE_REQUIRE_EXTENSIONS")
    if no and require:
        raise SwitchError("FASTROUTE_NO_EXTENSIONS and FASTROUTE_REQUIRE_EXTENSIONS exclude each other")
    if no:
        return False
    missing = missing_modules()
    if missing and require:
        raise SwitchError(f"compiled core required, but not built: {', '.join(missing)}")
    return not missing


USE_EXTENSIONS: bool = _decide()
