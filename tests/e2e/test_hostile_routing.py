"""Routing under people and providers that mean no good: storms of reloads, strategies that raise, values of garbage."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import ask, chat
from tests.e2e.fleet import BAD, GOOD, KEY, WAKER, Fleet, Load, config, wake
from tests.e2e.harness import Gateway, wait_until

WORKERS = 4


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet("a", "b", "c", "d") as made:
        yield made


def test_a_storm_of_reloads_costs_nobody_an_answer(fleet: Fleet, tmp_path: Path) -> None:
    """Good, different and faulty configurations in turn, while 32 connections ask on."""
    with Gateway(config(fleet.providers(), WORKERS, routing={"strategy": "round_robin"}), tmp_path) as gateway:
        wake(gateway)
        load, going = Load(gateway, clients=32), [True]
        thread = threading.Thread(target=lambda: load.send_while(lambda: going[0]))
        thread.start()
        document = gateway.config
        for number in range(50):
            rules = [{"id": f"r{number}", "then": {"tags": ["t"]}}]
            fewer = [one for one in document["providers"] if one["id"] in ("a", "b", WAKER)]
            variants: list[dict[str, Any]] = [
                {**document, "aliases": {f"x{number}": "m"}, "rules": rules},
                {**document, "providers": fewer},
                {"broken": number},
                document,
            ]
            gateway.write_config(variants[number % 4])
            gateway.reload()
            # So that they are not all taken for one.
            time.sleep(0.02)
        before = len(load.replies)
        wait_until(lambda: len(load.replies) > before + 200, 30)
        going[0] = False
        thread.join(60)
        assert {reply.status for reply in load.replies} == {200}
        gateway.wait_idle()
        # The last word holds, on every worker.
        handed = gateway.log.count("handed out")
        gateway.write_config(document)
        gateway.reload()
        wait_until(lambda: gateway.log.count("handed out") == handed + 1)
        wait_until(lambda: gateway.log.count("is in force") == WORKERS * (handed + 1))
        since = len(fleet.arrivals)
        assert {reply.status for reply in load.send(200)} == {200}
        assert set(fleet.counts(since)) == set("abcd")
        assert "Traceback" not in gateway.log


def test_providers_that_flap_leave_nothing_behind(fleet: Fleet, tmp_path: Path) -> None:
    breaker = {"timeout_ms": 100, "max_timeout_ms": 200, "slow_start_ms": 50}
    with Gateway(config(fleet.providers(), WORKERS, routing={"breaker": breaker}), tmp_path) as gateway:
        wake(gateway)
        load, going = Load(gateway, clients=16), [True]
        thread = threading.Thread(target=lambda: load.send_while(lambda: going[0]))
        thread.start()
        for step in range(40):
            for at, name in enumerate("abcd"):
                fleet.plays[name] = BAD if (step + at) % 4 < 2 else GOOD
            time.sleep(0.03)
        fleet.plays.update(dict.fromkeys("abcd", GOOD))
        states = lambda: {one["breaker"]["state"] for one in gateway.explain({"model": "m"})["candidates"]}  # noqa: E731
        wait_until(lambda: states() == {"closed"}, 30)
        going[0] = False
        thread.join(60)
        # What a provider said, or that nobody is well; nothing of our own making.
        assert {reply.status for reply in load.replies} <= {200, 500, 503}
        assert max(reply.attempts for reply in load.replies) <= 3
        gateway.wait_idle()
        assert Counter(reply.status for reply in load.send(100)) == {200: 100}
        assert "Traceback" not in gateway.log


THEIRS = '''
class Broken:
    """Raises, or names what is no candidate, by turns."""

    name = "broken"

    def __init__(self, info):
        self.turns = 0

    def pick(self, candidates, ask):
        self.turns += 1
        if self.turns % 3 == 0:
            raise RuntimeError("theirs")
        return self.turns % 3 - 2 + 7 * (self.turns % 2)

    def observe(self, position, ask, result):
        raise KeyError("theirs")

    def adopt(self, previous, positions):
        raise ValueError("theirs")


class Same(Broken):
    """Always the same one, tried or not."""

    name = "same"

    def pick(self, candidates, ask):
        return 0


def unmakeable(info):
    raise OSError("theirs")
'''
ENTRY_POINTS = """[fastroute.strategies]
broken = theirs_strategies:Broken
same = theirs_strategies:Same
unmakeable = theirs_strategies:unmakeable
unimportable = theirs_strategies:nothing_of_that_name
"""


@pytest.mark.parametrize("strategy", ["broken", "same", "unmakeable", "unimportable"])
def test_a_strategy_of_somebody_else_that_raises(strategy: str, fleet: Fleet, tmp_path: Path) -> None:
    package = tmp_path / "site"
    (package / "theirs-1.0.dist-info").mkdir(parents=True)
    (package / "theirs_strategies.py").write_text(THEIRS)
    (package / "theirs-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (package / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    document = config(fleet.providers(), 1, routing={"strategy": strategy, "retry": {"max_attempts": 4}})
    with Gateway(document, tmp_path, env={"PYTHONPATH": str(package)}) as gateway:
        assert {reply.status for reply in Load(gateway).send(40)} == {200}
        # Whoever fails is not asked twice, whatever they say.
        fleet.plays.update(a=BAD, b=BAD, c=BAD)
        since = len(fleet.arrivals)
        assert ask(gateway, KEY, chat()).status == 200
        assert max(fleet.counts(since).values()) == 1
        before = gateway.log.count("is in force")
        gateway.reload()
        wait_until(lambda: gateway.log.count("is in force") > before)
        assert ask(gateway, KEY, chat()).status == 200
        assert gateway.explain({"model": "m"})["strategy"] == strategy
        assert f"strategy '{strategy}'" in gateway.log
        gateway.wait_idle()


GARBAGE = (
    "", " ", ",,,", "a" * 9000, "a\tb", "EU;q=1", "0", "-1", "NaN", "inf", "1e400", "{}", "null", "a," * 40,
    "\xff\xfe", "\xb2", "%00", "../..", "'; drop table", "=",
)  # fmt: skip
WISHES = (
    "provider", "exclude", "region", "tags", "features", "priority", "session", "max-cost-usd", "timeout-ms",
    "latency-target-ms", "rule", "unheard-of",
)  # fmt: skip


def test_garbage_in_our_fields_is_refused_or_harmless(fleet: Fleet, tmp_path: Path) -> None:
    with Gateway(config(fleet.providers(region="eu"), 1), tmp_path) as gateway:
        link = HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        seen = Counter[int]()
        for name in WISHES:
            for value in GARBAGE:
                fields = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
                link.request(
                    "POST",
                    "/v1/chat/completions",
                    json.dumps(chat()).encode(),
                    {**fields, f"x-fastroute-{name}": value.encode("latin-1")},
                )
                response = link.getresponse()
                body = response.read()
                seen[response.status] += 1
                if response.status != 200:
                    assert "message" in json.loads(body)["error"]
        link.close()
        assert set(seen) <= {200, 400, 402, 403}
        assert seen[400] > 100
        gateway.wait_idle()
        assert "Traceback" not in gateway.log
