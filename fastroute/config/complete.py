"""Defaults that depend on other fields: what a Config says once it is loaded."""

from collections.abc import Container
from typing import Final

import msgspec

from fastroute.config.faults import Path
from fastroute.config.presets import PRESETS
from fastroute.config.schema import Config, Provider, ProviderKey, Timeouts

#: Endings a base URL may carry although the gateway appends them itself.
_API_VERSION: Final = {"anthropic": "/v1", "gemini": "/v1beta"}


def complete(config: Config, written: Container[Path] = ()) -> Config:
    """Return `config` with every provider's base URL, dialect, include_usage and key ids filled in.

    written: paths of the fields that were set; in a provider's `timeouts` the others follow
    `routing.timeouts`. `config` must have passed all checks. Completing twice changes nothing.
    """
    providers = tuple(
        _provider(provider, config.routing.timeouts, ("providers", at), written)
        for at, provider in enumerate(config.providers)
    )
    keys = tuple(
        msgspec.structs.replace(key, key_sha256=key.key_sha256.lower()) if key.key_sha256 else key
        for key in config.auth.keys
    )
    auth = msgspec.structs.replace(config.auth, keys=keys)
    return msgspec.structs.replace(config, auth=auth, providers=providers)


def _provider(provider: Provider, timeouts: Timeouts, path: Path, written: Container[Path]) -> Provider:
    preset = PRESETS[provider.type]
    dialect = provider.dialect or preset.dialect
    url = (provider.base_url or preset.base_url).rstrip("/")
    include_usage = preset.include_usage if provider.include_usage is None else provider.include_usage
    return msgspec.structs.replace(
        provider,
        base_url=url.removesuffix(_API_VERSION.get(dialect, "")),
        dialect=dialect,
        include_usage=include_usage and dialect == "openai",
        keys=_named(provider.keys),
        timeouts=_timeouts(provider.timeouts, timeouts, (*path, "timeouts"), written),
    )


def _named(keys: tuple[ProviderKey, ...]) -> tuple[ProviderKey, ...]:
    """Give each key without an id the first free of k1, k2, ..., counting from its place in the list."""
    taken = {key.id for key in keys if key.id}
    named: list[ProviderKey] = []
    for place, key in enumerate(keys, start=1):
        number = place
        while not key.id and f"k{number}" in taken:
            number += 1
        name = key.id or f"k{number}"
        taken.add(name)
        named.append(msgspec.structs.replace(key, id=name))
    return tuple(named)


def _timeouts(own: Timeouts | None, common: Timeouts, path: Path, written: Container[Path]) -> Timeouts | None:
    if own is None or path not in written:
        return own
    return msgspec.structs.replace(
        common, **{name: getattr(own, name) for name in own.__struct_fields__ if (*path, name) in written}
    )
