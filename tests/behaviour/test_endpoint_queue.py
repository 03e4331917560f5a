"""The queue where no endpoint has room: for who is full, by what was learnt or by its key's own ceilings."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice, permutations
from random import Random
from typing import Any

import msgspec
import orjson
import pytest

from fastroute._core.attempts import OK
from fastroute.admission import MAX_LOOKS, Admission
from fastroute.limits.queue import SUBJECT
from fastroute.upstream.mock import Barrier, Cut, MockUpstream, Pause, Request, Script, json_response
from tests.behaviour.gateway_in_process import KEY, NO_BREAKER, Client, InProcess
from tests.behaviour.stand_in import StandIn

CHAT = "/v1/chat/completions"
GOOD = json_response(200, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
QUEUE = {"max": 10, "max_wait_ms": 20_000}
HEDGE = {"enabled": True, "delay_ms": 1, "max_percent": 100, "max_usd_per_hour": 100}
ONE = {"concurrency": 1}
#: One request at a time, as if that had been learnt.
LEARNT_ONE = {"kind": "gradient2", "initial": 1, "min": 1, "max": 1}


class House:
    """A gateway before providers that answer nobody until they are told to. Requests are called by their `user`."""

    def __init__(self, inside: InProcess, upstream: MockUpstream) -> None:
        self.inside = inside
        self.upstream = upstream
        self.arrivals: list[str] = []
        self.gates: list[asyncio.Event] = []
        self.broken = ""
        self.then: Script = GOOD

    def script(self, request: Request) -> Script:
        provider = request.target.split("/")[1]
        self.arrivals.append(f"{orjson.loads(request.body)['user']} {provider}")
        self.gates.append(asyncio.Event())
        return [Cut()] if provider == self.broken else [Barrier(self.gates[-1]), *self.then]

    def ask(self, user: str, **wishes: str) -> "asyncio.Task[Client]":
        """Send a request, and do not wait for its answer."""
        body = orjson.dumps({"model": "m", "messages": [], "user": user})
        headers = tuple((b"x-fastroute-" + name.encode(), value.encode()) for name, value in wishes.items())
        return asyncio.ensure_future(self.inside.post(CHAT, body, headers=headers))

    async def arrived(self, count: int) -> None:
        while len(self.arrivals) < count:
            await asyncio.sleep(0.001)

    async def waiting(self, count: int) -> None:
        table = self.inside.limits
        while table.held(table.find(SUBJECT)) != count:
            await asyncio.sleep(0.001)

    async def answer_all(self, upto: int) -> None:
        """Answer one request after the other until that many have come."""
        for number in range(upto):
            await self.arrived(number + 1)
            self.gates[number].set()


def run(
    scenario: Callable[[House], Awaitable[None]],
    *,
    providers: dict[str, dict[str, Any]] | None = None,
    queue: dict[str, Any] | None = QUEUE,
    **more: Any,
) -> None:
    """Run a scenario. providers: what each has besides its name; one whose key takes one request at a time if None."""

    async def main() -> None:
        house: House
        async with MockUpstream(lambda request: house.script(request)) as upstream:
            document = {
                "providers": [
                    {"id": name, "type": "openai", "base_url": f"{upstream.url}/{name}/v1", "models": ["m"]}
                    | {"keys": [{"key": f"sk-{name}", **ONE}], **fields}
                    for name, fields in (providers or {"p": {}}).items()
                ],
                "routing": {"breaker": NO_BREAKER},
                "limits": {"queue": queue} if queue is not None else {},
                **more,
            }
            async with InProcess(document) as inside:
                house = House(inside, upstream)
                await asyncio.wait_for(scenario(house), 30)
                assert await inside.quiet(set(asyncio.all_tasks())) == []

    asyncio.run(main())


FULL = [
    pytest.param({"keys": [{"key": "sk", **ONE}]}, id="ceiling"),
    pytest.param({"keys": ["sk"], "adaptive": LEARNT_ONE}, id="learnt"),
]


@pytest.mark.parametrize("provider", FULL)
def test_who_finds_everybody_full_waits_its_turn(provider: dict[str, Any]) -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask("a")]
        await house.arrived(1)
        for number, user in enumerate("bcd", 1):
            tasks.append(house.ask(user))
            await house.waiting(number)
        assert house.arrivals == ["a p"]
        await house.answer_all(4)
        assert [(await task).status for task in tasks] == [200] * 4
        assert house.arrivals == ["a p", "b p", "c p", "d p"]
        assert [(record.status, record.attempts) for record in house.inside.records()] == [(200, 1)] * 4

    run(scenario, providers={"p": provider})


@pytest.mark.parametrize("provider", FULL)
def test_without_a_queue_it_is_refused(provider: dict[str, Any]) -> None:
    async def scenario(house: House) -> None:
        first = house.ask("a")
        await house.arrived(1)
        client = await house.ask("b")
        assert (client.status, client.header(b"retry-after")) == (429, b"1")
        await house.answer_all(1)
        assert (await first).status == 200

    run(scenario, providers={"p": provider}, queue=None)


def test_priorities_and_tenants_in_turn() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask("first")]
        await house.arrived(1)
        for number, (user, priority) in enumerate([("low", "low"), ("n1", "normal"), ("high", "high"), ("n2", "")], 1):
            tasks.append(house.ask(user, **({"priority": priority} if priority else {})))
            await house.waiting(number)
        await house.answer_all(5)
        assert {(await task).status for task in tasks} == {200}
        assert house.arrivals == ["first p", "high p", "n1 p", "n2 p", "low p"]

    run(scenario)


def test_a_new_request_does_not_overtake_those_who_wait() -> None:
    """A place becomes free without this worker's doing, and a request comes before anybody has looked."""

    async def scenario(house: House) -> None:
        [endpoint] = house.inside.snapshot.endpoints
        held = house.inside.limiter.admit(endpoint.limits, None, 0, 0, house.inside.gateway.now(), 0)
        tasks = [house.ask("old")]
        await house.waiting(1)
        held.settle(0)
        tasks.append(house.ask("new"))
        await house.answer_all(2)
        assert {(await task).status for task in tasks} == {200}
        assert house.arrivals == ["old p", "new p"]

    run(scenario)


