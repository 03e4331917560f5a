"""Keys and their models as all workers see them: `GET /admin/v1/channels`, and `POST` to switch a key off or on."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from fastroute._core._attempts_rules import OPEN
from fastroute._core._channel_rules import (
    AVAILABLE,
    BALANCES,
    NEVER_MS,
    RATE_LIMITED,
    STATUSES,
    TEMPORARILY_DOWN,
)
from fastroute._core.attempts import Attempts
from fastroute._core.counters import COOLDOWN_UNTIL_MS, KEY_SINCE_MS, MODEL_SINCE_MS, Segment
from fastroute.clock import Clock
from fastroute.config.fields import Identifier
from fastroute.errors import GatewayError
from fastroute.health.channel import Channel, Channels
from fastroute.health.channel_states import is_model_out, is_out
from fastroute.interfaces import CAUSES

_BREAKER: Final = CAUSES.index("breaker")
_UNKNOWN_LIMIT: Final = CAUSES.index("unknown_limit")


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to be taken out until further notice, or to be brought back with all its models."""

    provider: Identifier
    key: Identifier
    enabled: bool


def read_switch(body: bytes) -> Switch:
    """Return what is asked for. Raises GatewayError 400 for what is not a Switch."""
    try:
        return msgspec.json.decode(body, type=Switch)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GatewayError(400, "invalid_request_error", str(error)) from None


def switch_key(switch: Switch, channels: Channels, now_ms: int) -> dict[str, Any]:
    """Do it. Raises GatewayError 404 for a key that is not there."""
    if not channels.switch(switch.provider, switch.key, switch.enabled, now_ms):
        raise GatewayError(404, "not_found", "no provider has a key of that id")
    return {"provider": switch.provider, "key": switch.key, "enabled": switch.enabled}


class _Times:
    """Turns monotonic milliseconds into dates."""

    def __init__(self, clock: Clock) -> None:
        self.now_ms = clock.monotonic_ns() // 1_000_000
        self._wall_ms = clock.wall_ns() // 1_000_000

    def date(self, at_ms: int) -> str | None:
        """Return a moment in RFC 3339, UTC; None for one that nobody knows or lives to see."""
        if at_ms <= 0 or at_ms >= NEVER_MS:
            return None
        moment = datetime.fromtimestamp((self._wall_ms + at_ms - self.now_ms) / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def channels_document(channels: Channels, attempts: Attempts, segment: Segment, clock: Clock) -> dict[str, Any]:
    """Return every key with its models, in the order of the configuration. No credential is in it."""
    times = _Times(clock)
    # An endpoint of another dialect is the same channel.
    first = [channel for channel in channels if channel.row == channel.model_rows[0]]
    return {"channels": [_channel(channel, channels, attempts, segment, times) for channel in first]}


def _channel(
    channel: Channel, channels: Channels, attempts: Attempts, segment: Segment, times: _Times
) -> dict[str, Any]:
    key = channels.key_state(channel.row)
    status, cause, since_ms, until_ms = _model(channel, channels, attempts, segment, times.now_ms)
    if is_out(key):
        # Whatever the model is like: nobody can ask it.
        cause, since_ms, until_ms = key.cause, segment.cell(channel.row, KEY_SINCE_MS), key.until_ms
    return {
        "provider": channel.provider,
        "key": channel.key_id or "none",
        "model": channel.model,
        "usable": not is_out(key) and status == AVAILABLE,
        "on_trial": bool(key.trial or channels.model_state(channel.row).trial),
        "balance": BALANCES[key.kind & 3],
        "rejected": bool(key.kind >> 2),
        "status": STATUSES[status],
        "cause": CAUSES[cause] or ("low_balance" if BALANCES[key.kind & 3] == "low" else None),
        "since": times.date(since_ms),
        "until": times.date(until_ms),
    }


def _model(
    channel: Channel, channels: Channels, attempts: Attempts, segment: Segment, now_ms: int
) -> tuple[int, int, int, int]:
    """Return (status, cause, since, until) of a model, by its state and by what its breaker and cooldown say."""
    row = channel.row
    model = channels.model_state(row)
    since_ms = segment.cell(row, MODEL_SINCE_MS)
    if is_model_out(model) or (model.kind != AVAILABLE and model.until_ms > now_ms):
        return model.kind, model.cause, since_ms, model.until_ms
    state, _, _, open_until_ms = attempts.state(row, now_ms)
    if state == OPEN:
        return TEMPORARILY_DOWN, _BREAKER, 0, open_until_ms
    cooldown_ms = segment.cell(row, COOLDOWN_UNTIL_MS)
    if cooldown_ms > now_ms:
        return RATE_LIMITED, _UNKNOWN_LIMIT, 0, cooldown_ms
    return AVAILABLE, 0, 0, 0
