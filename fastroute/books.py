"""The gateway's books: what each request was, where it went and what it cost, written into the journal when it ends."""

from collections.abc import Callable
from typing import Any

from fastroute.billing.cost import cost_nano_usd
from fastroute.billing.estimate import estimate_usage
from fastroute.billing.journal import JournalWriter
from fastroute.context import Context
from fastroute.interfaces import Entry, Kind
from fastroute.upstream.endpoint import Endpoint


class Books:
    """Writes the records of one corridor, and gives back what its requests have reserved and not used."""

    def __init__(self, journal: JournalWriter, monotonic_ns: Callable[[], int], admission: Any) -> None:
        """admission: where requests have got their grants from; None where there are none."""
        self._journal = journal
        self._now = monotonic_ns
        self._admission = admission

    def settle(self, ctx: Context) -> None:
        """Write the one record of an admitted request. Later calls do nothing."""
        if ctx.settled or not ctx.admitted:
            return
        ctx.settled = True
        if ctx.grant is not None:
            self._admission.settle(ctx)
        monotonic_ns = self._now
        endpoint: Endpoint | None = ctx.endpoint
        usage = ctx.usage
        cost: int | None = 0
        if ctx.usage_source != "none":
            cost = cost_nano_usd(endpoint.card if endpoint is not None else None, usage)
            ctx.cost_nano_usd = -1 if cost is None else cost
        self._journal.write(
            _kind(ctx, endpoint, ctx.outcome, ctx.usage_source),
            Entry(
                ctx.record_id,
                ctx.arrived_wall_ns,
                ctx.request_id,
                1 if ctx.stream else 0,
                ctx.status,
                ctx.attempts,
                1 if cost is not None else 0,
                cost or 0,
                (ctx.first_byte_ns - ctx.started_ns) // 1000 if ctx.first_byte_ns >= 0 else -1,
                (monotonic_ns() - ctx.started_ns) // 1000,
                ctx.request_bytes,
                ctx.response_bytes,
                usage,
            ),
        )

    def bill_loser(self, ctx: Context, endpoint: Endpoint) -> None:
        """Write the record of an attempt that lost a race: its provider has read the prompt, and bills it."""
        usage = estimate_usage(ctx.request_bytes, 0, 0, None)
        cost = cost_nano_usd(endpoint.card, usage)
        self._journal.write(
            _kind(ctx, endpoint, "hedged", "estimated"),
            Entry(
                self._journal.next_id(),
                ctx.arrived_wall_ns,
                ctx.request_id,
                1 if ctx.stream else 0,
                0,
                0,
                1 if cost is not None else 0,
                cost or 0,
                -1,
                (self._now() - ctx.started_ns) // 1000,
                ctx.request_bytes,
                0,
                usage,
            ),
        )


def _kind(ctx: Context, endpoint: Endpoint | None, outcome: str, source: str) -> Kind:
    """Return what a request's record has in common with others."""
    principal, operation = ctx.principal, ctx.operation
    if endpoint is None:
        return (
            principal.key_id,
            principal.tenant,
            operation.dialect,
            operation.name,
            ctx.model,
            "",
            "",
            "",
            outcome,
            source,
        )
    return (
        principal.key_id,
        principal.tenant,
        operation.dialect,
        operation.name,
        ctx.model,
        endpoint.provider,
        endpoint.id,
        endpoint.upstream_model or ctx.plan.model,
        outcome,
        source,
    )
