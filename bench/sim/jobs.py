"""What clients ask for: arrivals at random, the turns of conversations. The same for every strategy."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

BYTES_PER_TOKEN: Final = 4
_SYSTEM_PROMPTS: Final = 64
_SYSTEM_BYTES: Final = (512, 3584)
_TURN_BYTES: Final = 384
_TURNS: Final = 10
_CONVERSATIONS: Final = 160
_OUTPUT_TOKENS: Final = 60.0


@dataclass(frozen=True)
class Job:
    """One request. at_s: since the start. router: which gateway it arrives at. session: its conversation."""

    at_s: float
    router: int
    prompt: bytes
    session: bytes
    output_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt) // BYTES_PER_TOKEN


def jobs(rng: Random, rate_per_s: float, seconds: float, routers: int) -> Iterator[Job]:
    """Yield requests of a Poisson process, each at a router drawn at random: the next turn of some conversation."""
    talk = _Talk(rng)
    at_s = rng.expovariate(rate_per_s)
    while at_s < seconds:
        prompt, session = talk.turn()
        output_tokens = min(1000, 1 + int(rng.lognormvariate(0.0, 0.5) * _OUTPUT_TOKENS))
        yield Job(at_s, rng.randrange(routers), prompt, session, output_tokens)
        at_s += rng.expovariate(rate_per_s)


class _Talk:
    """Conversations under way, which share system prompts; where one ends another begins."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._begun = 0
        self._systems = [self._text(rng.randrange(*_SYSTEM_BYTES)) for _ in range(_SYSTEM_PROMPTS)]
        self._open = [self._begin() for _ in range(_CONVERSATIONS)]

    def turn(self) -> tuple[bytes, bytes]:
        """Return (prompt, session) of the next turn of one of them."""
        which = self._rng.randrange(_CONVERSATIONS)
        so_far, session, turns = self._open[which]
        prompt = so_far + self._text(_TURN_BYTES)
        self._open[which] = (prompt, session, turns + 1) if turns + 1 < _TURNS else self._begin()
        return prompt, session

    def _begin(self) -> tuple[bytes, bytes, int]:
        self._begun += 1
        return self._rng.choice(self._systems), b"conversation %d" % self._begun, 0

    def _text(self, size: int) -> bytes:
        return self._rng.randbytes(size // 2).hex().encode()
