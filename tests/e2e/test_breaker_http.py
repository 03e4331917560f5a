"""Breakers, cooldowns and in-flight counts over HTTP, with several workers that share them."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.counters import ATOMIC, IN_FLIGHT, WORK, Segment
from fastroute.upstream.mock import Cut, Pause, Request, Script, Send, Stall, json_response, sse_response
from tests.e2e.client import ask, chat
from tests.e2e.fleet import BAD, GOOD, KEY, Fleet, Gate, Load, Play, Reply, config, wake
from tests.e2e.harness import Gateway, wait_until

#: Shared words are exact over several processes only where they are changed atomically.
WORKERS = 4 if ATOMIC else 1
#: Opens at five failures in a row and is half open again soon. Nobody but a probe may find out how things are.
SHORT = {"timeout_ms": 300, "max_timeout_ms": 300, "slow_start_ms": 0, "panic_percent": 0}
LONG = {**SHORT, "timeout_ms": 60_000, "max_timeout_ms": 60_000}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet("a", "b", "c", "d") as made:
        yield made


@contextmanager
def running(
    fleet: Fleet, directory: Path, names: str = "ab", first: dict[str, Any] | None = None, **routing: Any
) -> Iterator[Gateway]:
    """A gateway that goes round the providers named, and the check that nothing is left in flight.

    Breakers by themselves: what has been learnt of a provider's limits has tests of its own. first: what the entry of
    the first provider has beside what all have.
    """
    providers = [fleet.provider(name, adaptive={"kind": "off"}) for name in names]
    providers[0] |= first or {}
    document = config(providers, WORKERS, routing={"strategy": "round_robin", **routing})
    with Gateway(document, directory) as gateway:
        wake(gateway)
        yield gateway
        gateway.wait_idle()
        assert work_left(gateway) == set()
    assert "Traceback" not in gateway.log


def work_left(gateway: Gateway) -> set[int]:
    segment = Segment.open(os.path.join(gateway.state_dir, "segment"))
    try:
        return set(segment.totals(WORK)) - {0}
    finally:
        segment.close()


def held_by_worker(gateway: Gateway) -> list[int]:
    """Return how many requests each worker has in flight."""
    segment = Segment.open(os.path.join(gateway.state_dir, "segment"))
    try:
        rows = range(segment.endpoints)
        return [sum(segment.get(worker, row, IN_FLIGHT) for row in rows) for worker in range(segment.workers)]
    finally:
        segment.close()


def state_of(gateway: Gateway, name: str) -> str:
    """Return the state of a provider's breaker, as the admin API tells it."""
    [found] = [one for one in gateway.explain({"model": "m"})["candidates"] if one["provider"] == name]
    state: str = found["breaker"]["state"]
    return state


def trip(gateway: Gateway, fleet: Fleet, name: str) -> None:
    """Let a provider fail until its breaker opens."""
    fleet.plays[name] = BAD
    replies = Load(gateway).send_while(lambda: state_of(gateway, name) != "open")
    assert {reply.status for reply in replies} <= {200}
    gateway.wait_idle()


class Background:
    """A load that goes on beside the test until it is stopped; a context manager."""

    def __init__(self, gateway: Gateway, **options: Any) -> None:
        self.load = Load(gateway, **options)
        self._going = True
        self._thread = threading.Thread(target=lambda: self.load.send_while(lambda: self._going))

    def __enter__(self) -> "Background":
        self._thread.start()
        return self

    def wait(self, replies: int) -> None:
        """Return once so many more requests have been answered."""
        wanted = len(self.load.replies) + replies
        wait_until(lambda: len(self.load.replies) >= wanted, 30)

    def __exit__(self, *_: object) -> None:
        self._going = False
        self._thread.join(60)
        assert not self._thread.is_alive()


# === One probe ===


