"""Ceilings of the configuration, compiled for those who are to keep to them."""

from collections.abc import Mapping

from fastroute._core.limits import Ceilings, Limiter, Subject
from fastroute.config.ceilings import Limits
from fastroute.config.schema import Config, ProviderKey

NO_LIMITS = Limits()


class LimitBook:
    """The ceilings of one configuration, by a worker's limiter.

    Subjects are known by name over all snapshots and workers, so what a key has used stays used when its ceilings
    change, and keys may be added at any time.
    """

    def __init__(self, config: Config, limiter: Limiter) -> None:
        self._limiter = limiter
        self._tenants = {
            one.id: subject for one in config.tenants if (subject := _subject("tenant", one.id, one.limits))
        }
        self._models: Mapping[str, Limits] = config.limits.models
        # Of callers without ceilings of their own: one for the whole tenant.
        self._of_tenants = {tenant: Ceilings(limiter.table, [subject]) for tenant, subject in self._tenants.items()}

    def caller(self, key_id: str, tenant: str, limits: Limits | None) -> Ceilings | None:
        """Return the ceilings of a key of a tenant; None if nothing limits it."""
        own = _subject("key", key_id, limits)
        if own is None:
            return self._of_tenants.get(tenant)
        shared = self._tenants.get(tenant)
        return Ceilings(self._limiter.table, [own] if shared is None else [own, shared])

    def model(self, name: str) -> Ceilings | None:
        """Return the ceilings of a model, by the name or pattern that the configuration lists it with."""
        subject = _subject("model", name, self._models.get(name))
        return Ceilings(self._limiter.table, [subject]) if subject is not None else None

    def provider_key(self, provider: str, key: ProviderKey | None) -> Ceilings | None:
        """Return the ceilings of a provider's key. They hold for whatever model it is used for."""
        if key is None:
            return None
        limits = Limits(rpm=key.rpm, tpm=key.tpm, concurrency=key.concurrency, rpd=key.rpd, tpd=key.tpd)
        subject = _subject("provider-key", f"{provider}/{key.id}", limits)
        return Ceilings(self._limiter.table, [subject]) if subject is not None else None


def _subject(kind: str, name: str, limits: Limits | None) -> Subject | None:
    if limits is None or limits == NO_LIMITS:
        return None
    return Subject(
        f"{kind}:{name}",
        limits.rpm or 0,
        limits.tpm or 0,
        limits.concurrency or 0,
        limits.rpd or 0,
        limits.tpd or 0,
    )
