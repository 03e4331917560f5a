"""Part of the schema: ceilings on what may be used, and the queue before them."""

from typing import Annotated

from msgspec import Meta, Struct

from fastroute.config.fields import AtOnce, Milliseconds, PerDay, PerMinute


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ceilings of one key, tenant or model. None: no ceiling. Days are those of UTC."""

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    concurrency: AtOnce | None = None
    rpd: PerDay | None = None
    tpd: PerDay | None = None


class Queue(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where requests wait that are over a ceiling; `max` of them over all workers, none longer than `max_wait_ms`."""

    max: Annotated[int, Meta(ge=1, le=100_000)] = 100
    max_wait_ms: Milliseconds = 10_000
