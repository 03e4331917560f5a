"""A request that is stopped at any of its awaits leaves nothing behind.

Every scenario is run again and again, each time stopped one await later, until it runs to its end: by the watch, which
has seen the client leave, or by a bare cancellation from below; before the wait begins, during it, or in the very turn
of the loop in which it ends, when the result is there but not taken yet.

Those waits in which the lanes differ are stepped through in either: for bodies that are still coming, for clients that
do not take what is sent, and for their departure.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import pytest
import uvloop

from fastroute._core.counters import FAILURES
from fastroute.clock import SYSTEM_CLOCK
from fastroute.context import CLIENT_GONE, DRAIN, TOTAL
from fastroute.outgoing import Outbox
from fastroute.upstream.mock import (
    Cut,
    MockUpstream,
    Pause,
    ReadHead,
    ReadRequest,
    Request,
    Script,
    Send,
    json_response,
    sse_response,
)
from tests.behaviour.direct_client import DirectClient
from tests.behaviour.gateway_in_process import KEY, NO_BREAKER, Client, InProcess, run_stepped
from tests.unit.outboxes import BusyOutbox

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
#: More awaits than any scenario has.
MAX_AWAITS = 500

LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


def answer(_: Request) -> Script:
    return json_response(200, {"id": "c", "choices": [], "usage": USAGE})


def stream(_: Request) -> Script:
    steps = list(sse_response([{"choices": [{"delta": {"content": "hi"}}]}, {"choices": [], "usage": USAGE}, "[DONE]"]))
    return [step for send in steps for step in (send, Pause(0.001))]


def always(script: Script) -> Callable[[Request], Script]:
    return lambda _: script


def late(script_for: Callable[[Request], Script]) -> Callable[[Request], Script]:
    """Answer so, after as long as the gateway takes to send a second attempt."""
    return lambda request: [Pause(0.003), *script_for(request)]


class Scenario(NamedTuple):
    """One kind of request. scripts: of its upstreams. hold: whether the only connection is taken meanwhile; when let
    go it is dropped, so that the request may dial, or handed over; or whether the model's ceiling, or that of the only
    endpoint's key, leaves no room until then. faultless: nothing an upstream does is a fault. hedge: a second attempt
    is made at once.
    """

    scripts: list[Callable[[Request], Script] | list[Script]]
    body: tuple[bytes, ...]
    length: bool = True
    pace: Callable[[], Awaitable[None]] | None = None
    max_connections: int = 8
    hold: Literal["", "dropped", "handed over", "ceiling", "endpoint"] = ""
    faultless: bool = True
    hedge: bool = False
    transport: Literal["fast", "httpx"] = "fast"


async def slowly() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0.0005)


#: For no time at all, so that the next request is served.
NO_REST = (b"retry-after-ms", b"0")
refusal = json_response(429, {"error": {"message": "busy"}}, [NO_REST])
large_refusal = json_response(429, {"error": {"message": "busy"}, "debug": "z" * 200_000}, [NO_REST])
answer_steps = json_response(200, {"usage": USAGE})
LARGE = b'{"model":"m","messages":["' + b"x" * 1_200_000 + b'"]}'

SCENARIOS = {
    "whole": Scenario([answer], (BODY,)),
    "whole-in-pieces": Scenario([answer], (BODY[:5], BODY[5:20], BODY[20:]), length=False),
    "stream": Scenario([stream], (STREAM,)),
    "failover": Scenario([always(json_response(503, {"error": {}})), answer], (BODY,), faultless=False),
    "failover-after-reset": Scenario([always([Send(b"HTTP/1.1 200 O"), Cut()]), stream], (STREAM,), faultless=False),
    "queue-to-dial": Scenario([answer], (BODY,), max_connections=1, hold="dropped"),
    "queue-for-a-connection": Scenario([answer], (BODY,), max_connections=1, hold="handed over"),
    "queue-for-a-ceiling": Scenario([answer], (BODY,), hold="ceiling"),
    "queue-for-an-endpoint": Scenario([answer], (BODY,), hold="endpoint"),
    "hedge": Scenario([late(answer), late(stream)], (STREAM,), hedge=True),
    "hedge-lost-to-the-first": Scenario([late(stream), always([Pause(1)])], (STREAM,), hedge=True),
    "hedge-won-by-the-second": Scenario([always([Pause(1)]), answer], (BODY,), hedge=True),
    "hedge-refused": Scenario([late(answer), always(refusal)], (BODY,), hedge=True),
    "large-refusal": Scenario([always(large_refusal), answer], (BODY,)),
    "large-refusal-passed-on": Scenario([always(large_refusal)], (BODY,)),
    "large-upload": Scenario([[[ReadHead(), Pause(0.01), ReadRequest(), *answer_steps]] * MAX_AWAITS], (LARGE,)),
    "large-answer": Scenario([always(json_response(200, b'"' + b"y" * 1_500_000 + b'"'))], (BODY,)),
    "slow-reader": Scenario([stream], (STREAM,), pace=slowly),
    "refused": Scenario([answer], (b'{"model":"other"}',)),
    "broken-stream": Scenario([always([*list(sse_response(["a"]))[:-1], Cut()])], (STREAM,), faultless=False),
}

#: The awaits of httpx itself are stepped through in test_httpx_connections.py.
HTTPX = Scenario(
    [always(json_response(503, {"error": {}})), stream],
    (STREAM,),
    faultless=False,
    transport="httpx",
    max_connections=1,
)

#: Ceilings that nobody reaches; what is taken of them has to be given back all the same.
WIDE = dict.fromkeys(("rpm", "tpm", "rpd", "tpd"), 10**12) | {"concurrency": 1000}

MOMENTS = ("before", "during", "as it ends")
STOPS = ("client gone", "bare", "drain", "deadline")

#: What is different for a client of the direct lane, and some that is not.
DIRECT = (
    "whole",
    "whole-in-pieces",
    "stream",
    "failover-after-reset",
    "hedge-won-by-the-second",
    "large-upload",
    "large-answer",
    "slow-reader",
    "broken-stream",
)


class Stop:
    """Stops a request at its await number `at`, once. leave: what a client does that is really there, by `how`."""

    def __init__(self, inside: InProcess, how: str, moment: str, at: int) -> None:
        self._inside = inside
        self._how = how
        self._moment = moment
        self._at = at
        self.task: asyncio.Task[None] | None = None
        self.leave: dict[str, Callable[[], None]] = {}
        self.done = False

    def __call__(self, number: int, awaited: Any) -> None:
        if number != self._at or self.done:
            return
        self.done = True
        if self._moment == "before":
            self._stop()
        elif self._moment == "as it ends" and asyncio.isfuture(awaited):
            awaited.add_done_callback(lambda _: self._stop())
        else:
            asyncio.get_running_loop().call_soon(self._stop)

    def _stop(self) -> None:
        ctx = self._inside.watch.last
        assert self.task is not None
        if self.task.done():
            return
        if self._how in self.leave:
            self.leave[self._how]()
        elif self._how == "bare" or ctx is None or ctx.task is not self.task:
            self.task.cancel()
        else:
            ctx.interrupt({"client gone": CLIENT_GONE, "drain": DRAIN, "deadline": TOTAL}[self._how])


def config(scenario: Scenario, ports: list[int]) -> dict[str, Any]:
    providers = [
        {
            "id": f"p{number}",
            "type": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "keys": [{"key": "sk-up", **WIDE, "concurrency": 1 if scenario.hold == "endpoint" else 1000}],
            "models": [{"name": "m", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}],
            "max_connections": scenario.max_connections,
            "transport": scenario.transport,
        }
        for number, port in enumerate(ports)
    ]
    tiers = [[provider["id"]] for provider in providers]
    routes = [{"model": "m", "tiers": tiers}]
    return {
        "auth": {"keys": [{"id": "app", "key": KEY, "tenant": "t", "limits": WIDE}]},
        "tenants": [{"id": "t", "limits": WIDE}],
        "limits": {"models": {"m": {**WIDE, "concurrency": 1}}, "queue": {"max": 5, "max_wait_ms": 5000}},
        "providers": providers,
        "routes": routes,
        "routing": {
            "breaker": NO_BREAKER,
            "retry": {"hedge": {"enabled": scenario.hedge, "delay_ms": 1, "max_percent": 100, "max_usd_per_hour": 100}},
        },
    }


async def by_asgi(inside: InProcess, scenario: Scenario, stop: Stop) -> None:
    """Run one request as Granian's lane hands it over."""
    client = Client(CHAT, *scenario.body, length=scenario.length, pace=scenario.pace)
    stop.task = asyncio.create_task(run_stepped(inside.serve(client), stop))
    await stop.task
    if client.finished:
        assert client.status


