"""Keeping requests together, over both halves."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastroute._core import _affinity_py as reference
from fastroute._core.counters import SLOW_START_MS
from tests.unit.core.twins import twins
from tests.unit.fleet import Fleet

NOW = 1000
BLOCK = 64


@pytest.fixture(params=twins("affinity"))
def affinity(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def fleet_of(affinity: ModuleType, tmp_path: Path) -> Callable[..., Fleet]:
    return lambda n, **more: Fleet(tmp_path, n, half=affinity, **more)


def keys(count: int) -> list[bytes]:
    return [b"session-%d" % i for i in range(count)]


def blocks(rng: random.Random, count: int) -> bytes:
    return rng.randbytes(BLOCK * count)


class Router:
    """A table over a fleet, with the arguments that stay the same."""

    def __init__(self, affinity: ModuleType, fleet: Fleet, slots: int = 4096, tenant: bytes = b"acme") -> None:
        self.fleet = fleet
        self.tenant = tenant
        self.table: Any = affinity.PrefixTable(fleet.ids, slots, BLOCK)

    def pick(self, prompt: bytes) -> int:
        return self.table.pick(self.fleet.candidates, prompt, 0, len(prompt), self.tenant, NOW, 1.25)

    def depth(self, position: int, prompt: bytes) -> int:
        return self.table.depth(position, prompt, 0, len(prompt), self.tenant)

    def forget(self, position: int, prompt: bytes) -> None:
        self.table.forget(position, prompt, 0, len(prompt), self.tenant)


# --- the hash


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x6DA40F0B23151E6D),
        (b"a", 0xF9C7DBC1F304B17C),
        (b"abcd", 0x3F82003B445339C8),
        (b"endpoint-0", 0x014B73C4B5BC4ED4),
        (bytes(range(64)), 0x98FB5A7F2138DFB7),
    ],
)
def test_the_hash_is_the_same_for_ever(affinity: ModuleType, data: bytes, expected: int) -> None:
    assert affinity.hash64(data) == expected


def test_the_hash_of_every_length(affinity: ModuleType) -> None:
    data = random.Random(1).randbytes(300)
    seen = {affinity.hash64(data[:length]) for length in range(300)}
    assert seen == {reference.hash64(data[:length]) for length in range(300)}
    assert len(seen) == 300


def test_every_bit_matters_to_the_hash(affinity: ModuleType) -> None:
    for length in (1, 3, 5, 9, 16, 17, 40, 64):
        data = random.Random(length).randbytes(length)
        whole = int.from_bytes(data, "little")
        flipped = {affinity.hash64((whole ^ 1 << bit).to_bytes(length, "little")) for bit in range(8 * length)}
        assert len(flipped | {affinity.hash64(data)}) == 8 * length + 1


# --- rendezvous


def test_no_candidates(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    assert affinity.Rendezvous(fleet.ids).pick(fleet.only([]), b"key", NOW, 1.25) == -1
    empty = fleet_of(0)
    assert affinity.Rendezvous(()).pick(empty.candidates, b"key", NOW, 1.25) == -1


def test_the_same_key_goes_to_the_same_endpoint_whatever_its_position(
    affinity: ModuleType, fleet_of: Callable[..., Fleet]
) -> None:
    fleet = fleet_of(9)
    order = random.Random(2).sample(range(9), 9)
    shuffled = fleet_of(9, ids=[fleet.ids[i] for i in order])
    mine, theirs = affinity.Rendezvous(fleet.ids), affinity.Rendezvous(shuffled.ids)
    for key in keys(300):
        first = mine.pick(fleet.candidates, key, NOW, 1.25)
        assert order[theirs.pick(shuffled.candidates, key, NOW, 1.25)] == first
        assert mine.pick(fleet.candidates, key, NOW, 1.25) == first


def test_keys_spread_evenly(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(8)
    nodes = affinity.Rendezvous(fleet.ids)
    counts = Counter(nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(4000))
    # Chi-square with 7 degrees of freedom: above 35 once in 100,000 samples.
    assert sum((counts[i] - 500) ** 2 / 500 for i in range(8)) < 35


def test_keys_spread_by_weight(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    weights = [1.0, 2.0, 5.0]
    fleet = fleet_of(weights)
    nodes = affinity.Rendezvous(fleet.ids)
    # Nobody is full while nothing is in flight and balance x w / W is above 0.
    counts = Counter(nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(4000))
    for i, weight in enumerate(weights):
        expected = 4000 * weight / 8
        assert abs(counts[i] - expected) < 4.5 * expected**0.5


@pytest.mark.parametrize("n", [2, 5, 10])
def test_one_that_leaves_moves_its_own_keys_only(affinity: ModuleType, fleet_of: Callable[..., Fleet], n: int) -> None:
    fleet = fleet_of([1.0 + i % 3 for i in range(n)])
    nodes = affinity.Rendezvous(fleet.ids)
    before = [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(500)]
    for gone in range(n):
        candidates = fleet.only([i for i in range(n) if i != gone])
        after = [nodes.pick(candidates, key, NOW, 1.25) for key in keys(500)]
        assert all(new == old for old, new in zip(before, after, strict=True) if old != gone)
        assert gone not in after


def test_one_that_joins_takes_its_own_share_only(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    few, many = fleet_of(6), fleet_of(7)
    nodes, more = affinity.Rendezvous(few.ids), affinity.Rendezvous(many.ids)
    moved = 0
    for key in keys(700):
        old, new = nodes.pick(few.candidates, key, NOW, 1.25), more.pick(many.candidates, key, NOW, 1.25)
        assert new in (old, 6)
        moved += new == 6
    assert abs(moved - 100) < 45


def test_a_slow_start_holds_keys_back(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(4)
    nodes = affinity.Rendezvous(fleet.ids)
    settled = [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(2000)]
    fleet.segment.set_cell(2, SLOW_START_MS, NOW)
    fleet.need.slow_start_ms = 10_000
    fleet.candidates.gate(fleet.need)
    starting = [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(2000)]
    # 0.1 / 3.1 of the keys instead of a quarter, and nobody else loses any.
    assert 30 < starting.count(2) < 100
    assert all(new in (old, new) if old == 2 else new == old for old, new in zip(settled, starting, strict=True))
    grown = [nodes.pick(fleet.candidates, key, NOW + 10_000, 1.25) for key in keys(2000)]
    assert grown == settled


@pytest.mark.parametrize(("load", "admitted"), [(12, True), (13, False)])
def test_the_bound_of_the_paper(
    affinity: ModuleType, fleet_of: Callable[..., Fleet], load: int, admitted: bool
) -> None:
    """c = 1.25, 79 in flight, 8 endpoints: 13 is full."""
    fleet = fleet_of(8)
    nodes = affinity.Rendezvous(fleet.ids)
    for key in keys(40):
        fleet.set_loads([0] * 8)
        first = nodes.pick(fleet.candidates, key, NOW, 1.25)
        rest = 79 - load
        loads = [rest // 7 + (i < rest % 7) for i in range(7)]
        loads.insert(first, load)
        assert sum(loads) == 79
        fleet.set_loads(loads)
        assert (nodes.pick(fleet.candidates, key, NOW, 1.25) == first) is admitted


def test_the_next_in_order_takes_what_is_passed_over(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(6)
    nodes = affinity.Rendezvous(fleet.ids)
    for key in keys(50):
        fleet.set_loads([0] * 6)
        ranking: list[int] = []
        while len(ranking) < 6:
            candidates = fleet.only([i for i in range(6) if i not in ranking])
            ranking.append(nodes.pick(candidates, key, NOW, 1.25))
        fleet.only(range(6))
        for passed in range(1, 5):
            fleet.set_loads([20 if i in ranking[:passed] else 0 for i in range(6)])
            assert nodes.pick(fleet.candidates, key, NOW, 1.01) == ranking[passed]


def test_the_bound_follows_weights(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of([1.0, 3.0])
    nodes = affinity.Rendezvous(fleet.ids)
    fleet.set_loads([5, 14])
    # 1.25 x 20 = 25: 6.25 and 18.75.
    assert {nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(100)} == {0, 1}
    fleet.set_loads([7, 12])
    assert {nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(100)} == {1}
    fleet.set_loads([0, 19])
    assert {nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(100)} == {0}


def test_one_session_never_exceeds_the_bound(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(5)
    nodes = affinity.Rendezvous(fleet.ids)
    loads = [0] * 5
    for m in range(200):
        chosen = nodes.pick(fleet.candidates, b"hot", NOW, 1.25)
        loads[chosen] += 1
        fleet.set_loads(loads)
        assert loads[chosen] <= -(-1.25 * (m + 1) // 5)
    # 1.25 times a fifth is a quarter: the first four of its ranking take it all.
    assert sorted(loads) == [0, 50, 50, 50, 50]


def test_no_weight_at_all_is_equal_weight(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    nodes = affinity.Rendezvous(fleet.ids)
    expected = [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(50)]
    for position in range(3):
        fleet.candidates.set_factor(position, 1e-12)
    assert [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(50)] == expected
    fleet.candidates.set_factor(1, 1.0)
    assert {nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(50)} == {1}


def test_negative_loads_count_as_none(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    nodes = affinity.Rendezvous(fleet.ids)
    expected = [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(50)]
    fleet.set_loads([-7, -1, -100])
    assert [nodes.pick(fleet.candidates, key, NOW, 1.25) for key in keys(50)] == expected


def test_rendezvous_refuses(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    with pytest.raises(ValueError, match="candidates among 3 endpoints, not 2"):
        affinity.Rendezvous(("a", "b")).pick(fleet.candidates, b"key", NOW, 1.25)
    with pytest.raises(ValueError, match="at most 65536"):
        affinity.Rendezvous(["a"] * 65537)
    assert len(affinity.Rendezvous(("a", "b"))) == 2
    nodes = affinity.Rendezvous(fleet.ids)
    fleet.segment.close()
    with pytest.raises(ValueError, match="closed"):
        nodes.pick(fleet.candidates, b"key", NOW, 1.25)


# --- prompts


def test_a_prompt_goes_where_it_was_sent(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(3)
    router = Router(affinity, fleet_of(10))
    turns = {blocks(rng, 6): -1 for _ in range(60)}
    for prompt in turns:
        turns[prompt] = router.pick(prompt)
    assert len(set(turns.values())) > 5
    for prompt, position in turns.items():
        assert router.depth(position, prompt) == 6
        assert router.pick(prompt + blocks(rng, 5)) == position


def test_depth_counts_blocks_without_a_gap(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(4)
    router = Router(affinity, fleet_of(3))
    prompt = blocks(rng, 8) + b"and half a block"
    position = router.pick(prompt)
    assert router.depth(position, prompt) == 8
    assert len(router.table) == 8
    for changed in range(8):
        other = bytearray(prompt)
        other[changed * BLOCK + 7] ^= 1
        assert router.depth(position, bytes(other)) == changed
    assert router.depth((position + 1) % 3, prompt) == 0


def test_a_part_of_the_body_is_what_counts(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(5)
    fleet = fleet_of(3)
    table = affinity.PrefixTable(fleet.ids, 1024, BLOCK)
    inner = blocks(rng, 4)
    body = b"head" + inner + b"tail"
    position = table.pick(fleet.candidates, body, 4, 4 + len(inner), b"t", NOW, 1.25)
    assert table.depth(position, inner, 0, len(inner), b"t") == 4
    assert table.depth(position, body, 0, len(body), b"t") == 0
    # Clipped to the body, as slices are, but never counted from the end.
    assert table.depth(position, inner, -5, 10**30, b"t") == 4
    assert table.depth(position, inner, 200, 100, b"t") == 0


def test_tenants_do_not_see_each_other(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(6)
    router = Router(affinity, fleet_of(4), tenant=b"one")
    prompt = blocks(rng, 5)
    position = router.pick(prompt)
    router.tenant = b"two"
    assert router.depth(position, prompt) == 0


def test_half_is_not_enough(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(7)
    fleet = fleet_of(8)
    router = Router(affinity, fleet)
    for _ in range(20):
        start = blocks(rng, 4)
        holder = router.pick(start)
        # The holder is the first choice for any prompt that begins so: make it too loaded for a new one.
        fleet.set_loads([20 if i == holder else 0 for i in range(8)])
        assert router.pick(start + blocks(rng, 3)) == holder
        assert router.pick(start + blocks(rng, 4)) != holder
        fleet.set_loads([0] * 8)


def two_loads(affinity: ModuleType, fleet: Fleet, holder_load: int, other_load: int) -> bool:
    """Whether a prompt goes back to its holder under these loads."""
    router = Router(affinity, fleet)
    prompt = random.Random(8).randbytes(10 * BLOCK)
    fleet.set_loads([0, 0])
    holder = router.pick(prompt)
    fleet.set_loads([holder_load if i == holder else other_load for i in range(2)])
    return router.pick(prompt) == holder


@pytest.mark.parametrize(
    ("holder", "other", "stays"),
    [
        (40, 5, False),
        (36, 5, True),
        (37, 5, True),
        (38, 5, False),
        (400, 364, True),
        (363, 330, True),
        (400, 350, False),
    ],
)
def test_a_loaded_holder_sheds(
    affinity: ModuleType, fleet_of: Callable[..., Fleet], holder: int, other: int, stays: bool
) -> None:
    assert two_loads(affinity, fleet_of(2), holder, other) is stays


def test_what_is_shed_is_held_by_both(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    router = Router(affinity, fleet)
    prompt = blocks(random.Random(9), 10)
    holder = router.pick(prompt)
    loads = [50 if i == holder else 2 for i in range(3)]
    idle = (holder + 1) % 3
    loads[idle] = 0
    fleet.set_loads(loads)
    assert router.pick(prompt) == idle
    assert router.depth(idle, prompt) == router.depth(holder, prompt) == 10
    fleet.set_loads([3 if i == idle else 1 for i in range(3)])
    assert router.pick(prompt) == holder


def test_a_straggler_does_not_cost_others_their_prompts(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(10)
    fleet = fleet_of(4)
    router = Router(affinity, fleet)
    prompts = [blocks(rng, 6) for _ in range(40)]
    homes = [router.pick(prompt) for prompt in prompts]
    fleet.set_loads([100 if i == 1 else 4 for i in range(4)])
    for prompt, home in zip(prompts, homes, strict=True):
        assert (router.pick(prompt) == home) is (home != 1)


def test_loads_are_compared_by_weight(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    # The mean weight is 2.5: 160 at weight 4 counts 100, 20 at weight 1 counts 50.
    fleet = fleet_of([4.0, 1.0])
    router = Router(affinity, fleet)
    prompt = blocks(random.Random(11), 10)
    fleet.only([0])
    router.pick(prompt)
    fleet.only([0, 1])
    fleet.set_loads([90, 20])
    assert router.pick(prompt) == 0
    fleet.set_loads([160, 20])
    assert router.pick(prompt) == 1


def test_of_several_holders_the_least_loaded(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(6)
    router = Router(affinity, fleet)
    prompt = blocks(random.Random(12), 10)
    for position in (1, 3, 4):
        fleet.only([position])
        assert router.pick(prompt) == position
    fleet.only(range(6))
    fleet.set_loads([0, 9, 0, 4, 7, 0])
    assert router.pick(prompt) == 3
    fleet.set_loads([0, 9, 0, 9, 7, 0])
    assert router.pick(prompt) == 4


def test_the_deepest_holder_wins(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(13)
    fleet = fleet_of(3)
    router = Router(affinity, fleet)
    short = blocks(rng, 6)
    long = short + blocks(rng, 3)
    fleet.only([0])
    router.pick(short)
    fleet.only([2])
    router.pick(long)
    fleet.only([0, 1, 2])
    fleet.set_loads([0, 0, 20])
    assert router.pick(long) == 2


def test_what_all_hold_tells_nobody_apart(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(14)
    fleet = fleet_of(4)
    common = blocks(rng, 20)
    fleet.set_loads([3, 0, 3, 3])
    picks = set()
    for _ in range(40):
        router = Router(affinity, fleet)
        for position in range(4):
            fleet.only([position])
            router.pick(common)
        fleet.only(range(4))
        # 20 of 21 blocks are held, but by everybody: a new prompt, which need not go to the least loaded.
        picks.add(router.pick(common + blocks(rng, 1)))
    assert picks == {0, 1, 2, 3}


def test_what_conversations_begin_with_does_not_bind_them(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    """A system prompt, and idle endpoints: after a few, conversations spread, and each stays where it is."""
    rng = random.Random(15)
    router = Router(affinity, fleet_of(5))
    system = blocks(rng, 40)
    homes: dict[bytes, int] = {}
    for _ in range(60):
        prompt = system + blocks(rng, 3)
        homes[prompt] = router.pick(prompt)
    first = list(homes.values())
    assert set(first) == {0, 1, 2, 3, 4}
    assert max(Counter(first[5:]).values()) < 25
    for prompt, home in list(homes.items())[5:]:
        assert router.pick(prompt + blocks(rng, 2)) == home


@pytest.mark.parametrize("alone", [True, False], ids=["alone-first", "never-alone"])
def test_the_fourth_fork_makes_a_common_beginning(
    affinity: ModuleType, fleet_of: Callable[..., Fleet], alone: bool
) -> None:
    rng = random.Random(26)
    fleet = fleet_of(4)
    router = Router(affinity, fleet)
    system = blocks(rng, 20)
    home = router.pick(system if alone else system + blocks(rng, 1))
    if alone:
        # Nothing has gone on from here before: that is no fork.
        fleet.set_loads([20 if i == home else 0 for i in range(4)])
        assert router.pick(system + blocks(rng, 1)) == home
    # Too loaded for a new prompt.
    fleet.set_loads([20 if i == home else 0 for i in range(4)])
    assert [router.pick(system + blocks(rng, 1)) for _ in range(4)] == [home] * 4
    assert all(router.pick(system + blocks(rng, 1)) != home for _ in range(10))


def test_a_common_beginning_survives_a_reload(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(27)
    fleet = fleet_of(4)
    old, new = Router(affinity, fleet), Router(affinity, fleet)
    system = blocks(rng, 20)
    home = old.pick(system + blocks(rng, 1))
    fleet.set_loads([20 if i == home else 0 for i in range(4)])
    assert [old.pick(system + blocks(rng, 1)) for _ in range(3)] == [home] * 3
    new.table.adopt(old.table, range(4))
    assert new.pick(system + blocks(rng, 1)) == home
    assert new.pick(system + blocks(rng, 1)) != home


def test_a_conversation_that_grows_is_no_fork(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(16)
    fleet = fleet_of(4)
    router = Router(affinity, fleet)
    prompt = blocks(rng, 2)
    home = router.pick(prompt)
    for turn in range(30):
        prompt += blocks(rng, 1 + turn % 2)
        fleet.set_loads([9 if i == home else 0 for i in range(4)])
        # Too loaded for a new prompt: it is because the prompt is known that it goes there.
        assert router.pick(prompt) == home


def test_gateways_agree_on_new_prompts(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(17)
    fleet = fleet_of(8)
    fleet.set_loads([rng.randrange(5) for _ in range(8)])
    one, two = Router(affinity, fleet), Router(affinity, fleet)
    prompts = [rng.randbytes(rng.randrange(1, 1000)) for _ in range(100)]
    assert [one.pick(prompt) for prompt in prompts] == [two.pick(prompt) for prompt in prompts]
    assert len({one.pick(prompt) for prompt in prompts}) == 8


def test_a_new_prompt_avoids_the_loaded(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(18)
    fleet = fleet_of(4)
    router = Router(affinity, fleet)
    fleet.set_loads([20, 0, 20, 0])
    # 1.25 x (41 + 4 x 4) / 4 = 17.8
    assert {router.pick(blocks(rng, 3)) for _ in range(60)} == {1, 3}
    # 14.7, then 14.1
    fleet.set_loads([15, 0, 15, 0])
    assert {router.pick(blocks(rng, 3)) for _ in range(60)} == {1, 3}
    fleet.set_loads([14, 0, 14, 0])
    assert {router.pick(blocks(rng, 3)) for _ in range(60)} == {0, 1, 2, 3}


def test_prompts_shorter_than_a_block(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    router = Router(affinity, fleet_of(8))
    picks = {b"%d" % i: router.pick(b"%d" % i) for i in range(60)}
    assert len(router.table) == 0
    assert len(set(picks.values())) == 8
    assert all(router.pick(prompt) == position for prompt, position in picks.items())


def test_no_more_than_256_blocks_are_read(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    router = Router(affinity, fleet_of(3), slots=65536)
    prompt = random.Random(19).randbytes(300 * BLOCK)
    position = router.pick(prompt)
    assert len(router.table) == router.depth(position, prompt) == 256


def test_no_candidate_leaves_no_trace(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    fleet.only([])
    router = Router(affinity, fleet)
    assert router.pick(bytes(640)) == -1
    assert len(router.table) == 0


def test_forgetting(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(20)
    fleet = fleet_of(3)
    router = Router(affinity, fleet)
    prompt = blocks(rng, 5)
    for position in (0, 2):
        fleet.only([position])
        router.pick(prompt)
    router.forget(0, prompt)
    assert [router.depth(position, prompt) for position in range(3)] == [0, 0, 5]
    assert len(router.table) == 5
    router.forget(1, prompt)
    router.forget(2, prompt[: 3 * BLOCK])
    assert len(router.table) == 2
    assert router.depth(2, prompt) == 0
    router.forget(2, prompt)
    assert len(router.table) == 0


def test_a_full_table_gives_up_what_nobody_asked_for(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(21)
    router = Router(affinity, fleet_of(1), slots=256)
    kept = blocks(rng, 10)
    router.pick(kept)
    for _ in range(300):
        router.pick(blocks(rng, 4))
        assert router.depth(0, kept) == 10
        router.pick(kept)
    assert len(router.table) == 256
    for _ in range(300):
        router.pick(blocks(rng, 4))
    assert router.depth(0, kept) == 0


def test_the_least_recent_of_equals_is_given_up(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(22)
    router = Router(affinity, fleet_of(1), slots=8)
    prompts = [blocks(rng, 1) for _ in range(40)]
    for prompt in prompts:
        router.pick(prompt)
    assert [router.depth(0, prompt) for prompt in prompts] == [0] * 32 + [1] * 8


@pytest.mark.parametrize("n", [64, 65, 200])
def test_pools_of_more_than_one_word(affinity: ModuleType, fleet_of: Callable[..., Fleet], n: int) -> None:
    rng = random.Random(n)
    router = Router(affinity, fleet_of(n), slots=8192)
    prompts = [blocks(rng, 5) for _ in range(120)]
    homes = [router.pick(prompt) for prompt in prompts]
    assert max(homes) > n * 3 // 4
    for prompt, home in zip(prompts, homes, strict=True):
        assert router.depth(home, prompt) == 5
        assert router.depth((home + 64) % n, prompt) == (5 if n == 64 else 0)
        assert router.pick(prompt + blocks(rng, 2)) == home


def test_positions_beyond_those_that_are_remembered(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(23)
    fleet = fleet_of(1030)
    for position in (1023, 1024, 1027):
        router = Router(affinity, fleet)
        prompt = blocks(rng, 5)
        fleet.only([position])
        assert router.pick(prompt) == position
        assert router.depth(position, prompt) == (5 if position < 1024 else 0)
        router.forget(position, prompt)
        assert len(router.table) == 0
        # Nobody holds it: by rendezvous, wherever that is, and to the same place again.
        fleet.only(range(1030))
        assert router.pick(prompt) == router.pick(prompt)


def test_the_table_survives_a_reload(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(24)
    old = Router(affinity, fleet_of(4))
    prompts = [blocks(rng, 4) for _ in range(60)]
    homes = [old.pick(prompt) for prompt in prompts]
    # Position 1 is gone, the others have moved, and there are two new ones.
    positions = [3, -1, 0, 2, -1]
    new = Router(affinity, fleet_of(5))
    new.table.adopt(old.table, positions)
    for prompt, home in zip(prompts, homes, strict=True):
        for mine, theirs in enumerate(positions):
            assert new.depth(mine, prompt) == (4 if theirs == home else 0)
    assert len(new.table) == 4 * sum(home != 1 for home in homes)
    assert len(old.table) == 240


def test_a_reload_keeps_the_order_of_giving_up(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    rng = random.Random(28)
    fleet = fleet_of(1)
    old, new = Router(affinity, fleet, slots=8), Router(affinity, fleet, slots=8)
    prompts = [blocks(rng, 1) for _ in range(11)]
    for prompt in prompts:
        old.pick(prompt)
    # 3 to 10 are left, 3 the next to go, but for having been asked for.
    old.pick(prompts[3])
    new.table.adopt(old.table, [0])
    for gone in (4, 5, 6):
        assert new.depth(0, prompts[gone]) == 1
        new.pick(blocks(rng, 1))
        assert new.depth(0, prompts[gone]) == 0
    assert [new.depth(0, prompt) for prompt in prompts] == [0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("slots", [64, 1000, 65536])
def test_a_reload_may_change_the_size(affinity: ModuleType, fleet_of: Callable[..., Fleet], slots: int) -> None:
    rng = random.Random(25)
    fleet = fleet_of(3)
    old = Router(affinity, fleet, slots=1024)
    prompts = [blocks(rng, 4) for _ in range(50)]
    homes = [old.pick(prompt) for prompt in prompts]
    new = Router(affinity, fleet, slots=slots)
    new.table.adopt(old.table, [0, 1, 2])
    depths = [new.depth(home, prompt) for prompt, home in zip(prompts, homes, strict=True)]
    if slots >= 1000:
        assert depths == [4] * 50
    else:
        assert len(new.table) <= 64


def test_a_reload_that_changes_the_blocks_begins_anew(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(3)
    old = Router(affinity, fleet)
    old.pick(bytes(640))
    other = affinity.PrefixTable(fleet.ids, 1024, 32)
    other.adopt(old.table, [0, 1, 2])
    assert len(other) == 0


def test_the_table_refuses(affinity: ModuleType, fleet_of: Callable[..., Fleet]) -> None:
    for slots in (7, 0, -1, 2**26 + 1):
        with pytest.raises(ValueError, match="slots must be 8 to 67108864"):
            affinity.PrefixTable(("a",), slots, 64)
    for size in (0, -5, 2**20 + 1):
        with pytest.raises(ValueError, match="block_bytes must be 1 to 1048576"):
            affinity.PrefixTable(("a",), 8, size)
    fleet = fleet_of(3)
    table = affinity.PrefixTable(fleet.ids, 8, 64)
    for wrong in (3, -1, 10**30):
        with pytest.raises(IndexError):
            table.depth(wrong, b"", 0, 0, b"")
        with pytest.raises(IndexError):
            table.forget(wrong, b"", 0, 0, b"")
    with pytest.raises(ValueError, match="2 positions, not 3"):
        table.adopt(table, [0, 1])
    for wrong in (3, -2, 10**30):
        with pytest.raises(IndexError, match=r"is not in -1\.\.2"):
            table.adopt(affinity.PrefixTable(fleet.ids, 8, 64), [0, 1, wrong])
    other = affinity.PrefixTable(("a", "b"), 8, 64)
    with pytest.raises(ValueError, match="candidates among 3 endpoints, not 2"):
        other.pick(fleet.candidates, b"", 0, 0, b"", NOW, 1.25)
