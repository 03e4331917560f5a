"""When a request is sent again, where to, after how long, and when not."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import pytest

from fastroute._core.attempts import FAILED
from fastroute.failover.retry_budget import RetryBudget
from fastroute.upstream.mock import Cut, MockUpstream, Request, Script, Send, json_response
from tests.behaviour.gateway_in_process import NO_BREAKER, Client, InProcess

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
GOOD = json_response(200, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
BAD = json_response(500, {"error": {"message": "scripted"}})
DEATH: Script = [Cut()]
TOO_LONG = json_response(400, {"error": {"code": "context_length_exceeded"}})
FORBIDDEN = json_response(400, {"error": {"code": "content_policy_violation"}})


class Waits:
    """Stands in for the backoff: waits for nothing and notes after how many attempts it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def delay_ms(self, attempt: int, bits: int) -> int:
        self.asked.append(attempt)
        return 0


class House:
    """A gateway before providers `a`, `b`, ... of one server; each answers by its own script, one after the other."""

    def __init__(self, inside: InProcess) -> None:
        self.inside = inside
        self.arrivals: list[str] = []
        self.waits = Waits()

    async def ask(self, **options: Any) -> Client:
        return await self.inside.post(CHAT, BODY, **options)

    def windows(self) -> list[tuple[int, int]]:
        """Return (good, failed) attempts of each endpoint."""
        attempts = self.inside.snapshot.attempts
        now_ms = self.inside.gateway.now() // 1_000_000
        return [attempts.health(endpoint.index, now_ms) for endpoint in self.inside.snapshot.endpoints]


def run(
    scripts: dict[str, Iterable[Script]],
    scenario: Callable[[House], Awaitable[None]],
    *,
    retry: dict[str, Any] | None = None,
    models: dict[str, list[str]] | None = None,
    budget: RetryBudget | None = None,
    **route: Any,
) -> None:
    """Run a scenario. scripts: of each provider, the last one repeats. route: fields of the model's route."""

    async def main() -> None:
        left = {name: list(steps) for name, steps in scripts.items()}

        def script_for(request: Request) -> Script:
            name = request.target.split("/")[1]
            house.arrivals.append(name)
            return left[name].pop(0) if len(left[name]) > 1 else left[name][0]

        async with MockUpstream(script_for) as upstream:
            providers = [
                {
                    "id": name,
                    "type": "openai",
                    "base_url": f"{upstream.url}/{name}/v1",
                    "keys": [f"sk-{name}"],
                    "models": (models or {}).get(name, ["m"]),
                }
                for name in scripts
            ]
            tiers = [[name] for name in scripts if "m" in (models or {}).get(name, ["m"])]
            document = {
                "providers": providers,
                "routes": [{"model": "m", "tiers": tiers, **route}],
                "routing": {"breaker": NO_BREAKER, "retry": retry or {}},
            }
            async with InProcess(document) as inside:
                house = House(inside)
                changes = {"backoff": house.waits, "retry_budget": budget or inside.snapshot.retry_budget}
                inside.snapshot = inside.gateway.snapshot = msgspec.structs.replace(inside.snapshot, **changes)
                await scenario(house)
                assert await inside.quiet(set(asyncio.all_tasks())) == []

    asyncio.run(main())


# --- where to, and after how long


def test_another_endpoint_is_tried_at_once() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (200, ["a", "b", "c"])
        assert house.waits.asked == []

    run({"a": [BAD], "b": [DEATH], "c": [GOOD]}, scenario)


def test_the_same_endpoint_is_tried_again_only_after_a_while_and_when_all_others_have_been() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (200, ["a", "b", "a"])
        assert house.waits.asked == [2]

    run({"a": [BAD, GOOD], "b": [BAD]}, scenario)


def test_a_lone_endpoint_is_waited_for_before_every_attempt() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (500, ["a"] * 4)
        assert house.waits.asked == [1, 2, 3]
        assert client.header(b"x-fastroute-attempts") == b"4"

    run({"a": [BAD]}, scenario, retry={"max_attempts": 4})


def test_no_attempt_begins_after_the_deadline() -> None:
    class Long(Waits):
        def delay_ms(self, attempt: int, bits: int) -> int:
            return super().delay_ms(attempt, bits) + 60_000

    async def scenario(house: House) -> None:
        house.inside.gateway.snapshot = msgspec.structs.replace(house.inside.snapshot, backoff=Long())
        client = await house.ask(headers=((b"x-fastroute-timeout-ms", b"50000"),))
        assert (client.status, house.arrivals) == (500, ["a"])

    run({"a": [BAD, GOOD]}, scenario)


def test_a_provider_that_says_so_is_not_asked_again_but_others_are() -> None:
    told = json_response(500, {"error": {}}, [(b"x-should-retry", b"false")])

    async def alone(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals, house.waits.asked) == (500, ["a"], [])

    run({"a": [told, GOOD]}, alone)

    async def together(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (200, ["a", "b"])

    run({"a": [told], "b": [GOOD]}, together)


def test_who_is_over_a_rate_limit_is_not_waited_for() -> None:
    """Its client is told when to come back: the least of what the providers have said."""

    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals, house.waits.asked) == (429, ["a", "b"], [])
        assert client.header(b"retry-after") == b"3"
        refused = await house.ask()
        assert (refused.status, house.arrivals) == (429, ["a", "b"])
        assert refused.header(b"retry-after") in (b"2", b"3")

    limited = [json_response(429, {"error": {}}, [(b"retry-after", wait)]) for wait in (b"3", b"9")]
    run({"a": [limited[0]], "b": [limited[1]]}, scenario)


# --- when not