async def directly(inside: InProcess, scenario: Scenario, stop: Stop) -> None:
    """Run one request over a connection of the direct lane, and another one if that is still good afterwards."""

    def at(number: int, awaited: Any) -> None:
        stop.task = client.task
        stop(number, awaited)

    client = DirectClient(inside, slowly=scenario.pace is not None, at=at)
    stop.leave = {"client gone": client.leave, "half closed": client.end_input}
    await client.post(CHAT, *scenario.body, length=scenario.length)
    if client.finished:
        assert client.statuses(1)[0] >= 200
        assert scenario.pace is None or client.wire.pauses
    if stop.done and client.may_go_on:
        await client.post(CHAT, *scenario.body, length=scenario.length)
        assert len(client.statuses(2)) == 2
    assert await client.hang_up() == []


Lane = Callable[[InProcess, Scenario, Stop], Awaitable[None]]


async def run_all(scenario: Scenario, how: str, moment: str, lane: Lane) -> None:
    servers = [MockUpstream(script) for script in scenario.scripts]
    for server in servers:
        await server.__aenter__()
    try:
        document = config(scenario, [server.port for server in servers])
        # What is sent in the direct lane waits for the next turn of the loop, as it does beside other requests.
        async with InProcess(document, BusyOutbox if lane is directly else Outbox) as inside:
            reached = at = 0
            while at < MAX_AWAITS:
                mine = set(asyncio.all_tasks())
                held = [await occupy(inside, scenario.hold)] if scenario.hold else []
                timer = asyncio.get_running_loop().call_later(0.02, release, held, scenario.hold)
                before = len(inside.records())
                stop = Stop(inside, how, moment, at)
                inside.watch.begin()
                await lane(inside, scenario, stop)
                assert not any(pool._waiters for pool in inside.pools), f"stopped at await {at}"
                release(held, scenario.hold)
                timer.cancel()
                left = await inside.quiet(mine | server_tasks(mine))
                assert left == [], f"stopped at await {at}"
                admitted = sum(ctx.admitted for ctx in inside.watch.seen or ())
                records = [record for record in inside.records()[before:] if record.outcome != "hedged"]
                assert len(records) == admitted, f"stopped at await {at}: {records}"
                if not stop.done:
                    break
                reached, at = at, at + 1
            assert 1 <= reached < MAX_AWAITS - 1
            # And nothing is worn out: the next request is served.
            client = await inside.post(CHAT, STREAM if scenario.body == (STREAM,) else BODY)
            assert client.status in (200, 429, 502)
            assert await inside.quiet(set(asyncio.all_tasks())) == []
            if scenario.faultless:
                # Whoever stopped the request, it was not the provider.
                assert set(inside.segment.totals(FAILURES)) == {0}
    finally:
        for server in servers:
            await server.aclose()
    gc.collect()


