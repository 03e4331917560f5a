"""Which rows of the segment belong to which key, and to which model of it, by the configuration."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, Protocol

from fastroute._core._channel_rules import MARKS
from fastroute.config.patterns import is_pattern
from fastroute.config.schema import Config, Model, Provider, ProviderKey
from fastroute.health.channel import Channel

_Name = tuple[str, ...]

#: Before what keys are told apart by, so that a digest here is none of anywhere else.
_SALT: Final = b"fastroute channel\n"


class Spec(Protocol):
    """An endpoint as the configuration describes it. key: None where the provider needs none."""

    @property
    def provider(self) -> Provider:
        """Return its provider."""

    @property
    def key(self) -> ProviderKey | None:
        """Return its key."""

    @property
    def model(self) -> Model:
        """Return its model."""


def channels_of(specs: Sequence[Spec], rows: Iterable[int]) -> list[Channel]:
    """Return the channel of every endpoint. rows: of their endpoints, in the order of the specs."""
    placed = list(zip(rows, specs, strict=True))
    by_key: dict[_Name, list[int]] = {}
    by_model: dict[_Name, list[int]] = {}
    accounts: dict[_Name, dict[_Name, None]] = {}
    for row, spec in placed:
        by_key.setdefault(_key_name(spec), []).append(row)
        by_model.setdefault((*_key_name(spec), spec.model.name), []).append(row)
        accounts.setdefault(_account(spec), {})[_key_name(spec)] = None
    channels = []
    for row, spec in placed:
        name = _key_name(spec)
        siblings = tuple(accounts[_account(spec)])
        channels.append(
            Channel(
                row=row,
                provider=spec.provider.id,
                key_id=name[1],
                model=spec.model.name,
                key_rows=tuple(by_key[name]),
                model_rows=tuple(by_model[*name, spec.model.name]),
                peers=tuple(tuple(by_key[sibling]) for sibling in siblings),
                peer_rows=tuple(at for sibling in siblings for at in by_model.get((*sibling, spec.model.name), ())),
                key_mark=_mark(spec, ""),
                model_mark=_mark(spec, spec.model.upstream or spec.model.name),
                many=is_pattern(spec.model.name),
            )
        )
    return channels


def replaced_keys(before: Config, after: Config) -> set[tuple[str, str]]:
    """Return (provider, key id) of the keys whose credential is another one than before."""
    old, new = _credentials(before), _credentials(after)
    return {name for name, what in new.items() if name in old and old[name] != what}


def _credentials(config: Config) -> dict[tuple[str, str], tuple[str, str]]:
    return {
        (provider.id, key.id): (provider.base_url, key.key.reveal())
        for provider in config.providers
        for key in provider.keys
    }


def _key_name(spec: Spec) -> tuple[str, str]:
    return spec.provider.id, spec.key.id if spec.key is not None else ""


def _account(spec: Spec) -> _Name:
    """Return what the keys of one account have in common: every key is an account, unless it is said."""
    group = spec.key.quota_group if spec.key is not None else None
    return (group,) if group is not None else _key_name(spec)


def _mark(spec: Spec, upstream: str) -> int:
    """Return a number that another credential, at another address or for another name, hardly has."""
    secret = spec.key.key.reveal() if spec.key is not None else ""
    what = "\n".join((spec.provider.base_url, secret, upstream))
    return int.from_bytes(sha256(_SALT + what.encode("utf-8", "surrogatepass")).digest()[:4]) % (MARKS - 1) + 1
