"""Words and checks that both halves of `attempts` use: verdicts, states, and the layout of an endpoint's cells.

    BREAKER         state:2  probes in flight:8  generation:14  until_ms:40   (from the lowest bit)
    BREAKER_COUNTS  consecutive failures:16  probes that went well:16  trips in a row:16
    COST            milliseconds as a 32-bit float << 32 | time in ms, modulo 2**32
    WINDOW_0..9     epoch:24 << 40 | good:20 << 20 | failed:20
    LATENCY_0..15   epoch:16 << 48 | count:16 << 32 | count:16 << 16 | count:16

LATENCY_n counts good answers by their normalised time to the first token, from 2**(10 + n) microseconds on, by thirds
of that; the first and the last one take what lies beyond. An epoch is a window; counts of earlier ones are halved for
each that has passed.

`until_ms` of an open breaker is when the next probe may go, of a half-open one when its probes are given up for lost.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

# How an attempt ended.
OK: Final = 0
FAILED: Final = 1  # the endpoint is to blame
RATE_LIMITED: Final = 2  # it is well, but has had enough
NEUTRAL: Final = 3  # the request is to blame, or the client left
KEY_REJECTED: Final = 4  # the endpoint is well, our credential is not

CLOSED: Final = 0
OPEN: Final = 1
HALF_OPEN: Final = 2

REFUSED: Final = -1
#: A generation of a breaker is a number of 14 bits; a ticket has that of its admission above its lowest two bits.
GENERATIONS: Final = 0x3FFF
#: From this bit on, a ticket has the mark that `adaptive` has given; below are generation:14, uncounted:1, probe:1.
MARK_SHIFT: Final = 16

#: A provider's wish to be left alone is believed up to this long.
MAX_HINT_MS: Final = 86_400_000
#: A probe that has not come back after this long, or after the open time if that is longer, died with its worker.
PROBE_LOST_MS: Final = 60_000
#: A time in a cell lies ahead of the caller's by no more than this: another worker has looked at the clock later. One
#: that seems to lie further ahead is of long ago.
MAX_AHEAD_MS: Final = 0xFFFF
#: Failures that are taken for the rate although they seem to be this far below it: 0.07 x 100 is more than 7.
RATE_SLACK: Final = 1e-6
#: What an endpoint nobody has measured is taken to cost while its first request is under way.
SEED_COST_MS: Final = 1_000.0
#: A cost below this has decayed to nothing: the endpoint may be tried again.
FORGOTTEN_MS: Final = 1e-3
#: Open times are lengthened by up to this share, drawn at random, so that gateways do not probe in step.
JITTER: Final = 0.1
MAX_SATURATED: Final = 0xFFFF
MAX_TRIPS: Final = 16


#: The least time that is told apart, 2**10 microseconds, as a power of two.
LATENCY_LEAST: Final = 10
LATENCY_OCTAVES: Final = 16
#: An epoch that lies ahead by no more than this is another worker's, which has looked at the clock later.
EPOCHS_AHEAD: Final = 16
_SHORTEST_US: Final = 1 << LATENCY_LEAST
_LONGEST_US: Final = (1 << LATENCY_LEAST + LATENCY_OCTAVES) - 1
_LANES: Final = 3
_COUNT: Final = 0xFFFF


class Policy(NamedTuple):
    """Parameters of `Attempts`; see config.schema.Breaker. decay_ms, penalty_ms: of the cost (peak EWMA)."""

    failure_threshold: int = 5
    success_threshold: int = 3
    timeout_ms: int = 60_000
    half_open_max_calls: int = 1
    failure_rate: float = 0.5
    min_requests: int = 20
    window_ms: int = 30_000
    max_timeout_ms: int = 600_000
    slow_start_ms: int = 10_000
    decay_ms: int = 10_000
    penalty_ms: int = 5_000


class Word(NamedTuple):
    """What a BREAKER cell holds."""

    state: int
    probes: int
    generation: int
    until_ms: int


def pack_word(word: Word) -> int:
    """Return a BREAKER cell, as the signed number that the segment keeps."""
    cell = word.state | word.probes << 2 | (word.generation & 0x3FFF) << 10 | word.until_ms << 24
    return cell - (1 << 64) if cell >= 1 << 63 else cell


def unpack_word(cell: int) -> Word:
    """Return what a BREAKER cell holds."""
    word = cell % (1 << 64)
    return Word(word & 3, word >> 2 & 0xFF, word >> 10 & 0x3FFF, word >> 24)


DEFAULT_POLICY: Final = Policy()


def checked(policy: Policy) -> Policy:
    """Return the policy, or raise ValueError for one that the cells have no room for."""
    if not 1 <= policy.failure_threshold <= MAX_SATURATED or not 1 <= policy.success_threshold <= MAX_SATURATED:
        raise ValueError("thresholds must be 1 to 65535")
    if not 1 <= policy.half_open_max_calls <= 255:
        raise ValueError("half_open_max_calls must be 1 to 255")
    if not 0 < policy.failure_rate <= 1 or policy.min_requests < 1:
        raise ValueError("failure_rate must be above 0 and at most 1, min_requests at least 1")
    if not 1 <= policy.timeout_ms <= policy.max_timeout_ms <= 1 << 36:
        raise ValueError("timeout_ms must be at least 1 and at most max_timeout_ms")
    if policy.window_ms < 10 or policy.decay_ms < 1 or policy.penalty_ms < 0 or policy.slow_start_ms < 0:
        raise ValueError("window_ms must be at least 10, decay_ms at least 1")
    return policy


def latency_place(cost_ms: float) -> tuple[int, int]:
    """Return (cell, count in it) of a time that is not negative."""
    us = int(cost_ms * 1000.0) if cost_ms < 1e8 else _LONGEST_US
    us = _SHORTEST_US if us < _SHORTEST_US else us if us < _LONGEST_US else _LONGEST_US
    power = us.bit_length() - 1
    return power - LATENCY_LEAST, 3 * (us - (1 << power)) >> power


def aged_latencies(word: int, epoch: int) -> tuple[int, int]:
    """Return (epoch, counts) of a LATENCY cell as they are in an epoch. Both epochs are modulo 2**16."""
    counts = word & (1 << 48) - 1
    age = epoch - (word >> 48) & 0xFFFF
    if not counts or age == 0:
        return epoch, counts
    if age > 0xFFFF - EPOCHS_AHEAD:
        return word >> 48, counts
    return epoch, counts >> age & (_COUNT >> age) * 0x1_0001_0001 if age < 16 else 0


def latency_counts(words: Sequence[int], epoch: int) -> list[int]:
    """Return how many answers each third of each octave has, the quickest first."""
    aged = [aged_latencies(word, epoch)[1] for word in words]
    return [counts >> 16 * lane & _COUNT for counts in aged for lane in range(_LANES)]


def latency_quantile(counts: Sequence[int], q: float) -> float:
    """Return a quantile in milliseconds, -1 for no counts. Within one count all times are taken to be as likely."""
    total = sum(counts)
    left = q * total
    for at, count in enumerate(counts):
        if count and count >= left:
            octave, lane = divmod(at, _LANES)
            return float((1 << LATENCY_LEAST + octave) * (1.0 + (lane + left / count) / _LANES) / 1000.0)
        left -= count
    return -1.0
