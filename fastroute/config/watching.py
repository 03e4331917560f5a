"""How a provider is watched: what its endpoints take, and whether they are well. Part of `schema`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]
Requests = Annotated[int, Meta(ge=1, le=1_000_000)]


class AdaptiveLimit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many requests an endpoint takes at a time is found out from how it answers, and what is left of its quotas.

    min, max: of the limit; max None is no ceiling. initial: before anything is known; None is no limit for aimd, 20
    for gradient2. headroom_percent: an endpoint with less than this left of a quota is used when no other is left.
    forget_ms: this long after the last refusal, a limit of aimd is forgotten.
    """

    kind: Literal["off", "aimd", "gradient2"] = "aimd"
    min: Requests = 1
    max: Requests | None = None
    initial: Requests | None = None
    headroom_percent: Annotated[int, Meta(ge=0, le=100)] = 10
    forget_ms: Milliseconds = 600_000


class Probe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An active health check: a GET that costs nothing, such as a self-hosted server's `/health`."""

    path: Annotated[str, Meta(pattern=r"^/[^\s]{0,1023}\Z", extra={"form": "a path beginning with /"})] = "/health"
    interval_ms: Milliseconds = 10_000
    timeout_ms: Milliseconds = 2_000
