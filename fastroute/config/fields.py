"""What the fields of a configuration hold: kinds of numbers and texts, each with its bounds."""

from decimal import Decimal
from typing import Annotated, Final, Literal

from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535)]
Weight = Annotated[int, Meta(ge=0, le=1000)]
Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]
DelayMilliseconds = Annotated[int, Meta(ge=0, le=3_600_000)]
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
PerDay = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
AtOnce = Annotated[int, Meta(ge=1, le=1_000_000)]
Identifier = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z", extra={"form": "1 to 64 of the characters A-Z a-z 0-9 . _ -"}),
]
ModelName = Annotated[
    str, Meta(pattern=r"^[^\s\x00-\x1f\x7f]{1,256}\Z", extra={"form": "1 to 256 characters without spaces"})
]
Label = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f]{1,128}\Z",
        extra={"form": "1 to 128 characters without control characters"},
    ),
]
Text = Annotated[str, Meta(max_length=1024)]
HeaderText = Annotated[str, Meta(min_length=1, max_length=1024)]
TokenCount = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z", extra={"form": "64 hexadecimal digits"})]
# Prices are kept as integer pico-USD per token, so 0.000001 USD per million tokens is the finest price there is.
UsdPerMtok = Annotated[Decimal, Meta(extra={"ge": "0", "le": "1000000", "places": 6})]
# Ledger rows are integer nano-USD.
Usd = Annotated[Decimal, Meta(extra={"ge": "0", "le": "1000000000", "places": 9})]

Level = Literal["low", "normal", "high", "critical"]
Period = Literal["minute", "hour", "day", "week", "month", "total"]
KeyStrategy = Literal["round_robin", "time_window", "weighted"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
RejectReason = Literal["rate_limit_exceeded", "unauthorized_model", "invalid_request", "maintenance_mode", "custom"]

#: Names of the strategies that come with fastroute; plugins add theirs by entry point.
STRATEGIES: Final = (
    "p2c",
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_latency",
    "cost_optimized",
    "adaptive",
    "random",
    "time_window",
    "consistent_hash",
    "prefix",
)
