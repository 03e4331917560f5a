"""Who gets how much, by each strategy, counted by the providers: four workers behind one port, many clients."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastroute.balance.registry import BUILT_IN
from fastroute.upstream.mock import Pause
from tests.e2e.client import ask, chat
from tests.e2e.fleet import BAD, GOOD, KEY, Fleet, Gate, Load, config, served, wake
from tests.e2e.harness import Gateway, wait_until

WORKERS = 4
NAMES = ("a", "b", "c", "d")
#: Chance alone passes this many standard deviations once in a million runs.
SIGMAS = 5.0


@contextmanager
def running(fleet: Fleet, directory: Path, strategy: str, workers: int = WORKERS, **more: Any) -> Iterator[Gateway]:
    """A gateway over all providers of the fleet, and the check that nothing is left in flight."""
    providers = more.pop("providers", None) or fleet.providers()
    routing = {"strategy": strategy, **more.pop("routing", {})}
    with Gateway(config(providers, workers, routing=routing, **more), directory) as gateway:
        wake(gateway)
        yield gateway
        gateway.wait_idle()
    assert fleet.upstream.protocol_errors == []
    assert "Traceback" not in gateway.log


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet(*NAMES) as made:
        yield made


@pytest.mark.parametrize("strategy", sorted(BUILT_IN))
def test_every_strategy_serves_and_lets_go(strategy: str, fleet: Fleet, tmp_path: Path) -> None:
    """All are behind the same gates: a drained provider gets nothing, a failing one costs nobody an answer."""
    fleet.plays["b"] = BAD
    providers = [fleet.provider("a"), fleet.provider("b"), fleet.provider("c"), fleet.provider("d", weight=0)]
    with running(fleet, tmp_path, strategy, providers=providers) as gateway:
        load = Load(gateway, headers=lambda number: {"x-fastroute-session": f"s-{number % 40}"})
        replies = load.send(400)
        assert Counter(reply.status for reply in replies) == {200: 400}
        seen = fleet.counts()
        assert seen["d"] == 0
        assert seen["a"] + seen["c"] == 400
        assert ask(gateway, KEY, chat()).headers["x-fastroute-strategy"] == strategy
        seen = fleet.counts()
        gateway.wait_idle()
        by_worker = served(gateway)
        assert {name: sum(counts[name] for counts in by_worker) for name in NAMES} == {
            name: seen[name] for name in NAMES
        }


def test_round_robin_is_even(fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, "round_robin") as gateway:
        replies = Load(gateway).send(1200)
        assert {reply.status for reply in replies} == {200}
        gateway.wait_idle()
        for counts in served(gateway):
            mine = [counts[name] for name in NAMES]
            assert max(mine) - min(mine) <= 1
        assert sum(fleet.counts().values()) == 1200


def test_round_robin_ignores_weights(fleet: Fleet, tmp_path: Path) -> None:
    providers = [fleet.provider("a", weight=500), fleet.provider("b", weight=1)]
    with running(fleet, tmp_path, "round_robin", workers=1, providers=providers) as gateway:
        assert {reply.status for reply in Load(gateway, clients=4).send(100)} == {200}
    assert fleet.counts() == {"a": 50, "b": 50}


def weighted(fleet: Fleet, *weights: int) -> list[dict[str, Any]]:
    return [fleet.provider(name, weight=weight) for name, weight in zip(NAMES, weights, strict=False)]


def test_weighted_round_robin_is_exact_within_a_worker(fleet: Fleet, tmp_path: Path) -> None:
    with running(fleet, tmp_path, "weighted_round_robin", workers=1, providers=weighted(fleet, 5, 1, 1)) as gateway:
        order = [ask(gateway, KEY, chat()).headers["x-fastroute-provider"] for _ in range(14)]
        assert "".join(order) == "aabacaa" * 2
        assert {reply.status for reply in Load(gateway).send(686)} == {200}
    assert fleet.counts() == {"a": 500, "b": 100, "c": 100}


def test_weighted_round_robin_over_workers(fleet: Fleet, tmp_path: Path) -> None:
    """Smooth: at no time is a worker a whole pick away from what the weights say."""
    with running(fleet, tmp_path, "weighted_round_robin", providers=weighted(fleet, 5, 1, 1)) as gateway:
        assert {reply.status for reply in Load(gateway).send(1400)} == {200}
        gateway.wait_idle()
        for counts in served(gateway):
            total = sum(counts[name] for name in "abc")
            for name, share in (("a", 5 / 7), ("b", 1 / 7), ("c", 1 / 7)):
                assert abs(counts[name] - total * share) <= 1
    assert sum(fleet.counts().values()) == 1400


def test_random_keeps_to_the_weights(fleet: Fleet, tmp_path: Path) -> None:
    requests = 2000
    with running(fleet, tmp_path, "random", providers=weighted(fleet, 6, 3, 1)) as gateway:
        assert {reply.status for reply in Load(gateway).send(requests)} == {200}
    seen = fleet.counts()
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        sigma = math.sqrt(requests * share * (1 - share))
        assert abs(seen[name] - requests * share) <= SIGMAS * sigma


@pytest.mark.parametrize("strategy", ["p2c", "least_latency"])
def test_a_slow_one_is_avoided(strategy: str, fleet: Fleet, tmp_path: Path) -> None:
    """One of four takes half a second, the others no time: it is tried, and then left alone."""
    with running(fleet, tmp_path, strategy) as gateway:
        # Unmeasured ones are tried first; the slow one is not met while it looks as fast as the others.
        fleet.plays["d"] = [Pause(0.5), *GOOD]
        load = Load(gateway)
        assert {reply.status for reply in load.send(400)} == {200}
        since = len(fleet.arrivals)
        assert {reply.status for reply in load.send(1000)} == {200}
        later = fleet.counts(since)
        assert later["d"] < 50
        # And the rest is shared, not herded.
        assert min(later[name] for name in "abc") > 150


def test_p2c_keeps_to_the_weights_of_equals(fleet: Fleet, tmp_path: Path) -> None:
    """Among endpoints that answer alike, the one of three times the weight gets the most."""
    for name in NAMES:
        fleet.plays[name] = [Pause(0.01), *GOOD]
    with running(fleet, tmp_path, "p2c", providers=weighted(fleet, 300, 100, 100, 100)) as gateway:
        assert {reply.status for reply in Load(gateway).send(1500)} == {200}
    seen = fleet.counts()
    assert seen["a"] > max(seen[name] for name in "bcd")
    assert min(seen.values()) > 100


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((100, 100, 100), {"a": 8, "b": 8, "c": 8}), ((400, 100, 100), {"a": 16, "b": 4, "c": 4})],
)
def test_least_connections_counts_those_of_all_workers(
    weights: tuple[int, ...], expected: dict[str, int], fleet: Fleet, tmp_path: Path
) -> None:
    """Requests that are all held: each goes where the fewest are for the weight, whichever worker took it."""
    gate = Gate(fleet)
    fleet.plays = dict.fromkeys(NAMES, gate)
    with running(fleet, tmp_path, "least_connections", providers=weighted(fleet, *weights)) as gateway:
        askers = []
        for number in range(1, 25):
            asker = threading.Thread(target=ask, args=(gateway, KEY, chat()))
            asker.start()
            askers.append(asker)
            wait_until(lambda number=number: len(fleet.arrivals) == number)
        assert fleet.counts() == expected
        assert gateway.in_flight() == 24
        gate.open()
        for asker in askers:
            asker.join(20)


def test_consistent_hash_keeps_sessions_together(fleet: Fleet, tmp_path: Path) -> None:
    """Whichever worker takes it, a session's requests go to one endpoint; many sessions are spread over all."""
    with running(fleet, tmp_path, "consistent_hash", routing={"options": {"hash_balance": 100}}) as gateway:
        homes: dict[int, set[str]] = {}
        for number in range(240):
            answer = ask(gateway, KEY, chat(), x_fastroute_session=f"session-{number % 60}")
            homes.setdefault(number % 60, set()).add(answer.headers["x-fastroute-provider"])
        assert {len(home) for home in homes.values()} == {1}
        assert Counter(name for home in homes.values() for name in home).keys() == set(NAMES)
        # The body's user stands in for the header.
        users = {ask(gateway, KEY, chat(user="me")).headers["x-fastroute-provider"] for _ in range(12)}
        assert len(users) == 1


