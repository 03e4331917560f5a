"""Parameters for tests that run over both halves of a core module."""

import importlib
import os
from types import ModuleType
from typing import Any

import pytest


def twins(name: str) -> list[Any]:
    """Return pytest params for the pure and the compiled twin of `fastroute._core.<name>`.

    The compiled one is skipped where it is not built, unless FASTROUTE_REQUIRE_EXTENSIONS=1; the pure one with
    FASTROUTE_TEST_HALF=c, where somebody else tests it.
    """
    other = pytest.mark.skipif(
        os.environ.get("FASTROUTE_TEST_HALF") == "c", reason="the pure half is tested by itself, in another run"
    )
    params = [pytest.param(importlib.import_module(f"fastroute._core._{name}_py"), id="py", marks=other)]
    compiled: ModuleType | None
    try:
        compiled = importlib.import_module(f"fastroute._core._{name}_c")
    except ImportError:
        if os.environ.get("FASTROUTE_REQUIRE_EXTENSIONS") == "1":
            raise
        compiled = None
    skip = pytest.mark.skipif(compiled is None, reason="the compiled half is not built")
    params.append(pytest.param(compiled, id="c", marks=skip))
    return params