def test_who_may_go_elsewhere_is_not_held_up() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask("a", provider="p", exclude="q")]
        await house.arrived(1)
        tasks.append(house.ask("waits", provider="p", exclude="q"))
        await house.waiting(1)
        tasks.append(house.ask("b"))
        await house.arrived(2)
        assert house.arrivals == ["a p", "b q"]
        await house.answer_all(3)
        assert {(await task).status for task in tasks} == {200}
        assert house.arrivals[2] == "waits p"

    run(scenario, providers={"p": {}, "q": {}})


def test_who_waits_goes_to_the_first_of_its_chain_that_has_room() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask("a"), house.ask("b")]
        await house.arrived(2)
        assert sorted(house.arrivals) in (["a p", "b q"], ["a q", "b p"])
        for number in (1, 2):
            tasks.append(house.ask("c"))
            await house.waiting(number)
        at_p = next(number for number, arrival in enumerate(house.arrivals) if arrival.endswith("p"))
        house.gates[at_p].set()
        await house.arrived(3)
        assert house.arrivals[2] == "c p"
        house.gates[1 - at_p].set()
        await house.arrived(4)
        assert house.arrivals[3] == "c q"
        await house.answer_all(4)
        assert {(await task).status for task in tasks} == {200}

    routes = [{"model": "m", "tiers": [["p"]], "fallbacks": [{"provider": "q", "strategy": "random"}]}]
    run(scenario, providers={"p": {}, "q": {}}, routes=routes)


def test_who_would_wait_in_vain_is_refused_at_once() -> None:
    """Of a rate it is known when there will be room."""

    async def scenario(house: House) -> None:
        first = house.ask("a")
        await house.answer_all(1)
        assert (await first).status == 200
        client = await house.ask("b")
        assert client.status == 429
        assert 50 <= int(client.header(b"retry-after") or 0) <= 60
        assert house.arrivals == ["a p"]

    run(scenario, providers={"p": {"keys": [{"key": "sk", "rpm": 1}]}})


def test_what_can_never_fit_does_not_wait() -> None:
    async def scenario(house: House) -> None:
        body = orjson.dumps({"model": "m", "messages": [], "max_tokens": 1000})
        client = await house.inside.post(CHAT, body)
        assert (client.status, house.arrivals) == (429, [])

    run(scenario, providers={"p": {"keys": [{"key": "sk", "tpm": 100}]}}, queue={"max": 10, "max_wait_ms": 86_400_000})


def test_a_rate_is_waited_for() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask(str(number)) for number in range(600)]
        await house.answer_all(600)
        late = house.ask("late")
        await house.answer_all(601)
        assert {(await task).status for task in [*tasks, late]} == {200}
        assert house.arrivals[-1] == "late p"

    run(scenario, providers={"p": {"keys": [{"key": "sk", "rpm": 600}]}}, queue={"max": 600, "max_wait_ms": 20_000})


