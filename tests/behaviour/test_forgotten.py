"""What a request was is forgotten when it has ended, however it did: nothing holds it, in no circle either."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute.attempt import Attempt
from fastroute.context import Context
from fastroute.routing.plan import Plan
from fastroute.upstream.mock import Cut, MockUpstream, Script, Send, json_response, sse_response
from tests.behaviour.gateway_in_process import NO_BREAKER, InProcess

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
BEGUN = sse_response([{"choices": [{"delta": {"content": "hi"}}]}])[:2]

ENDS: dict[str, tuple[Script, bytes, int]] = {
    "answered": (json_response(200, {"id": "c", "choices": []}), BODY, 200),
    "streamed": (sse_response([{"choices": []}, "[DONE]"]), STREAM, 200),
    "refused": (json_response(500, {"error": {"message": "no"}}), BODY, 500),
    "limited": (json_response(429, {"error": {"message": "no"}}), BODY, 429),
    "hung up on": ([Cut()], BODY, 502),
    "answered with nonsense": ([Send(b"HTTP/9 what\r\n\r\n")], BODY, 502),
    "broken off": ([*BEGUN, Cut()], STREAM, 200),
    "of no model": (json_response(200, {}), b'{"model":"other","messages":[]}', 404),
    "no JSON": (json_response(200, {}), b"{", 400),
}


@pytest.fixture(params=["collected", "at once"])
def collector(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the collector, and without it: what has to wait for it may wait for long."""
    if request.param == "at once":
        gc.collect()
        gc.disable()
    yield
    gc.enable()


def kept() -> Counter[str]:
    """Return what there is of requests, by its kind."""
    if gc.isenabled():
        gc.collect()
    return Counter(type(found).__name__ for found in gc.get_objects() if isinstance(found, Attempt | Context | Plan))


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("retries", [1, 3])
def test_nothing_is_left(end: str, retries: int) -> None:
    script, body, status = ENDS[end]

    async def main() -> None:
        async with MockUpstream(lambda _: script) as upstream:
            provider: dict[str, Any] = {"type": "openai", "models": ["m"], "base_url": upstream.url + "/v1"}
            providers = [{"id": name, "keys": [f"up-{name}"], **provider} for name in ("p", "q")]
            routing = {"breaker": NO_BREAKER, "retry": {"max_attempts": retries}}
            async with InProcess({"providers": providers, "routing": routing}) as inside:
                left = []
                for _ in range(3):
                    for _ in range(5):
                        assert (await inside.post(CHAT, body)).status == status
                    await asyncio.sleep(0.02)
                    left.append(kept())
                # What the last one was may be known for a little longer, and of another test it may be.
                assert max((left[2] - left[0]).values(), default=0) <= 1, left

    asyncio.run(main())
