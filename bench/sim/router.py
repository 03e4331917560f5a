"""One gateway's way from arrival to answer, in the order of `fastroute.gateway`: its rooms, without its I/O."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from bench.sim.clock import Clock
from bench.sim.jobs import Job
from bench.sim.servers import Server
from bench.sim.trace import FAILED_MS, Trace
from fastroute._core.adaptive import Adaptive, Setting
from fastroute._core.attempts import FAILED, OK
from fastroute._core.candidates import Candidates
from fastroute._core.counters import Segment
from fastroute.balance.registry import find_strategy
from fastroute.build import build_attempts
from fastroute.config.schema import Config
from fastroute.dialects import openai
from fastroute.failover.backoff import Backoff
from fastroute.failover.classify import Classifier, Outcome
from fastroute.failover.retry_budget import RetryBudget
from fastroute.health.weighing import weigh
from fastroute.interfaces import PROMPT_TOKENS_PER_UNIT, Asked, Header, PoolInfo, Result
from fastroute.load.inflight import Permit
from fastroute.routing.plan import Plan, Planner
from fastroute.routing.pool import Pool, answer_work, prompt_work
from fastroute.routing.rules import compile_rules
from fastroute.routing.table import Route, RouteTable

_WORKER: Final = 0


class Flight:
    """A request that has not been answered yet."""

    __slots__ = ("attempts", "deadline", "job", "plan")

    def __init__(self, job: Job, plan: Plan, deadline: float) -> None:
        self.job = job
        self.plan = plan
        self.deadline = deadline
        self.attempts = 0


class Router:
    """One gateway: everything that decides is its own. Its requests are streamed."""

    def __init__(
        self,
        config: Config,
        strategy: str,
        servers: Sequence[Server],
        clock: Clock,
        rng: Random,
        trace: Trace,
        path: str,
        setting: Setting | None,
    ) -> None:
        """setting: how limits of servers are learnt, None for not at all."""
        routing = config.routing
        self.segment = Segment.create(path, 1, len(servers))
        self._adaptive = Adaptive(self.segment, dict.fromkeys(range(len(servers)), setting)) if setting else None
        self.attempts = build_attempts(config, self.segment, self._adaptive)
        self._clock = clock
        self._servers = servers
        self._trace = trace
        self._bits: Callable[[], int] = lambda: rng.getrandbits(64)
        self._pool = self._make_pool(config)
        self._route = Route("model", strategy, {"openai": self._pool})
        self._chooser = self._pool.chooser(strategy)
        self._retry = routing.retry
        self._total_ms = routing.timeouts.total_ms
        self._budget = RetryBudget(
            routing.retry.budget.percent, routing.retry.budget.min_per_s, routing.retry.budget.ttl_ms
        )
        self._backoff = Backoff(routing.retry.backoff)
        self._classifier = Classifier(frozenset(routing.retry.on_status), routing.retry.max_retry_after_ms)
        self._planner = Planner(
            RouteTable({}, []),
            compile_rules(config, ()),
            {},
            {},
            {},
            panic_percent=routing.breaker.panic_percent,
            panic_min=routing.breaker.panic_min_endpoints,
            slow_start_ms=routing.breaker.slow_start_ms,
            read_asked=lambda ctx: Asked(0, False, b"", (0, 0)),
        )

    def _make_pool(self, config: Config) -> Pool:
        specs = [server.spec for server in self._servers]
        count = len(specs)
        candidates = Candidates(
            self.segment,
            range(count),
            [spec.weight for spec in specs],
            ranks=[spec.rank for spec in specs],
            providers=list(range(count)),
            regions=[0] * count,
            capabilities=[7] * count,
            context_windows=[0] * count,
            max_outputs=[0] * count,
            input_prices=[spec.prices[0] for spec in specs],
            output_prices=[spec.prices[2] for spec in specs],
            half_open_max_calls=config.routing.breaker.half_open_max_calls,
            adaptive=self._adaptive,
        )
        info = PoolInfo(
            self.segment,
            tuple(range(count)),
            tuple(spec.weight for spec in specs),
            tuple(f"server{i}" for i in range(count)),
            tuple(spec.prices for spec in specs),
            self._bits,
            config.routing.options,
        )
        return Pool(
            "model",
            "openai",
            tuple(self._servers),
            candidates,
            info,
            lambda name, of: find_strategy(name)(of),
            limited=False,
            blind=False,
        )

    def weigh(self) -> None:
        """Do what the gateway does every `weighing.INTERVAL_S`."""
        weigh(self._pool.candidates, self._pool.info.rows, self.attempts, self._clock.now_ms)

    def arrive(self, job: Job) -> None:
        """Take a request in."""
        self._budget.deposit(self._clock.now_ms)
        plan = Plan(route=self._route, asked=self._route, pool=self._pool, chooser=self._chooser)
        plan.prompt_tokens = job.prompt_tokens
        plan.output_tokens = int(self._pool.output_tokens)
        plan.tenant = "default"
        plan.stream = True
        plan.session = job.session
        plan.prompt = job.prompt
        plan.prompt_end = len(job.prompt)
        plan.prefill_work = prompt_work(job.prompt_tokens)
        plan.work = plan.prefill_work + answer_work(plan.output_tokens)
        self._serve(Flight(job, plan, self._clock.now + self._total_ms))

    def _serve(self, flight: Flight, last: Outcome | None = None) -> None:
        """Send the request somewhere, later if it has to be waited for, or give it up."""
        spent = flight.attempts >= self._retry.max_attempts
        if spent or not (self._send(flight) or self._revisit(flight, last)):
            self._fail(flight)

    def _send(self, flight: Flight) -> bool:
        plan = flight.plan
        while True:
            now_ms = self._clock.now_ms
            position = self._planner.choose(plan, now_ms)
            if position < 0:
                return False
            plan.tried.append(position)
            enter = self.attempts.enter_anyway if self._pool.candidates.panicking else self.attempts.enter
            ticket = enter(_WORKER, position, plan.work, now_ms)
            if ticket < 0:
                continue
            flight.attempts += 1
            permit = Permit(self.attempts, _WORKER, position, ticket, plan.work)
            plan.attempt = Attempt(self, flight, position, permit, now_ms)
            self._trace.sent.append((self._clock.elapsed_s, position))
            self._servers[position].ask(plan.attempt)
            return True

    def _revisit(self, flight: Flight, last: Outcome | None) -> bool:
        plan = flight.plan
        if last is None or last.verdict != FAILED or not last.retryable or not last.again:
            return False
        if plan.revisited == flight.attempts:
            return False
        plan.revisited = flight.attempts
        wait_ms = self._backoff.delay_ms(flight.attempts, self._bits())
        if self._clock.now + wait_ms >= flight.deadline:
            return False
        plan.tried.clear()
        self._clock.after(wait_ms, self._serve, flight, last)
        return True

    def _fail(self, flight: Flight) -> None:
        self._trace.ends.append((flight.job.at_s, FAILED_MS, 0))

    # --- what attempts report

    def refused(self, attempt: "Attempt", status: int, headers: list[Header]) -> None:
        """Judge an error answer."""
        self._failed(attempt, self._classifier.answer(status, headers, b"{}", openai, 0))

    def timed_out(self, attempt: "Attempt") -> None:
        """Judge an attempt that nothing came of."""
        self._failed(attempt, self._classifier.transport("timeout", True))

    def _failed(self, attempt: "Attempt", outcome: Outcome) -> None:
        self._record(attempt, outcome.verdict, max(0, outcome.hint_ms), -1.0, -1)
        if self._goes_on(attempt.flight, outcome):
            self._serve(attempt.flight, outcome)
        else:
            self._fail(attempt.flight)

    def _goes_on(self, flight: Flight, outcome: Outcome) -> bool:
        if not outcome.retryable or flight.attempts >= self._retry.max_attempts:
            return False
        if outcome.killer:
            flight.plan.killed += 1
            if flight.plan.killed >= self._retry.max_replicas:
                return False
        return self._clock.now < flight.deadline and self._budget.withdraw(self._clock.now_ms)

    def began(self, attempt: "Attempt") -> None:
        """Note the first token."""
        flight = attempt.flight
        attempt.ttft_ms = self._clock.now - attempt.sent_ms
        cost_ms = attempt.ttft_ms / (1.0 + flight.job.prompt_tokens / PROMPT_TOKENS_PER_UNIT)
        attempt.permit.first_token(flight.plan.prefill_work, cost_ms, self._clock.now_ms)
        attempt.from_arrival_ms = (self._clock.elapsed_s - flight.job.at_s) * 1000.0

    def ended(self, attempt: "Attempt") -> None:
        """Note the last token."""
        job = attempt.flight.job
        inward, _, outward = self._servers[attempt.position].spec.prices
        cost = (job.prompt_tokens * inward + job.output_tokens * outward) // 1000
        self._record(attempt, OK, 0, attempt.ttft_ms, cost)
        self._trace.ends.append((job.at_s, attempt.from_arrival_ms, cost))

    def _record(self, attempt: "Attempt", verdict: int, hint_ms: int, ttft_ms: float, cost: int) -> None:
        now_ms = self._clock.now_ms
        attempt.permit.release(verdict, -1.0, now_ms, self._bits(), hint_ms)
        job = attempt.flight.job
        tokens = 0
        if verdict == OK:
            tokens = job.output_tokens
            self._pool.learn(len(job.prompt), job.prompt_tokens, tokens)
        result = Result(verdict, ttft_ms, self._clock.now - attempt.sent_ms, cost, tokens)
        self._chooser.strategy.observe(attempt.position, attempt.flight.plan, result)


class Attempt:
    """One request at one server."""

    __slots__ = ("_router", "flight", "from_arrival_ms", "job", "permit", "position", "sent_ms", "ttft_ms")

    def __init__(self, router: Router, flight: Flight, position: int, permit: Permit, sent_ms: int) -> None:
        self._router = router
        self.flight = flight
        self.job = flight.job
        self.position = position
        self.permit = permit
        self.sent_ms = sent_ms
        self.ttft_ms = -1.0
        self.from_arrival_ms = -1.0

    def refused(self, status: int, headers: list[Header]) -> None:
        """Hear of an error answer."""
        self._router.refused(self, status, headers)

    def began(self) -> None:
        """Hear of the first token."""
        self._router.began(self)

    def ended(self) -> None:
        """Hear of the last token."""
        self._router.ended(self)

    def timed_out(self) -> None:
        """Hear that nothing has come in time."""
        self._router.timed_out(self)
