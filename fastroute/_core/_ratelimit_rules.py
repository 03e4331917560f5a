"""Names and numbers that both halves of `ratelimit` use."""

from typing import Final

from fastroute.interfaces import (
    DAY_REQUESTS_LEFT,
    DAY_TOKENS_LEFT,
    INPUT_TOKENS_LEFT,
    MONTH_LEFT,
    OUTPUT_TOKENS_LEFT,
    REQUESTS_LEFT,
    TOKENS_LEFT,
)

#: What a field holds, in the order of the places of a dimension.
WHATS: Final = (b"limit", b"remaining", b"reset")
#: Dimensions by the names they have in fields. Windows of seconds are left out: what they say is over at once.
KINDS: Final = {
    b"requests": REQUESTS_LEFT,
    b"req-minute": REQUESTS_LEFT,
    b"requests-minute": REQUESTS_LEFT,
    b"tokens": TOKENS_LEFT,
    b"tokens-minute": TOKENS_LEFT,
    b"input-tokens": INPUT_TOKENS_LEFT,
    b"tokens-prompt": INPUT_TOKENS_LEFT,
    b"output-tokens": OUTPUT_TOKENS_LEFT,
    b"tokens-generated": OUTPUT_TOKENS_LEFT,
    b"requests-day": DAY_REQUESTS_LEFT,
    b"req-day": DAY_REQUESTS_LEFT,
    b"tokens-day": DAY_TOKENS_LEFT,
    b"requests-month": MONTH_LEFT,
    b"tokens-month": MONTH_LEFT,
}
UNITS_MS: Final = {
    b"h": 3_600_000.0,
    b"m": 60_000.0,
    b"s": 1000.0,
    b"ms": 1.0,
    b"us": 1e-3,
    b"\xc2\xb5s": 1e-3,
    b"ns": 1e-6,
}
#: Digits of a number that a 64-bit float holds exactly.
MAX_DIGITS: Final = 15
#: Numbers from here on are times since 1970: in seconds (2001), in milliseconds (2001).
EPOCH_S: Final = 1e9
EPOCH_MS: Final = 1e12
#: No limit is renewed less often than once a month.
MAX_RESET_MS: Final = 31 * 86_400_000
#: A limit that takes this long to be renewed from nothing is one of a day, of a month.
DAILY_MS: Final = 6 * 3_600_000.0
MONTHLY_MS: Final = 10 * 86_400_000.0
#: No minute's limit takes longer. Tokens are not counted as exactly as requests, so that a share of them tells less.
LONG_MS: Final = 600_000
#: What a sum of decimal fractions may be above the number that it stands for.
SLACK_MS: Final = 1e-6
