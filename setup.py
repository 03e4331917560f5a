"""Build of the compiled half: ``fastroute._core`` and the corridor; everything else is in pyproject.toml.

FASTROUTE_NO_EXTENSIONS=1       build nothing compiled
FASTROUTE_REQUIRE_EXTENSIONS=1  a compiled module that fails to build fails the install
"""

import os
import platform
from pathlib import Path

from setuptools import Extension, setup

# The same names as fastroute._core._switch.COMPILED_MODULES; tests/unit/test_build.py holds them together.
CORE_MODULES = (
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

# What every request passes, compiled from the very .py files that run without a compiler; the .pxd files beside them
# say which of their classes become C structures. The same names as fastroute._pure.CORRIDOR_MODULES.
CORRIDOR_MODULES = (
    "attempt",
    "billing.journal",
    "books",
    "context",
    "dispatch",
    "downstream.http1.connection",
    "downstream.http1.exchange",
    "downstream.request",
    "downstream.watch",
    "gateway",
    "outgoing",
    "recorder",
    "relay",
    "routing.plan",
    "upstream.endpoint",
    "upstream.transport",
)


def flag(name: str) -> bool:
    """Return the value of a 0/1 environment switch; anything else is an error, so that 'no' never means yes."""
    value = os.environ.get(name, "0")
    if value not in ("0", "1", ""):
        raise SystemExit(f"{name} must be 0 or 1, not {value!r}")
    return value == "1"


def extensions() -> list[Extension]:
    """Return the extensions to build, optional unless required: no compiler must still install."""
    no, require = flag("FASTROUTE_NO_EXTENSIONS"), flag("FASTROUTE_REQUIRE_EXTENSIONS")
    if no and require:
        raise SystemExit("FASTROUTE_NO_EXTENSIONS and FASTROUTE_REQUIRE_EXTENSIONS exclude each other")
    if no or (platform.python_implementation() != "CPython" and not require):
        return []
    package = Path("fastroute")
    core = package / "_core"
    # Straight to setup(): cythonize() would drop `optional`.
    return [
        *(
            Extension(
                f"fastroute._core._{name}_c",
                [str(core / f"_{name}_c.pyx")],
                depends=[str(path) for path in sorted([*core.glob("*.h"), *core.glob("*.pxd")])],
                # No fused multiply-add: the halves are to compute the same to the last bit. No debug information,
                # with which the compiler takes a third longer.
                extra_compile_args=["-O3", "-g0", "-std=gnu11", "-ffp-contract=off"],
                optional=not require,
            )
            for name in CORE_MODULES
        ),
        *(
            Extension(
                f"fastroute.{name}",
                [str(package / f"{name.replace('.', '/')}.py")],
                depends=[str(path) for path in sorted(package.glob("**/*.pxd"))],
                extra_compile_args=["-O2", "-g0"],
                optional=not require,
            )
            for name in CORRIDOR_MODULES
        ),
    ]


# The C compiler is what takes the time.
setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
