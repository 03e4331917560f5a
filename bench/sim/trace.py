"""What happened in a run, and the figures that are read off it."""

from dataclasses import dataclass, field
from typing import Final

#: An end without a time to first token: the request failed.
FAILED_MS: Final = -1.0


@dataclass
class Trace:
    """sent: (seconds, server) of every attempt. ends: (arrival in seconds, ms to the first token, nano-USD)."""

    sent: list[tuple[float, int]] = field(default_factory=list)
    ends: list[tuple[float, float, int]] = field(default_factory=list)
    hit_rate: float | None = None
    #: By server, when its breaker would let the next probe go, at the time it recovered; in seconds.
    probe_at_s: dict[int, float] = field(default_factory=dict)

    def share(self, server: int, from_s: float, to_s: float) -> float:
        """Return the share of the attempts of a time that went to a server; 0 if there were none."""
        within = [where for at_s, where in self.sent if from_s <= at_s < to_s]
        return within.count(server) / len(within) if within else 0.0

    def quantile_ms(self, q: float, from_s: float, to_s: float) -> float:
        """Return a quantile of the time to first token, retries included, of requests that came at a time."""
        times = sorted(ttft for at_s, ttft, _ in self.ends if from_s <= at_s < to_s and ttft >= 0.0)
        return times[min(len(times) - 1, int(q * len(times)))] if times else 0.0

    def error_rate(self, from_s: float, to_s: float) -> float:
        """Return the share of the requests of a time that failed for good."""
        within = [ttft for at_s, ttft, _ in self.ends if from_s <= at_s < to_s]
        return sum(ttft < 0.0 for ttft in within) / len(within) if within else 0.0

    def amplification(self, from_s: float, to_s: float) -> float:
        """Return attempts per request of a time."""
        requests = sum(from_s <= at_s < to_s for at_s, _, _ in self.ends)
        attempts = sum(from_s <= at_s < to_s for at_s, _ in self.sent)
        return attempts / requests if requests else 0.0

    def usd_per_1000(self, from_s: float, to_s: float) -> float:
        """Return what a thousand requests cost that were answered."""
        costs = [cost for at_s, ttft, cost in self.ends if from_s <= at_s < to_s and ttft >= 0.0]
        return sum(costs) / len(costs) / 1e6 if costs else 0.0

    def shares_over_time(self, server: int, step_s: float, seconds: float) -> list[float]:
        """Return the share of a server in each step of time."""
        count = int(seconds / step_s)
        all_sent, its = [0] * count, [0] * count
        for at_s, where in self.sent:
            step = int(at_s / step_s)
            if step < count:
                all_sent[step] += 1
                its[step] += where == server
        return [one / total if total else 0.0 for one, total in zip(its, all_sent, strict=True)]
