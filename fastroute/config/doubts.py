"""What can be loaded and is most likely not meant: rules that lead nowhere, and names that nobody has yet."""

from collections.abc import Iterator
from typing import Any

from fastroute.config.faults import Path, show_path
from fastroute.config.patterns import is_pattern, matches
from fastroute.config.references import DEFAULT_TENANT, Served
from fastroute.config.schema import Config, Rule, When, path_token_id


def doubts(config: Config) -> list[str]:
    """Return one line for each; it names places, and no values, which may come from the environment."""
    return [f"{show_path(path)}: {what}" for path, what in _doubts(config)]


def _doubts(config: Config) -> Iterator[tuple[Path, str]]:
    keys = {key.id for key in config.auth.keys} | {path_token_id(at) for at in range(len(config.auth.path_tokens))}
    tenants = {tenant.id for tenant in config.tenants} | {key.tenant for key in config.auth.keys} | {DEFAULT_TENANT}
    served = _served(config)
    for at, rule in enumerate(config.rules):
        path = ("rules", at)
        for where, when in _conditions((*path, "when"), rule.when):
            if config.auth.keys:  # where there are none, all are made at run time, or come by path tokens
                yield from _of_none((*where, "key"), when.key, keys, "id")
                yield from _of_none((*where, "tenant"), when.tenant, tenants, "tenant")
        if rule.enabled:
            yield from _nowhere(path, rule, config.aliases, served)


def _conditions(path: Path, when: When) -> Iterator[tuple[Path, When]]:
    """Yield a condition and all that are nested in it, with their paths."""
    yield path, when
    for name in ("all", "any"):
        for at, part in enumerate(getattr(when, name) or ()):
            yield from _conditions((*path, name, at), part)
    if when.not_ is not None:
        yield from _conditions((*path, "not"), when.not_)


def _of_none(path: Path, names: tuple[str, ...] | None, known: set[str], what: str) -> Iterator[tuple[Path, str]]:
    for at, name in enumerate(names or ()):
        if name not in known:
            yield (*path, at), f"no key of the configuration has this {what}; only one made at run time can"


def _served(config: Config) -> dict[str, Served]:
    served: dict[str, Served] = {}
    for provider in config.providers:
        models = served[provider.id] = Served()
        for model in provider.models:
            models.add(model.name, ())
    return served


def _nowhere(path: Path, rule: Rule, aliases: dict[str, str], served: dict[str, Served]) -> Iterator[tuple[Path, str]]:
    """Yield the models, named exactly, that a rule sends to providers none of which lists them."""
    providers = _targets(rule)
    if not providers:
        return
    for where, name in _certain_models((*path, "when"), rule.when):
        model: Any = name
        while model in aliases:
            model = aliases[model]
        if not any(served[provider].serves(model) for provider in providers):
            yield where, "the rule sends this model to providers none of which lists it"


def _targets(rule: Rule) -> tuple[str, ...]:
    """Return the providers that a rule routes to; nothing if it does not route."""
    for action in (rule.then, *(rule.then.chain or ())):
        if action.provider is not None:
            return (action.provider,)
        if action.pool is not None:
            return action.pool
    return ()


def _certain_models(path: Path, when: When) -> Iterator[tuple[Path, str]]:
    """Yield the exact names that a condition holds for, and their places; nothing where that takes more to tell."""
    conjunction = [(path, when)]
    for where, part in conjunction:
        conjunction += [((*where, "all", at), one) for at, one in enumerate(part.all or ())]
    lists = [((*where, "model"), part.model) for where, part in conjunction if part.model is not None]
    inner = [one for _, part in conjunction for one in (*(part.any or ()), *((part.not_,) if part.not_ else ()))]
    if not lists or any(nested.model is not None for one in inner for _, nested in _conditions((), one)):
        return
    (where, first), others = lists[0], [names for _, names in lists[1:]]
    for at, name in enumerate(first):
        if not is_pattern(name) and all(any(matches(one, name) for one in names) for names in others):
            yield (*where, at), name