def test_requests_that_end_meanwhile_do_not_put_off_who_waits() -> None:
    """Their own ceilings are looked at, no endpoint is: the next look at these comes no later, however many there are.

    Nobody says when another worker gives back its place.
    """

    async def scenario(house: House) -> None:
        inside = house.inside
        admission: Admission = inside.gateway._admission
        route = inside.snapshot.routes.find("m", "openai")
        assert route is not None
        endpoint = route.pools["openai"].endpoints[0]
        elsewhere = inside.limiter.admit(endpoint.limits, None, 0, 0, inside.gateway.now(), 1)
        assert elsewhere is not None
        waits = house.ask("a")
        await house.waiting(1)
        admission.pump()
        assert admission._timer is not None
        due_s = admission._timer.when()
        admission.pump(looks=0)
        assert admission._timer.when() == due_s
        elsewhere.withdraw()
        await house.answer_all(1)
        assert (await waits).status == 200

    run(scenario)


def test_who_has_waited_long_enough_is_refused() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask("a")]
        await house.arrived(1)
        client = await house.ask("b")
        assert (client.status, client.header(b"retry-after")) == (429, b"1")
        # So is who has got as far as the middle of the line.
        both = [house.ask("c"), house.ask("d")]
        assert [(await task).status for task in both] == [429, 429]
        await house.answer_all(1)
        assert (await tasks[0]).status == 200
        assert house.arrivals == ["a p"]

    run(scenario, queue={"max": 10, "max_wait_ms": 100})


def test_who_waits_is_refused_as_soon_as_there_is_nothing_to_wait_for() -> None:
    async def limited(house: House) -> None:
        house.then = json_response(429, {"error": {}}, [(b"retry-after", b"60")])
        first, waits = house.ask("a"), house.ask("b")
        await house.waiting(1)
        await house.answer_all(1)
        assert (await first).status == 429
        client = await waits
        assert client.status == 429
        assert 50 < int(client.header(b"retry-after") or 0) <= 61

    async def failed(house: House) -> None:
        house.then = [Cut()]
        first, waits = house.ask("a"), house.ask("b")
        await house.waiting(1)
        await house.answer_all(1)
        assert [(await task).status for task in (first, waits)] == [502, 503]

    queue = {"max": 10, "max_wait_ms": 50_000}
    run(limited, queue=queue)
    retry = {"max_attempts": 1}
    run(failed, queue=queue, routing={"breaker": {"failure_threshold": 1, "timeout_ms": 60_000}, "retry": retry})


def test_when_the_queue_is_full_the_rest_are_refused_and_the_urgent_turn_others_away() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.ask("a")]
        await house.arrived(1)
        turned_away = house.ask("b", priority="low")
        await house.waiting(1)
        assert (await house.ask("c", priority="low")).status == 429
        tasks.append(house.ask("d", priority="high"))
        assert (await turned_away).status == 429
        await house.answer_all(2)
        assert {(await task).status for task in tasks} == {200}
        assert house.arrivals == ["a p", "d p"]

    run(scenario, queue={**QUEUE, "max": 1})


def test_a_second_attempt_does_not_wait() -> None:
    async def scenario(house: House) -> None:
        first = house.ask("a", provider="q")
        await house.arrived(1)
        house.broken = "p"
        client = await house.ask("b", provider="p")
        assert (client.status, house.arrivals) == (502, ["a q", "b p", "b p"])
        await house.answer_all(1)
        assert (await first).status == 200

    retry = {"max_attempts": 2, "backoff": {"kind": "none"}}
    run(scenario, providers={"p": {}, "q": {}}, routing={"breaker": NO_BREAKER, "retry": retry})


def test_a_provider_that_is_not_healthy_is_not_waited_for() -> None:
    async def scenario(house: House) -> None:
        attempts = house.inside.snapshot.attempts
        now_ms = house.inside.gateway.now() // 1_000_000
        for _ in range(3):
            ticket = attempts.enter(0, 0, 0, now_ms)
            attempts.leave(0, 0, ticket, OK + 1, -1.0, now_ms, 0, 0, 0)
        assert (await house.ask("a")).status == 503

    run(scenario, routing={"breaker": {"failure_threshold": 3}})


