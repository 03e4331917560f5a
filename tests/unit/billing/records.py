"""Records for tests."""

from typing import Any

import msgspec

from fastroute.interfaces import Record, Usage

#: 2024-11-21T00:00:00Z
MIDNIGHT_NS = 1_732_147_200 * 10**9

_PLAIN = Record(
    id=1,
    at_ns=MIDNIGHT_NS,
    request_id="req-1",
    key_id="app-1",
    tenant="acme",
    dialect="openai",
    operation="chat.completions",
    model="gpt-4o",
    provider="openai",
    endpoint="openai/k1",
    upstream_model="gpt-4o-2024-08-06",
    stream=False,
    status=200,
    outcome="ok",
    attempts=1,
    usage=Usage(input_tokens=10, cache_read_tokens=5, output_tokens=7, reasoning_tokens=3),
    usage_source="provider",
    priced=True,
    cost_nano_usd=1_000,
    first_byte_us=100,
    total_us=200,
    request_bytes=300,
    response_bytes=400,
)


def record(id: int = 1, **changes: Any) -> Record:
    """Return a plain record with `changes`."""
    return msgspec.structs.replace(_PLAIN, id=id, **changes)
