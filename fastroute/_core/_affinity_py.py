"""Pure half of `affinity`: the readable reference.

Every hash here is the same in every process, worker and host: two gateways that have nothing in common but their
configuration agree on where a key belongs. The hash is that of _hash.h, the words of a slice read little-endian; what
must not cancel out is finished by the mixer of splitmix64 (Steele et al. 2014).
"""

from collections.abc import Sequence
from math import inf, log
from operator import index
from typing import Final, NamedTuple

from fastroute._core._candidates_py import Candidates
from fastroute._core._counters_file import IN_FLIGHT

MAX_NODES: Final = 65536
#: Blocks of a prompt that are looked at: what follows them decides nothing.
MAX_BLOCKS: Final = 256
MAX_BLOCK_BYTES: Final = 1 << 20
MIN_SLOTS: Final = 8
MAX_SLOTS: Final = 1 << 26
#: Slots among which a block may stand: one cache line of hashes.
WAYS: Final = 8
#: Positions from here on are not remembered.
MAX_HOLDERS: Final = 1024
#: A load sheds the prompts it holds when it exceeds the least one by more than both (SGLang's cache-aware policy).
SHED_DIFFERENCE: Final = 32.0
SHED_RATIO: Final = 1.1
#: A block after which prompts have gone different ways so often is common to conversations, not part of one.
COMMON_FORKS: Final = 4
#: New prompts are bound as if every endpoint had this many more in flight, or a few requests would scatter them.
SPARE_LOAD: Final = 4.0

_MASK_64: Final = (1 << 64) - 1
_KEY_0: Final = 0x243F6A8885A308D3
_KEY_1: Final = 0x13198A2E03707344
_KEY_2: Final = 0xA4093822299F31D0


