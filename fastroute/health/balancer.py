"""What is said of the keys at `/{token}/lb/v1/load-balancer/...`: status, configuration, and a new count.

Fields are named as the load balancer had them that this stands in for. No key is ever shown: see `mask`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fastroute._core.attempts import Attempts
from fastroute._core.candidates import Candidates, Need
from fastroute.health.provider_key import ProviderKeyState

_CLOSED: Final = 0
_MINUTE_MS: Final = 60_000
#: Shorter keys are not shown in part: too little of them would be left to guess.
_MIN_SHOWN: Final = 20
_SHOWN: Final = 4


def mask(key: str, name: str) -> str:
    """Return what a key may be recognised by: its two ends, or only its name if it is short."""
    if len(key) < _MIN_SHOWN:
        return f"… ({name})"
    return f"{key[:_SHOWN]}…{key[-_SHOWN:]}"


class PooledKey(NamedTuple):
    """One key. shown: its mask. places: its endpoints, each in a pool that it stands in."""

    shown: str
    provider: str
    weight: int
    state: ProviderKeyState
    places: tuple[tuple[Candidates, int], ...]


class Balancer:
    """Answers for all keys of a snapshot. strategy: how one is chosen. window_ms: of the time window."""

    def __init__(
        self,
        keys: Sequence[PooledKey],
        attempts: Attempts,
        strategy: str,
        window_ms: int,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._keys = dict(zip(_unique([key.shown for key in keys]), keys, strict=True))
        self._attempts = attempts
        self._strategy = strategy.replace("_", "-")
        minutes = window_ms / _MINUTE_MS
        self._window = int(minutes) if minutes.is_integer() else minutes
        self._now = monotonic_ns

    def answer(self, operation: str) -> bytes:
        """Return the JSON of `status` or `config`; or begin to count anew, and return the status then (`reset`)."""
        if operation == "reset":
            for key in self._keys.values():
                key.state.reset()
        document = self._config() if operation == "config" else self._status()
        return msgspec.json.encode({"loadBalancer": document})

    def _status(self) -> dict[str, Any]:
        counts = {shown: key.state.counts() for shown, key in self._keys.items()}
        requests = sum(one.requests for one in counts.values())
        failures = sum(one.failures for one in counts.values())
        return {
            "enabled": bool(self._keys),
            "activeKeys": sum(self._is_active(key) for key in self._keys.values()),
            "totalKeys": len(self._keys),
            "strategy": self._strategy,
            "stats": {
                "totalRequests": requests,
                "successfulRequests": requests - failures,
                "failedRequests": failures,
                "lastUsed": max((one.used_at_ms for one in counts.values()), default=0),
                "apiKeyStats": {
                    shown: {"requests": one.requests, "failures": one.failures, "lastUsed": one.used_at_ms}
                    for shown, one in counts.items()
                },
            },
        }

    def _config(self) -> dict[str, Any]:
        return {
            "enabled": bool(self._keys),
            "strategy": self._strategy,
            "windowSize": self._window,
            "totalKeys": len(self._keys),
            "apiKeys": [
                {
                    "key": shown,
                    "weight": key.weight,
                    "provider": key.provider,
                    "isActive": self._is_active(key),
                }
                for shown, key in self._keys.items()
            ],
        }

    def _is_active(self, key: PooledKey) -> bool:
        """Whether requests are sent with the key as a matter of course: for a model at least, and not as a probe."""
        need = Need()
        need.now_ms = self._now() // 1_000_000
        if key.state.out:
            return False
        return any(
            self._attempts.state(candidates.rows[at], need.now_ms)[0] == _CLOSED and candidates.why(at, need) == 0
            for candidates, at in key.places
        )


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, told apart by a number where two are the same."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found
