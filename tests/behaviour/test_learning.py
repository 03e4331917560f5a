"""What strategies that learn are told of an attempt is what the ledger is told of it."""

import asyncio
from typing import Any

import pytest

from fastroute._core.attempts import FAILED, OK
from fastroute.balance.adaptive import Adaptive
from fastroute.interfaces import Ask, Result
from fastroute.upstream.mock import MockUpstream, Request, Script, json_response, sse_response
from tests.behaviour.gateway_in_process import NO_BREAKER, InProcess

CHAT = "/v1/chat/completions"
#: Half of the prompt comes from a cache: list prices times tokens would say more.
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 500},
}
PRICE = {"input_usd_per_mtok": 2, "cached_input_usd_per_mtok": 1, "output_usd_per_mtok": 8}
#: 500 x 2 + 500 x 1 + 200 x 8 micro-USD per thousand, in nano-USD.
COST_NANO_USD = 3_100_000

WHOLE = json_response(200, {"choices": [], "usage": USAGE})
STREAM = sse_response([{"choices": [{"index": 0, "delta": {"content": "hi"}}]}, {"choices": [], "usage": USAGE}])
BAD = json_response(500, {"error": {"message": "scripted"}})


@pytest.mark.parametrize(("stream", "good"), [(False, WHOLE), (True, STREAM)])
def test_the_cost_that_a_strategy_learns_is_the_one_that_is_billed(
    stream: bool, good: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[Result] = []

    def observe(self: Adaptive, position: int, ask: Ask, result: Result) -> None:
        learnt.append(result)

    monkeypatch.setattr(Adaptive, "observe", observe)

    async def main() -> None:
        scripts = [BAD, good]

        def script_for(request: Request) -> Script:
            return scripts.pop(0)

        async with MockUpstream(script_for) as upstream:
            model: dict[str, Any] = {"name": "m", "price": PRICE}
            url = f"{upstream.url}/v1"
            provider = {"id": "p", "type": "openai", "base_url": url, "keys": ["k-1", "k-2"], "models": [model]}
            routing = {"strategy": "adaptive", "breaker": NO_BREAKER}
            async with InProcess({"providers": [provider], "routing": routing}) as inside:
                body = b'{"model":"m","messages":[],"stream":%s}' % (b"true" if stream else b"false")
                client = await inside.post(CHAT, body)
                assert client.status == 200
                [record] = inside.records()
                assert (record.cost_nano_usd, record.attempts) == (COST_NANO_USD, 2)

    asyncio.run(main())
    assert [(result.verdict, result.cost_nano_usd) for result in learnt] == [(FAILED, -1), (OK, COST_NANO_USD)]
    assert learnt[1].output_tokens == 200
