"""The rules in force and how often each has applied: the answer of `GET /admin/v1/rules`."""

from collections.abc import Callable, Sequence
from typing import Any

from fastroute.config.schema import Config


def rules_document(
    config: Config, generation: int, slots: Sequence[int], total: Callable[[int], int | None]
) -> dict[str, Any]:
    """Return every rule in reading order. slots: those of the rules' counts; total: what all workers count in one.

    What a rule looks at and does is left out: the values of header fields that it sets may be credentials.
    """
    counted = sorted(zip(config.rules, slots, strict=True), key=lambda pair: (-pair[0].priority, pair[0].id))
    return {
        "generation": generation,
        "rules": [
            {"id": rule.id, "priority": rule.priority, "enabled": rule.enabled, "matches": total(slot)}
            for rule, slot in counted
        ],
    }
