"""A request's plan: which pool, which gates, which strategy, and where to go when that is exhausted.

The order is that of the pipeline: candidates by model, tenant, rules, then - at each attempt, because they change -
breaker, cooldown, capability, region and budget, then the strategy.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from fastroute._core._candidates_gates import CONTEXT, FULL, REQUEST, RULE, TENANT
from fastroute._core.candidates import Need
from fastroute.context import Context
from fastroute.errors import GatewayError
from fastroute.interfaces import NO_WISHES, Ask, Asked, Step
from fastroute.routing.pool import Chooser, Pool, answer_work, prompt_work
from fastroute.routing.refusals import refusal, whole_seconds
from fastroute.routing.rules import NO_DECISION, Decision, Facts, RuleTable
from fastroute.routing.table import Route, RouteTable, unknown_model
from fastroute.routing.tenants import TenantPolicy

CAPABILITY_STREAM: Final = 1
CAPABILITY_TOOLS: Final = 2
CAPABILITY_VISION: Final = 4

# How the dialects carry an image in a conversation.
_IMAGE: Final = re.compile(
    rb'"(?:image_url|input_image|inlineData|inline_data|fileData|file_data)"|"type"\s*:\s*"(?:image|input_image)"'
)
_GEMINI_MAX_TOKENS: Final = re.compile(rb'"max_?[oO]utput_?[tT]okens"\s*:\s*([0-9]{1,9})')
_ORDER_LIMIT: Final = 255
#: Combined orders that are kept, because few differ from request to request.
_MAX_ORDERS: Final = 4096
#: The bit of a region that no provider is in.
NOWHERE: Final = 63


class Terms:
    """What narrows down where a request may go, and what it asks of an endpoint. Most requests have the same: none.

    order, stages, regions, capabilities, max_cost_pico: see `_core.candidates.Need`. asked_tokens: the ceiling it sets
    for its answer, or with a ceiling for its price what answers come to; 0 for unknown.
    """

    __slots__ = ("asked_tokens", "capabilities", "decision", "max_cost_pico", "order", "policy", "regions", "stages")

    def __init__(self, decision: Decision, policy: TenantPolicy | None) -> None:
        self.decision = decision
        self.policy = policy
        self.order: bytes | None = None
        self.stages: bytes | None = None
        self.regions = 0
        self.capabilities = 0
        self.max_cost_pico = -1
        self.asked_tokens = 0


#: Of a request that nobody narrows down. Not to be changed.
NO_TERMS: Final = Terms(NO_DECISION, None)


class Plan(Ask, eq=False):
    """Where one request may go, and has been; also what strategies may know of it.

    `tried` are positions of `pool`; `route`, `pool`, `chooser` and `model` change along a failover chain. `asked`: the
    route it began with; `past`: rows that were tried in pools that the chain has left, by model. `attempt`: the one
    under way, the corridor's. `refusal`: why the first pool had nobody. `wait_ms`: until the first of those who
    rest may be back, -1 for none. `diverted`: to a chain for length or content. `killed`: endpoints that this request
    broke the connection to. `revisited`: the number of attempts at which failed endpoints were last tried again.
    `estimate`: the tokens that the request is let in with, once they have been worked out. `unsure`: somebody without
    room may have some before `wait_ms` is over.
    """

    # Never None: every plan is made with these, but what follows fields with defaults must have one too.
    route: Route = None  # type: ignore[assignment]
    asked: Route = None  # type: ignore[assignment]
    pool: Pool = None  # type: ignore[assignment]
    chooser: Chooser = None  # type: ignore[assignment]
    model: str = ""
    chain: Sequence[Step] = ()
    terms: Terms = NO_TERMS
    past: dict[str, set[int]] | None = None
    prefill_work: int = 0
    work: int = 0
    tried: list[int] = msgspec.field(default_factory=list)
    step: int = 0
    attempt: Any = None
    refusal: GatewayError | None = None
    wait_ms: int = -1
    diverted: bool = False
    killed: int = 0
    revisited: int = -1
    estimate: tuple[int, int] | None = None
    unsure: bool = False


class Planner:
    """Makes the plans of one snapshot. One request at a time: `need` is used again by the next."""

    def __init__(
        self,
        routes: RouteTable,
        rules: RuleTable,
        tenants: Mapping[str, TenantPolicy],
        providers: Mapping[str, int],
        regions: Mapping[str, int],
        *,
        panic_percent: int,
        panic_min: int,
        slow_start_ms: int,
        read_asked: Callable[[Context], Asked],
    ) -> None:
        """read_asked: reads out of a body what only some pools and strategies want to know."""
        self.routes = routes
        self.rules = rules
        self.tenants = tenants
        self.providers = providers
        self.regions = regions
        self._panic_percent = panic_percent
        self._read_asked = read_asked
        self._filled = NO_TERMS
        self._has_tenants = bool(tenants)
        self._orders: dict[tuple[bytes | None, ...], tuple[bytes | None, bytes | None]] = {}
        self._need = Need()
        self._need.panic_min = panic_min
        self._need.slow_start_ms = slow_start_ms

    def plan(self, ctx: Context, route: Route) -> Plan:
        """Return the plan of a request. Raises GatewayError for what tenant, rules or the caller's wishes forbid."""
        pool: Pool = route.pools[ctx.operation.dialect]
        policy = self.tenants.get(ctx.principal.tenant) if self._has_tenants else None
        if policy is not None and not policy.may_use(ctx.called):
            raise unknown_model(ctx.called.encode())
        ctx.prompt_tokens = int(ctx.request_bytes * pool.tokens_per_byte) + 1
        decision = self.rules.decide(self._facts(ctx)) if self.rules.active else NO_DECISION
        if decision.reject is not None:
            raise _rejected(decision)
        name = decision.strategy or (policy.strategy if policy is not None else None) or route.strategy
        plan = Plan(
            0,
            ctx.prompt_tokens,
            0,
            b"",
            ctx.principal.tenant,
            b"",
            0,
            0,
            0,
            ctx.stream,
            (),
            route,
            route,
            pool,
            pool.chooser(name),
            ctx.model,
            route.fallbacks,
        )
        if policy is not None or decision is not NO_DECISION or ctx.wishes is not NO_WISHES:
            plan.terms = self._terms(plan, ctx, decision, policy)
        self._measure(plan, ctx)
        return plan

    def choose(self, plan: Plan, now_ms: int) -> int:
        """Return the position to try next, -1 when nobody is left in the plan's pool."""
        candidates = plan.pool.candidates
        if candidates.gate(self.need(plan, now_ms)) == 0:
            return -1
        plan.now_ms = now_ms
        return plan.chooser.strategy.pick(candidates, plan)

    def peek(self, plan: Plan, now_ms: int) -> int:
        """Return what `choose` would, without the claims that a strategy makes with a choice."""
        if self.gate(plan, now_ms) == 0:
            return -1
        plan.now_ms = now_ms
        strategy: Any = plan.chooser.strategy
        position: int = getattr(strategy, "peek", strategy.pick)(plan.pool.candidates, plan)
        return position

    def gate(self, plan: Plan, now_ms: int) -> int:
        """Let the plan's pool through the gates; return how many candidates are left."""
        return plan.pool.candidates.gate(self.need(plan, now_ms))

    def need(self, plan: Plan, now_ms: int) -> Need:
        """Return what the gates look at for this plan. Valid until the next call."""
        need = self._need
        if plan.terms is not self._filled:
            self._fill(need, plan)
        need.now_ms = now_ms
        need.tried = plan.tried
        # Only a first attempt may ignore breakers. What has failed once goes to those that are let through, or nowhere:
        # when everything is down, each retry would be one more failure.
        need.panic_percent = self._panic_percent if plan.attempt is None else 0
        return need

    def _fill(self, need: Need, plan: Plan) -> None:
        """Set what requests without terms have in common."""
        terms = self._filled = plan.terms
        need.capabilities = terms.capabilities
        need.prompt_tokens = plan.prompt_tokens if terms is not NO_TERMS else 0
        need.output_tokens = terms.asked_tokens
        need.regions = terms.regions
        need.order = terms.order
        need.stages = terms.stages
        need.max_cost_pico = terms.max_cost_pico

    def advance(self, plan: Plan, ctx: Context) -> bool:
        """Take the next step of the plan's failover chain; False at its end."""
        while plan.step < len(plan.chain):
            step = plan.chain[plan.step]
            plan.step += 1
            if self._enter(plan, step, ctx):
                return True
        return False

    def divert(self, plan: Plan, chain: Sequence[Step]) -> None:
        """Go on along another chain than the one for ordinary failures."""
        plan.chain = chain
        plan.step = 0

    def rewind(self, plan: Plan, ctx: Context) -> None:
        """Point the plan of a request that has not been sent at where it began, as if nobody had been looked at."""
        plan.tried.clear()
        plan.past = None
        if plan.step or plan.diverted:
            policy, decision = plan.terms.policy, plan.terms.decision
            strategy = decision.strategy or (policy.strategy if policy is not None else None) or plan.asked.strategy
            self._enter(plan, Step((), strategy, None), ctx)
            plan.chain = plan.asked.fallbacks
            plan.step = 0
            plan.diverted = False
        plan.refusal = None
        plan.wait_ms = -1
        plan.unsure = False

    def too_long(self, plan: Plan) -> bool:
        """Whether it is the request's length that leaves nobody. To be called when `gate` has just returned 0."""
        return plan.pool.candidates.emptied_by == CONTEXT

    def _enter(self, plan: Plan, step: Step, ctx: Context) -> bool:
        """Point the plan at one step; False if there is nothing to be found there."""
        route = plan.asked
        if step.model is not None:
            found = self.routes.find(step.model, ctx.operation.dialect)
            if found is None or not ctx.principal.may_use(step.model):
                return False
            if plan.terms.policy is not None and not plan.terms.policy.may_use(step.model):
                return False
            route = found
        pools = route.reserves if step.providers else route.pools
        pool = pools[ctx.operation.dialect]
        # A pool of a glob serves many models: the same endpoints, but another request.
        model = route.name or step.model or ctx.model
        if pool is not plan.pool or model != plan.model:
            past = plan.past = plan.past or {}
            past.setdefault(plan.model, set()).update(plan.pool.info.rows[at] for at in plan.tried)
            rows = past.get(model, ())
            plan.tried = [at for at, row in enumerate(pool.info.rows) if row in rows] if rows else []
            plan.pool = pool
            plan.model = model
            plan.estimate = None
        plan.route = route
        plan.chooser = pool.chooser(step.strategy or plan.chooser.name)
        before = plan.terms
        terms = plan.terms = self._terms(plan, ctx, before.decision, before.policy)
        if step.providers:
            allowed = _members(step.providers, self.providers)
            terms.order, terms.stages = _combine(((terms.order, terms.stages, 0), (allowed, None, REQUEST)))
        self._measure(plan, ctx)
        return True

    # --- what the request is

    def _facts(self, ctx: Context) -> Facts:
        facts = Facts()
        wishes = ctx.wishes
        facts.model = ctx.model
        facts.called = ctx.called
        facts.tenant = ctx.principal.tenant
        facts.key_id = ctx.principal.key_id
        if wishes is not NO_WISHES:
            facts.region = wishes.regions[0] if wishes.regions else ""
            facts.priority = wishes.priority or "normal"
            facts.tags = wishes.tags | {name for name, on in wishes.features.items() if on}
        facts.stream = ctx.stream
        facts.prompt_tokens = ctx.prompt_tokens
        facts.headers = ctx.downstream.headers
        facts.wall_ns = ctx.arrived_wall_ns
        return facts

    def _terms(self, plan: Plan, ctx: Context, decision: Decision, policy: TenantPolicy | None) -> Terms:
        """Return what caller, tenant and rules have to say about whom to ask."""
        wishes = ctx.wishes
        terms = Terms(decision, policy)
        terms.order, terms.stages = self._base_order(ctx, terms)
        for region in wishes.regions:
            # One that no provider is in is a bit that no endpoint has.
            terms.regions |= 1 << self.regions.get(region, NOWHERE)
        cap = wishes.max_cost_pico
        if policy is not None and policy.max_cost_pico >= 0:
            cap = policy.max_cost_pico if cap < 0 else min(cap, policy.max_cost_pico)
        terms.max_cost_pico = cap
        plan.latency_target_ms = wishes.latency_target_ms
        return terms

    def _base_order(self, ctx: Context, terms: Terms) -> tuple[bytes | None, bytes | None]:
        """Return the order of providers by wish, tenant and rule, and the gate that each denied one fell at."""
        policy = terms.policy
        wished = self._wished(ctx) if ctx.wishes.preferred or ctx.wishes.excluded else None
        tenant = policy.order if policy is not None else None
        ruled = terms.decision.providers
        if wished is None and tenant is None and ruled is None:
            return None, None
        key = (wished, tenant, ruled)
        found = self._orders.get(key)
        if found is None:
            found = _combine(((wished, None, REQUEST), (tenant, None, TENANT), (ruled, None, RULE)))
            if len(self._orders) >= _MAX_ORDERS:
                # Callers can wish for ever more of them.
                self._orders.clear()
            self._orders[key] = found
        return found

    def _wished(self, ctx: Context) -> bytes:
        wishes = ctx.wishes
        for name in (*wishes.preferred, *wishes.excluded):
            if name not in self.providers:
                raise GatewayError(400, "invalid_request_error", f"no provider is called '{name}'", param="provider")
        order = bytearray([min(len(wishes.preferred) + 1, _ORDER_LIMIT)]) * len(self.providers)
        for rank, name in enumerate(wishes.preferred):
            order[self.providers[name]] = rank + 1
        for name in wishes.excluded:
            order[self.providers[name]] = 0
        return bytes(order)

    def _measure(self, plan: Plan, ctx: Context) -> None:
        """Work out how much the request asks of an endpoint; what neither gates nor strategy look at is left out."""
        pool = plan.pool
        prefill = plan.prefill_work = prompt_work(ctx.prompt_tokens)
        expected = int(pool.output_tokens)
        if pool.limited or plan.terms.max_cost_pico >= 0:
            expected = self._ask_of_endpoints(plan, ctx, expected)
            plan.work = prefill + answer_work(expected)
        else:
            plan.work = prefill + pool.answer_work
        plan.output_tokens = expected
        if plan.chooser.reads_prompt:
            asked = self._read_asked(ctx)
            plan.session = ctx.wishes.session or asked.user
            plan.prompt = ctx.body
            plan.prompt_start, plan.prompt_end = asked.span
            plan.preamble = asked.preamble

    def _ask_of_endpoints(self, plan: Plan, ctx: Context, expected: int) -> int:
        """Bring into the plan's terms what gates of its pool look at; return how many tokens of answer to expect."""
        if plan.terms is NO_TERMS:
            plan.terms = Terms(NO_DECISION, None)
        terms = plan.terms
        asked = self._read_asked(ctx)
        ceiling = _max_tokens(ctx, asked)
        terms.asked_tokens = ceiling or (expected if terms.max_cost_pico >= 0 else 0)
        terms.capabilities = _capabilities(ctx, asked, plan.pool)
        return ceiling or expected

    def refuse(self, plan: Plan, now_ms: int) -> GatewayError:
        """Return why nobody is left for the plan, noting what its present pool has to say of it.

        The first pool's reason is told; what is to be waited for is the soonest of all pools. To be called when `gate`
        has just returned 0.
        """
        candidates = plan.pool.candidates
        plan.unsure = plan.unsure or candidates.emptied_by == FULL
        wait_ms = candidates.retry_at_ms - now_ms
        if candidates.retry_at_ms:
            plan.wait_ms = wait_ms if plan.wait_ms < 0 else max(0, min(plan.wait_ms, wait_ms))
        if plan.refusal is None:
            plan.refusal = refusal(candidates.emptied_by, wait_ms)
        elif plan.refusal.retry_after_s is not None and plan.wait_ms >= 0:
            plan.refusal.retry_after_s = min(plan.refusal.retry_after_s, whole_seconds(plan.wait_ms))
        return plan.refusal


