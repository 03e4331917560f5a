"""Keeps compiled modules out of a process that is to run the pure half.

Where a module has been compiled from its .py file, both lie side by side, and Python takes the compiled one.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

#: Compiled from their own .py files, which is what runs without the compiled half.
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


def missing_modules() -> tuple[str, ...]:
    """Return the names of the modules of the corridor that do not lie beside their sources compiled."""
    package = Path(__file__).parent
    return tuple(
        name
        for name in CORRIDOR_MODULES
        if not any((package / (name.replace(".", "/") + suffix)).exists() for suffix in EXTENSION_SUFFIXES)
    )


class SourceFinder:
    """Finds the modules of this package by their sources alone."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of this package; None for another, or one without a source."""
        if not name.startswith("fastroute.") or path is None:
            return None
        for directory in path:
            spec = FileFinder(directory, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        return None


def install() -> None:
    """Have sources preferred from now on."""
    if SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, SourceFinder)
