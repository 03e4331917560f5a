"""Fields that are checked but not acted on (yet, or here), so that nobody relies on a limit that is not there."""

from typing import Final

from fastroute.config.schema import Config

_FIELDS: Final = (
    ("tenants.budget", "budgets of tenants"),
    ("auth.keys.budget", "budgets of keys"),
)
#: These need a listener that knows how fast bytes move, which Granian does not say.
_NOT_WITH_GRANIAN: Final = (
    ("server.limits.min_body_rate_bytes_s", "refusing slow bodies"),
    ("server.limits.write_timeout_ms", "cutting off clients that take nothing"),
)


def not_in_force(config: Config) -> list[str]:
    """Return one line per field that was set and that this version does not act on; defaults are not mentioned.

    Each line is `path: what it would do: accepted, but not in force` and where or why.
    """
    lines = [f"{path}: {what}: accepted, but not in force with server.lane: granian" for path, what in _of_lane(config)]
    set_fields = [(path, what) for path, what in _FIELDS if path in config.given and _is_set(config, path)]
    return lines + [f"{path}: {what}: accepted, but not in force in this version" for path, what in set_fields]


def _of_lane(config: Config) -> list[tuple[str, str]]:
    if config.server.lane == "direct":
        return []
    return [(path, what) for path, what in _NOT_WITH_GRANIAN if path in config.given]


def _is_set(config: Config, path: str) -> bool:
    """Return whether the field holds anything: `rules: []` and `budget: null` need no warning."""
    values: list[object] = [config]
    for name in path.split("."):
        found = [getattr(value, name) for value in values]
        values = [item for one in found for item in (one if isinstance(one, tuple) else (one,))]
    return any(value is not None for value in values)
