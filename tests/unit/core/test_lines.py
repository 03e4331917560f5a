"""Journal lines: what was put comes back, and no damage makes one line out of another."""

import mmap
from types import ModuleType
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core import _lines_py
from tests.unit.core.twins import twins

HALVES = twins("lines")
TEXT = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"x").replace(b"\t", b"y"))


def line(head: bytes, body: bytes) -> bytes:
    payload = head + b"\t" + body
    return b"%08x %b\n" % (crc32(payload), payload)


@pytest.mark.parametrize("half", HALVES)
def test_a_line_is_put_where_there_is_room(half: ModuleType) -> None:
    window = mmap.mmap(-1, 4096)
    expected = line(b"[1]", b"[2]")
    end = half.put(window, 0, b"[1]\t", crc32(b"[1]\t"), b"[2]")
    assert (end, window[:end]) == (len(expected), expected)
    assert half.put(window, 4096 - len(expected), b"[1]\t", crc32(b"[1]\t"), b"[2]") == 4096
    for position in (4097 - len(expected), 4096, 5000, -1):
        assert half.put(window, position, b"[1]\t", crc32(b"[1]\t"), b"[2]") == -1
    assert window[end : 4096 - len(expected)] == bytes(4096 - 2 * len(expected))


@pytest.mark.parametrize("half", HALVES)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), max_size=20))
def test_what_was_put_comes_back(half: ModuleType, pairs: list[tuple[bytes, bytes]]) -> None:
    window = bytearray(4096)
    filled = 0
    for head, body in pairs:
        filled = half.put(window, filled, head + b"\t", crc32(head + b"\t"), body)
    data = bytes(window[:filled])
    assert data == b"".join(line(*pair) for pair in pairs)
    expected = [pair[0] for pair in pairs], b"".join(pair[1] + b"\n" for pair in pairs), filled, 0
    assert half.split(data, False) == half.split(data, True) == expected


@pytest.mark.parametrize("half", HALVES)
def test_bad_lines_wait_for_a_good_one_behind_them(half: ModuleType) -> None:
    good = line(b"h", b"b")
    for bad in (b"x\n", good[:5] + b"\n", b"\x00" * 30 + b"\n", good.upper(), good[:-2] + b"\x00\n"):
        assert half.split(good + bad, False) == ([b"h"], b"b\n", len(good), 0)
        assert half.split(good + b"\n" + bad, False) == ([b"h"], b"b\n", len(good) + 1, 0)
        assert half.split(good + bad, True) == ([b"h"], b"b\n", len(good + bad), 1)
        both = good + bad + bad + good
        assert half.split(both, False) == ([b"h", b"h"], b"b\nb\n", len(both), 2)
    assert half.split(good + good[:-1], False) == ([b"h"], b"b\n", len(good), 0)
    assert half.split(good + good[:-1], True) == ([b"h", b"h"], b"b\nb\n", 2 * len(good) - 1, 0)
    assert half.split(b"", True) == half.split(b"", False) == ([], b"", 0, 0)


@given(
    pieces=st.lists(
        st.one_of(
            st.tuples(TEXT, TEXT).map(lambda pair: line(*pair)),
            st.binary(max_size=40),
            st.sampled_from([b"\n", b"\t", b"\x00", b"00000000 \t\n", b"0000000g a\tb\n"]),
        ),
        max_size=12,
    ),
    flips=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3),
    final=st.booleans(),
)
def test_both_halves_read_the_same(pieces: list[bytes], flips: list[tuple[int, int]], final: bool) -> None:
    data = bytearray(b"".join(pieces))
    for at, value in flips:
        if at < len(data):
            data[at] = value
    compiled = HALVES[1].values[0]
    if compiled is None:
        pytest.skip("the compiled half is not built")
    assert compiled.split(bytes(data), final) == _lines_py.split(bytes(data), final)


def test_the_checksum_is_that_of_zlib() -> None:
    compiled = HALVES[1].values[0]
    if compiled is None:
        pytest.skip("the compiled half is not built")
    for size in range(40):
        body = bytes(range(size))
        window = bytearray(100)
        end = compiled.put(window, 0, b"\t", crc32(b"\t"), body)
        assert bytes(window[:8]) == b"%08x" % crc32(b"\t" + body)
        assert end == 11 + size
