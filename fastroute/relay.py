"""Passing an answer on: whole or as it comes, metered in passing, settled before its last byte.

What failed before the first byte is the corridor's to deal with; from then on there is no failover.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastroute._core.h1 import UpstreamError
from fastroute._core.sse import StreamMeter
from fastroute.attempt import Attempt, Held
from fastroute.billing.estimate import estimate_usage
from fastroute.context import DRAIN, SEND, STREAM, TOTAL, Context
from fastroute.downstream.lane import Downstream
from fastroute.downstream.pace import BURST_NS, Pace
from fastroute.downstream.reply import with_retry_after
from fastroute.failover import classify
from fastroute.failover.classify import Outcome
from fastroute.interfaces import Exchange, Header, Usage
from fastroute.routing.plan import Plan
from fastroute.upstream.endpoint import Endpoint
from fastroute.upstream.survey import Survey

#: A whole answer up to this size is held until it is complete, so that one that breaks off can still fail over.
HOLD_BYTES: Final = 1 << 20
#: A streamed answer that is no event stream is kept for metering up to this size; beyond it usage is estimated.
METER_BYTES: Final = 16 << 20
#: An event up to this size is passed on only when it is whole. Pictures come in one event, with their usage.
MAX_EVENT_BYTES: Final = METER_BYTES
#: Bodies larger than this are parsed in a thread.
PARSE_IN_THREAD_BYTES: Final = 1 << 18

#: Fields that count, ready made for the counts that are common.
ATTEMPTS: Final = [(b"x-fastroute-attempts", b"%d" % n) for n in range(32)]
_OVERHEADS: Final = [(b"x-fastroute-overhead-us", b"%d" % n) for n in range(2048)]

_INTERRUPTIONS: Final = {
    STREAM: "the provider stopped in the middle of its answer",
    TOTAL: "the request's deadline passed",
    DRAIN: "the gateway is shutting down",
}


class Relay:
    """Passes answers on, for one corridor. settle: writes the record of a request, once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        monotonic_ns: Callable[[], int],
        settle: Callable[[Context], None],
        admission: Any,
    ) -> None:
        self._now = monotonic_ns
        self._settle = settle
        self._admission = admission
        self._pace = Pace(loop)

    def whole(
        self, downstream: Downstream, ctx: Context, exchange: Exchange | Held, body: bytes, outcome: Outcome
    ) -> Awaitable[None]:
        """Meter and settle a whole answer; return what sends it, to be awaited.

        A body over `PARSE_IN_THREAD_BYTES` is to have been metered by `meter_large`.
        """
        ctx.status = exchange.status
        ctx.response_bytes = len(body)
        if outcome.name == "ok" and ctx.operation.metered and ctx.usage_source == "none":
            _meter(ctx, ctx.dialect.usage_from_json(body), len(body))
        headers = self._reply_headers(ctx, exchange)
        ctx.outcome = outcome.name
        self._settle(ctx)
        return downstream.respond(exchange.status, headers, body)

    async def meter_large(self, ctx: Context, body: bytes) -> None:
        """Take the usage out of a body whose parsing would hold up others."""
        if ctx.operation.metered:
            _meter(ctx, await asyncio.to_thread(ctx.dialect.usage_from_json, body), len(body))

    async def stream(self, downstream: Downstream, ctx: Context, exchange: Exchange, attempt: Attempt) -> None:
        """Pass the answer on as it comes, metering it in passing. From the first byte on there is no failover."""
        outcome = attempt.outcome
        ctx.status = exchange.status
        events = ctx.survey.events
        meter = StreamMeter(ctx.dialect.KEEP_ALL, attempt.strip and events, MAX_EVENT_BYTES, events)
        kept: list[bytes] | None = None if events else []
        await downstream.start(exchange.status, self._reply_headers(ctx, exchange))
        broken = ""
        cut = classify.STREAM_BROKEN
        last = b""
        try:
            last = await self._pump(downstream, ctx, exchange, meter, kept)
        except UpstreamError as error:
            broken = error.message
        except asyncio.CancelledError:
            if ctx.interrupted not in (STREAM, TOTAL, DRAIN):
                _meter_passed(ctx, meter, kept, outcome, whole=False)
                raise
            reason = ctx.resume()
            broken = _INTERRUPTIONS[reason]
            if reason != STREAM:
                cut = classify.STREAM_ENDED
        mid_event = meter.mid_event
        tail = last + meter.finish()
        await self._meter_relay(ctx, meter, kept, outcome, whole=not broken)
        if broken:
            outcome = attempt.outcome = classify.broken_off(outcome, cut)
        ctx.outcome = outcome.name
        self._settle(ctx)
        if broken and kept is not None:
            return
        if broken:
            tail = _error_event(ctx, mid_event, broken)
        await downstream.finish(tail)

    async def _pump(
        self,
        downstream: Downstream,
        ctx: Context,
        exchange: Exchange,
        meter: StreamMeter,
        kept: list[bytes] | None,
    ) -> bytes:
        """Move bytes from the provider to the client until the answer is complete; return the last of them, unsent.

        They wait for the record: a client that knows its answer's length has it whole with the last byte.
        kept: None for an event stream.
        """
        data = ctx.first + exchange.read()
        complete = exchange.complete
        ctx.first = b""
        sent_ns = 0
        while True:
            if data:
                ctx.progress += 1
                now = self._now()
                if now - sent_ns < BURST_NS and not complete:
                    await self._pace.tick()
                    now = self._now()
                    data += exchange.read()
                    complete = exchange.complete
                sent_ns = now
                ctx.response_bytes += len(data)
                if kept is None:
                    data = meter.feed(data)
                elif ctx.response_bytes <= METER_BYTES:
                    kept.append(data)
                if complete:
                    return data
                if data:
                    ctx.phase = SEND
                    await downstream.send(data)
                    ctx.phase = STREAM
            elif complete:
                return b""
            else:
                await exchange.wait()
            data = exchange.read()
            complete = exchange.complete

    async def _meter_relay(
        self, ctx: Context, meter: StreamMeter, kept: list[bytes] | None, outcome: Outcome, *, whole: bool
    ) -> None:
        """Take the usage out of what was relayed, be it a whole answer that was kept or what the meter saw."""
        if kept is None and sum(map(len, meter.usage_events)) > PARSE_IN_THREAD_BYTES and _is_metered(ctx, outcome):
            try:
                usage = await asyncio.to_thread(ctx.dialect.usage_from_events, meter.usage_events)
            except asyncio.CancelledError:
                # Its client has left meanwhile: what it has had is to be paid for all the same.
                _meter_passed(ctx, meter, kept, outcome, whole=whole)
                raise
            _note_usage(ctx, meter, kept, usage, whole=whole)
        elif kept is None or ctx.response_bytes > METER_BYTES or not whole:
            _meter_passed(ctx, meter, kept, outcome, whole=whole)
        elif _is_metered(ctx, outcome):
            body = b"".join(kept)
            if len(body) > PARSE_IN_THREAD_BYTES:
                await self.meter_large(ctx, body)
            else:
                _meter(ctx, ctx.dialect.usage_from_json(body), len(body))

    def _reply_headers(self, ctx: Context, exchange: Exchange | Held) -> list[Header]:
        endpoint: Endpoint = ctx.endpoint
        plan: Plan = ctx.plan
        # The provider's id is what its support asks for; ours stands beside it.
        own = b"x-fastroute-request-id" if ctx.survey.has_request_id else b"x-request-id"
        monotonic_ns = self._now
        overhead_us = max(0, (monotonic_ns() - ctx.started_ns - ctx.upstream_ns) // 1000)
        limited = ctx.principal.limits is not None
        headers = [
            *(self._admission.instead(ctx, exchange.headers) if limited else exchange.headers),
            endpoint.reply_header,
            plan.route.model_header or (b"x-fastroute-model", plan.model.encode()),
            ATTEMPTS[ctx.attempts],
            plan.chooser.header,
            _OVERHEADS[overhead_us]
            if overhead_us < len(_OVERHEADS)
            else (b"x-fastroute-overhead-us", b"%d" % overhead_us),
            (own, ctx.request_id.encode()),
        ]
        if plan.terms.decision.header_value:
            headers.append((b"x-fastroute-rule", plan.terms.decision.header_value))
        if ctx.retry_after_ms >= 0 and (exchange.status in (408, 429) or exchange.status >= 500):
            # Somebody who was not asked may be back before those who were.
            wait_ms = ctx.retry_after_ms if plan.wait_ms < 0 else min(ctx.retry_after_ms, plan.wait_ms)
            return with_retry_after(headers, wait_ms)
        return headers


def _meter_passed(ctx: Context, meter: StreamMeter, kept: list[bytes] | None, outcome: Outcome, *, whole: bool) -> None:
    """Take the usage out of events that have passed; estimate what the provider did not get round to reporting."""
    if _is_metered(ctx, outcome):
        _note_usage(ctx, meter, kept, ctx.dialect.usage_from_events(meter.usage_events), whole=whole)


def _is_metered(ctx: Context, outcome: Outcome) -> bool:
    return outcome.name == "ok" and ctx.operation.metered


def _note_usage(
    ctx: Context, meter: StreamMeter, kept: list[bytes] | None, usage: Usage | None, *, whole: bool
) -> None:
    if usage is not None and (whole or meter.finished):
        ctx.usage = usage
        ctx.usage_source = "provider"
    elif ctx.response_bytes or usage is not None:
        content = meter.content_bytes if kept is None else ctx.response_bytes
        if ctx.operation.silent:
            ctx.usage = estimate_usage(ctx.request_bytes, 0, 0, usage)
        else:
            ctx.usage = estimate_usage(ctx.request_bytes, meter.events, content, usage)
        ctx.usage_source = "estimated"


async def collect(exchange: Exchange, ctx: Context, limit: int) -> tuple[bytes | None, UpstreamError | None]:
    """Read a whole answer. (None, None): it proved larger than `limit`, what came so far is in `ctx.first`."""
    pieces = [ctx.first]
    size = len(ctx.first)
    try:
        while not exchange.complete:
            await exchange.wait()
            data = exchange.read()
            pieces.append(data)
            size += len(data)
            ctx.progress += 1
            if size > limit:
                ctx.first = b"".join(pieces)
                return None, None
    except UpstreamError as error:
        return None, error
    except asyncio.CancelledError:
        if ctx.interrupted != STREAM:
            raise
        ctx.resume()
        return None, UpstreamError("timeout", "the provider stopped in the middle of its answer")
    return b"".join(pieces), None


def _meter(ctx: Context, usage: Usage | None, size: int) -> None:
    """Note what the provider has reported; estimate what it has not."""
    if usage is None:
        ctx.usage = estimate_usage(ctx.request_bytes, 0, 0 if ctx.operation.silent else size, None)
        ctx.usage_source = "estimated"
    else:
        ctx.usage = usage
        ctx.usage_source = "provider"


def _error_event(ctx: Context, mid_event: bool, message: str) -> bytes:
    """Return the event that ends a broken stream; half an event that was held back is forgotten.

    mid_event: an event too long to be held back was cut in the middle. It is closed off first.
    """
    if ctx.operation.name == "responses":
        event: bytes = ctx.dialect.error_event_responses(502, "upstream_error", message)
    else:
        event = ctx.dialect.error_event(502, "upstream_error", message, ctx.request_id)
    return b"\n\n" + event if mid_event else event


def is_held(ctx: Context, exchange: Exchange) -> bool:
    """Whether the answer is sent only once it is complete: everything that is not streamed, unless it is large."""
    if exchange.length > HOLD_BYTES or ctx.survey.events:
        return False
    return not ctx.stream or exchange.length >= 0


def has_event(survey: Survey, first: bytes) -> bool:
    """Whether an answer that begins with `first` is an event stream, and one of its events with data is whole."""
    if not survey.events:
        return False
    meter = StreamMeter(max_event_bytes=MAX_EVENT_BYTES)
    meter.feed(first)
    return meter.events > 0
