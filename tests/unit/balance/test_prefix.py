"""The strategy `prefix`."""

import random
from collections import OrderedDict
from pathlib import Path

import pytest

from fastroute._core.attempts import FAILED, NEUTRAL, OK
from fastroute.balance.prefix import Prefix, salt
from fastroute.balance.registry import find_strategy
from fastroute.config.schema import StrategyOptions
from fastroute.interfaces import Ask, Result
from tests.unit.fleet import Fleet, ask_for

BLOCK = StrategyOptions().prefix_block_bytes


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, 6)


def depth(strategy: Prefix, position: int, ask: Ask) -> int:
    return strategy.table.depth(position, ask.prompt, ask.prompt_start, ask.prompt_end, salt(ask))


def test_it_is_registered() -> None:
    assert find_strategy("prefix") is Prefix
    assert Prefix.name == "prefix"


def test_a_conversation_stays(fleet: Fleet) -> None:
    rng = random.Random(1)
    strategy = Prefix(fleet.info)
    homes = set()
    for _ in range(30):
        prompt = b'[{"role":"user","content":"' + rng.randbytes(500)
        home = strategy.pick(fleet.candidates, ask_for(prompt))
        homes.add(home)
        for _ in range(4):
            prompt += b'"},{"role":"assistant","content":"' + rng.randbytes(200)
            assert strategy.pick(fleet.candidates, ask_for(prompt)) == home
    assert homes == set(range(6))


def test_requests_that_arrive_together_stay_together(fleet: Fleet) -> None:
    """The second is chosen before anything is known of the first, and while that one is a load."""
    strategy = Prefix(fleet.info)
    prompt = random.Random(2).randbytes(2000)
    home = strategy.pick(fleet.candidates, ask_for(prompt))
    for load in range(1, 30):
        fleet.set_loads([load if i == home else 0 for i in range(6)])
        assert strategy.pick(fleet.candidates, ask_for(prompt)) == home


def test_the_whole_body_is_not_the_prompt(fleet: Fleet) -> None:
    strategy = Prefix(fleet.info)
    rng = random.Random(3)
    for _ in range(20):
        inner = rng.randbytes(640)
        ask = ask_for(b'{"temperature":0.3,"messages":' + inner + b"}")
        ask.prompt_start = ask.prompt.index(b"messages") + 10
        ask.prompt_end = len(ask.prompt) - 1
        home = strategy.pick(fleet.candidates, ask)
        assert depth(strategy, home, ask_for(inner)) == 10


def test_tenants_are_apart(fleet: Fleet) -> None:
    strategy = Prefix(fleet.info)
    prompt = random.Random(4).randbytes(1000)
    home = strategy.pick(fleet.candidates, ask_for(prompt, tenant="acme"))
    assert depth(strategy, home, ask_for(prompt, tenant="acme")) == 15
    assert depth(strategy, home, ask_for(prompt, tenant="umbrella")) == 0
    assert depth(strategy, home, ask_for(prompt, tenant="größe")) == 0


def test_a_failure_is_forgotten(fleet: Fleet) -> None:
    strategy = Prefix(fleet.info)
    ask = ask_for(random.Random(5).randbytes(1000), tenant="acme")
    home = strategy.pick(fleet.candidates, ask)
    strategy.observe(home, ask, Result(OK))
    strategy.observe(home, ask, Result(NEUTRAL))
    assert depth(strategy, home, ask) == 15
    strategy.observe(home, ask, Result(FAILED))
    assert depth(strategy, home, ask) == 0
    # A sibling that holds it keeps it.
    strategy.pick(fleet.only([home]), ask)
    sibling = strategy.pick(fleet.only([i for i in range(6) if i != home]), ask)
    strategy.observe(home, ask, Result(FAILED))
    assert depth(strategy, sibling, ask) == 15


def test_a_conversation_that_failed_over_stays_where_it_was_answered(fleet: Fleet) -> None:
    strategy = Prefix(fleet.info)
    rng = random.Random(6)
    for _ in range(10):
        ask = ask_for(rng.randbytes(1000))
        first = strategy.pick(fleet.only(range(6)), ask)
        strategy.observe(first, ask, Result(FAILED))
        second = strategy.pick(fleet.only([i for i in range(6) if i != first]), ask)
        strategy.observe(second, ask, Result(OK))
        assert strategy.pick(fleet.only(range(6)), ask) == second


def test_without_a_prompt_the_least_loaded(fleet: Fleet) -> None:
    fleet.set_loads([3, 2, 3, 1, 2, 3])
    assert Prefix(fleet.with_bits(9)).pick(fleet.candidates, ask_for()) == 3


def test_no_candidates(fleet: Fleet) -> None:
    strategy = Prefix(fleet.info)
    fleet.only([])
    assert strategy.pick(fleet.candidates, ask_for(bytes(1000))) == -1
    assert strategy.pick(fleet.candidates, ask_for()) == -1
    assert len(strategy.table) == 0


def test_options(fleet: Fleet) -> None:
    strategy = Prefix(fleet.info._replace(options=StrategyOptions(prefix_block_bytes=100, prefix_table=1024)))
    rng = random.Random(7)
    ask = ask_for(rng.randbytes(1099))
    assert depth(strategy, strategy.pick(fleet.candidates, ask), ask) == 10
    for _ in range(40):
        strategy.pick(fleet.candidates, ask_for(rng.randbytes(10_000)))
    assert 1000 < len(strategy.table) <= 1024


