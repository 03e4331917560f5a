"""The list of models a caller may use, in the shape of the dialect that asks."""

import orjson

from fastroute.interfaces import DialectName, Principal, Step
from fastroute.routing.plan import Planner
from fastroute.routing.pool import Pool
from fastroute.routing.table import Route, unknown_model


class Offer:
    """What a caller can be served: models its key and its tenant may use, at a provider that the tenant may use.

    Only what holds for each of its requests counts. What rules make of one, and who is healthy just now, does not.
    """

    def __init__(self, planner: Planner, principal: Principal) -> None:
        self._planner = planner
        self._principal = principal
        self._policy = planner.tenants[principal.tenant]

    def names(self) -> list[str]:
        """Return the names of all models, aliases included, but for those that only a glob stands for."""
        names = filter(self._may_use, self._planner.routes.names)
        # Where every provider is allowed, none has to be looked at.
        return [*names] if self._policy.order is None else [*filter(self._is_served, names)]

    def has(self, name: str) -> bool:
        """Return whether a request for the model would be sent to somebody, in whatever dialect."""
        return self._may_use(name) and self._is_served(name)

    def _is_served(self, name: str) -> bool:
        routes = self._planner.routes.routes_of(name)
        if self._policy.order is None:
            return bool(routes)
        return any(self._leads_on(route, dialect) for dialect, route in routes.items())

    def _may_use(self, name: str) -> bool:
        return self._principal.may_use(name) and self._policy.may_use(name)

    def _leads_on(self, route: Route, dialect: DialectName) -> bool:
        """Whether somebody is allowed in the route's pool, or further along its chain."""
        if self._allows(route.pools[dialect]):
            return True
        return any(self._allows_step(step, route, dialect) for step in route.fallbacks)

    def _allows_step(self, step: Step, route: Route, dialect: DialectName) -> bool:
        if step.model is not None:
            found = self._planner.routes.find(step.model, dialect)
            if found is None or not self._may_use(step.model):
                return False
            route = found
        return self._allows((route.reserves if step.providers else route.pools)[dialect], step.providers)

    def _allows(self, pool: Pool, only: tuple[str, ...] = ()) -> bool:
        """Whether the tenant may use a provider of the pool. only: the ones that count, all if it is empty."""
        order, places = self._policy.order or b"", self._planner.providers
        return any(order[places[one.provider]] for one in pool.endpoints if not only or one.provider in only)


def model_document(offer: Offer, shape: DialectName, model: bytes) -> bytes:
    """Return the JSON of the list, or of the one model named. Raises GatewayError 404 for one that is not offered."""
    describe = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}[shape]
    if model:
        name = model.decode()
        if not offer.has(name):
            raise unknown_model(model)
        return orjson.dumps(describe(name))
    names = offer.names()
    entries = [describe(name) for name in names]
    if shape == "gemini":
        return orjson.dumps({"models": entries})
    if shape == "openai":
        return orjson.dumps({"object": "list", "data": entries})
    ends = {"first_id": names[0], "last_id": names[-1]} if names else {"first_id": None, "last_id": None}
    return orjson.dumps({"data": entries, "has_more": False, **ends})


def _openai(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "fastroute"}


def _anthropic(name: str) -> dict[str, object]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _gemini(name: str) -> dict[str, object]:
    return {
        "name": f"models/{name}",
        "displayName": name,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens", "embedContent"],
    }
