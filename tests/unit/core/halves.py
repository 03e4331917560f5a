"""The modules of the routing core, those of one half together, and small pools to run them on."""

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from tests.unit.core.twins import twins

WORKERS = 2
#: Columns of a `Candidates`, with values that keep nothing away.
_COLUMNS = {
    "ranks": 0,
    "providers": 0,
    "regions": 0,
    "capabilities": 0,
    "context_windows": 0,
    "max_outputs": 0,
    "input_prices": 0,
    "output_prices": 0,
}


class Half(NamedTuple):
    """The four modules, all pure or all compiled."""

    name: str
    attempts: ModuleType
    candidates: ModuleType
    counters: ModuleType
    selection: ModuleType


def halves() -> list[Any]:
    """Return pytest params for the pure and the compiled half, None for one that is not built (which is skipped)."""
    return [pytest.param(_half(param), id=param.id, marks=param.marks) for param in twins("attempts")]


def _half(param: Any) -> Half | None:
    if param.values[0] is None:
        return None
    modules = {name: importlib.import_module(f"fastroute._core._{name}_{param.id}") for name in Half._fields[1:]}
    return Half(param.id, **modules)


def segment_at(half: Half, folder: Any, endpoints: int) -> Any:
    """Return a zeroed segment for `WORKERS` workers."""
    return half.counters.Segment.create(str(folder / f"counters.{half.name}"), WORKERS, endpoints)


def need_of(half: Half, **wants: Any) -> Any:
    """Return a Need with these attributes, the others as they are made."""
    need = half.candidates.Need()
    for name, value in wants.items():
        setattr(need, name, value)
    return need


def pool_of(half: Half, segment: Any, weights: Any, **columns: Any) -> Any:
    """Return Candidates at rows 0, 1, ... of the segment, gated once by a need of nothing.

    columns: sequences as `Candidates` takes them, or one value for every endpoint; `rows` and `half_open_max_calls`.
    """
    n = len(weights)
    rows = columns.pop("rows", range(n))
    options = {name: columns.pop(name) for name in ("half_open_max_calls",) if name in columns}
    filled = {}
    for name, default in _COLUMNS.items():
        column = columns.pop(name, default)
        filled[name] = [column] * n if isinstance(column, int) else list(column)
    assert not columns, columns
    pool = half.candidates.Candidates(segment, rows, weights, **filled, **options)
    pool.gate(need_of(half))
    return pool
