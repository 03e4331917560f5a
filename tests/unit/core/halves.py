"""The modules of one half of the core together, and candidates over a segment of their own to run them on."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.core.twins import twins

WORKERS = 2
#: Columns of a `Candidates`, with values that keep nothing away.
_COLUMNS = (
    "ranks",
    "providers",
    "regions",
    "capabilities",
    "context_windows",
    "max_outputs",
    "input_prices",
    "output_prices",
)


class Half:
    """One half of the core; its modules are attributes, imported when first asked for.

    name: "py", "c", or "" for the one that runs.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, module: str) -> ModuleType:
        if module.startswith("_"):
            raise AttributeError(module)
        path = f"_{module}_{self.name}" if self.name else module
        try:
            return importlib.import_module(f"fastroute._core.{path}")
        except ModuleNotFoundError as error:
            # Hypothesis asks any object for attributes of its own.
            raise AttributeError(module) from error


#: The half that runs in this process.
RUNNING = Half("")


def half_of(module: ModuleType) -> Half:
    """Return the half that a module of the core belongs to."""
    return Half(module.__name__.rpartition("_")[2])


def halves() -> list[Any]:
    """Return pytest params for the pure and the compiled half, None for one that is not built (which is skipped)."""
    return [
        pytest.param(half_of(param.values[0]) if param.values[0] else None, id=param.id, marks=param.marks)
        for param in twins("attempts")
    ]


def fixtures(module_name: str, endpoints: int, name: str = "") -> tuple[Any, Any]:
    """Return two fixtures: the module of either half, called `name` (or as it is), and `segment`, one of that half."""
    name = name or module_name

    def module(request: pytest.FixtureRequest) -> ModuleType:
        found: ModuleType = request.param
        return found

    def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
        made = segment_at(half_of(request.getfixturevalue(name)), tmp_path, endpoints)
        yield made
        made.close()

    return pytest.fixture(params=twins(module_name), name=name)(module), pytest.fixture(name="segment")(segment)


def segment_at(half: Half, folder: Path | str, endpoints: int, workers: int = WORKERS) -> Any:
    """Return a zeroed segment."""
    return half.counters.Segment.create(str(Path(folder) / f"counters.{half.name}"), workers, max(1, endpoints))


def need_of(half: Half, **wants: Any) -> Any:
    """Return a Need with these attributes, the others as they are made."""
    need = half.candidates.Need()
    for name, value in wants.items():
        setattr(need, name, value)
    return need


def pool_of(half: Half, segment: Any, weights: Sequence[float], **columns: Any) -> Any:
    """Return Candidates at rows 0, 1, ... of the segment, gated once by a need of nothing.

    columns: sequences as `Candidates` takes them, or one value for every endpoint; `rows`, and its options.
    """
    n = len(weights)
    rows = columns.pop("rows", range(n))
    options = {name: columns.pop(name) for name in ("key_rows", "half_open_max_calls", "adaptive") if name in columns}
    filled = {}
    for name in _COLUMNS:
        column = columns.pop(name, 0)
        filled[name] = [column] * n if isinstance(column, int) else list(column)
    assert not columns, columns
    pool = half.candidates.Candidates(segment, rows, weights, **filled, **options)
    regate(half, pool)
    return pool


def regate(half: Half, pool: Any, **wants: Any) -> None:
    """Let candidates through the gates again."""
    pool.gate(need_of(half, **wants))
