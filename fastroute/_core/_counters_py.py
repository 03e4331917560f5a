"""Pure half of `counters`: the readable reference.

Python has no atomic read-modify-write on shared memory. Reads and plain writes of one cell are whole; `add`,
`add_word` and `cas_word` are exact only between threads that share one `Segment` object. So a row must have
one writing process, and a word changed by several may lose updates. `ATOMIC` is False to say so.

What every request reads and changes many cells of (`attempts`, `adaptive`, `candidates`, `selection`) asks a segment
once where they are, which is when positions are checked, and goes on in its `numbers` or `words` by itself.
"""

import mmap
import threading
from operator import index
from typing import Final, Self

from fastroute._core._counters_file import (
    CELLS,
    COLUMNS,
    HEADER_BYTES,
    IN_FLIGHT,
    REQUESTS,
    WORDS,
    WORDS_OFFSET,
    WORK,
    SegmentError,
    create_file,
    open_file,
    segment_bytes,
)

ATOMIC: bool = False

_FIRST_WORD: Final = WORDS_OFFSET // 8
_FIRST_CELL: Final = HEADER_BYTES // 8
_TWO_63: Final = 1 << 63
_TWO_64: Final = 1 << 64
_MASK_64: Final = _TWO_64 - 1


class Segment:
    """Counters in a file mapped by every process of a gateway. Make one with `create` or `open`.

    Values beyond signed 64 bits raise OverflowError, positions out of range IndexError, any use after `close`
    ValueError; checked in that order. Sums wrap at 64 bits.
    """

    def __init__(self, path: str, workers: int, endpoints: int, mapping: mmap.mmap) -> None:
        """Take over `mapping`, which must have exactly the size the dimensions need (SegmentError)."""
        needed = segment_bytes(workers, endpoints)
        if len(mapping) != needed:
            raise SegmentError(f"{path}: mapping of {len(mapping)} bytes, {needed} are needed")
        self.path = path
        self.workers = workers
        self.endpoints = endpoints
        self._mapping = mapping
        #: The whole mapping by 64 bits, as signed numbers and as words without a sign; both are released by `close`.
        self.numbers = memoryview(mapping).cast("q")
        self.words = memoryview(mapping).cast("Q")
        #: Held by whoever changes a cell by what it holds.
        self.lock = threading.Lock()
        #: Where in them the cells of the first endpoint begin that all workers share.
        self.first_shared = _FIRST_CELL + workers * endpoints * COLUMNS
        self._closed = False

    @classmethod
    def create(cls, path: str, workers: int, endpoints: int) -> Self:
        """Make a zeroed segment at `path`; whoever has the file it replaces mapped keeps that one, intact.

        Bounds: 1..1024 workers, 1..65536 endpoints (SegmentError). OSError from the file system.
        """
        return cls(path, workers, endpoints, create_file(path, workers, endpoints))

    @classmethod
    def open(cls, path: str) -> Self:
        """Map an existing segment. SegmentError for a file that is not one, OSError if it cannot be read."""
        mapping, workers, endpoints = open_file(path)
        return cls(path, workers, endpoints, mapping)

    def word(self, i: int) -> int:
        """Return control word `i` (0..63)."""
        return self.numbers[self._word_at(i)]

    def set_word(self, i: int, value: int) -> None:
        """Store a control word."""
        value = _int64(value)
        self.numbers[self._word_at(i)] = value

    def add_word(self, i: int, delta: int) -> int:
        """Add to a control word and return its new value."""
        delta = _int64(delta)
        return self._add(self._word_at(i), delta)

    def cas_word(self, i: int, expect: int, new: int) -> bool:
        """Store `new` if the control word holds `expect`; return whether it did."""
        expect, new = _int64(expect), _int64(new)
        return self.swap(self._word_at(i), expect & _MASK_64, new & _MASK_64)

    def get(self, worker: int, endpoint: int, column: int) -> int:
        """Return one cell."""
        return self.numbers[self._cell_at(worker, endpoint, column)]

    def set(self, worker: int, endpoint: int, column: int, value: int) -> None:
        """Store one cell."""
        value = _int64(value)
        self.numbers[self._cell_at(worker, endpoint, column)] = value

    def add(self, worker: int, endpoint: int, column: int, delta: int) -> int:
        """Add to one cell and return its new value."""
        delta = _int64(delta)
        return self._add(self._cell_at(worker, endpoint, column), delta)

    def cell(self, endpoint: int, i: int) -> int:
        """Return cell `i` (0..47) of those of an endpoint that all workers share."""
        # The most frequent call of all: what `_shared_at` does, without calling it.
        if type(endpoint) is int is type(i) and 0 <= endpoint < self.endpoints and 0 <= i < CELLS and not self._closed:
            return self.numbers[self.first_shared + endpoint * CELLS + i]
        return self.numbers[self._shared_at(endpoint, i)]

    def cells(self, endpoint: int, first: int, count: int) -> list[int]:
        """Return `count` cells of those that all workers share, from `first` on."""
        at = self._shared_at(endpoint, first)
        if count < 0 or first + count > CELLS:
            raise IndexError(f"cells {first} to {first + count} are not in 0..{CELLS}")
        return self.numbers[at : at + count].tolist()

    def set_cell(self, endpoint: int, i: int, value: int) -> None:
        """Store a shared cell."""
        value = _int64(value)
        self.numbers[self._shared_at(endpoint, i)] = value

    def add_cell(self, endpoint: int, i: int, delta: int) -> int:
        """Add to a shared cell and return its new value."""
        delta = _int64(delta)
        return self._add(self._shared_at(endpoint, i), delta)

    def cas_cell(self, endpoint: int, i: int, expect: int, new: int) -> bool:
        """Store `new` if the shared cell holds `expect`; return whether it did."""
        expect, new = _int64(expect), _int64(new)
        return self.swap(self._shared_at(endpoint, i), expect & _MASK_64, new & _MASK_64)

    def clear_endpoint(self, endpoint: int) -> None:
        """Zero every shared cell of an endpoint, and its row of every worker but for what is in flight."""
        first = self._shared_at(endpoint, 0)
        for at in range(first, first + CELLS):
            self.numbers[at] = 0
        for worker in range(self.workers):
            for column in range(COLUMNS):
                if column not in (IN_FLIGHT, WORK):
                    self.set(worker, endpoint, column, 0)

    def total(self, endpoint: int, column: int) -> int:
        """Return the sum of a column over all workers' rows of one endpoint."""
        if 0 <= endpoint < self.endpoints and 0 <= column < COLUMNS and not self._closed:
            first = _FIRST_CELL + endpoint * COLUMNS + column
        else:
            first = self._cell_at(0, endpoint, column)
        if self.workers == 1:
            return self.numbers[first]
        return _wrap(sum(self.numbers[first : self.first_shared : self.endpoints * COLUMNS]))

    def totals(self, column: int) -> list[int]:
        """Return `total(endpoint, column)` for every endpoint, in order."""
        self._cell_at(0, 0, column)
        return [self.total(endpoint, column) for endpoint in range(self.endpoints)]

    def in_flight(self, endpoint: int) -> int:
        """Return the requests now in flight to one endpoint, over all workers."""
        return self.total(endpoint, IN_FLIGHT)

    def clear_worker(self, worker: int) -> None:
        """Zero what a worker whose process has died had in flight; its other columns stay."""
        first = self._cell_at(worker, 0, 0)
        for at in range(first, first + self.endpoints * COLUMNS, COLUMNS):
            self.numbers[at + IN_FLIGHT] = 0
            self.numbers[at + WORK] = 0

    def shared_at(self, endpoint: int) -> int:
        """Return where in `numbers` and `words` the first of the cells of an endpoint is that all workers share."""
        if 0 <= endpoint < self.endpoints and not self._closed:
            return self.first_shared + endpoint * CELLS
        return self._shared_at(endpoint, 0)

    def own_at(self, worker: int, endpoint: int) -> int:
        """Return where in `numbers` and `words` the first column of a worker's row of an endpoint is."""
        if 0 <= worker < self.workers and 0 <= endpoint < self.endpoints and not self._closed:
            return _FIRST_CELL + (worker * self.endpoints + endpoint) * COLUMNS
        return self._cell_at(worker, endpoint, 0)

    def places(self, worker: int, endpoint: int) -> tuple[int, int]:
        """Return (`own_at` of a worker and an endpoint, `shared_at` of the endpoint)."""
        if 0 <= worker < self.workers and 0 <= endpoint < self.endpoints and not self._closed:
            own_at = _FIRST_CELL + (worker * self.endpoints + endpoint) * COLUMNS
            return own_at, self.first_shared + endpoint * CELLS
        return self._cell_at(worker, endpoint, 0), self._shared_at(endpoint, 0)

    def move(self, own_at: int, in_flight: int, work: int, requests: int) -> None:
        """Add to three columns of the row at `own_at`, at once for all threads. OverflowError for too much work."""
        if not -_TWO_63 <= work < _TWO_63:
            _int64(work)
        words = self.words
        with self.lock:
            words[own_at + WORK] = words[own_at + WORK] + work & _MASK_64
            words[own_at + IN_FLIGHT] = words[own_at + IN_FLIGHT] + in_flight & _MASK_64
            if requests:
                words[own_at + REQUESTS] = words[own_at + REQUESTS] + requests & _MASK_64

    def swap(self, at: int, expect: int, new: int) -> bool:
        """Store `new` at `at` if there is `expect`; return whether it did. Both are without a sign."""
        words = self.words
        with self.lock:
            if words[at] != expect:
                return False
            words[at] = new
            return True

    def close(self) -> None:
        """Let go of the mapping; a second call does nothing. The file stays."""
        if self._closed:
            return
        self._closed = True
        self.numbers.release()
        self.words.release()
        try:
            self._mapping.close()
        except BufferError:
            pass  # somebody still holds a view of the mapping: it is unmapped together with the last one

    def _add(self, at: int, delta: int) -> int:
        with self.lock:
            self.words[at] = self.words[at] + delta & _MASK_64
            return self.numbers[at]

    def _word_at(self, i: int) -> int:
        i = _position(i, WORDS, "word")
        self.check_open()
        return _FIRST_WORD + i

    def _cell_at(self, worker: int, endpoint: int, column: int) -> int:
        plain = type(worker) is int is type(endpoint) is type(column) and not self._closed
        if plain and 0 <= worker < self.workers and 0 <= endpoint < self.endpoints and 0 <= column < COLUMNS:
            return _FIRST_CELL + (worker * self.endpoints + endpoint) * COLUMNS + column
        worker = _position(worker, self.workers, "worker")
        endpoint = _position(endpoint, self.endpoints, "endpoint")
        column = _position(column, COLUMNS, "column")
        self.check_open()
        return _FIRST_CELL + (worker * self.endpoints + endpoint) * COLUMNS + column

    def _shared_at(self, endpoint: int, i: int) -> int:
        if type(endpoint) is int is type(i) and 0 <= endpoint < self.endpoints and 0 <= i < CELLS and not self._closed:
            return self.first_shared + endpoint * CELLS + i
        endpoint = _position(endpoint, self.endpoints, "endpoint")
        i = _position(i, CELLS, "cell")
        self.check_open()
        return self.first_shared + endpoint * CELLS + i

    def check_open(self) -> None:
        """Raise ValueError after `close`."""
        if self._closed:
            raise ValueError("segment is closed")


def _position(i: int, bound: int, what: str) -> int:
    if not 0 <= index(i) < bound:
        raise IndexError(f"{what} {i} is not in 0..{bound - 1}")
    return i


def _int64(value: int) -> int:
    if not -_TWO_63 <= index(value) < _TWO_63:
        raise OverflowError("value does not fit in signed 64 bits")
    return value


def _wrap(value: int) -> int:
    return (value + _TWO_63) % _TWO_64 - _TWO_63