def test_consistent_hash_moves_few_sessions_when_one_goes(fleet: Fleet, tmp_path: Path) -> None:
    def homes(gateway: Gateway) -> dict[int, str]:
        return {
            number: ask(gateway, KEY, chat(), x_fastroute_session=f"s{number}").headers["x-fastroute-provider"]
            for number in range(40)
        }

    options = {"options": {"hash_balance": 100}}
    for name in ("all", "less"):
        (tmp_path / name).mkdir()
    with running(fleet, tmp_path / "all", "consistent_hash", routing=options) as gateway:
        before = homes(gateway)
    with running(fleet, tmp_path / "less", "consistent_hash", routing=options, providers=fleet.providers()[:3]) as less:
        after = homes(less)
    assert set(after.values()) == {"a", "b", "c"}
    assert all(after[number] == home for number, home in before.items() if home != "d")


def test_prefix_keeps_prompts_together(fleet: Fleet, tmp_path: Path) -> None:
    """Within a worker: what begins alike goes where the beginning went."""
    with running(fleet, tmp_path, "prefix", workers=1) as gateway:
        homes: dict[int, set[str]] = {}
        for number in range(80):
            told = {"role": "system", "content": f"document {number % 16} " * 40}
            asked = {"role": "user", "content": f"question {number}"}
            answer = ask(gateway, KEY, chat(messages=[told, asked]))
            homes.setdefault(number % 16, set()).add(answer.headers["x-fastroute-provider"])
        assert {len(home) for home in homes.values()} == {1}
        assert len({name for home in homes.values() for name in home}) >= 3


