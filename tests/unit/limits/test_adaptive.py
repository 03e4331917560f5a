"""How a provider's configuration becomes limits of its endpoints, and what is told of them."""

from pathlib import Path
from typing import Any

import pytest

from fastroute._core.adaptive import AIMD, GRADIENT2, Setting
from fastroute._core.attempts import OK, RATE_LIMITED
from fastroute.admin.limits import limits_document
from fastroute.config.fields import STRATEGIES
from fastroute.config.schema import Provider
from fastroute.config.watching import AdaptiveLimit
from fastroute.interfaces import Allowance
from fastroute.limits.adaptive import numbers, setting
from tests.unit.routing.stand import Stand
from tests.unit.routing.stand import provider as endpoint


def provider(kind: str = "openai", **adaptive: Any) -> Provider:
    return Provider(id="p", type=kind, adaptive=AdaptiveLimit(**adaptive) if adaptive else None)


def test_every_provider_but_echo_has_aimd_without_a_limit() -> None:
    assert setting(provider()) == setting(provider("vllm")) == Setting(AIMD, 1, 0, 0, 10, 600_000)
    assert setting(provider("echo")) is None
    assert setting(provider("echo", max=3)) == Setting(AIMD, 1, 3, 0, 10, 600_000)
    assert setting(Provider(id="p", type="openai", adaptive=AdaptiveLimit(kind="off"))) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Setting(GRADIENT2, 1, 0, 20)),
        ({"max": 8}, Setting(GRADIENT2, 1, 8, 8)),
        ({"min": 30}, Setting(GRADIENT2, 30, 0, 30)),
        ({"initial": 64}, Setting(GRADIENT2, 1, 0, 64)),
    ],
)
def test_gradient2_begins_with_a_limit(given: dict[str, int], expected: Setting) -> None:
    assert setting(Provider(id="p", type="vllm", adaptive=AdaptiveLimit(kind="gradient2", **given))) == expected


def test_what_is_told(tmp_path: Path) -> None:
    with Stand(tmp_path, endpoint("a"), endpoint("b", adaptive={"kind": "off"})) as stand:
        attempts = stand.snapshot.attempts
        row = stand.row("a")
        stand.succeed("a")
        tickets = [attempts.enter(0, row, 1000, stand.now_ms) for _ in range(6)]
        attempts.leave(0, row, tickets.pop(), RATE_LIMITED, -1.0, stand.now_ms, 0, 2_000, 1000)
        stand.now_ms += 500
        [told] = limits_document(stand.snapshot, stand.now_ms)["endpoints"]
        assert told == {
            "endpoint": "a/k1/m",
            "provider": "a",
            "key": "k1",
            "kind": "aimd",
            "state": "cooldown",
            "concurrency": {"limit": 3, "in_flight": 5, "too_much": 6},
            "cooldown_ms": 1_500,
            "headroom": "roomy",
            "requests": None,
            "tokens": None,
        }
        shown = {one["provider"]: one["adaptive"] for one in stand.explain()["candidates"]}
        assert shown == {"a": {name: told[name] for name in list(told)[3:]}, "b": None}
        stand.now_ms += 1_500
        assert stand.providers(stand.plan()) == ["b"]  # five are under way, and it takes three
        for ticket in tickets:
            attempts.leave(0, row, ticket, OK, -1.0, stand.now_ms, 0, 0, 1000)
        assert sorted(stand.providers(stand.plan())) == ["a", "b"]


def test_nobody_has_any(tmp_path: Path) -> None:
    with Stand(tmp_path, {"id": "e", "type": "echo", "models": ["m"]}) as stand:
        assert stand.snapshot.attempts.adaptive is None
        assert numbers(None, [0], 0) == {}
        assert limits_document(stand.snapshot, 0) == {"endpoints": []}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_headroom_comes_first_with_every_strategy(tmp_path: Path, strategy: str) -> None:
    with Stand(tmp_path, endpoint("a"), endpoint("b"), endpoint("c"), routing={"strategy": strategy}) as stand:
        adaptive = stand.snapshot.attempts.adaptive
        assert adaptive is not None

        def leave(name: str, remaining: int) -> None:
            left = Allowance(requests_limit=100, requests_remaining=remaining, requests_reset_ms=60_000)
            adaptive.learn(stand.row(name), 0, left, stand.now_ms)

        def firsts() -> set[str]:
            return {stand.providers(stand.plan(user=f"user {number}"))[0] for number in range(60)}

        for name, remaining in (("a", 5), ("b", 50), ("c", 0)):
            leave(name, remaining)
        assert firsts() == {"b"}
        # The others follow in the order of what they have left, as this one fails.
        assert stand.providers(stand.plan()) == ["b", "a", "c"]
        leave("b", 1)
        assert firsts() <= {"a", "b"}
        for name in "abc":
            leave(name, 0)
        assert firsts() <= {"a", "b", "c"}
        stand.now_ms += 60_000
        assert len(stand.providers(stand.plan())) == 3