def _max_tokens(ctx: Context, asked: Asked) -> int:
    """Return the ceiling that the request sets for its answer, in tokens, 0 for none."""
    if asked.max_tokens == 0 and ctx.operation.dialect == "gemini":
        match = _GEMINI_MAX_TOKENS.search(ctx.body)
        return int(match[1]) if match is not None else 0
    return asked.max_tokens


def _capabilities(ctx: Context, asked: Asked, pool: Pool) -> int:
    wanted = CAPABILITY_STREAM if ctx.stream else 0
    if asked.has_tools:
        wanted |= CAPABILITY_TOOLS
    if pool.blind and _IMAGE.search(ctx.body) is not None:
        wanted |= CAPABILITY_VISION
    return wanted


def _members(names: Sequence[str], providers: Mapping[str, int]) -> bytes:
    order = bytearray(len(providers))
    for name in names:
        if name in providers:
            order[providers[name]] = 1
    return bytes(order)


def _combine(
    parts: Sequence[tuple[bytes | None, bytes | None, int]],
) -> tuple[bytes | None, bytes | None]:
    """Combine orders of providers, the first being decisive: (order, gate at which each denied provider fell).

    Each part is (order, its stages or None, the gate to name where its order is 0).
    """
    present = [part for part in parts if part[0] is not None]
    if not present:
        return None, None
    size = len(present[0][0] or b"")
    stages = bytearray(size)
    keys: list[tuple[int, ...] | None] = []
    for at in range(size):
        ranks = tuple(part[0][at] for part in present if part[0] is not None)
        if 0 in ranks:
            _, inner, stage = present[ranks.index(0)]
            stages[at] = inner[at] if inner is not None else stage
            keys.append(None)
        else:
            keys.append(ranks)
    ordered = sorted({key for key in keys if key is not None})
    ranking = {key: min(rank, _ORDER_LIMIT) for rank, key in enumerate(ordered, 1)}
    return bytes(ranking[key] if key is not None else 0 for key in keys), bytes(stages)


def _rejected(decision: Decision) -> GatewayError:
    assert decision.reject is not None  # by the caller
    status, code, message, retry_after_s = decision.reject
    error = GatewayError(status, code, message, retry_after_s=retry_after_s, retry_safe=status in (429, 503))
    error.rules = decision.rule_ids
    error.headers = ((b"x-fastroute-rule", decision.header_value),)
    return error