def test_time_window_takes_the_least_recently_used(fleet: Fleet, tmp_path: Path) -> None:
    """The time of the last use is shared: one request at a time goes round, whichever worker takes it."""
    with running(fleet, tmp_path, "time_window") as gateway:
        order = [ask(gateway, KEY, chat()).headers["x-fastroute-provider"] for _ in range(40)]
    for at in range(0, 40, 4):
        assert set(order[at : at + 4]) == set(NAMES), order


def test_cost_optimized_takes_the_cheap_until_it_fails(fleet: Fleet, tmp_path: Path) -> None:
    prices = {"a": 1.0, "b": 10.0, "c": 10.0}
    providers = [
        fleet.provider(name, models=[{"name": "m", "price": {"input_usd_per_mtok": usd, "output_usd_per_mtok": usd}}])
        for name, usd in prices.items()
    ]
    # Nobody knows what this one costs; that is not the same as nothing.
    providers.append(fleet.provider("d"))
    with running(fleet, tmp_path, "cost_optimized", providers=providers) as gateway:
        load = Load(gateway)
        assert {reply.status for reply in load.send(300)} == {200}
        assert fleet.counts() == {"a": 300}
        fleet.plays["a"] = BAD
        since = len(fleet.arrivals)
        assert {reply.status for reply in load.send(300)} == {200}
        later = fleet.counts(since)
        assert later["a"] < 100
        assert later["b"] + later["c"] == 300
        assert later["d"] == 0


def test_adaptive_learns_who_is_slow(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["d"] = [Pause(0.3), *GOOD]
    with running(fleet, tmp_path, "adaptive") as gateway:
        load = Load(gateway)
        assert {reply.status for reply in load.send(1200)} == {200}
        since = len(fleet.arrivals)
        assert {reply.status for reply in load.send(800)} == {200}
        later = fleet.counts(since)
        assert later["d"] < 100
