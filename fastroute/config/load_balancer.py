"""The `LOAD_BALANCER_*` variables: key pools out of the environment, named as the load balancer had them.

What is wrong with them is said by the variable and the place in its list, never by what stands there.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from fastroute.config.document import Entry, List, Node, Scalar, Table
from fastroute.config.faults import Faults
from fastroute.config.presets import PRESETS

ENABLED: Final = "LOAD_BALANCER_ENABLED"
KEYS: Final = "LOAD_BALANCER_API_KEYS"
STRATEGY: Final = "LOAD_BALANCER_STRATEGY"
WINDOW: Final = "LOAD_BALANCER_WINDOW_SIZE"
PROVIDER: Final = "LOAD_BALANCER_PROVIDER"

STRATEGIES: Final = {"round-robin": "round_robin", "time-window": "time_window", "weighted": "weighted"}
#: Whose keys begin so. Others are LOAD_BALANCER_PROVIDER's.
PREFIXES: Final = {"sk-ant-": "anthropic", "AIza": "gemini"}
DEFAULT_PROVIDER: Final = "anthropic"
MAX_KEYS: Final = 1000
MAX_WEIGHT: Final = 1000
DEFAULT_MINUTES: Final = 5
MAX_MINUTES: Final = 1440

_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off", ""})
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")
#: A key is out when more than half of at least this many requests within five minutes have failed, as it was there; it
#: is back after one that succeeds. Its siblings do not rest longer than a minute, and there is no panic among keys.
_BREAKER: Final = {
    "failure_rate": "0.50001",
    "min_requests": "6",
    "window_ms": "300000",
    "success_threshold": "1",
    "timeout_ms": "60000",
    "max_timeout_ms": "60000",
    "panic_percent": "0",
}


class WeightedKey(NamedTuple):
    """One entry of LOAD_BALANCER_API_KEYS."""

    key: str
    weight: int


def is_enabled(env: Mapping[str, str], faults: Faults) -> bool:
    """Return whether the variables are to be heeded."""
    value = env.get(ENABLED, "").strip().lower()
    if value not in _YES and value not in _NO:
        faults.add((ENABLED,), "must be true or false")
    return value in _YES


def pool_providers(env: Mapping[str, str], faults: Faults) -> dict[str, Node]:
    """Return the providers that the keys belong to, by type. Faults are reported."""
    keys = read_keys(env.get(KEYS, ""), faults)
    strategy = _strategy(env, faults)
    minutes = _minutes(env, faults)
    other = env.get(PROVIDER, "").strip() or DEFAULT_PROVIDER
    if other not in PRESETS or not PRESETS[other].models:
        known = ", ".join(name for name, preset in PRESETS.items() if preset.models)
        faults.add((PROVIDER,), f"must be one of {known}")
        other = DEFAULT_PROVIDER
    owned: dict[str, list[WeightedKey]] = {}
    for one in keys:
        owner = next((name for prefix, name in PREFIXES.items() if one.key.startswith(prefix)), other)
        owned.setdefault(owner, []).append(one)
    return {owner: _provider(owner, mine, strategy, minutes, env) for owner, mine in owned.items()}


def pool_routing() -> Node:
    """Return the breaker that goes with key pools out of the environment."""
    return _table(
        {
            "breaker": _table(
                {name: Scalar("number" if "." in value else "integer", value, 0) for name, value in _BREAKER.items()}
            )
        }
    )


def read_keys(text: str, faults: Faults) -> list[WeightedKey]:
    """Read `key:weight,...`: the weight follows the last colon, and is 1 where there is none."""
    # Whatever else is said, no key is.
    for entry in text.split(","):
        faults.hide(entry.strip())
        faults.hide(entry.rpartition(":")[0].strip())
    if not text.strip():
        faults.add((KEYS,), "holds no key")
        return []
    entries = text.split(",")
    if len(entries) > MAX_KEYS:
        faults.add((KEYS,), f"holds more than {MAX_KEYS} keys")
        return []
    found: list[WeightedKey] = []
    first: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        one = _entry(entry.strip(), number, faults)
        if one is None:
            continue
        if one.key in first:
            faults.add((KEYS,), f"entry {number}: is the same key as entry {first[one.key]}")
            continue
        first[one.key] = number
        found.append(one)
    return found


def _entry(entry: str, number: int, faults: Faults) -> WeightedKey | None:
    key, colon, weight = entry.rpartition(":")
    if not colon:
        key, weight = entry, "1"
    key, weight = key.strip(), weight.strip()
    if not key:
        faults.add((KEYS,), f"entry {number}: has no key" if entry else f"entry {number}: is empty")
    elif not _KEY.fullmatch(key):
        faults.add((KEYS,), f"entry {number}: the key holds a character that cannot be sent, or is too long")
    elif not _WHOLE.fullmatch(weight) or not 1 <= int(weight) <= MAX_WEIGHT:
        faults.add(
            (KEYS,), f"entry {number}: the weight after the last colon must be a whole number, 1 to {MAX_WEIGHT}"
        )
    else:
        return WeightedKey(key, int(weight))
    return None


def _strategy(env: Mapping[str, str], faults: Faults) -> str:
    value = env.get(STRATEGY, "").strip() or "round-robin"
    if value not in STRATEGIES:
        faults.add((STRATEGY,), f"must be one of {', '.join(STRATEGIES)}")
    return STRATEGIES.get(value, "round_robin")


def _minutes(env: Mapping[str, str], faults: Faults) -> int:
    value = env.get(WINDOW, "").strip() or str(DEFAULT_MINUTES)
    if _WHOLE.fullmatch(value) and 1 <= int(value) <= MAX_MINUTES:
        return int(value)
    faults.add((WINDOW,), f"must be a whole number of minutes, 1 to {MAX_MINUTES}")
    return DEFAULT_MINUTES


def _provider(name: str, keys: list[WeightedKey], strategy: str, minutes: int, env: Mapping[str, str]) -> Node:
    variable = PRESETS[name].base_url_variable
    fields: dict[str, Node] = {
        "id": _text(name),
        "type": _text(name),
        "key_strategy": _text(strategy),
        "key_window_ms": Scalar("integer", str(minutes * 60_000), 0),
        "keys": _list(
            [_table({"key": _text(key), "weight": Scalar("integer", str(weight), 0)}) for key, weight in keys]
        ),
        # Whatever is asked for in its dialect.
        "models": _list([_text("*")]),
    }
    if variable and env.get(variable):
        fields["base_url"] = Scalar("string", f"${{{variable}}}", 0)
    return _table(fields)


def _text(value: str) -> Node:
    # A dollar sign in a key is no reference to a variable.
    return Scalar("string", value.replace("$", "$$"), 0)


def _table(fields: Mapping[str, Node]) -> Table:
    return Table(tuple(Entry(name, 0, node) for name, node in fields.items()), 0, len(fields))


def _list(items: list[Node]) -> List:
    return List(tuple(items), 0, len(items))
