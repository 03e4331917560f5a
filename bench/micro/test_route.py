"""The whole routing decision: plan, gates, strategy, admission, and the record of the end.

A round is 100 requests; divide by 100. Targets: 10 endpoints with a tenant and 50 rules <= 5 us (pure half <= 60 us);
1,000 endpoints in one pool, p2c <= 15 us, strategies that look at all of them <= 40 us. `litellm_router.py` measures
LiteLLM's router beside it.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastroute._core.attempts import OK
from fastroute._core.counters import Segment
from fastroute.admin.explain import Described
from fastroute.build import Surroundings, build_snapshot, endpoint_specs
from fastroute.clock import SYSTEM_CLOCK
from fastroute.config.fields import STRATEGIES
from fastroute.config.schema import Action, Config, Model, Provider, Route, Routing, Rule, Tenant, Then, When
from fastroute.context import Context
from fastroute.downstream.operations import find_operation
from fastroute.downstream.request import Limits, RequestReader
from fastroute.interfaces import NO_WISHES, Principal

REQUESTS = 100
BODY = (
    b'{"model":"m","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"'
    + b"The quick brown fox jumps over the lazy dog. " * 20
    + b'"}],"temperature":0.7,"user":"somebody"}'
)


def config(endpoints: int, strategy: str, rules: int) -> Config:
    """One model at that many providers, a tenant that prefers one, rules that are about others."""
    rng = random.Random(3)
    whens = [
        When(tenant=(f"tenant-{rng.randrange(20)}",), model=(f"model-{rng.randrange(40)}",), min_priority="high")
        for _ in range(rules)
    ]
    return Config(
        providers=tuple(
            Provider(
                id=f"p{i}", type="openai", base_url="http://127.0.0.1:9/v1", dialect="openai", models=(Model(name="m"),)
            )
            for i in range(endpoints)
        ),
        routes=(Route(model="m", strategy=strategy),),
        routing=Routing(),
        rules=tuple(
            Rule(id=f"r{i}", when=when, then=Then(chain=(Action(strategy="random"),))) for i, when in enumerate(whens)
        ),
        tenants=(Tenant(id="acme", preferred_providers=("p1",)),) if rules else (),
    )


class Desk:
    """Routes the same request again and again."""

    def __init__(self, folder: Path, endpoints: int, strategy: str, rules: int) -> None:
        document = config(endpoints, strategy, rules)
        rng = random.Random(4)
        loop = asyncio.new_event_loop()
        segment = Segment.create(str(folder / "segment"), 1, len(endpoint_specs(document)))
        around = Surroundings(loop, segment, SYSTEM_CLOCK, lambda: rng.getrandbits(64), os.environ)
        self._snapshot = build_snapshot(document, around)
        self._bits = around.random_bits
        loop.close()
        self._ctx = self._context(document)

    def _context(self, document: Config) -> Context:
        asker = Described([])
        ctx = Context(self._snapshot, asker, 1, "r", SYSTEM_CLOCK.monotonic_ns(), SYSTEM_CLOCK.wall_ns(), None)
        ctx.operation, _ = find_operation("POST", b"/v1/chat/completions")
        ctx.principal = Principal("k", "acme" if document.tenants else "default")
        ctx.wishes = NO_WISHES
        RequestReader(Limits(1 << 20, 64, 8192, 0)).take_body(ctx, BODY)
        ctx.model = ctx.called = "m"
        return ctx

    def route(self) -> None:
        """Decide, admit and end `REQUESTS` requests."""
        snapshot, ctx = self._snapshot, self._ctx
        planner, attempts = snapshot.planner, snapshot.attempts
        for _ in range(REQUESTS):
            now_ms = SYSTEM_CLOCK.monotonic_ns() // 1_000_000
            _, route = snapshot.routes.resolve(BODY, 10, 11, "openai")
            plan = planner.plan(ctx, route)
            position = planner.choose(plan, now_ms)
            row = plan.pool.endpoints[position].index
            ticket = attempts.enter(0, row, plan.work, now_ms)
            attempts.leave(0, row, ticket, OK, 12.5, now_ms, self._bits(), 0, plan.work)


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Desk]:
    return lambda *what: Desk(tmp_path, *what)


@pytest.mark.parametrize("rules", [0, 50])
def test_ten_endpoints(benchmark: Any, desk: Callable[..., Desk], rules: int) -> None:
    benchmark(desk(10, "p2c", rules).route)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_thousand_endpoints(benchmark: Any, desk: Callable[..., Desk], strategy: str) -> None:
    benchmark(desk(1000, strategy, 0).route)
