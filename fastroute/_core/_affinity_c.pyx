# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled half of `affinity`; the meaning of every name is written down in the pure half."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY, log
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastroute._core._candidates_c cimport Candidates

from fastroute._core._affinity_py import MAX_NODES, checked_block_bytes, checked_slots

cdef extern from "Python.h":
    # Clips to what a Py_ssize_t holds where `overflow` is NULL.
    Py_ssize_t PyNumber_AsSsize_t(object o, void *overflow) except? -1

cdef extern from "_hash.h":
    uint64_t fr_hash(const unsigned char *p, size_t length) noexcept
    uint64_t fr_mix(uint64_t z) noexcept

cdef extern from "_sequence.h":
    uint64_t fr_scale(uint64_t bits, uint64_t n) noexcept

cdef extern from *:
    """
    #define fr_prefetch(p) __builtin_prefetch(p)
    #define fr_lowest(word) __builtin_ctzll(word)
    """
    void fr_prefetch(const void *p) noexcept
    int fr_lowest(uint64_t word) noexcept

cdef enum:
    IN_FLIGHT = 0
    MAX_BLOCKS = 256
    WAYS = 8
    WORD_BITS = 64
    # MAX_HOLDERS of the pure half in words.
    MAX_WORDS = 16
    LINE_BYTES = 64
    COMMON_FORKS = 4
    # What a slot holds beside the hash: the clock's bit, whether any prompt went on, the number of forks.
    REFERENCED = 1
    CONTINUED = 2
    ONE_FORK = 4
    FORKS = 0x1C
    FLAGS = 0xFF

cdef double SPARE_LOAD = 4.0
cdef double SHED_DIFFERENCE = 32.0
cdef double SHED_RATIO = 1.1


def hash64(bytes data not None):
    """Return the 64-bit hash of a few bytes."""
    return _hash(data)


