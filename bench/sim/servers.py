"""Simulated providers: how long they take, how many requests they work on at a time, how they fail."""

from collections import deque
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Protocol

from bench.sim.cache import PrefixCache
from bench.sim.clock import Clock
from bench.sim.jobs import Job
from fastroute.interfaces import Header

#: How long an answer takes that refuses a request before any work is done, in ms.
REFUSAL_MS: Final = 2.0


@dataclass(frozen=True)
class Spec:
    """A provider as it is when all is well.

    ttft_ms: median of a log-normal distribution, of which `sigma` is the deviation. prefill_ms: per token of prompt
    that is not in its cache. itl_ms: between two tokens of an answer. slots: requests worked on at a time, more wait in
    line. prices: pico-USD per token of (input, cached input, output). cache_blocks: 0 for no prefix cache.
    """

    ttft_ms: float = 200.0
    sigma: float = 0.25
    prefill_ms: float = 0.02
    itl_ms: float = 10.0
    slots: int = 64
    weight: float = 100.0
    rank: int = 0
    prices: tuple[int, int, int] = (1_000_000, 100_000, 4_000_000)
    cache_blocks: int = 0


@dataclass(frozen=True)
class Condition:
    """What is wrong with a provider.

    slow: every time is multiplied by it. error_share: of the requests that get `status` after `error_ms`. limit_per_s:
    what it takes before it answers 429, with `retry_after_s`; 0 for no limit. takes: the same of requests at a time.
    """

    slow: float = 1.0
    error_share: float = 0.0
    status: int = 500
    error_ms: float = REFUSAL_MS
    limit_per_s: float = 0.0
    retry_after_s: int = 0
    takes: int = 0


WELL: Final = Condition()


class Reply(Protocol):
    """Who waits for an answer."""

    job: Job

    def refused(self, status: int, headers: list[Header]) -> None:
        """Hear of an error answer."""

    def began(self) -> None:
        """Hear of the first token."""

    def ended(self) -> None:
        """Hear of the last token."""

    def timed_out(self) -> None:
        """Hear that nothing has come in time."""


class Server:
    """One provider. `hits`, `blocks`: of its cache, since `forget_hits`."""

    def __init__(self, spec: Spec, clock: Clock, rng: Random, first_byte_ms: int) -> None:
        self.spec = spec
        self.condition = WELL
        self._clock = clock
        self._rng = rng
        self._first_byte_ms = first_byte_ms
        self._busy = 0
        self._line: deque[tuple[Reply, float]] = deque()
        self._allowance = 0.0
        self._allowed_at = clock.now
        self._cache = PrefixCache(spec.cache_blocks) if spec.cache_blocks else None
        self.hits = 0
        self.blocks = 0

    def change(self, **what: Any) -> None:
        """Let things go wrong, or well again."""
        self.condition = replace(WELL, **what)
        self._allowance = self.condition.limit_per_s

    def forget_hits(self) -> None:
        """Begin to count anew."""
        self.hits = self.blocks = 0

    def ask(self, reply: Reply) -> None:
        """Take a request."""
        condition = self.condition
        # Drawn even if all is well, so that two runs meet the same luck for longer.
        unlucky = self._rng.random() < condition.error_share
        if (condition.takes and self._busy >= condition.takes) or (condition.limit_per_s and not self._allows()):
            headers = [(b"retry-after", b"%d" % condition.retry_after_s)] if condition.retry_after_s else []
            self._clock.after(REFUSAL_MS, reply.refused, 429, headers)
        elif unlucky:
            self._clock.after(condition.error_ms, reply.refused, condition.status, [])
        elif self._busy < self.spec.slots:
            self._start(reply, 0.0)
        else:
            self._line.append((reply, self._clock.now))
            self._clock.after(self._first_byte_ms, self._give_up, reply)

    def _allows(self) -> bool:
        limit = self.condition.limit_per_s
        self._allowance = min(limit, self._allowance + (self._clock.now - self._allowed_at) / 1000.0 * limit)
        self._allowed_at = self._clock.now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True

    def _start(self, reply: Reply, waited_ms: float) -> None:
        spec, job = self.spec, reply.job
        self._busy += 1
        fresh = job.prompt_tokens
        if self._cache is not None:
            hits, blocks = self._cache.read(job.prompt)
            self.hits += hits
            self.blocks += blocks
            fresh = int(fresh * (1.0 - hits / blocks)) if blocks else fresh
        ttft = self._rng.lognormvariate(0.0, spec.sigma) * spec.ttft_ms + fresh * spec.prefill_ms
        ttft *= self.condition.slow
        patience = self._first_byte_ms - waited_ms
        if ttft > patience:
            # Whoever hangs up frees the slot.
            self._clock.after(patience, self._hung_up, reply)
            return
        self._clock.after(ttft, reply.began)
        self._clock.after(ttft + job.output_tokens * spec.itl_ms * self.condition.slow, self._done, reply)

    def _done(self, reply: Reply) -> None:
        reply.ended()
        self._free()

    def _hung_up(self, reply: Reply) -> None:
        reply.timed_out()
        self._free()

    def _free(self) -> None:
        self._busy -= 1
        if self._line:
            reply, since = self._line.popleft()
            self._start(reply, self._clock.now - since)

    def _give_up(self, reply: Reply) -> None:
        """Leave the line, if the request still stands in it."""
        for at, (waiting, _) in enumerate(self._line):
            if waiting is reply:
                del self._line[at]
                reply.timed_out()
                return