def hash64(data: bytes) -> int:
    """Return the 64-bit hash of a few bytes: the folding of _hash.h. Not for secrets, not against flooding."""
    length = left = len(data)
    state = _KEY_0 ^ length
    at = 0
    while left > 16:
        state = _fold(_word(data, at, 8) ^ _KEY_1, _word(data, at + 8, 8) ^ state)
        at += 16
        left -= 16
    low = high = 0
    if left >= 8:
        low, high = _word(data, at, 8), _word(data, length - 8, 8)
    elif left >= 4:
        low, high = _word(data, at, 4), _word(data, length - 4, 4)
    elif left:
        low, high = data[at], data[at + left // 2] << 8 | data[length - 1]
    state = _fold(low ^ _KEY_1, high ^ state)
    return _fold(state ^ _KEY_2, length ^ _KEY_0)


class Rendezvous:
    """Endpoints ranked for a key by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights: Schindelhauer
    and Schomaker 2005).

    Each endpoint draws -w / ln(u) for a key, u in (0, 1) from the hash of the key and of the endpoint's id; the
    highest wins. An endpoint's number depends on nobody else: one that leaves or joins moves only the keys it loses
    or wins.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """Take the ids of positions 0..n-1; at most 65536 of them (ValueError)."""
        if len(ids) > MAX_NODES:
            raise ValueError(f"{len(ids)} endpoints, at most {MAX_NODES} are supported")
        self._nodes = [hash64(one.encode()) for one in ids]

    def __len__(self) -> int:
        """Return the number of positions."""
        return len(self._nodes)

    def pick(self, candidates: Candidates, key: bytes, now_ms: int, balance: float) -> int:
        """Return the candidate that ranks highest for the key among those that are not full, -1 for no candidate.

        Full is who has balance x (m + 1) x w / sum(w) requests in flight, rounded up, where m is what the candidates
        have in flight together: consistent hashing with bounded loads (Mirrokni et al. 2018). balance: above 1.
        Raises ValueError for the candidates of another pool.
        """
        survey = self.survey(candidates, now_ms)
        return candidates.positions[self.bounded(candidates, survey, hash64(key), balance, 0.0)] if survey.loads else -1

    def survey(self, candidates: Candidates, now_ms: int) -> "Survey":
        """Return what the candidates weigh and have in flight, over all workers."""
        if candidates.size != len(self._nodes):
            raise ValueError(f"candidates among {candidates.size} endpoints, not {len(self._nodes)}")
        weights, loads = [], []
        total = 0.0
        if candidates.positions:
            candidates.segment.check_open()
        for position in candidates.positions:
            weight = candidates.weight_of(position, now_ms)
            weights.append(weight if weight > 0.0 else 0.0)
            total += weights[-1]
            loads.append(max(0, candidates.segment.total(candidates.rows[position], IN_FLIGHT)))
        if not total > 0.0:
            weights = [1.0] * len(loads)
            total = float(len(loads))
        return Survey(weights, loads, total)

    def bounded(self, candidates: Candidates, survey: "Survey", key: int, balance: float, spare: float) -> int:
        """Return the index among the candidates of the one that ranks highest and is not full.

        spare: how many requests more each is taken to have, when it is worked out what full means.
        """
        best, highest = 0, -1.0
        share = balance * (float(sum(survey.loads) + 1) + spare * float(len(survey.loads)))
        for k, position in enumerate(candidates.positions):
            # An integer is below a bound rounded up if it is below the bound.
            if not survey.loads[k] < share * survey.weights[k] / survey.total:
                continue
            rank = self.rank(position, survey.weights[k], key)
            if rank > highest:
                best, highest = k, rank
        return best

    def rank(self, position: int, weight: float, key: int) -> float:
        """Return the number that the position draws for a hashed key."""
        mixed = _mix(key ^ self._nodes[position])
        return -weight / log(((mixed >> 12) + 0.5) * (1.0 / 4503599627370496.0))


class Survey(NamedTuple):
    """Weights and loads of the candidates, in their order; total: the sum of the weights."""

    weights: list[float]
    loads: list[int]
    total: float

    def cost(self, k: int) -> float:
        """Return the load of a candidate as it would be at the mean weight."""
        if not self.weights[k] > 0.0:
            return inf
        return self.loads[k] * (self.total / len(self.loads) / self.weights[k])


class _Entry:
    """A block: who was sent it, whether any prompt went on after it, how often one then went another way."""

    __slots__ = ("continued", "forks", "mask", "referenced", "tag")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.mask = 0
        self.referenced = False
        self.continued = False
        self.forks = 0


class _Set:
    """The slots among which some blocks may stand, and where the clock's hand is."""

    __slots__ = ("entries", "hand")

    def __init__(self) -> None:
        self.entries: list[_Entry | None] = [None] * WAYS
        self.hand = 0


class PrefixTable:
    """Which endpoints were sent which prompts, block by block, and the choice that follows from it.

    The hash of a block covers all that stands before it, tenant included. A table of fixed size holds, for each
    block, the set of positions that were sent it. A set of 8 slots that is full gives up a block by the clock
    algorithm: one that has been asked for since the hand last passed gets another round.
    """

    def __init__(self, ids: Sequence[str], slots: int, block_bytes: int) -> None:
        """Make an empty table for positions 0..n-1.

        slots: 8 to 2**26, rounded down to a multiple of 8. block_bytes: 1 to 2**20. ValueError for what is outside.
        """
        self._nodes = Rendezvous(ids)
        self._set_count = checked_slots(slots) // WAYS
        self._block_bytes = checked_block_bytes(block_bytes)
        self._sets: dict[int, _Set] = {}
        self._index: dict[int, _Entry] = {}

    def __len__(self) -> int:
        """Return the number of blocks that are remembered."""
        return len(self._index)

    def pick(
        self, candidates: Candidates, prompt: bytes, start: int, end: int, tenant: bytes, now_ms: int, balance: float
    ) -> int:
        """Return the candidate for prompt[start:end], -1 for no candidate; note that it was sent the prompt.

        Depth: the leading blocks that a candidate was sent without a gap. What every candidate holds, or many
        conversations begin with, tells nobody apart: if the deepest holds more than half of the blocks past that, it
        is chosen, the least loaded of several, unless its load is more than 32 above the least and more than 1.1
        times the least: then the least loaded is. Otherwise the prompt is new, and goes by rendezvous with bounded
        loads on the first block past that, so that gateways that know nothing of each other send it to the same
        endpoint. The slice is clipped to the prompt. Raises ValueError for the candidates
        of another pool.
        """
        survey = self._nodes.survey(candidates, now_ms)
        if not survey.loads:
            return -1
        chain, key = self._chain(prompt, start, end, tenant)
        depths, common = self._match(chain, candidates.positions)
        deepest, common = max(depths), max(common, min(depths))
        if common < len(chain):
            key = chain[common]
        if 2 * (deepest - common) > len(chain) - common:
            chosen = self._warm(candidates, survey, key, [k for k, depth in enumerate(depths) if depth == deepest])
        else:
            chosen = self._nodes.bounded(candidates, survey, key, balance, SPARE_LOAD)
        position = candidates.positions[chosen]
        self._note(chain, position)
        return position

    def depth(self, position: int, prompt: bytes, start: int, end: int, tenant: bytes) -> int:
        """Return how many leading blocks of prompt[start:end] the position is taken to hold."""
        bit = 1 << self._checked(position)
        deep = 0
        for tag in self._chain(prompt, start, end, tenant)[0]:
            entry = self._index.get(_tag(tag))
            if entry is None or not entry.mask & bit:
                break
            deep += 1
        return deep

    def forget(self, position: int, prompt: bytes, start: int, end: int, tenant: bytes) -> None:
        """Take back that the position was sent any block of prompt[start:end]."""
        bit = 1 << self._checked(position)
        for value in self._chain(prompt, start, end, tenant)[0]:
            entry = self._index.get(_tag(value))
            if entry is None or not entry.mask & bit:
                continue
            entry.mask &= ~bit
            if not entry.mask:
                del self._index[entry.tag]
                among = self._sets[self._set_of(entry.tag)].entries
                among[among.index(entry)] = None

    def adopt(self, previous: "PrefixTable", positions: Sequence[int]) -> None:
        """Take over what another table remembers. positions[i]: where my position i was there, -1 for nowhere.

        A table of other block lengths has nothing to give. ValueError for a wrong number of positions, IndexError
        for a position that the other table has not.
        """
        if len(positions) != len(self._nodes):
            raise ValueError(f"{len(positions)} positions, not {len(self._nodes)}")
        moves: dict[int, int] = {}
        for mine, theirs in enumerate(positions):
            if not -1 <= index(theirs) < len(previous._nodes):
                raise IndexError(f"position {theirs} is not in -1..{len(previous._nodes) - 1}")
            if theirs >= 0 and mine < MAX_HOLDERS and theirs < MAX_HOLDERS:
                moves[theirs] = moves.get(theirs, 0) | 1 << mine
        if previous._block_bytes != self._block_bytes:
            return
        for number in sorted(previous._sets):
            one = previous._sets[number]
            for way in range(WAYS):
                # From the hand on: the order in which they would be given up.
                entry = one.entries[(one.hand + way) % WAYS]
                if entry is not None:
                    self._take_over(entry, moves)

    def _take_over(self, entry: _Entry, moves: dict[int, int]) -> None:
        mask = 0
        for theirs, mine in moves.items():
            if entry.mask >> theirs & 1:
                mask |= mine
        if mask:
            taken = self._index.get(entry.tag) or self._place(entry.tag)
            taken.mask |= mask
            taken.referenced = entry.referenced
            taken.continued = entry.continued
            taken.forks = entry.forks

    def _chain(self, prompt: bytes, start: int, end: int, tenant: bytes) -> tuple[list[int], int]:
        """Return (hash of each whole block with all before it, hash of the last one or of what is shorter)."""
        start = min(max(index(start), 0), len(prompt))
        end = min(max(index(end), start), len(prompt))
        size = self._block_bytes
        count = min((end - start) // size, MAX_BLOCKS)
        value = hash64(tenant)
        chain: list[int] = []
        for at in range(start, start + count * size, size):
            value = _mix(value ^ hash64(prompt[at : at + size]))
            chain.append(value)
        if not chain:
            value = _mix(value ^ hash64(prompt[start:end]))
        return chain, value

    def _match(self, chain: list[int], positions: Sequence[int]) -> tuple[list[int], int]:
        """Return the depth of each candidate and how many blocks are common to conversations; count a fork."""
        alive = 0
        for position in positions:
            if position < MAX_HOLDERS:
                alive |= 1 << position
        depths = {position: 0 for position in positions}
        common = 0
        before: _Entry | None = None
        for deep, value in enumerate(chain, 1):
            entry = self._index.get(_tag(value))
            if entry is None:
                if before is not None and before.continued and before.forks < COMMON_FORKS:
                    before.forks += 1
                break
            entry.referenced = True
            if entry.forks >= COMMON_FORKS:
                common = deep
            alive &= entry.mask
            for position in _bits(alive):
                depths[position] = deep
            before = entry
        return [depths[position] for position in positions], common

    def _warm(self, candidates: Candidates, survey: Survey, key: int, holders: Sequence[int]) -> int:
        """Return the least loaded of those that hold the prompt, or of all where that one has to shed."""
        best = self._least(candidates, survey, key, holders)
        least = self._least(candidates, survey, key, range(len(survey.loads)))
        high, low = survey.cost(best), survey.cost(least)
        return least if high - low > SHED_DIFFERENCE and high > SHED_RATIO * low else best

    def _least(self, candidates: Candidates, survey: Survey, key: int, among: Sequence[int]) -> int:
        """Return who has the least load; of equals, the one that ranks highest for the key."""
        best, least, highest = among[0], inf, -1.0
        for k in among:
            cost = survey.cost(k)
            if cost > least:
                continue
            rank = self._nodes.rank(candidates.positions[k], survey.weights[k], key)
            if cost < least or rank > highest:
                best, least, highest = k, cost, rank
        return best

    def _note(self, chain: list[int], position: int) -> None:
        if position >= MAX_HOLDERS:
            return
        for deep, value in enumerate(chain, 1):
            tag = _tag(value)
            entry = self._index.get(tag) or self._place(tag)
            entry.mask |= 1 << position
            entry.continued |= deep < len(chain)

    def _place(self, tag: int) -> _Entry:
        """Make room for a block that is not there."""
        entry = _Entry(tag)
        one = self._sets.setdefault(self._set_of(tag), _Set())
        self._index[tag] = entry
        for way in range(WAYS):
            if one.entries[way] is None:
                one.entries[way] = entry
                return entry
        while True:
            way = one.hand
            one.hand = (way + 1) % WAYS
            old = one.entries[way]
            if old is None or not old.referenced:
                break
            old.referenced = False
        if old is not None:
            del self._index[old.tag]
        one.entries[way] = entry
        return entry

    def _set_of(self, tag: int) -> int:
        return tag * self._set_count >> 64

    def _checked(self, position: int) -> int:
        if not 0 <= index(position) < len(self._nodes):
            raise IndexError(f"position {position} is not in 0..{len(self._nodes) - 1}")
        return position


def checked_slots(slots: int) -> int:
    """Return `slots`, or raise ValueError if no table can have that many."""
    if not MIN_SLOTS <= slots <= MAX_SLOTS:
        raise ValueError(f"slots must be {MIN_SLOTS} to {MAX_SLOTS}, not {slots}")
    return slots


def checked_block_bytes(block_bytes: int) -> int:
    """Return `block_bytes`, or raise ValueError if no block can have that length."""
    if not 1 <= block_bytes <= MAX_BLOCK_BYTES:
        raise ValueError(f"block_bytes must be 1 to {MAX_BLOCK_BYTES}, not {block_bytes}")
    return block_bytes


def _tag(value: int) -> int:
    # The low 8 bits are for other things in the compiled half, and 0 is a free slot there.
    return value & ~0xFF or 0x100


def _bits(mask: int) -> list[int]:
    positions = []
    while mask:
        low = mask & -mask
        positions.append(low.bit_length() - 1)
        mask ^= low
    return positions


def _word(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _fold(a: int, b: int) -> int:
    product = a * b
    return (product ^ product >> 64) & _MASK_64


def _mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK_64
    return z ^ z >> 31
