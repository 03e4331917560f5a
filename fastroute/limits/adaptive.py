"""How the limit of each endpoint is found, by its provider's configuration, and what has been found, as numbers."""

from collections.abc import Iterable
from typing import Final

from fastroute._core.adaptive import AIMD, GRADIENT2, Adaptive, Setting, describe
from fastroute._core.counters import Segment
from fastroute.config.schema import Provider
from fastroute.config.watching import AdaptiveLimit

#: What gradient2 begins with where the configuration does not say (Netflix concurrency-limits).
FIRST_LIMIT: Final = 20
_KINDS: Final = {"aimd": AIMD, "gradient2": GRADIENT2}


def setting(provider: Provider) -> Setting | None:
    """Return how the limits of a provider's endpoints are found, None for a provider that is to have none.

    Where the configuration says nothing that is aimd: until somebody refuses it has no limit at all. The echo provider
    never refuses.
    """
    if provider.adaptive is None and provider.type == "echo":
        return None
    wanted = provider.adaptive or AdaptiveLimit()
    if wanted.kind == "off":
        return None
    first = wanted.initial or 0
    if wanted.kind == "gradient2" and not first:
        first = max(wanted.min, min(FIRST_LIMIT, wanted.max or FIRST_LIMIT))
    return Setting(_KINDS[wanted.kind], wanted.min, wanted.max or 0, first, wanted.headroom_percent, wanted.forget_ms)


def build_adaptive(segment: Segment, providers: Iterable[tuple[int, Provider]]) -> Adaptive | None:
    """Return the limits of a configuration's endpoints, None if nobody has any. providers: with each of their rows."""
    settings = {row: found for row, provider in providers if (found := setting(provider)) is not None}
    return Adaptive(segment, settings) if settings else None


def numbers(adaptive: Adaptive | None, rows: Iterable[int], now_ms: int) -> dict[int, dict[str, object]]:
    """Return what is known of each endpoint that has a limit of this kind, by its row."""
    if adaptive is None:
        return {}
    views = {row: adaptive.view(row, now_ms) for row in rows}
    return {row: describe(view) for row, view in views.items() if view is not None}
