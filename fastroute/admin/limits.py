"""What providers allow, as far as it has been learnt: the answer of `GET /admin/v1/limits`."""

from typing import Any

from fastroute.limits.adaptive import numbers
from fastroute.snapshot import Snapshot


def limits_document(snapshot: Snapshot, now_ms: int) -> dict[str, Any]:
    """Return, for every endpoint with a limit of its own, what is known. Keys are told by their ids."""
    found = numbers(snapshot.attempts.adaptive, (endpoint.index for endpoint in snapshot.endpoints), now_ms)
    return {
        "endpoints": [
            {
                "endpoint": endpoint.id,
                "provider": endpoint.provider,
                "key": endpoint.key_id,
                **found[endpoint.index],
            }
            for endpoint in snapshot.endpoints
            if endpoint.index in found
        ]
    }
