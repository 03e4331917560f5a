"""Names that name names: aliases, routes, rules and tenants must point at what exists."""

import zoneinfo
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from fastroute.config.faults import Faults, Path, show_path
from fastroute.config.fields import STRATEGIES
from fastroute.config.headers import CREDENTIALS, MAX_HEADERS, name_fault, set_fault, value_fault
from fastroute.config.patterns import any_matches, is_pattern, matches
from fastroute.config.schema import Action, Config, Fallback, Route, Rule, Tenant, Then, When
from fastroute.config.shape import Broken

#: Entry point group in which plugins name their balancing strategies.
STRATEGY_GROUP: Final = "fastroute.strategies"
#: The tenant of keys that name none. It need not be listed.
DEFAULT_TENANT: Final = "default"
MAX_STEPS: Final = 16
_LEVELS: Final = ("low", "normal", "high", "critical")
_LONELY: Final = ("provider", "pool", "reject")
_SETTINGS: Final = ("provider", "pool", "strategy", "priority", "tags", "headers", "reject")


def known_strategies() -> tuple[str, ...]:
    """Return the names of all strategies: the built-in ones, then those of installed plugins."""
    plugins = sorted({point.name for point in entry_points(group=STRATEGY_GROUP)} - set(STRATEGIES))
    return (*STRATEGIES, *plugins)


def check_references(config: Config, faults: Faults) -> None:
    """Report every name in `config` that names nothing."""
    _References(config, faults).check()


class Served:
    """The models of one provider, or of all of them: exact names and patterns."""

    def __init__(self) -> None:
        self.exact: dict[str, Path] = {}
        self.patterns: list[str] = []

    def add(self, name: str, path: Path) -> None:
        if is_pattern(name):
            self.patterns.append(name)
        else:
            self.exact.setdefault(name, path)

    def serves(self, name: str) -> bool:
        """Return whether `name`, or some model the pattern `name` stands for, is listed."""
        if name in self.exact or name in self.patterns or any_matches(self.patterns, name):
            return True
        return is_pattern(name) and any(matches(name, exact) for exact in self.exact)


