"""Model names to routes. Aliases are flattened and cycles refused when the snapshot is built from the configuration."""

import re
from collections.abc import Sequence
from typing import Any, Final

from fastroute._core.modeltable import ModelTable
from fastroute.config.patterns import matches
from fastroute.errors import GatewayError
from fastroute.interfaces import DialectName, Step
from fastroute.routing.pool import Pool

#: A model name longer than this is unknown without being looked at.
MAX_MODEL_BYTES: Final = 256

# What the configuration does not allow in a model name either.
_NOT_A_NAME: Final = re.compile(r"[\s\x00-\x1f\x7f]")


class Route:
    """What a model name stands for: a pool of endpoints for each dialect it can be asked in, and where to go after.

    name: the public model name, "" in a glob route, whose model is called upstream as the client calls it.
    strategy: the one in force unless a rule or the tenant has another. reserves: where a chain finds the providers that
    it names, whether they are in a tier or not; the pools themselves if those have everybody. limits: the model's
    ceilings (`_core.limits.Ceilings`), None if there are none.
    """

    __slots__ = (
        "fallbacks",
        "limits",
        "model_header",
        "name",
        "on_content_policy",
        "on_context_window",
        "pools",
        "reserves",
        "strategy",
    )

    def __init__(
        self,
        name: str,
        strategy: str,
        pools: dict[DialectName, Pool],
        fallbacks: tuple[Step, ...] = (),
        on_context_window: tuple[Step, ...] = (),
        on_content_policy: tuple[Step, ...] = (),
        reserves: dict[DialectName, Pool] | None = None,
        limits: Any = None,
    ) -> None:
        self.name = name
        self.model_header = (b"x-fastroute-model", name.encode()) if name else None
        self.strategy = strategy
        self.pools = pools
        self.reserves = pools if reserves is None else reserves
        self.fallbacks = fallbacks
        self.on_context_window = on_context_window
        self.on_content_policy = on_content_policy
        self.limits = limits


class RouteTable:
    """All routes of a snapshot. Aliases are flattened into `exact` before they come here."""

    def __init__(self, exact: dict[str, Route], globs: Sequence[tuple[str, Route]]) -> None:
        self._routes = list(exact.values())
        self._names = list(exact)
        self._table = ModelTable([name.encode() for name in self._names])
        self._globs = tuple(globs)
        self._models = tuple(dict.fromkeys(self._names))

    @property
    def names(self) -> tuple[str, ...]:
        """Return every exact public name, aliases included, in the order of the configuration."""
        return self._models

    @property
    def pools(self) -> dict[tuple[str, DialectName], Pool]:
        """Return every pool once, by the route's name (or glob) and dialect; reserves by a name that no model has."""
        routes = {route.name: route for route in self._routes} | dict(self._globs)
        pools = {(name, dialect): pool for name, route in routes.items() for dialect, pool in route.pools.items()}
        for name, route in routes.items():
            if route.reserves is not route.pools:
                pools |= {(f"{name} reserve", dialect): pool for dialect, pool in route.reserves.items()}
        return pools

    def resolve(self, body: bytes, start: int, end: int, dialect: DialectName) -> tuple[str, Route]:
        """Return (public name, route) of the model named by body[start:end]. Raises GatewayError 404."""
        index = self._table.lookup(body, start, end)
        if index >= 0 and dialect in self._routes[index].pools:
            return self._names[index], self._routes[index]
        if self._globs and 0 < end - start <= MAX_MODEL_BYTES:
            name = body[start:end].decode()
            if _NOT_A_NAME.search(name):
                # It would stand in a header field and in logs; no model is called so.
                raise unknown_model(body[start:end])
            for glob, route in self._globs:
                if dialect in route.pools and matches(glob, name):
                    return name, route
        raise unknown_model(body[start:end])

    def routes_of(self, model: str) -> dict[DialectName, Route]:
        """Return the routes that a model stands for, by the dialects it can be asked in; empty for an unknown one."""
        name = model.encode()
        index = self._table.lookup(name, 0, len(name))
        found = dict.fromkeys(self._routes[index].pools, self._routes[index]) if index >= 0 else {}
        if self._globs and 0 < len(name) <= MAX_MODEL_BYTES and not _NOT_A_NAME.search(model):
            for glob, route in self._globs:
                if not route.pools.keys() <= found.keys() and matches(glob, model):
                    found = dict.fromkeys(route.pools, route) | found
        return found

    def find(self, model: str, dialect: DialectName) -> Route | None:
        """Return the route of a model that the configuration names (a fallback's), None if it has none there."""
        name = model.encode()
        try:
            return self.resolve(name, 0, len(name), dialect)[1]
        except GatewayError:
            return None


def unknown_model(name: bytes) -> GatewayError:
    """Return the refusal of a model nobody serves (or the caller may not use, which must look the same)."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:64].decode(errors="replace"))
    return GatewayError(
        404, "model_not_found", f"the model '{shown}' does not exist or you may not use it", param="model"
    )
