"""The words in which the state of keys and of their models is kept, one each in every row that it concerns.

    KEY_STATE    balance:2  rejected:1                cause:5  strikes:5  trial:1  mark:9  look:1  until_ms:39
    MODEL_STATE  status:3                             cause:5  strikes:5  trial:1  mark:9       -  until_ms:39

from the lowest bit. `until_ms` of a key is 0 for one that may be used; else it is out until then, and is then tried by
one request. So is a model that is not found or has no quota left; of any other status it only says how long it lasts.
`look` says that the model's word of the row may be one of those two. `mark`: of the credential the word is about.
"""

from typing import Final, NamedTuple

# What is known of an account's money.
BALANCE_UNKNOWN: Final = 0
BALANCE_OK: Final = 1
BALANCE_LOW: Final = 2
BALANCE_EXHAUSTED: Final = 3
BALANCES: Final = ("unknown", "ok", "low", "exhausted")

# How a model of a key is.
AVAILABLE: Final = 0
RATE_LIMITED: Final = 1
QUOTA_EXHAUSTED: Final = 2
MODEL_NOT_FOUND: Final = 3
TEMPORARILY_DOWN: Final = 4
STATUSES: Final = ("available", "rate_limited", "quota_exhausted", "model_not_found", "temporarily_down")

#: Statuses that gates look at themselves; the others are seen to by cooldowns and breakers.
GATED: Final = (QUOTA_EXHAUSTED, MODEL_NOT_FOUND)

LOOK: Final = 1 << 23
MAX_STRIKES: Final = 31
MARKS: Final = 1 << 9
#: An `until_ms` that nobody will see.
NEVER_MS: Final = (1 << 39) - 1


class State(NamedTuple):
    """What a word holds. kind: of a key its balance, and 4 more if it is rejected; of a model its status."""

    kind: int = 0
    cause: int = 0
    strikes: int = 0
    trial: int = 0
    mark: int = 0
    look: int = 0
    until_ms: int = 0


REJECTED: Final = 4


def pack_state(state: State) -> int:
    """Return the word; it is never negative."""
    low = state.kind | state.cause << 3 | state.strikes << 8 | state.trial << 13 | state.mark << 14 | state.look << 23
    return low | min(state.until_ms, NEVER_MS) << 24


def unpack_state(word: int) -> State:
    """Return what a word holds."""
    return State(word & 7, word >> 3 & 31, word >> 8 & 31, word >> 13 & 1, word >> 14 & 511, word >> 23 & 1, word >> 24)
