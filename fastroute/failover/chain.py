"""Failover chains of the configuration as steps that a plan walks."""

from collections.abc import Iterable

from fastroute.config.schema import Fallback
from fastroute.interfaces import Step


def steps(chain: Iterable[Fallback]) -> tuple[Step, ...]:
    """Return the steps of a chain: one provider, a pool, or whatever serves the model."""
    return tuple(
        Step(
            (fallback.provider,) if fallback.provider is not None else (fallback.pool or ()),
            fallback.strategy,
            fallback.model,
        )
        for fallback in chain
    )