def test_what_is_known_survives_a_reload(fleet: Fleet, tmp_path: Path) -> None:
    rng = random.Random(8)
    old = Prefix(fleet.info)
    asks = [ask_for(rng.randbytes(700)) for _ in range(60)]
    homes = [fleet.ids[old.pick(fleet.candidates, ask)] for ask in asks]
    # endpoint-3 is gone, endpoint-9 is new, the others stand elsewhere.
    order = (4, 0, 5, -1, 2, 1)
    after = Fleet(tmp_path, 6, ids=["endpoint-9" if i < 0 else fleet.ids[i] for i in order])
    new = Prefix(after.info)
    new.adopt(old, order)
    for ask, home in zip(asks, homes, strict=True):
        held = [after.ids[i] for i in range(6) if depth(new, i, ask)]
        assert held == ([home] if home != "endpoint-3" else [])
        if held:
            assert after.ids[new.pick(after.candidates, ask)] == home


# --- what it is for


class Replicas:
    """Prompt caches of least recently used blocks, as engines have them, and requests that overlap in time."""

    def __init__(self, folder: Path, routers: int, shared_loads: bool, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fleets = [Fleet(folder, 6) for _ in range(1 if shared_loads else routers)]
        self.routers = [Prefix(self.fleets[i % len(self.fleets)].info) for i in range(routers)]
        self.caches: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(6)]
        self.loads = [[0] * 6 for _ in self.fleets]
        self.under_way: list[tuple[int, int]] = []
        self.hits = self.blocks = 0
        self.served = [0] * 6

    def send(self, prompt: bytes) -> None:
        which = self.rng.randrange(len(self.routers))
        side = which % len(self.fleets)
        fleet = self.fleets[side]
        position = self.routers[which].pick(fleet.candidates, ask_for(prompt))
        self.served[position] += 1
        self._prefill(self.caches[position], prompt)
        self._count(side, position, 1)
        self.under_way.append((side, position))
        if len(self.under_way) > 24:
            self._count(*self.under_way.pop(self.rng.randrange(24)), -1)

    def _prefill(self, cache: OrderedDict[bytes, None], prompt: bytes) -> None:
        ends = range(BLOCK, len(prompt) + 1, BLOCK)
        self.blocks += len(ends)
        missed = False
        for end in ends:
            missed = missed or prompt[:end] not in cache
            self.hits += not missed
            cache[prompt[:end]] = None
            cache.move_to_end(prompt[:end])
        while len(cache) > 2000:
            cache.popitem(last=False)

    def _count(self, side: int, position: int, change: int) -> None:
        self.loads[side][position] += change
        self.fleets[side].set_loads(self.loads[side])

    def converse(self, conversations: int, systems: int) -> float:
        """Serve conversations of 5 turns that begin with one of so many system prompts; return the hit rate."""
        prompts = [self.rng.randbytes(15 * BLOCK) for _ in range(systems)]
        turns = [number for number in range(conversations) for _ in range(5)]
        self.rng.shuffle(turns)
        said = [self.rng.choice(prompts) for _ in range(conversations)]
        for number in turns:
            said[number] += self.rng.randbytes(self.rng.randrange(60, 400))
            self.send(said[number])
        return self.hits / self.blocks


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("systems", [1, 20])
@pytest.mark.parametrize("shared_loads", [True, False], ids=["workers", "gateways"])
def test_two_that_share_a_fleet_lose_little(tmp_path: Path, seed: int, systems: int, shared_loads: bool) -> None:
    """At most 3 points of the share of prompt blocks that are found in a cache, what is lost in learning included."""
    one = Replicas(tmp_path, 1, True, seed).converse(400, systems)
    two = Replicas(tmp_path, 2, shared_loads, seed).converse(400, systems)
    assert one > 0.8
    assert two >= one - 0.03


def test_one_system_prompt_does_not_make_one_busy_replica(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, 1, True, seed=2)
    replicas.converse(120, 1)
    assert max(replicas.served) < 2 * sum(replicas.served) / 6


def test_what_comes_before_the_conversation_is_part_of_the_prompt(fleet: Fleet) -> None:
    """Tools and system prompt stand elsewhere in the body, but before the conversation in a provider's cache."""
    strategy = Prefix(fleet.info)
    talk = random.Random(9).randbytes(1000)

    def told(system: bytes, tools: bytes = b"[]") -> Ask:
        body = tools + system + talk
        spans = ((0, len(tools)), (len(tools), len(tools) + len(system)))
        return ask_for(body, prompt_start=len(tools + system), preamble=spans)

    home = strategy.pick(fleet.candidates, told(b"be kind"))
    assert depth(strategy, home, told(b"be kind")) == 15
    assert depth(strategy, home, told(b"be terse")) == 0
    assert depth(strategy, home, told(b"be kind", b"[{}]")) == 0
    assert depth(strategy, home, ask_for(talk)) == 0
    strategy.observe(home, told(b"be terse"), Result(FAILED))
    assert depth(strategy, home, told(b"be kind")) == 15
    strategy.observe(home, told(b"be kind"), Result(FAILED))
    assert depth(strategy, home, told(b"be kind")) == 0