async def occupy(inside: InProcess, hold: str) -> Any:
    """Occupy what a scenario's request has to wait for: the only place of the model or of the endpoint's key, or a
    connection of the first pool.

    The connection has an exchange that is complete but not ended.
    """
    if hold == "ceiling":
        model = inside.snapshot.routes.resolve(b"m", 0, 1, "openai")[1].limits
        return inside.limiter.admit(None, model, 0, 0, SYSTEM_CLOCK.monotonic_ns(), SYSTEM_CLOCK.wall_ns())
    if hold == "endpoint":
        own = inside.snapshot.endpoints[0].limits
        return inside.limiter.admit(own, None, 0, 0, SYSTEM_CLOCK.monotonic_ns(), SYSTEM_CLOCK.wall_ns())
    [pool] = inside.pools
    connection = pool.take() or await pool.open()
    connection.start(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")
    while not connection.complete:
        await connection.wait()
    return connection


def release(held: list[Any], how: str) -> None:
    """Let go what was occupied."""
    for one in held:
        if how in ("ceiling", "endpoint"):
            one.settle(0)
            continue
        if how == "dropped":
            one.abort()
        one.close()
    held.clear()


def server_tasks(mine: set["asyncio.Task[Any]"]) -> set["asyncio.Task[Any]"]:
    """Return the tasks of the scripted upstreams: they run in this loop too."""
    code = "fastroute/upstream/mock"
    found = set()
    for task in asyncio.all_tasks() - mine:
        coro: Any = task.get_coro()
        where = getattr(getattr(coro, "cr_code", None), "co_filename", "")
        if code in where.replace("\\", "/"):
            found.add(task)
    return found


def run(scenario: Scenario, how: str, moment: str, lane: Lane, new_loop: Any) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(run_all(scenario, how, moment, lane), 60))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("new_loop", LOOPS)
def test_nothing_is_left_behind(name: str, how: str, moment: str, new_loop: Any) -> None:
    run(SCENARIOS[name], how, moment, by_asgi, new_loop)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", ["half closed", *STOPS])
@pytest.mark.parametrize("name", DIRECT)
def test_nothing_is_left_behind_in_the_direct_lane(name: str, how: str, moment: str) -> None:
    run(SCENARIOS[name], how, moment, directly, uvloop.new_event_loop)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", STOPS)
def test_nothing_is_left_behind_by_httpx(how: str, moment: str) -> None:
    run(HTTPX, how, moment, by_asgi, uvloop.new_event_loop)