cdef inline uint64_t _hash(bytes data) noexcept:
    return fr_hash(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class Rendezvous:
    """Endpoints ranked for a key by weighted rendezvous hashing; see the pure half."""

    cdef Py_ssize_t _n
    cdef uint64_t *_nodes
    # Of the candidates, in their order, as of the last `_survey`.
    cdef double *_weights
    cdef int64_t *_loads
    cdef double _total
    cdef int64_t _in_flight

    def __cinit__(self, ids):
        """Take the ids of positions 0..n-1; at most 65536 of them (ValueError)."""
        cdef Py_ssize_t i
        self._n = len(ids)
        if self._n > MAX_NODES:
            raise ValueError(f"{self._n} endpoints, at most {MAX_NODES} are supported")
        self._nodes = <uint64_t *>PyMem_Calloc(self._n + 1, sizeof(uint64_t))
        self._weights = <double *>PyMem_Calloc(self._n + 1, sizeof(double))
        self._loads = <int64_t *>PyMem_Calloc(self._n + 1, sizeof(int64_t))
        if self._nodes == NULL or self._weights == NULL or self._loads == NULL:
            raise MemoryError
        for i in range(self._n):
            self._nodes[i] = _hash(ids[i].encode())

    def __dealloc__(self):
        PyMem_Free(self._nodes)
        PyMem_Free(self._weights)
        PyMem_Free(self._loads)

    def __len__(self):
        return self._n

    def pick(self, Candidates candidates not None, bytes key not None, int64_t now_ms, double balance):
        """Return the candidate that ranks highest for the key among those that are not full, -1 for no candidate."""
        self._survey(candidates, now_ms)
        if candidates.c_count == 0:
            return -1
        return candidates.c_positions[self._bounded(candidates, _hash(key), balance, 0.0)]

    cdef int _survey(self, Candidates candidates, int64_t now_ms) except -1:
        cdef Py_ssize_t k, position
        cdef double weight
        cdef int64_t load
        if candidates.size != self._n:
            raise ValueError(f"candidates among {candidates.size} endpoints, not {self._n}")
        self._total = 0.0
        self._in_flight = 0
        if candidates.c_count == 0:
            return 0
        candidates.segment._check_open()
        for k in range(candidates.c_count):
            position = candidates.c_positions[k]
            weight = candidates.c_weight(position, now_ms)
            self._weights[k] = weight if weight > 0.0 else 0.0
            self._total += self._weights[k]
            load = candidates.segment.c_total(candidates.c_places[position].row, IN_FLIGHT)
            self._loads[k] = load if load > 0 else 0
            self._in_flight += self._loads[k]
        if not self._total > 0.0:
            for k in range(candidates.c_count):
                self._weights[k] = 1.0
            self._total = <double>candidates.c_count
        return 0

    cdef double _cost(self, Py_ssize_t k, Py_ssize_t count) noexcept:
        if not self._weights[k] > 0.0:
            return INFINITY
        return <double>self._loads[k] * (self._total / <double>count / self._weights[k])

    cdef double _rank(self, Py_ssize_t position, double weight, uint64_t key) noexcept:
        cdef uint64_t mixed = fr_mix(key ^ self._nodes[position])
        return -weight / log((<double>(mixed >> 12) + 0.5) * (1.0 / 4503599627370496.0))

    cdef Py_ssize_t _bounded(self, Candidates candidates, uint64_t key, double balance, double spare) noexcept:
        cdef Py_ssize_t k, best = 0
        cdef double rank, highest = -1.0
        cdef double share = balance * (<double>(self._in_flight + 1) + spare * <double>candidates.c_count)
        for k in range(candidates.c_count):
            if not <double>self._loads[k] < share * self._weights[k] / self._total:
                continue
            rank = self._rank(candidates.c_positions[k], self._weights[k], key)
            if rank > highest:
                best = k
                highest = rank
        return best


cdef class PrefixTable:
    """Which endpoints were sent which prompts, and the choice that follows from it; see the pure half."""

    cdef Rendezvous _nodes
    cdef Py_ssize_t _block_bytes
    cdef uint64_t _set_count
    # 64-bit words of a block's set of positions.
    cdef Py_ssize_t _words
    cdef Py_ssize_t _used
    # WAYS slots to a set. A slot is a hash with FLAGS in its lowest bits; 0: the slot is free.
    cdef uint64_t *_slots
    # _words to a slot.
    cdef uint64_t *_masks
    # What `_slots` and `_masks` are parts of.
    cdef void *_memory
    cdef unsigned char *_hands
    # By position.
    cdef int32_t *_depths
    # Of the prompt at hand: hashes, and the slots of the blocks that were found.
    cdef uint64_t _chain[MAX_BLOCKS]
    cdef Py_ssize_t _found[MAX_BLOCKS]
    cdef Py_ssize_t _blocks
    cdef Py_ssize_t _found_blocks
    cdef uint64_t _last
    # Leading blocks that are common to conversations.
    cdef Py_ssize_t _common

    def __cinit__(self, ids, slots, block_bytes):
        """Make an empty table for positions 0..n-1; see the pure half."""
        cdef size_t size
        self._nodes = Rendezvous(ids)
        self._set_count = checked_slots(slots) // WAYS
        self._block_bytes = checked_block_bytes(block_bytes)
        self._words = min(max((self._nodes._n + WORD_BITS - 1) // WORD_BITS, 1), MAX_WORDS)
        size = self._set_count * WAYS * sizeof(uint64_t)
        # From calloc: what no prompt has touched takes no memory.
        self._memory = calloc(size * (1 + self._words) + LINE_BYTES, 1)
        self._slots = <uint64_t *>((<size_t>self._memory + LINE_BYTES - 1) & ~<size_t>(LINE_BYTES - 1))
        self._masks = self._slots + self._set_count * WAYS
        self._hands = <unsigned char *>calloc(self._set_count, 1)
        self._depths = <int32_t *>calloc(self._nodes._n + 1, sizeof(int32_t))
        if self._memory == NULL or self._hands == NULL or self._depths == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._memory)
        free(self._hands)
        free(self._depths)

    def __len__(self):
        return self._used

    def pick(self, Candidates candidates not None, bytes prompt not None, start, end, bytes tenant not None,
             int64_t now_ms, double balance):
        """Return the candidate for prompt[start:end], -1 for no candidate; note that it was sent the prompt."""
        cdef Py_ssize_t position
        # First, for it may run code.
        self._hash_blocks(prompt, start, end, tenant)
        self._nodes._survey(candidates, now_ms)
        if candidates.c_count == 0:
            return -1
        self._match(candidates)
        position = candidates.c_positions[self._choose(candidates, balance)]
        self._note(position)
        return position

    def depth(self, position, bytes prompt not None, start, end, bytes tenant not None):
        """Return how many leading blocks of prompt[start:end] the position is taken to hold."""
        cdef Py_ssize_t at = self._checked(position), i, slot
        self._hash_blocks(prompt, start, end, tenant)
        for i in range(self._blocks):
            slot = self._find(_tag(self._chain[i]))
            if slot < 0 or not self._holds(slot, at):
                return i
        return self._blocks

    def forget(self, position, bytes prompt not None, start, end, bytes tenant not None):
        """Take back that the position was sent any block of prompt[start:end]."""
        cdef Py_ssize_t at = self._checked(position), i, slot
        self._hash_blocks(prompt, start, end, tenant)
        for i in range(self._blocks):
            slot = self._find(_tag(self._chain[i]))
            if slot < 0 or not self._holds(slot, at):
                continue
            self._masks[slot * self._words + at // WORD_BITS] &= ~(<uint64_t>1 << (at % WORD_BITS))
            if self._nobody(slot):
                self._slots[slot] = 0
                self._used -= 1

    def adopt(self, PrefixTable previous not None, positions):
        """Take over what another table remembers; see the pure half."""
        cdef Py_ssize_t i, n = previous._nodes._n, way, slot, number
        cdef Py_ssize_t *moves
        if len(positions) != self._nodes._n:
            raise ValueError(f"{len(positions)} positions, not {self._nodes._n}")
        taken = [int(one) for one in positions]
        for theirs in taken:
            if theirs < -1 or theirs >= n:
                raise IndexError(f"position {theirs} is not in -1..{n - 1}")
        if previous._block_bytes != self._block_bytes:
            return
        moves = <Py_ssize_t *>PyMem_Calloc(self._nodes._n + 1, sizeof(Py_ssize_t))
        if moves == NULL:
            raise MemoryError
        for i in range(self._nodes._n):
            moves[i] = taken[i]
        for number in range(<Py_ssize_t>previous._set_count):
            for way in range(WAYS):
                # From the hand on: the order in which they would be given up.
                slot = number * WAYS + (previous._hands[number] + way) % WAYS
                if previous._slots[slot]:
                    self._take_over(previous, slot, moves)
        PyMem_Free(moves)

    cdef int _take_over(self, PrefixTable previous, Py_ssize_t slot, Py_ssize_t *moves) noexcept:
        cdef uint64_t mask[MAX_WORDS]
        cdef uint64_t any_one = 0, tag
        cdef Py_ssize_t i, mine, bound = min(self._nodes._n, MAX_WORDS * WORD_BITS)
        memset(mask, 0, sizeof(mask))
        for i in range(bound):
            if moves[i] >= 0 and previous._holds(slot, moves[i]):
                mask[i // WORD_BITS] |= <uint64_t>1 << (i % WORD_BITS)
                any_one = 1
        if not any_one:
            return 0
        tag = previous._slots[slot] & ~<uint64_t>FLAGS
        mine = self._find(tag)
        if mine < 0:
            mine = self._place(tag)
        for i in range(self._words):
            self._masks[mine * self._words + i] |= mask[i]
        self._slots[mine] = previous._slots[slot]
        return 0

    cdef int _hash_blocks(self, bytes prompt, object start, object end, bytes tenant) except -1:
        """Fill `_chain`, and `_last` with the hash of the last block or of what is shorter."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(prompt), i
        cdef Py_ssize_t first = PyNumber_AsSsize_t(start, NULL)
        cdef Py_ssize_t last = PyNumber_AsSsize_t(end, NULL)
        cdef const unsigned char *at
        cdef uint64_t value = _hash(tenant)
        cdef Py_ssize_t slot
        first = min(max(first, 0), size)
        last = min(max(last, first), size)
        at = <const unsigned char *>PyBytes_AS_STRING(prompt) + first
        self._blocks = min((last - first) // self._block_bytes, MAX_BLOCKS)
        for i in range(self._blocks):
            value = fr_mix(value ^ fr_hash(at + i * self._block_bytes, self._block_bytes))
            self._chain[i] = value
            # The memory is fetched while the next blocks are hashed.
            slot = self._set_of(_tag(value)) * WAYS
            fr_prefetch(&self._slots[slot])
            fr_prefetch(&self._masks[slot * self._words])
        if self._blocks == 0:
            value = fr_mix(value ^ fr_hash(at, last - first))
        self._last = value
        return 0

    cdef int _match(self, Candidates candidates) noexcept:
        """Fill `_depths` for the candidates, `_found` and `_common`; count a fork."""
        cdef uint64_t alive[MAX_WORDS]
        cdef uint64_t lost, left
        cdef Py_ssize_t i, k, word, slot = -1, position
        memset(alive, 0, sizeof(alive))
        for k in range(candidates.c_count):
            position = candidates.c_positions[k]
            self._depths[position] = 0
            if position < MAX_WORDS * WORD_BITS:
                alive[position // WORD_BITS] |= <uint64_t>1 << (position % WORD_BITS)
        self._found_blocks = 0
        self._common = 0
        for i in range(self._blocks):
            slot = self._find(_tag(self._chain[i]))
            if slot < 0:
                break
            self._slots[slot] |= REFERENCED
            if (self._slots[slot] & FORKS) >= COMMON_FORKS * ONE_FORK:
                self._common = i + 1
            for word in range(self._words):
                lost = alive[word] & ~self._masks[slot * self._words + word]
                alive[word] ^= lost
                while lost:
                    self._depths[word * WORD_BITS + fr_lowest(lost)] = <int32_t>i
                    lost &= lost - 1
            self._found[i] = slot
            self._found_blocks = i + 1
        if slot < 0 and self._found_blocks:
            slot = self._found[self._found_blocks - 1]
            if self._slots[slot] & CONTINUED and (self._slots[slot] & FORKS) < COMMON_FORKS * ONE_FORK:
                self._slots[slot] += ONE_FORK
        for word in range(self._words):
            left = alive[word]
            while left:
                self._depths[word * WORD_BITS + fr_lowest(left)] = <int32_t>self._found_blocks
                left &= left - 1
        return 0

    cdef Py_ssize_t _choose(self, Candidates candidates, double balance) noexcept:
        cdef Py_ssize_t k, best, least
        cdef int32_t depth, shallowest = MAX_BLOCKS, deepest = 0
        cdef Py_ssize_t common
        cdef double high, low
        cdef uint64_t key
        for k in range(candidates.c_count):
            depth = self._depths[candidates.c_positions[k]]
            shallowest = min(shallowest, depth)
            deepest = max(deepest, depth)
        common = max(self._common, <Py_ssize_t>shallowest)
        key = self._chain[common] if common < self._blocks else self._last
        if not 2 * (deepest - common) > self._blocks - common:
            return self._nodes._bounded(candidates, key, balance, SPARE_LOAD)
        best = self._least(candidates, key, deepest)
        least = self._least(candidates, key, 0)
        high = self._nodes._cost(best, candidates.c_count)
        low = self._nodes._cost(least, candidates.c_count)
        return least if high - low > SHED_DIFFERENCE and high > SHED_RATIO * low else best

    cdef Py_ssize_t _least(self, Candidates candidates, uint64_t key, int32_t depth) noexcept:
        """Return who of those at least that deep has the least load; of equals, the one that ranks highest."""
        cdef Py_ssize_t k, best = -1
        cdef double cost, rank, least = INFINITY, highest = -1.0
        for k in range(candidates.c_count):
            if self._depths[candidates.c_positions[k]] < depth:
                continue
            if best < 0:
                best = k
            cost = self._nodes._cost(k, candidates.c_count)
            if cost > least:
                continue
            rank = self._nodes._rank(candidates.c_positions[k], self._nodes._weights[k], key)
            if cost < least or rank > highest:
                best = k
                least = cost
                highest = rank
        return best

    cdef int _note(self, Py_ssize_t position) noexcept:
        cdef Py_ssize_t i, slot, word = position // WORD_BITS
        cdef uint64_t bit = <uint64_t>1 << (position % WORD_BITS)
        if word >= MAX_WORDS:
            return 0
        # What was found first: what is placed after it may take its slot.
        for i in range(self._found_blocks):
            slot = self._found[i]
            self._masks[slot * self._words + word] |= bit
            if i + 1 < self._blocks:
                self._slots[slot] |= CONTINUED
        for i in range(self._found_blocks, self._blocks):
            slot = self._find(_tag(self._chain[i]))
            if slot < 0:
                slot = self._place(_tag(self._chain[i]))
            self._masks[slot * self._words + word] |= bit
            if i + 1 < self._blocks:
                self._slots[slot] |= CONTINUED
        return 0

    cdef inline Py_ssize_t _set_of(self, uint64_t tag) noexcept:
        return <Py_ssize_t>fr_scale(tag, self._set_count)

    cdef inline Py_ssize_t _find(self, uint64_t tag) noexcept:
        """Return the slot of a block, -1 for none."""
        cdef Py_ssize_t first = self._set_of(tag) * WAYS
        cdef uint64_t *slots = &self._slots[first]
        cdef unsigned int equal = 0
        cdef int way
        # Without a branch for each way.
        for way in range(WAYS):
            equal |= <unsigned int>((slots[way] | FLAGS) == (tag | FLAGS)) << way
        return first + fr_lowest(equal) if equal else -1

    cdef Py_ssize_t _place(self, uint64_t tag) noexcept:
        """Return the slot, emptied, for a block that is not there."""
        cdef Py_ssize_t number = self._set_of(tag), slot = -1
        cdef uint64_t *slots = &self._slots[number * WAYS]
        cdef int way
        for way in range(WAYS):
            if slots[way] == 0:
                slot = number * WAYS + way
                self._used += 1
                break
        while slot < 0:
            way = self._hands[number]
            self._hands[number] = (way + 1) % WAYS
            if slots[way] & REFERENCED:
                slots[way] ^= REFERENCED
            else:
                slot = number * WAYS + way
        self._slots[slot] = tag
        memset(&self._masks[slot * self._words], 0, self._words * sizeof(uint64_t))
        return slot

    cdef inline bint _holds(self, Py_ssize_t slot, Py_ssize_t position) noexcept:
        if position >= MAX_WORDS * WORD_BITS:
            return False
        return self._masks[slot * self._words + position // WORD_BITS] >> (position % WORD_BITS) & 1

    cdef inline bint _nobody(self, Py_ssize_t slot) noexcept:
        cdef uint64_t left = 0
        cdef Py_ssize_t word
        for word in range(self._words):
            left |= self._masks[slot * self._words + word]
        return left == 0

    cdef Py_ssize_t _checked(self, object position) except -1:
        cdef Py_ssize_t at = PyNumber_AsSsize_t(position, <void *>IndexError)
        if at < 0 or at >= self._nodes._n:
            raise IndexError(f"position {position} is not in 0..{self._nodes._n - 1}")
        return at


cdef inline uint64_t _tag(uint64_t value) noexcept:
    value &= ~<uint64_t>FLAGS
    return value if value else FLAGS + 1
