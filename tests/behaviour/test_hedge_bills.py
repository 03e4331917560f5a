"""What the attempts of a race cost: whoever was sent the request bills it, answered or not, and nobody else does."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fastroute.attempt import Attempt
from fastroute.failover.classify import Outcome
from fastroute.race import Race
from fastroute.upstream.mock import Barrier, MockUpstream, Script, json_response
from tests.behaviour.gateway_in_process import NO_BREAKER, InProcess
from tests.behaviour.stand_in import StandIn

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
GOOD = json_response(200, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
BUSY = json_response(503, {"error": {"message": "busy"}})
HEDGE = {"enabled": True, "delay_ms": 1, "max_percent": 100, "max_usd_per_hour": 100}


def run(script_for: Callable[[str], Script], scenario: Callable[[InProcess], Awaitable[None]], **second: Any) -> None:
    """Run a scenario before providers p and q, in this order. script_for: by the name of who is asked. second: of q."""

    async def main() -> None:
        async with MockUpstream(lambda request: script_for(request.target.split("/")[1])) as upstream:
            model = {"name": "m", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}
            one = {"type": "openai", "keys": ["sk"], "models": [model]}
            document = {
                "providers": [
                    {"id": "p", "base_url": f"{upstream.url}/p/v1", **one},
                    {"id": "q", "base_url": f"{upstream.url}/q/v1", **one, **second},
                ],
                "routes": [{"model": "m", "tiers": [["p"], ["q"]]}],
                "routing": {"breaker": NO_BREAKER, "retry": {"hedge": HEDGE}},
            }
            async with InProcess(document) as inside:
                await asyncio.wait_for(scenario(inside), 30)
                assert await inside.quiet(set(asyncio.all_tasks())) == []

    asyncio.run(main())


def outcomes(inside: InProcess) -> list[tuple[str, str]]:
    return sorted((record.provider, record.outcome) for record in inside.records())


def test_an_attempt_that_was_never_sent_is_not_billed() -> None:
    """The second one waits for a connection while the first one answers."""
    asked = asyncio.Event()

    async def scenario(inside: InProcess) -> None:
        pool = next(pool for pool in inside.pools if pool._max == 1)
        connection = await pool.open()
        try:
            asking = asyncio.ensure_future(inside.post(CHAT, BODY))
            while not pool._waiters:
                await asyncio.sleep(0.001)
            asked.set()
            client = await asking
        finally:
            connection.abort()
        assert (client.status, client.header(b"x-fastroute-attempts")) == (200, b"2")
        assert outcomes(inside) == [("p", "ok")]

    run(lambda name: [Barrier(asked), *GOOD] if name == "p" else GOOD, scenario, max_connections=1)


def test_an_attempt_that_was_sent_and_not_answered_is_billed() -> None:
    never = asyncio.Event()

    async def scenario(inside: InProcess) -> None:
        assert (await inside.post(CHAT, BODY)).status == 200
        assert outcomes(inside) == [("p", "hedged"), ("q", "ok")]

    run(lambda name: [Barrier(never)] if name == "p" else GOOD, scenario)


def test_an_attempt_that_was_refused_is_not_billed() -> None:
    refused = asyncio.Event()

    async def scenario(inside: InProcess) -> None:
        recorder: Any = inside.gateway.recorder

        def noting(*arguments: Any, **options: Any) -> None:
            recorder.judge(*arguments, **options)
            refused.set()

        stand_in: Any = StandIn(recorder, judge=noting)
        inside.gateway.recorder = stand_in
        assert (await inside.post(CHAT, BODY)).status == 200
        assert outcomes(inside) == [("p", "ok")]

    run(lambda name: [Barrier(refused), *GOOD] if name == "p" else BUSY, scenario)


def test_of_an_attempt_that_fails_inside_the_gateway_nothing_is_left() -> None:
    never = asyncio.Event()

    async def scenario(inside: InProcess) -> None:
        def failing(status: int) -> Outcome:
            raise RuntimeError("a fault")

        classifier: Any = StandIn(inside.snapshot.classifier, status=failing)
        inside.gateway.snapshot = msgspec.structs.replace(inside.snapshot, classifier=classifier)
        assert (await inside.post(CHAT, BODY)).status == 500
        assert outcomes(inside) == [("p", "internal_error"), ("q", "hedged")]

    run(lambda name: [Barrier(never)] if name == "p" else GOOD, scenario)


@pytest.mark.parametrize(("statuses", "billed"), [((200, 200), ["q"]), ((200, 503), []), ((503, 200), [])])
def test_of_two_that_answer_in_the_same_turn_of_the_loop_both_are_billed(
    statuses: tuple[int, int], billed: list[str]
) -> None:
    """One by its own record, as the answer; the other one as the loser."""
    bills: list[str] = []
    recorded: list[Attempt] = []
    recorder = SimpleNamespace(
        record=lambda ctx, plan, attempt: recorded.append(attempt), judge=lambda *arguments, **options: None
    )
    gateway: Any = SimpleNamespace(bill_loser=lambda ctx, endpoint: bills.append(endpoint), recorder=recorder)
    closed: list[int] = []
    attempts = []
    for name, status in zip("pq", statuses, strict=True):
        attempt = Attempt(None, 0, 0, 0, 0, True, name)  # type: ignore[arg-type]
        attempt.exchange = SimpleNamespace(  # type: ignore[assignment]
            status=status, complete=True, read=lambda: b"", close=lambda status=status: closed.append(status)
        )
        attempts.append(attempt)
    race = Race(gateway, None, None, None)  # type: ignore[arg-type]
    best = race._better(race._better(None, attempts[0]), attempts[1])
    assert best.exchange is not None
    assert (best.exchange.status, bills) == (200, billed)
    assert [attempt for attempt in attempts if attempt is not best] == recorded
    assert len(closed) == 1