def test_a_request_that_kills_replicas_kills_two_at_most() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (502, ["a", "b"])

    run({name: [DEATH] for name in "abcd"}, scenario, retry={"max_attempts": 10})


@pytest.mark.parametrize("limit", [1, 3])
def test_how_many_is_a_parameter(limit: int) -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, len(house.arrivals)) == (502, limit)

    run({name: [DEATH] for name in "abcd"}, scenario, retry={"max_attempts": 10, "max_replicas": limit})


def test_an_answer_whatever_it_says_is_no_killed_replica() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (200, ["a", "b", "c", "d"])

    run({"a": [BAD], "b": [BAD], "c": [BAD], "d": [GOOD]}, scenario, retry={"max_attempts": 10})


def test_an_empty_budget_means_no_retries_and_requests_fill_it() -> None:
    async def scenario(house: House) -> None:
        for count in range(1, 11):
            client = await house.ask()
            assert client.status == (200 if count % 5 == 0 else 500), count
        assert house.arrivals.count("b") == 2

    run({"a": [BAD], "b": [GOOD]}, scenario, budget=RetryBudget(20, 0, 3_600_000))


def test_an_outage_is_multiplied_by_no_more_than_the_budget() -> None:
    async def scenario(house: House) -> None:
        for _ in range(100):
            await house.ask()
        assert len(house.arrivals) == 120

    run({"a": [BAD], "b": [BAD]}, scenario, budget=RetryBudget(20, 0, 3_600_000))


def test_every_attempt_is_recorded_at_its_endpoint_and_the_request_once() -> None:
    async def scenario(house: House) -> None:
        await house.ask()
        assert house.windows() == [(0, 1), (0, 1), (1, 0)]
        [record] = house.inside.records()
        assert (record.attempts, record.outcome, record.provider) == (3, "ok", "c")

    run({"a": [BAD], "b": [DEATH], "c": [GOOD]}, scenario)


@pytest.mark.parametrize("script", [TOO_LONG, FORBIDDEN, json_response(404, {}), json_response(422, {})])
def test_what_is_the_requests_fault_is_sent_nowhere_else_and_blames_nobody(script: Script) -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status // 100, house.arrivals) == (4, ["a"])
        assert house.windows() == [(0, 0), (0, 0)]

    run({"a": [script], "b": [GOOD]}, scenario)


# --- chains


@pytest.mark.parametrize(
    ("script", "kind", "other"),
    [
        (TOO_LONG, "on_context_window", "on_content_policy"),
        (FORBIDDEN, "on_content_policy", "on_context_window"),
    ],
)
def test_a_refusal_that_another_model_may_not_share_has_a_chain_of_its_own(
    script: Script, kind: str, other: str
) -> None:
    chains: dict[str, Any] = {
        kind: [{"model": "large"}],
        other: [{"provider": "b"}],
        "fallbacks": [{"provider": "b"}],
    }

    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (200, ["a", "c"])
        assert client.header(b"x-fastroute-model") == b"large"
        # Neither the budget nor the endpoint has paid for it.
        assert house.windows() == [(0, 0), (0, 0), (1, 0)]

    models = {"c": ["large"]}
    run({"a": [script], "b": [GOOD], "c": [GOOD]}, scenario, models=models, budget=RetryBudget(0, 0, 1000), **chains)


def test_the_last_refusal_of_such_a_chain_is_the_answer() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (400, ["a", "c"])

    chains: dict[str, Any] = {"on_context_window": [{"model": "large"}, {"model": "large"}]}
    run({"a": [TOO_LONG], "c": [TOO_LONG]}, scenario, models={"c": ["large"]}, **chains)


def test_fallbacks_come_after_the_tiers_and_count_as_retries() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, house.arrivals) == (200, ["a", "b", "c"])
        assert client.header(b"x-fastroute-model") == b"other"
        refused = await house.ask()
        assert (refused.status, house.arrivals[3:]) == (500, ["a"])

    scripts = {"a": [BAD], "b": [BAD], "c": [GOOD]}
    run(scripts, scenario, models={"c": ["other"]}, budget=Two(), fallbacks=[{"model": "other"}])


class Two(RetryBudget):
    """Lets two retries through, whatever is deposited."""

    def __init__(self) -> None:
        super().__init__(0, 0, 1000)
        self.left = 2

    def withdraw(self, now_ms: int) -> bool:
        self.left -= 1
        return self.left >= 0


# --- from the first byte on


def test_nothing_is_sent_again_after_the_first_byte() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    broken: Script = [Send(head + b'data: {"choices":[]}\n\n'), Cut()]

    async def scenario(house: House) -> None:
        client = await house.inside.post(CHAT, b'{"model":"m","messages":[],"stream":true}')
        assert (client.status, house.arrivals) == (200, ["a"])
        assert house.windows() == [(0, 1), (0, 0)]
        [record] = house.inside.records()
        assert record.outcome == "stream_broken"

    run({"a": [broken], "b": [GOOD]}, scenario)


def test_a_failure_is_blamed_on_the_endpoint_that_failed() -> None:
    async def scenario(house: House) -> None:
        seen: list[tuple[int, int]] = []
        attempts = house.inside.snapshot.attempts
        leave = attempts.leave

        class Spy:
            def __getattr__(self, name: str) -> Any:
                return getattr(attempts, name)

            def leave(self, worker: int, row: int, ticket: int, verdict: int, *rest: Any) -> None:
                seen.append((row, verdict))
                leave(worker, row, ticket, verdict, *rest)

        house.inside.gateway.snapshot = msgspec.structs.replace(house.inside.gateway.snapshot, attempts=Spy())
        await house.ask()
        assert seen == [(0, FAILED), (1, 0)]

    run({"a": [BAD], "b": [GOOD]}, scenario)
