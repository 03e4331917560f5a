"""Pure half of `modeltable`: the readable reference."""

from collections.abc import Sequence
from typing import Final

MAX_NAMES: Final = 1 << 20
MAX_NAME_BYTES: Final = 2048

# A key sets one bit in each of the 8 words of one 512-bit line: 11.5 bits per key give 0.6 % false positives.
BITS_PER_KEY: Final = 11.5
LINE_BITS: Final = 512

_WORDS_PER_LINE: Final = 8
_WORD_BITS: Final = 64
_MASK_64: Final = (1 << 64) - 1
# The first 64 fractional bits of pi (odd): the filter's bits must not repeat those that chose the line.
_SPREAD: Final = 0x243F6A8885A308D3


class ModelTable:
    """Positions of model names, fixed at construction.

    At most 1,048,576 names of 1 to 2048 bytes. A slice longer than the longest name is answered without being
    read, however long a caller made it.
    """

    def __init__(self, names: Sequence[bytes], bloom: bool = True) -> None:
        """Index `names`. ValueError for an empty, overlong or repeated one, TypeError for one not of bytes.

        Without `bloom`, `may_contain` rules out by length alone.
        """
        self._positions = checked_names(names)
        self._longest = max(map(len, self._positions), default=0)
        self._lines = _bloom_lines(self._positions) if bloom else None

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._positions)

    def lookup(self, body: bytes, start: int, end: int) -> int:
        """Return the position in `names` of body[start:end], or -1. The slice is clipped to the body.

        A negative bound is clipped to 0, not counted from the end: a scanner's "not found" matches nothing.
        The filter is not asked: in Python it costs more than the dict it would save.
        """
        start = max(start, 0)
        if end - start > self._longest and len(body) - start > self._longest:
            return -1
        return self._positions.get(body[start : max(end, 0)], -1)

    def may_contain(self, body: bytes, start: int, end: int) -> bool:
        """Return the filter's answer alone: False means that `lookup` finds nothing. Clips as it does."""
        name = body[max(start, 0) : max(end, 0)]
        if not 0 < len(name) <= self._longest:
            return False
        if self._lines is None:
            return True
        line, bits = _place(name, len(self._lines))
        return self._lines[line] & bits == bits


def checked_names(names: Sequence[bytes]) -> dict[bytes, int]:
    """Return {name: position}; ValueError or TypeError as `ModelTable` says."""
    if len(names) > MAX_NAMES:
        raise ValueError(f"{len(names)} model names, at most {MAX_NAMES} are supported")
    positions: dict[bytes, int] = {}
    for position, name in enumerate(names):
        if not isinstance(name, bytes):
            raise TypeError(f"model name {position} must be bytes, not {type(name).__name__}")
        if not 0 < len(name) <= MAX_NAME_BYTES:
            raise ValueError(f"model name {position} has {len(name)} bytes, not 1 to {MAX_NAME_BYTES}")
        if positions.setdefault(name, position) != position:
            raise ValueError(f"model name {position} repeats {positions[name]}: {name!r}")
    return positions


def line_count(names: int) -> int:
    """Return how many 512-bit lines a filter over that many names has."""
    return int(names * BITS_PER_KEY / LINE_BITS) + 1


def _bloom_lines(names: dict[bytes, int]) -> list[int]:
    lines = [0] * line_count(len(names))
    for name in names:
        line, bits = _place(name, len(lines))
        lines[line] |= bits
    return lines


def _place(name: bytes, lines: int) -> tuple[int, int]:
    """Return (line, its bits that `name` sets)."""
    value = hash(name) & _MASK_64
    line = (value >> 32) * lines >> 32
    spread = value * _SPREAD & _MASK_64
    bits = 0
    for word in range(_WORDS_PER_LINE):
        bits |= 1 << (word * _WORD_BITS + (spread >> (16 + 6 * word) & (_WORD_BITS - 1)))
    return line, bits