class _References:
    def __init__(self, config: Config, faults: Faults) -> None:
        self._config = config
        self._faults = faults
        self._strategies = known_strategies()
        self._all = Served()
        self._by_provider: dict[str, Served] = {}
        self._provider_paths: dict[str, Path] = {}
        self._complete = not isinstance(config.providers, Broken)
        self._listed_tenants = {tenant.id for tenant in config.tenants if isinstance(tenant.id, str)}
        self._tenants = self._listed_tenants | {key.tenant for key in config.auth.keys if isinstance(key.tenant, str)}
        lists = (config.auth, config.auth.keys, config.tenants)
        self._tenants_complete = not any(isinstance(one, Broken) for one in lists)
        self._tenants_complete &= all(isinstance(one.id, str) for one in config.tenants)
        self._tenants_complete &= all(isinstance(key.tenant, str) for key in config.auth.keys)
        for at, provider in enumerate(config.providers):
            self._collect(("providers", at), provider)

    def _collect(self, path: Path, provider: Any) -> None:
        """Take in one provider. A broken one makes the names incomplete, so that unknown ones go unreported."""
        if not isinstance(provider.id, str) or isinstance(provider.models, Broken):
            self._complete = False
            return
        served = self._by_provider.setdefault(provider.id, Served())
        self._provider_paths.setdefault(provider.id, (*path, "id"))
        for at, model in enumerate(provider.models):
            if isinstance(model.name, str):
                for one in (served, self._all):
                    one.add(model.name, (*path, "models", at, "name"))
            else:
                self._complete = False

    def check(self) -> None:
        config = self._config
        self._check_aliases()
        self._check_strategy(config.routing.strategy, ("routing", "strategy"))
        self._check_routes()
        for at, rule in enumerate(config.rules):
            self._check_rule(("rules", at), rule)
        for at, tenant in enumerate(config.tenants):
            self._check_tenant(("tenants", at), tenant)
        self._check_key_tenants()
        self._check_limited_models()
        self._faults.unique((("rules", at, "id"), rule.id) for at, rule in enumerate(config.rules))
        self._faults.unique((("tenants", at, "id"), tenant.id) for at, tenant in enumerate(config.tenants))

    def _check_aliases(self) -> None:
        aliases = self._config.aliases
        if isinstance(aliases, Broken):
            return
        ends: dict[str, str] = {}  # alias -> the name its chain ends in; "" for a cycle
        for alias, target in aliases.items():
            path = ("aliases", alias)
            if is_pattern(alias):
                self._faults.add(path, "an alias must be one name, not a pattern")
            if alias in self._all.exact:
                listed = show_path(self._all.exact[alias])
                self._faults.add(path, f"shadows the model of that name at {listed}")
            self._follow(alias, ends)
            if isinstance(target, str) and target not in aliases:
                self._check_model(target, path)

    def _follow(self, alias: str, ends: dict[str, str]) -> None:
        """Walk the chain that begins at `alias`, reporting a cycle once: at the alias of it that was met first."""
        chain: dict[str, None] = {}
        name: Any = alias
        while isinstance(name, str) and name in self._config.aliases and name not in ends and name not in chain:
            chain[name] = None
            name = self._config.aliases[name]
        if isinstance(name, str) and name in chain:
            names = list(chain)
            cycle = names[names.index(name) :]
            literal = all(self._faults.is_literal(("aliases", one)) for one in cycle)
            shown = f": {' -> '.join([*cycle[:8], cycle[0]])}" if literal and len(cycle) <= 8 else ""
            self._faults.add(("aliases", cycle[0]), f"aliases form a cycle{shown}")
        for one in chain:
            ends[one] = ""

    def _check_model(self, name: str, path: Path) -> None:
        if not self._complete or self._all.serves(name):
            return
        near = self._near(name, path, self._all.exact.items())
        self._faults.add(path, f"unknown model {self._faults.quote(path, name)}{near}")

    def _near(self, name: str, path: Path, known: Iterable[tuple[str, Path]]) -> str:
        """Return a suggestion out of the names that stand literally in the file."""
        if not self._faults.is_literal(path):
            return ""
        return self._faults.suggest(name, (one for one, where in known if self._faults.is_literal(where)))

    def _check_routes(self) -> None:
        routes = [(("routes", at), route) for at, route in enumerate(self._config.routes) if route is not None]
        self._faults.unique((((*path, "model"), route.model) for path, route in routes), "model")
        for path, route in routes:
            self._check_strategy(route.strategy, (*path, "strategy"))
            if isinstance(route.model, str):
                self._check_route_model(route.model, (*path, "model"))
            self._check_tiers(path, route)
            for name in ("fallbacks", "on_context_window", "on_content_policy"):
                self._check_chain((*path, name), getattr(route, name), route.model)

    def _check_route_model(self, model: str, path: Path) -> None:
        if not isinstance(self._config.aliases, Broken) and model in self._config.aliases:
            self._faults.add(path, "is an alias: name the model it stands for")
        else:
            self._check_model(model, path)

    def _check_tiers(self, path: Path, route: Route) -> None:
        seen: dict[str, Path] = {}
        for at, tier in enumerate(route.tiers or ()):
            for place, name in enumerate(tier):
                where = (*path, "tiers", at, place)
                if not isinstance(name, str) or not self._check_provider(name, where):
                    continue
                if name in seen:
                    self._faults.add(where, f"is already in this route, at {show_path(seen[name])}")
                seen.setdefault(name, where)
                served = self._by_provider.get(name)
                if served and self._complete and isinstance(route.model, str) and not served.serves(route.model):
                    shown = self._faults.quote(where, name)
                    self._faults.add(where, f"provider {shown} does not list the model of this route")

    def _check_chain(self, path: Path, chain: tuple[Fallback, ...], model: str) -> None:
        if not isinstance(chain, Broken) and len(chain) > MAX_STEPS:
            self._faults.add(path, f"at most {MAX_STEPS} steps")
        for at, step in enumerate(chain):
            where = (*path, at)
            if step.provider is None and step.pool is None and step.model is None:
                self._faults.add(where, "leads nowhere: set provider, pool or model")
            if step.provider is not None and step.pool is not None:
                self._faults.add(where, "provider and pool exclude each other")
            if isinstance(step.provider, str) and self._check_provider(step.provider, (*where, "provider")):
                self._check_served([step.provider], (*where, "provider"), step.model or model)
            self._check_provider_list(step.pool, (*where, "pool"))
            self._check_served(step.pool or (), (*where, "pool"), step.model or model)
            self._check_strategy(step.strategy, (*where, "strategy"))
            aliases = self._config.aliases
            if isinstance(step.model, str) and not isinstance(aliases, Broken) and step.model not in aliases:
                self._check_model(step.model, (*where, "model"))

    def _check_served(self, names: Sequence[str], where: Path, model: str) -> None:
        """Refuse a step whose providers are known, and none of which has the model it is for."""
        if not isinstance(model, str) or not self._complete:
            return
        if isinstance(self._config.aliases, Broken) or model in self._config.aliases:
            # Where an alias ends is told where aliases are checked; they may go round in circles.
            return
        served = [self._by_provider.get(name) for name in names if isinstance(name, str)]
        if served and all(one and not one.serves(model) for one in served):
            self._faults.add(where, "leads nowhere: no model of that name is listed there")

    def _check_provider(self, name: str, path: Path) -> bool:
        if name in self._by_provider or not self._complete:
            return True
        near = self._near(name, path, self._provider_paths.items())
        self._faults.add(path, f"unknown provider {self._faults.quote(path, name)}{near}")
        return False

    def _check_provider_list(self, names: Any, path: Path) -> None:
        for at, name in enumerate(names or ()):
            if isinstance(name, str):
                self._check_provider(name, (*path, at))

    def _check_strategy(self, name: Any, path: Path) -> None:
        if not isinstance(name, str) or name in self._strategies:
            return
        literal = self._faults.is_literal(path)
        near = self._faults.suggest(name, self._strategies) if literal else ""
        known = near or f" (known: {', '.join(self._strategies)})"
        self._faults.add(path, f"unknown strategy {self._faults.quote(path, name)}{known}")

    def _check_rule(self, path: Path, rule: Rule) -> None:
        self._check_when((*path, "when"), rule.when)
        self._check_then((*path, "then"), rule.then)

    def _check_when(self, path: Path, when: When) -> None:
        for name in ("all", "any"):
            for at, part in enumerate(getattr(when, name) or ()):
                self._check_when((*path, name, at), part)
        if isinstance(when.not_, When):
            self._check_when((*path, "not"), when.not_)
        self._check_time(path, when)
        self._check_sizes(path, when)
        self._check_wanted_headers((*path, "header"), when.header)
        if self._listed_tenants and self._tenants_complete:
            self._check_tenant_ids((*path, "tenant"), when.tenant)

    def _check_time(self, path: Path, when: When) -> None:
        if not isinstance(when.tz, str):
            return
        if not is_zone(when.tz):
            shown = self._faults.quote((*path, "tz"), when.tz)
            self._faults.add((*path, "tz"), f"unknown time zone {shown}: use an IANA name such as Europe/Berlin")
        if when.hours is None and when.days is None:
            self._faults.add((*path, "tz"), "says nothing without hours or days")

    def _check_sizes(self, path: Path, when: When) -> None:
        least, most = when.min_prompt_tokens, when.max_prompt_tokens
        if isinstance(least, int) and isinstance(most, int) and most < least:
            self._faults.add((*path, "max_prompt_tokens"), "must not be less than min_prompt_tokens")
        if isinstance(when.min_priority, str) and when.priority and all(isinstance(one, str) for one in when.priority):
            floor = _LEVELS.index(when.min_priority)
            if all(_LEVELS.index(one) < floor for one in when.priority):
                self._faults.add((*path, "priority"), "never holds: all of it is below min_priority")

    def _check_wanted_headers(self, path: Path, wanted: Any) -> None:
        if wanted is None or isinstance(wanted, Broken):
            return
        if not 0 < len(wanted) <= MAX_HEADERS:
            self._faults.add(path, f"must name 1 to {MAX_HEADERS} headers")
        self._check_repeated(path, wanted)
        for name in wanted:
            fault = name_fault(name)
            if fault is None and name.lower() in CREDENTIALS:
                fault = "carries credentials, which rules do not read: match by key or tenant"
            if fault is not None:
                self._faults.add((*path, name), fault)
            for at, value in enumerate(wanted[name] or ()):
                fault = value_fault(value) if isinstance(value, str) else None
                if fault is not None:
                    self._faults.add((*path, name, at), fault)

    def _check_repeated(self, path: Path, headers: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in headers:
            if name.lower() in seen:
                self._faults.add((*path, name), "is there twice (header names ignore case)")
            seen.add(name.lower())

    def _check_tenant_ids(self, path: Path, ids: Any) -> None:
        """Refuse tenants that no key can have: once any is listed, keys of others are turned away."""
        for at, name in enumerate(ids or ()):
            if isinstance(name, str) and name not in self._tenants and name != DEFAULT_TENANT:
                where = (*path, at)
                literal = (one for one in sorted(self._tenants)) if self._faults.is_literal(where) else ()
                near = self._faults.suggest(name, literal)
                shown = self._faults.quote(where, name)
                self._faults.add(where, f"no entry of tenants has the id {shown}{near}")

    def _check_then(self, path: Path, then: Then) -> None:
        if isinstance(then, Broken):
            return
        actions: list[tuple[Path, Action]] = [(path, then)]
        if not isinstance(then.chain, Broken):
            chain = then.chain or ()
            if len(chain) > MAX_STEPS:
                self._faults.add((*path, "chain"), f"at most {MAX_STEPS} actions")
            actions += [((*path, "chain", at), one) for at, one in enumerate(chain) if not isinstance(one, Broken)]
        given = [(where, name) for where, one in actions for name in _SETTINGS if getattr(one, name) is not None]
        if not given and not isinstance(then.chain, Broken):
            self._faults.add(path, f"does nothing: set {', '.join(_SETTINGS)} or chain")
        self._check_exclusive(path, given)
        self._check_repeated_settings(given)
        for where, action in actions:
            self._check_action(where, action)
        for where, action in actions[1:]:
            if all(getattr(action, name) is None for name in _SETTINGS):
                self._faults.add(where, f"does nothing: set {', '.join(_SETTINGS)}")

    def _check_exclusive(self, path: Path, given: list[tuple[Path, str]]) -> None:
        choice = list(dict.fromkeys(name for _, name in given if name in _LONELY))
        if len(choice) > 1:
            self._faults.add(path, f"{' and '.join(choice)} exclude each other")

    def _check_repeated_settings(self, given: list[tuple[Path, str]]) -> None:
        first: dict[str, Path] = {}
        for where, name in given:
            if name in first and name not in ("tags", "headers"):
                self._faults.add((*where, name), f"is already set by {show_path((*first[name], name))}")
            first.setdefault(name, where)

    def _check_action(self, path: Path, action: Action) -> None:
        if isinstance(action.provider, str):
            self._check_provider(action.provider, (*path, "provider"))
        self._check_provider_list(action.pool, (*path, "pool"))
        self._check_strategy(action.strategy, (*path, "strategy"))
        if action.headers is not None and not isinstance(action.headers, Broken):
            self._check_set_headers((*path, "headers"), action.headers)

    def _check_set_headers(self, path: Path, headers: dict[str, str]) -> None:
        if not 0 < len(headers) <= MAX_HEADERS:
            self._faults.add(path, f"must name 1 to {MAX_HEADERS} headers")
        self._check_repeated(path, headers)
        for name, value in headers.items():
            fault = "carries credentials" if name.lower() in CREDENTIALS else set_fault(name)
            fault = fault or (value_fault(value) if isinstance(value, str) else None)
            if fault is not None:
                self._faults.add((*path, name), fault)

    def _check_key_tenants(self) -> None:
        """Refuse keys whose tenant is not listed, once any is: a misspelt tenant must not be one without limits."""
        if not self._listed_tenants or not self._tenants_complete:
            return
        for at, key in enumerate(self._config.auth.keys):
            if key.tenant not in self._listed_tenants and key.tenant != DEFAULT_TENANT:
                where = ("auth", "keys", at, "tenant")
                shown = self._faults.quote(where, key.tenant)
                self._faults.add(
                    where, f"no entry of tenants has the id {shown}: once there are any, all must be there"
                )

    def _check_limited_models(self) -> None:
        """Refuse ceilings for models that nobody serves, or that are served under another name."""
        limits = self._config.limits
        if isinstance(limits, Broken) or isinstance(limits.models, Broken):
            return
        listed = {*self._all.patterns, *(route.model for route in self._config.routes if route is not None)}
        for name in limits.models:
            path = ("limits", "models", name)
            if not is_pattern(name):
                self._check_route_model(name, path)
            elif self._complete and name not in listed:
                self._faults.add(path, "is a pattern that neither a provider nor a route lists")

    def _check_tenant(self, path: Path, tenant: Tenant) -> None:
        if tenant.allowed_providers != ("*",):
            self._check_provider_list(tenant.allowed_providers, (*path, "allowed_providers"))
        self._check_provider_list(tenant.denied_providers, (*path, "denied_providers"))
        self._check_provider_list(tenant.preferred_providers, (*path, "preferred_providers"))
        self._check_strategy(tenant.strategy, (*path, "strategy"))
        allowed, denied = tenant.allowed_providers or ("*",), tenant.denied_providers or ()
        for at, name in enumerate(tenant.preferred_providers or ()):
            if isinstance(name, str) and (name in denied or (name not in allowed and "*" not in allowed)):
                self._faults.add((*path, "preferred_providers", at), "is not allowed to this tenant")


def is_zone(name: str) -> bool:
    """Return whether `name` is an IANA time zone this machine (or the tzdata package) knows."""
    if name == "UTC":
        return True
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # ValueError: no relative path; OSError: the name of a directory, such as "Europe".
        return False
    return True
