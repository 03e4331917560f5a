"""A snapshot of a small configuration, on a clock that tests turn, and plans of requests that nobody sends."""

import asyncio
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from fastroute._core.attempts import FAILED, OK, RATE_LIMITED
from fastroute._core.counters import IN_FLIGHT, Segment
from fastroute.admin.explain import Described, Question, answer
from fastroute.build import Surroundings, build_snapshot, identities
from fastroute.clock import Clock
from fastroute.config import load_file
from fastroute.context import Context
from fastroute.downstream.operations import find_operation
from fastroute.downstream.request import Limits, RequestReader
from fastroute.downstream.wishes import read_wishes
from fastroute.errors import GatewayError
from fastroute.interfaces import DialectName, Principal
from fastroute.routing.explain import Document
from fastroute.routing.plan import Plan, Planner

#: Stands in every credential of a configuration, and must stand nowhere else.
SECRET = "sk-do-not-show-this"
#: 2027-12-31 23:59:59 UTC
WALL_NS = 1_830_297_599_000_000_000
SEED = 20_260_801

PATHS: dict[DialectName, str] = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}


def provider(name: str, *models: Any, **fields: Any) -> dict[str, Any]:
    """Return a provider that serves `models` (`m` by default) and has a secret."""
    keys = [{"key": f"{SECRET}-{name}"}]
    return {"id": name, "type": "openai", "keys": keys, "models": list(models) or ["m"], **fields}


class Stand:
    """A context manager. `now_ms` is the time; config as in a file."""

    def __init__(self, folder: Path, *providers: dict[str, Any], **config: Any) -> None:
        document = {
            "auth": {"keys": [{"id": "k", "key": f"{SECRET}-of-a-client"}]},
            "routing": {"strategy": "round_robin"},
            **config,
            "providers": list(providers) or [provider("a"), provider("b"), provider("c")],
        }
        file = folder / "fastroute.json"
        file.write_text(json.dumps(document))
        self.config = load_file(str(file), {})
        self.now_ms = 1_000_000
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        rng = random.Random(SEED)
        self._bits = lambda: rng.getrandbits(64)

    def __enter__(self) -> Self:
        count = len(identities(self.config))
        self.segment = Segment.create(str(self._folder / "segment"), 1, count)
        self.clock = Clock(lambda: self.now_ms * 1_000_000, lambda: WALL_NS)
        around = Surroundings(self._loop, self.segment, self.clock, self._bits, {})
        self.snapshot = build_snapshot(self.config, around)
        self.planner: Planner = self.snapshot.planner
        return self

    def __exit__(self, *_: object) -> None:
        for transport in self.snapshot.transports.values():
            self._loop.run_until_complete(transport.close())
        self._loop.close()
        self.segment.close()

    # --- requests

    def context(
        self,
        model: str = "m",
        *,
        dialect: DialectName = "openai",
        tenant: str = "default",
        key: str = "k",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Context:
        """Return a request as it is when its route is about to be looked up. headers: what the client sent."""
        fields = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        ctx = Context(self.snapshot, Described(fields), 1, "r", self.now_ms * 1_000_000, WALL_NS, None)
        ctx.operation = find_operation("POST", PATHS[dialect].encode())[0]
        ctx.dialect = self.snapshot.dialects[dialect]
        ctx.principal = Principal(key, tenant)
        ctx.wishes = read_wishes(dict(fields))
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **body}
        RequestReader(Limits(1 << 20, 64, 8192, 0)).take_body(ctx, json.dumps(body).encode())
        ctx.called = model
        return ctx

    def plan(self, model: str = "m", **request: Any) -> Plan:
        """Return the plan of a request. Raises GatewayError."""
        return self.planned(self.context(model, **request))

    def planned(self, ctx: Context) -> Plan:
        name = ctx.called.encode()
        ctx.called, route = self.snapshot.routes.resolve(name, 0, len(name), ctx.operation.dialect)
        ctx.model = route.name or ctx.called
        return self.planner.plan(ctx, route)

    def providers(self, plan: Plan) -> list[str]:
        """Return the providers in the order in which the plan's pool would try them if each one failed."""
        return [provider for provider, _ in self.walk(plan)]

    def walk(self, plan: Plan, ctx: Context | None = None) -> Iterator[tuple[str, str]]:
        """Yield (provider, model sent) as the plan and, given the request, its chain would try them."""
        while True:
            position = self.planner.choose(plan, self.now_ms)
            if position >= 0:
                plan.tried.append(position)
                endpoint = plan.pool.endpoints[position]
                yield endpoint.provider, endpoint.upstream_model or plan.model
            elif ctx is None or not self.planner.advance(plan, ctx):
                return

    def refused(self, model: str = "m", **request: Any) -> GatewayError:
        """Return the refusal of a request, at whatever stage."""
        try:
            plan = self.plan(model, **request)
        except GatewayError as error:
            return error
        position = self.planner.choose(plan, self.now_ms)
        assert position < 0, plan.pool.endpoints[position].id
        return self.planner.refuse(plan, self.now_ms)

    def explain(self, model: str = "m", **question: Any) -> Document:
        return answer(Question(model=model, **question), self.config, self.snapshot, self.clock)

    # --- what happens to endpoints

    def row(self, name: str) -> int:
        """Return the row of a provider's only endpoint."""
        [index] = [endpoint.index for endpoint in self.snapshot.endpoints if endpoint.provider == name]
        return index

    def attempt(self, name: str, verdict: int, hint_ms: int = 0, cost_ms: float = -1.0) -> None:
        attempts = self.snapshot.attempts
        ticket = attempts.enter(0, self.row(name), 1000, self.now_ms)
        assert ticket >= 0
        attempts.leave(0, self.row(name), ticket, verdict, cost_ms, self.now_ms, 0, hint_ms, 1000)

    def trip(self, *names: str) -> None:
        """Open the breakers of providers."""
        for name in names:
            for _ in range(self.config.routing.breaker.failure_threshold):
                self.attempt(name, FAILED)

    def cool(self, name: str, for_ms: int) -> None:
        """Let a provider say that it wants to be left alone."""
        self.attempt(name, RATE_LIMITED, for_ms)

    def succeed(self, name: str, cost_ms: float = 100.0) -> None:
        self.attempt(name, OK, cost_ms=cost_ms)

    def in_flight(self) -> list[int]:
        return list(self.segment.totals(IN_FLIGHT))
