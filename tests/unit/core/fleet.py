"""Candidates over a segment of their own, for tests that run over both halves."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

WORKERS = 2


def sibling(half: ModuleType, name: str) -> ModuleType:
    """Return another core module of the same half as `half`."""
    suffix = half.__name__.rpartition("_")[2]
    return importlib.import_module(f"fastroute._core._{name}_{suffix}")


def segment_of(half: ModuleType, folder: Path | str, endpoints: int) -> Any:
    """Return a zeroed segment with room for `endpoints`."""
    return sibling(half, "counters").Segment.create(str(Path(folder) / "counters"), WORKERS, max(1, endpoints))


def candidates_of(half: ModuleType, segment: Any, weights: Sequence[float], rows: Sequence[int] | None = None) -> Any:
    """Return candidates that nothing but weight 0 keeps away; every position with a weight has passed."""
    n = len(weights)
    module = sibling(half, "candidates")
    made = module.Candidates(
        segment,
        rows if rows is not None else range(n),
        weights,
        ranks=[0] * n,
        providers=[0] * n,
        regions=[0] * n,
        capabilities=[0] * n,
        context_windows=[0] * n,
        max_outputs=[0] * n,
        input_prices=[-1] * n,
        output_prices=[-1] * n,
    )
    regate(half, made)
    return made


def regate(
    half: ModuleType, candidates: Any, tried: Sequence[int] = (), slow_start_ms: int = 0, now_ms: int = 0
) -> None:
    """Let the candidates through the gates again."""
    need = sibling(half, "candidates").Need()
    need.tried = list(tried)
    need.slow_start_ms = slow_start_ms
    need.now_ms = now_ms
    candidates.gate(need)
