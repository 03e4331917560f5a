"""What clients ask for: arrivals at random, prompts and answers of random length. The same for every strategy."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

BYTES_PER_TOKEN: Final = 4
_SYSTEM_PROMPTS: Final = 64
_SYSTEM_BYTES: Final = 2048
_TURN_BYTES: Final = 384
_TURNS: Final = 10
_CONVERSATIONS: Final = 160
_OUTPUT_TOKENS: Final = 60.0


@dataclass(frozen=True)
class Job:
    """One request. at_s: since the start. router: which gateway it arrives at."""

    at_s: float
    router: int
    prompt_tokens: int
    output_tokens: int
    prompt: bytes = b""


def jobs(rng: Random, rate_per_s: float, seconds: float, routers: int, *, conversations: bool) -> Iterator[Job]:
    """Yield requests of a Poisson process, each at a router drawn at random.

    conversations: their prompts are those of conversations under way, which grow turn by turn and share system prompts.
    """
    talk = _Talk(rng) if conversations else None
    at_s = rng.expovariate(rate_per_s)
    while at_s < seconds:
        prompt = talk.turn() if talk is not None else b""
        prompt_tokens = len(prompt) // BYTES_PER_TOKEN or min(8000, int(rng.lognormvariate(6.5, 0.8)))
        output_tokens = min(1000, 1 + int(rng.lognormvariate(0.0, 0.5) * _OUTPUT_TOKENS))
        yield Job(at_s, rng.randrange(routers), prompt_tokens, output_tokens, prompt)
        at_s += rng.expovariate(rate_per_s)


class _Talk:
    """Conversations, of which a new one begins where one ends."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._systems = [self._text(_SYSTEM_BYTES) for _ in range(_SYSTEM_PROMPTS)]
        self._open = [self._begin() for _ in range(_CONVERSATIONS)]

    def turn(self) -> bytes:
        """Return the prompt of the next turn of one of them."""
        which = self._rng.randrange(_CONVERSATIONS)
        prompt = self._open[which] + self._text(_TURN_BYTES)
        over = len(prompt) > _SYSTEM_BYTES + _TURNS * _TURN_BYTES
        self._open[which] = self._begin() if over else prompt
        return prompt

    def _begin(self) -> bytes:
        return self._rng.choice(self._systems)

    def _text(self, size: int) -> bytes:
        return self._rng.randbytes(size // 2).hex().encode()