def test_one_probe_in_total(fleet: Fleet, tmp_path: Path) -> None:
    """Every worker's strategy has the failed one's turn come up all the time; one request in all goes there."""
    with running(fleet, tmp_path, breaker=SHORT) as gateway:
        trip(gateway, fleet, "a")
        for _ in range(3):
            gate = Gate(fleet, then=BAD)
            fleet.plays["a"] = gate
            with Background(gateway) as background:
                wait_until(lambda gate=gate: gate.held == 1)
                background.wait(300)
                assert gate.held == 1
                assert state_of(gateway, "a") == "half_open"
                # The probe fails: open again, for all of them, and the request goes elsewhere. Until it comes back
                # nobody follows it; what comes later is the probe of the next time.
                fleet.plays["a"] = fresh = Gate(fleet, then=BAD)
                gate.open()
                wait_until(lambda fresh=fresh: fresh.held == 1)
                background.wait(100)
                assert (gate.held, fresh.held) == (1, 1)
                fleet.plays["a"] = BAD
                fresh.open()
            assert {reply.status for reply in background.load.replies} == {200}
            gateway.wait_idle()


def test_as_many_probes_as_configured(fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, breaker={**SHORT, "half_open_max_calls": 3}) as gateway:
        trip(gateway, fleet, "a")
        fleet.plays["a"] = gate = Gate(fleet)
        with Background(gateway) as background:
            wait_until(lambda: gate.held == 3)
            background.wait(300)
            assert gate.held == 3
            gate.open()
            wait_until(lambda: state_of(gateway, "a") == "closed")
        assert {reply.status for reply in background.load.replies} == {200}


def test_it_closes_after_enough_probes_and_has_its_share_again(fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, breaker=SHORT) as gateway:
        trip(gateway, fleet, "a")
        fleet.plays["a"] = GOOD
        load = Load(gateway)
        since = len(fleet.arrivals)
        load.send_while(lambda: state_of(gateway, "a") != "closed")
        assert fleet.counts(since)["a"] >= 3
        gateway.wait_idle()
        since = len(fleet.arrivals)
        assert {reply.status for reply in load.send(400)} == {200}
        later = fleet.counts(since)
        assert abs(later["a"] - later["b"]) <= WORKERS


def test_a_success_from_before_does_not_close_it(fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, breaker=LONG) as gateway:
        fleet.plays["a"] = gate = Gate(fleet)
        with Background(gateway, clients=1):
            wait_until(lambda: gate.held == 1)
            fleet.plays["a"] = BAD
            Load(gateway).send_while(lambda: state_of(gateway, "a") != "open")
            gate.open()
        gateway.wait_idle()
        assert state_of(gateway, "a") == "open"
        since = len(fleet.arrivals)
        assert {reply.status for reply in Load(gateway).send(200)} == {200}
        assert fleet.counts(since) == {"b": 200}


def test_slow_start_after_closing(fleet: Fleet, tmp_path: Path) -> None:
    """Just closed, an endpoint has a tenth of its weight, and more from there on."""
    breaker = {**SHORT, "slow_start_ms": 600_000, "success_threshold": 1}
    # A health weight would lag a second behind the window that closing has emptied.
    options = {"health_weights": False}
    with running(fleet, tmp_path, strategy="random", breaker=breaker, options=options) as gateway:
        trip(gateway, fleet, "a")
        fleet.plays["a"] = GOOD
        load = Load(gateway)
        load.send_while(lambda: state_of(gateway, "a") != "closed")
        gateway.wait_idle()
        since = len(fleet.arrivals)
        assert {reply.status for reply in load.send(1000)} == {200}
        # A tenth of a against all of b: one in eleven, where it was one in two. Five standard deviations are 46.
        assert abs(fleet.counts(since)["a"] - 91) <= 46


# === What is known of latencies ===


def test_times_to_the_first_token_are_those_of_all_workers(fleet: Fleet, tmp_path: Path) -> None:
    # No answer may be half forgotten before it is asked for: windows end at every whole hour of the monotonic clock.
    if time.monotonic() % 3600 > 3540:
        time.sleep(61)
    with running(fleet, tmp_path, breaker={**LONG, "window_ms": 3_600_000}) as gateway:
        fleet.plays["a"] = [Pause(0.08), *GOOD]
        assert {reply.status for reply in Load(gateway).send(200)} == {200}
        gateway.wait_idle()
        found = {one["provider"]: one["ttft_ms"] for one in gateway.explain({"model": "m"})["candidates"]}
        assert {name: times["samples"] for name, times in found.items()} == dict(fleet.counts())
        assert sum(times["samples"] for times in found.values()) == 200
        # Five tokens of answer in one piece are a fifth more.
        assert found["a"]["p95"] >= found["a"]["p50"] > 80 / 1.2 / 1.35


