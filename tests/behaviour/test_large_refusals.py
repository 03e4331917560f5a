"""What a refusal says holds, however large its body is and whatever becomes of it: the head is there first."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
import pytest

from fastroute._core.counters import COOLDOWN_UNTIL_MS
from fastroute.gateway import HOLD_ERROR_BYTES
from fastroute.interfaces import CAUSES
from fastroute.upstream.mock import Barrier, Cut, MockUpstream, Request, Script, Send, json_response, response_head
from tests.behaviour.gateway_in_process import NO_BREAKER, Client, InProcess
from tests.behaviour.stand_in import StandIn

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
GOOD = json_response(200, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
FOR_A_MINUTE = (b"retry-after", b"60")
#: More than the gateway holds, and than it gets at once.
PADDING = "x" * (4 * HOLD_ERROR_BYTES)
#: A second attempt as good as at once.
HEDGE = {"enabled": True, "delay_ms": 1, "max_percent": 100}

Scenario = Callable[["House"], Awaitable[None]]


class House:
    """A gateway before keys k0, k1, ... of one provider, each of which answers by its script. One tier for each."""

    def __init__(self, inside: InProcess) -> None:
        self.inside = inside
        self.arrivals: list[str] = []

    async def ask(self) -> Client:
        return await self.inside.post(CHAT, BODY)

    def rest_s(self, row: int) -> float:
        """Return for how long an endpoint is to be left alone."""
        until_ms = self.inside.segment.cell(row, COOLDOWN_UNTIL_MS)
        return max(0.0, until_ms / 1000 - self.inside.gateway.now() / 1e9)

    def key_cause(self, row: int) -> str:
        """Return why a key is out, "" if it is not."""
        state = self.inside.snapshot.channels.key_state(row)
        return CAUSES[state.cause] if state.until_ms else ""

    def when_refused(self, act: Callable[[], None]) -> None:
        """Have something done as soon as the gateway has seen a refusal."""
        gateway = self.inside.gateway
        judge = gateway.recorder.judge

        def noting(*arguments: Any, **options: Any) -> None:
            judge(*arguments, **options)
            act()

        recorder: Any = StandIn(gateway.recorder, judge=noting)
        gateway.recorder = recorder


def run(scripts: Sequence[Script], scenario: Scenario, **retry: Any) -> None:
    async def main() -> None:
        def script_for(request: Request) -> Script:
            name = request.target.split("/")[1]
            house.arrivals.append(name)
            return scripts[int(name[1:])]

        async with MockUpstream(script_for) as upstream:
            names = [f"p{number}" for number in range(len(scripts))]
            providers = [
                {"id": name, "type": "openai", "base_url": f"{upstream.url}/{name}/v1", "keys": [f"sk-{name}"]}
                | {"models": [{"name": "m", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}]}
                for name in names
            ]
            document = {
                "providers": providers,
                "routes": [{"model": "m", "tiers": [[name] for name in names]}],
                "routing": {"breaker": NO_BREAKER, "retry": {"backoff": {"kind": "none"}, **retry}},
            }
            async with InProcess(document) as inside:
                house = House(inside)
                await scenario(house)
                assert await inside.quiet(set(asyncio.all_tasks())) == []

    asyncio.run(main())


def large(status: int, error: object, *headers: tuple[bytes, bytes]) -> Script:
    """A refusal whose words come first, and then more than anybody wants to read."""
    return json_response(status, {"error": error, "debug": PADDING}, list(headers))


def begun(status: int, *headers: tuple[bytes, bytes], body: bytes = b'{"error": {') -> bytes:
    """Return the beginning of an answer that has more to come."""
    return (
        response_head(status, [(b"content-type", b"application/json"), (b"content-length", b"999999"), *headers]) + body
    )


BUSY: dict[str, object] = {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}


@pytest.mark.parametrize("status", [429, 503, 529])
def test_who_asks_for_a_rest_gets_it_where_another_endpoint_serves_the_request(status: int) -> None:
    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 200
        assert 50 < house.rest_s(0) < 60.01
        assert house.rest_s(1) == 0
        assert (await house.ask()).status == 200
        assert house.arrivals == ["p0", "p1", "p1"]

    run([large(status, BUSY, FOR_A_MINUTE), GOOD], scenario)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_who_asks_for_a_rest_gets_it_where_the_refusal_is_the_clients(status: int) -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, client.header(b"retry-after")) == (status, b"60")
        assert orjson.loads(client.body) == {"error": BUSY, "debug": PADDING}
        assert 50 < house.rest_s(0) < 60.01
        again = await house.ask()
        assert (again.status, house.arrivals) == (429, ["p0"])
        assert [record.status for record in house.inside.records()] == [status, 429]

    run([large(status, BUSY, FOR_A_MINUTE)], scenario)


def test_a_rest_may_stand_in_the_fields_and_in_the_words_too() -> None:
    fields = [(b"x-ratelimit-remaining-requests", b"0"), (b"x-ratelimit-reset-requests", b"40s")]
    words = {"message": "Rate limit reached. Please try again in 20s.", "code": "rate_limit_exceeded"}

    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 200
        assert 30 < house.rest_s(0) < 40.01
        assert 10 < house.rest_s(1) < 20.01

    run([large(429, BUSY, *fields), large(429, words), GOOD], scenario)


REFUSED = [
    (401, {"message": "Incorrect API key provided", "code": "invalid_api_key"}, "invalid_key"),
    (403, {"message": "Your API key has been disabled", "code": "invalid_api_key"}, "invalid_key"),
    (402, {"message": "Insufficient balance"}, "out_of_money"),
    (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "out_of_money"),
]


@pytest.mark.parametrize(("status", "error", "cause"), REFUSED)
def test_a_key_that_is_refused_at_length_is_out(status: int, error: object, cause: str) -> None:
    async def together(house: House) -> None:
        assert (await house.ask()).status == 200
        assert [house.key_cause(row) for row in (0, 1)] == [cause, ""]

    async def alone(house: House) -> None:
        client = await house.ask()
        assert client.status == status
        assert len(client.body) > len(PADDING)
        assert house.key_cause(0) == cause

    run([large(status, error), GOOD], together)
    run([large(status, error)], alone)


def test_a_refusal_of_what_was_asked_for_takes_no_key_however_long_it_is() -> None:
    """Its words come before the padding: they are heard."""
    words = {"message": "You have insufficient permissions for this operation. Missing scopes: model.request."}

    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 200
        assert house.key_cause(0) == ""

    run([large(401, words), GOOD], scenario)


def test_a_model_that_is_not_there_is_looked_for_elsewhere() -> None:
    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 200
        assert house.inside.snapshot.channels.model_state(0).until_ms > 0

    run([large(404, {"message": "The model `m` does not exist", "code": "model_not_found"}), GOOD], scenario)


def test_when_no_more_retries_are_allowed_the_client_is_told_of_the_limit_and_not_of_a_broken_answer() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, client.header(b"retry-after")) == (429, b"60")
        assert house.arrivals == ["p0"]

    budget = {"percent": 0, "min_per_s": 0}
    run([large(429, BUSY, FOR_A_MINUTE), GOOD], scenario, budget=budget)


@pytest.mark.parametrize("body", [b"", b'{"error": {'])
def test_a_refusal_whose_body_breaks_off_is_one(body: bytes) -> None:
    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 200
        assert 50 < house.rest_s(0) < 60.01

    run([[Send(begun(429, FOR_A_MINUTE, body=body)), Cut(rst=False)], GOOD], scenario)


def test_a_refusal_that_breaks_off_on_its_way_to_the_client_is_one() -> None:
    async def scenario(house: House) -> None:
        client = await house.ask()
        assert (client.status, client.cut) == (429, True)
        assert 50 < house.rest_s(0) < 60.01

    begin = begun(429, FOR_A_MINUTE) + b" " * (2 * HOLD_ERROR_BYTES)
    run([[Send(begin), Cut(rst=False)]], scenario)


def test_a_refusal_that_says_nothing_of_a_limit_and_breaks_off_is_a_failure() -> None:
    """What is wrong with a key is in the words, and they have not come: it may have been the request."""

    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 200
        assert [house.key_cause(row) for row in range(4)] == [""] * 4
        assert [house.rest_s(row) for row in range(4)] == [0] * 4
        now_ms = house.inside.gateway.now() // 1_000_000
        assert [house.inside.snapshot.attempts.health(row, now_ms) for row in range(4)] == [(0, 1)] * 3 + [(1, 0)]

    scripts: list[Script] = [[Send(begun(status)), Cut(rst=False)] for status in (401, 402, 500)]
    run([*scripts, GOOD], scenario, max_attempts=4, max_replicas=10)


def test_a_client_that_leaves_in_the_middle_of_a_refusal_changes_nothing_of_it() -> None:
    async def scenario(house: House) -> None:
        client = Client(CHAT, BODY)
        serving = asyncio.ensure_future(house.inside.serve(client))
        ctx = None
        while ctx is None or ctx.phase != "stream":
            await asyncio.sleep(0.001)
            ctx = house.inside.watch.last
        client.gone.set()
        ctx.interrupt("client_gone")
        await serving
        assert client.status == 0
        assert 50 < house.rest_s(0) < 60.01

    never = asyncio.Event()
    run([[Send(begun(429, FOR_A_MINUTE)), Barrier(never)]], scenario)


def test_how_fast_a_large_refusal_comes_says_nothing_of_how_fast_answers_are() -> None:
    async def scenario(house: House) -> None:
        assert (await house.ask()).status == 400
        now_ms = house.inside.gateway.now() // 1_000_000
        assert sum(house.inside.snapshot.attempts.latencies(0, now_ms)) == 0

    run([large(400, {"message": "no"})], scenario)


@pytest.mark.parametrize(
    "refusal", [json_response(429, {"error": BUSY}, [FOR_A_MINUTE]), large(429, BUSY, FOR_A_MINUTE)], ids=["", "large"]
)
def test_a_refusal_that_another_attempt_has_overtaken_is_one(refusal: Script) -> None:
    """With hedging: the second endpoint has refused before the first one answers."""
    refused = asyncio.Event()

    async def scenario(house: House) -> None:
        house.when_refused(refused.set)
        assert (await house.ask()).status == 200
        assert sorted(house.arrivals) == ["p0", "p1"]
        assert house.rest_s(0) == 0
        assert 50 < house.rest_s(1) < 60.01

    run([[Barrier(refused), *GOOD], refusal], scenario, hedge=HEDGE)


def test_a_key_whose_refusal_was_overtaken_is_out_if_all_of_it_had_come() -> None:
    refused = asyncio.Event()

    async def scenario(house: House) -> None:
        house.when_refused(refused.set)
        assert (await house.ask()).status == 200
        assert [house.key_cause(row) for row in (0, 1)] == ["", "invalid_key"]

    run([[Barrier(refused), *GOOD], json_response(401, {"error": REFUSED[0][1]})], scenario, hedge=HEDGE)