def test_the_key_of_the_caller_is_let_in_once() -> None:
    """What its own ceilings have let in is not let in again when an endpoint has room."""

    async def scenario(house: House) -> None:
        tasks = [house.ask("a"), house.ask("b")]
        await house.waiting(1)
        refused = await house.ask("c")
        assert (refused.status, b"for this key" in refused.body) == (429, True)
        await house.answer_all(2)
        assert {(await task).status for task in tasks} == {200}

    run(scenario, auth={"keys": [{"id": "app", "key": KEY, "limits": {"rpm": 2}}]})


def test_however_many_kinds_of_requests_wait_a_look_is_short() -> None:
    names = "pqrst"
    looks: list[Any] = []

    async def scenario(house: House) -> None:
        snapshot = house.inside.snapshot
        rewind = snapshot.planner.rewind
        planner: Any = StandIn(snapshot.planner, rewind=lambda plan, ctx: looks.append(rewind(plan, ctx)))
        house.inside.gateway.snapshot = msgspec.structs.replace(snapshot, planner=planner)
        tasks = [house.ask("first") for _ in names]
        await house.arrived(len(names))
        kinds = list(islice(permutations(names), MAX_LOOKS + 20))
        tasks += [house.ask("waits", provider=",".join(kind)) for kind in kinds]
        await house.waiting(len(kinds))
        looks.clear()
        house.inside.gateway._admission.pump()
        assert len(looks) == MAX_LOOKS
        await house.answer_all(len(tasks))
        assert {(await task).status for task in tasks} == {200}

    run(scenario, providers={name: {} for name in names}, queue={**QUEUE, "max": 100})


@pytest.mark.parametrize("seed", range(4))
def test_under_a_storm_of_requests_that_come_and_go_nothing_is_lost_or_doubled(seed: int) -> None:
    """Hedged, queued at both places, refused, failed and left by their clients at random."""
    random = Random(seed)
    keys = [{"id": f"k{number}", "key": f"sk-{number}", "concurrency": 2, "rpm": 600} for number in range(2)]

    class Storm(House):
        def script(self, request: Request) -> Script:
            pause = Pause(random.random() * 0.01)
            limited = json_response(429, {"error": {}}, [(b"retry-after-ms", b"5")])
            large = json_response(429, {"error": {}, "debug": "x" * 200_000}, [(b"retry-after-ms", b"5")])
            return [pause, *random.choice([GOOD, GOOD, GOOD, limited, large, [Cut()]])]

    async def main() -> None:
        house: Storm
        async with MockUpstream(lambda request: house.script(request)) as upstream:
            model = {"name": "m", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}
            provider = {"type": "openai", "base_url": f"{upstream.url}/v1", "models": [model]}
            document = {
                "auth": {"keys": [{"id": "app", "key": KEY, "limits": {"concurrency": 30}}]},
                "providers": [{"id": name, "keys": keys, **provider} for name in "pq"],
                "routes": [{"model": "m", "tiers": [["p"]], "fallbacks": [{"provider": "q"}]}],
                "routing": {
                    "breaker": NO_BREAKER,
                    "retry": {"hedge": {**HEDGE, "delay_ms": 4}, "backoff": {"kind": "none"}},
                },
                "limits": {"queue": {"max": 40, "max_wait_ms": 300}},
            }
            async with InProcess(document) as inside:
                house = Storm(inside, upstream)
                tasks = []
                waited = 0
                for number in range(300):
                    task = house.ask(str(number), priority=random.choice(["low", "normal", "high"]))
                    tasks.append(task)
                    if random.random() < 0.2:
                        asyncio.get_running_loop().call_later(random.random() * 0.02, task.cancel)
                    await asyncio.sleep(random.random() * 0.002)
                    waited += len(inside.gateway.dispatcher.crowd)
                clients = await asyncio.gather(*tasks, return_exceptions=True)
                assert await inside.quiet(set(asyncio.all_tasks())) == []
                answered = [client for client in clients if isinstance(client, Client)]
                assert {client.status for client in answered} <= {200, 429, 502, 503}
                assert [one for one in clients if not isinstance(one, Client | asyncio.CancelledError)] == []
                assert waited
                assert any(record.outcome == "hedged" for record in inside.records())
                own = [record for record in inside.records() if record.outcome != "hedged"]
                assert len({record.id for record in own}) == len(own) <= len(tasks)
                assert sum(record.status == 200 for record in own) >= sum(one.status == 200 for one in answered) > 50

    asyncio.run(asyncio.wait_for(main(), 60))