# === A failing endpoint ===


def now_and_then(*plays: Script) -> Callable[[Request], Script]:
    turns = cycle(plays)
    return lambda request: next(turns)


FAILURES: dict[str, Play] = {
    "500": BAD,
    "reset": [Cut()],
    "no answer in time": [Stall()],
    "half an answer": [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"), Cut()],
    "two of three requests": now_and_then(GOOD, BAD, BAD),
    "rate limited": json_response(429, {"error": {}}, [(b"retry-after", b"30")]),
    "overloaded": json_response(503, {"error": {}}, [(b"retry-after", b"30")]),
}


@pytest.mark.parametrize(
    ("failure", "strategy"),
    [
        *((failure, "p2c") for failure in FAILURES),
        # It avoids nobody by itself: this is the breaker's doing, and the cooldown's.
        *((failure, "round_robin") for failure in ("500", "two of three requests", "rate limited")),
    ],
)
def test_a_failing_endpoint_has_less_than_a_hundredth_after_two_seconds(
    failure: str, strategy: str, fleet: Fleet, tmp_path: Path
) -> None:
    # Of the failing one alone: a busy machine may stop for longer, and sound endpoints that were late would fail, too.
    first = {"timeouts": {"first_byte_ms": 1000}} if failure == "no answer in time" else {}
    budget = {"min_per_s": 1000}
    with running(fleet, tmp_path, "abcd", first, strategy=strategy, retry={"budget": budget}) as gateway:
        load = Load(gateway)
        assert {reply.status for reply in load.send(200)} == {200}
        fleet.plays["a"] = FAILURES[failure]
        began = time.monotonic()
        early = load.send_while(lambda: time.monotonic() < began + 2.0)
        since = len(fleet.arrivals)
        replies = load.send(1000)
        later = fleet.counts(since)
        assert later["a"] < 10
        assert sum(later.values()) >= 1000
        # Its failures were nobody's: they were tried again elsewhere.
        assert {reply.status for reply in [*early, *replies]} == {200}
        assert max(reply.attempts for reply in replies) <= 2


def test_a_refused_connection_is_no_different(fleet: Fleet, tmp_path: Path) -> None:
    providers = [fleet.provider("a", base_url="http://127.0.0.1:1/v1"), fleet.provider("b")]
    with Gateway(config(providers, WORKERS, routing={"strategy": "round_robin"}), tmp_path) as gateway:
        wake(gateway)
        load = Load(gateway)
        assert {reply.status for reply in load.send(200)} == {200}
        replies = load.send(300)
        assert Counter((reply.status, reply.attempts) for reply in replies) == {(200, 1): 300}
        assert state_of(gateway, "a") == "open"
        gateway.wait_idle()


# === Whose fault it is not ===

NOT_ITS_FAULT: dict[str, Play] = {
    "400": json_response(400, {"error": {"message": "scripted"}}),
    "404": json_response(404, {"error": {"message": "scripted"}}),
    "422": json_response(422, {"error": {"message": "scripted"}}),
    "429": json_response(429, {"error": {"message": "scripted"}}, [(b"retry-after-ms", b"1")]),
    "content policy": json_response(400, {"error": {"code": "content_filter", "message": "scripted"}}),
}


@pytest.mark.parametrize("case", NOT_ITS_FAULT)
def test_a_refused_request_opens_no_breaker(case: str, fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, "a", breaker=LONG) as gateway:
        fleet.plays["a"] = NOT_ITS_FAULT[case]
        Load(gateway).send(100)
        gateway.wait_idle()
        assert state_of(gateway, "a") == "closed"
        fleet.plays["a"] = GOOD
        time.sleep(0.01)  # what a 429 asked for
        assert {reply.status for reply in Load(gateway).send(20)} == {200}


def test_a_caller_in_a_hurry_opens_no_breaker(fleet: Fleet, tmp_path: Path) -> None:
    """Deadlines of the caller's own making say nothing of the endpoint: before the first byte, and in a stream."""
    with running(fleet, tmp_path, "a", breaker=LONG) as gateway:
        hurry = {"x-fastroute-timeout-ms": "30"}
        fleet.plays["a"] = [Stall()]
        replies = Load(gateway, clients=8, headers=lambda number: hurry).send(40)
        assert {reply.status for reply in replies} == {504}
        events = [{"choices": [{"index": 0, "delta": {"content": "x"}}]}]
        fleet.plays["a"] = [*sse_response(events)[:-1], Stall()]
        body = chat(stream=True)
        Load(gateway, clients=8, body=lambda number: body, headers=lambda number: hurry).send(40)
        gateway.wait_idle()
        assert state_of(gateway, "a") == "closed"


# === Nothing is left behind ===


def storm(seed: int) -> Callable[[Request], Script]:
    """Return a play that answers at random: well, slowly, badly, in pieces, or not at all."""
    rng = random.Random(seed)
    events = [{"choices": [{"index": 0, "delta": {"content": "x" * 100}}]}] * 5
    stream: list[Any] = [step for send in sse_response(events) for step in (send, Pause(0.002))]
    plays: list[Script] = [
        GOOD,
        [Pause(0.01), *GOOD],
        BAD,
        [Cut()],
        stream,
        [*stream[:6], Cut()],
        json_response(429, {"error": {}}, [(b"retry-after-ms", b"20")]),
        [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"), Pause(0.01), Cut()],
    ]
    return lambda request: rng.choice(plays)


def patience(seed: int) -> Callable[[int], float | None]:
    """Return how long the client of each request waits before it leaves; half of them stay."""
    rng = random.Random(seed)
    times = [rng.choice((None, None, None, 0.0, 0.001, 0.005, 0.02)) for _ in range(1000)]
    return lambda number: times[number % len(times)]


def answered(replies: list[Reply]) -> int:
    return sum(1 for reply in replies if reply.status)


@pytest.mark.parametrize("strategy", ["p2c", "round_robin", "least_connections"])
def test_storms_and_departures_leave_no_permit(strategy: str, fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, "abcd", strategy=strategy, breaker=SHORT) as gateway:
        for seed, name in enumerate("abcd"):
            fleet.plays[name] = storm(seed)
        load = Load(
            gateway, clients=24, body=lambda number: chat(stream=number % 2 == 0), leaves=patience(len(strategy))
        )
        replies = load.send(600)
        assert answered(replies) > 200
        gateway.wait_idle()
        # And none of it has worn out a probe: all of them are served again.
        for name in "abcd":
            fleet.plays[name] = GOOD
        calm = Load(gateway)
        calm.send_while(lambda: any(state_of(gateway, name) != "closed" for name in "abcd"))
        gateway.wait_idle()
        since = len(fleet.arrivals)
        assert {reply.status for reply in calm.send(200)} == {200}
        assert set(fleet.counts(since)) == set("abcd")


def test_a_worker_that_is_killed_takes_its_permits_along(fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, "ab") as gateway:
        gate = Gate(fleet)
        fleet.plays.update(a=gate, b=gate)
        askers = [threading.Thread(target=Load(gateway, clients=1).send, args=(1,)) for _ in range(24)]
        for asker in askers:
            asker.start()
        wait_until(lambda: gateway.in_flight() == 24)
        held = held_by_worker(gateway)
        victim = max(range(WORKERS), key=lambda worker: held[worker])
        # The control plane is started first, then the workers in their order.
        os.kill(gateway.children()[1 + victim], signal.SIGKILL)
        wait_until(lambda: gateway.in_flight() == 24 - held[victim])
        gate.open()
        for asker in askers:
            asker.join(30)
        gateway.wait_idle()
        fleet.plays.update(a=GOOD, b=GOOD)
        wait_until(lambda: ask(gateway, KEY, chat()).status == 200)
