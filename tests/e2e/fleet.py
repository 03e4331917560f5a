"""Several providers in one scripted server, and a load of many clients: for tests that count who got what."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from itertools import count, product, takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from fastroute._core.counters import REQUESTS, Segment
from fastroute.build import endpoint_specs
from fastroute.config import load_file
from fastroute.upstream.mock import Barrier, MockUpstream, Request, Script, json_response
from tests.e2e.client import chat, completion
from tests.e2e.harness import Gateway, ThreadedUpstream, wait_until

KEY = "sk-of-the-fleet"
GOOD = json_response(200, completion())
#: A provider, and its only model, that is there to wake workers up.
WAKER = "waker"
BAD = json_response(500, {"error": {"message": "scripted"}})

Play = Script | Callable[[Request], Script]


class Arrival(NamedTuple):
    """A request as a provider saw it. at_s: monotonic seconds. name: by which it was answered."""

    at_s: float
    name: str
    target: str


class Plays:
    """One scripted server that answers by name; each name's script may be changed at any time. A context manager.

    name_of: tells from a request by which name it is answered.
    """

    def __init__(self, names: Sequence[str], name_of: Callable[[Request], str], default: Play = GOOD) -> None:
        self.plays: dict[str, Play] = dict.fromkeys(names, default)
        self.arrivals: list[Arrival] = []
        self._name_of = name_of
        self._thread = ThreadedUpstream(self._script)
        self.upstream: MockUpstream

    def __enter__(self) -> Self:
        self.upstream = self._thread.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.__exit__(kind, error, trace)

    def _script(self, request: Request) -> Script:
        name = self._name_of(request)
        self.arrivals.append(Arrival(time.monotonic(), name, request.target))
        play = self.plays[name]
        return play(request) if callable(play) else play

    def set(self, event: Any) -> None:
        """Let a `Barrier` pass."""
        self._thread.set(event)

    def counts(self, since: int = 0) -> Counter[str]:
        """Return how many requests came by each name, those before the first `since` arrivals left out."""
        return Counter(arrival.name for arrival in self.arrivals[since:])


class Fleet(Plays):
    """Providers by name: each has a path of its own."""

    def __init__(self, *names: str) -> None:
        super().__init__(names, lambda request: request.target.split("/")[1])
        self.names = names

    def provider(self, name: str, **more: Any) -> dict[str, Any]:
        """Return the provider's entry of a configuration."""
        url = f"{self.upstream.url}/{name}/v1"
        return {"id": name, "type": "openai", "base_url": url, "keys": [f"up-{name}"], "models": ["m"], **more}

    def providers(self, **more: Any) -> list[dict[str, Any]]:
        """Return the entries of all providers, alike but for their names."""
        return [self.provider(name, **more) for name in self.names]

    @property
    def last(self) -> Request:
        """The request that came last."""
        return self.upstream.requests[-1]


def config(providers: Sequence[dict[str, Any]], workers: int = 4, **more: Any) -> dict[str, Any]:
    """Return a configuration with one key, these providers, and one that `wake` asks."""
    return {
        "server": {"workers": workers},
        "auth": {"keys": [{"id": "app", "key": KEY}]},
        "providers": [*providers, {"id": WAKER, "type": "echo", "models": [WAKER]}],
        **more,
    }


def wake(gateway: Gateway) -> None:
    """Return once every worker has served a request: the first one is ready before the last."""
    load = Load(gateway, body=lambda number: chat(WAKER))

    def all_awake() -> bool:
        assert {reply.status for reply in load.send(32)} == {200}
        gateway.wait_idle()
        return all(sum(counts.values()) for counts in served(gateway))

    wait_until(all_awake, 30)


def served(gateway: Gateway) -> list[dict[str, int]]:
    """Return, for each worker, how many requests it has sent to each provider, by the counters they share."""
    segment = Segment.open(str(Path(gateway.state_dir) / "segment"))
    names = [spec.provider.id for spec in endpoint_specs(load_file(str(gateway.config_file), {}))]
    try:
        counts: list[dict[str, int]] = [dict.fromkeys(names, 0) for _ in range(segment.workers)]
        for worker, row in product(range(segment.workers), range(len(names))):
            counts[worker][names[row]] += segment.get(worker, row, REQUESTS)
        return counts
    finally:
        segment.close()


class Setter(Protocol):
    """Whose scripts may wait for an event."""

    def set(self, event: Any) -> None:
        """Let a `Barrier` pass."""


class Gate:
    """A play that lets nobody's answer through until it is opened. then: what is answered."""

    def __init__(self, fleet: "Setter", then: Script = GOOD) -> None:
        self.held = 0
        self._fleet = fleet
        self._then = then
        self._event = asyncio.Event()

    def __call__(self, request: Request) -> Script:
        self.held += 1
        return [Barrier(self._event), *self._then]

    def open(self) -> None:
        """Let them all through, now and from now on."""
        self._fleet.set(self._event)


class Reply(NamedTuple):
    """What a client got. status 0: it left, or the connection broke."""

    status: int
    provider: str
    attempts: int


Body = Callable[[int], dict[str, object]]


class Load:
    """Clients that ask one request after the other, each on a connection of its own that is renewed now and then.

    leaves: after how many seconds the client of a request hangs up, None if it waits for its answer.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        clients: int = 16,
        body: Body = lambda number: chat(),
        headers: Callable[[int], dict[str, str]] = lambda number: {},
        leaves: Callable[[int], float | None] = lambda number: None,
    ) -> None:
        self.replies: list[Reply] = []
        self._gateway = gateway
        self._clients = clients
        self._body = body
        self._headers = headers
        self._leaves = leaves
        self._numbers: Iterator[int] = iter(())
        self._lock = threading.Lock()

    def send(self, requests: int) -> list[Reply]:
        """Send so many requests and return what came of them."""
        return self._run(range(requests))

    def send_while(self, condition: Callable[[], bool]) -> list[Reply]:
        """Send requests as long as `condition()` holds, and return what came of them."""
        return self._run(takewhile(lambda number: condition(), count()))

    def _run(self, numbers: Iterable[int]) -> list[Reply]:
        before = len(self.replies)
        self._numbers = iter(numbers)
        threads = [threading.Thread(target=self._ask_on) for _ in range(self._clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "a client waits for an answer that does not come"
        return self.replies[before:]

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _ask_on(self) -> None:
        link = HTTPConnection("127.0.0.1", self._gateway.port, timeout=30)
        asked = 0
        while (number := self._next()) is not None:
            asked += 1
            if asked % 10 == 0:  # another worker may accept the next one
                link.close()
            self.replies.append(self._ask(link, number))
        link.close()

    def _ask(self, link: HTTPConnection, number: int) -> Reply:
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **self._headers(number)}
        leave_s = self._leaves(number)
        try:
            link.request("POST", "/v1/chat/completions", json.dumps(self._body(number)).encode(), headers)
            if leave_s is not None:
                time.sleep(leave_s)
                link.close()
                return Reply(0, "", 0)
            response = link.getresponse()
            response.read()
        except (OSError, HTTPException):
            link.close()
            return Reply(0, "", 0)
        attempts = int(response.headers.get("x-fastroute-attempts", "0"))
        return Reply(response.status, response.headers.get("x-fastroute-provider", ""), attempts)
