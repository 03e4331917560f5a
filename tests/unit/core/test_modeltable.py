"""Model names looked up from body bytes, over both halves."""

import random
from types import ModuleType
from typing import Any

import pytest

from fastroute._core._modeltable_py import MAX_NAME_BYTES
from tests.unit.core.twins import twins

NAMES = [b"gpt-4o", b"gpt-4o-mini", b"claude-sonnet-4-5", b"m", "модель".encode(), b"\x00", b"x" * 300]


@pytest.fixture(params=twins("modeltable"))
def modeltable(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(params=[True, False], ids=["bloom", "exact"])
def bloom(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def table(modeltable: ModuleType, bloom: bool) -> Any:
    return modeltable.ModelTable(NAMES, bloom)


def catalogue(count: int) -> list[bytes]:
    return [b"provider-%d/model-%d" % (i % 17, i) for i in range(count)]


def test_every_name_is_found_where_it_lies(table: Any) -> None:
    assert len(table) == len(NAMES)
    for position, name in enumerate(NAMES):
        body = b'{"model":"' + name + b'","stream":true}'
        assert table.lookup(body, 10, 10 + len(name)) == position
        assert table.may_contain(body, 10, 10 + len(name)) is True
        assert table.lookup(name, 0, len(name)) == position


def test_what_is_not_a_name(table: Any) -> None:
    body = b'{"model":"gpt-4o-mini"}'
    for start, end in ((10, 15), (9, 16), (10, 17), (11, 16), (10, 10), (16, 10), (23, 23)):
        assert table.lookup(body, start, end) == -1
    assert table.lookup(b"x" * 299, 0, 299) == -1
    assert table.lookup(b"x" * 301, 0, 301) == -1
    assert table.lookup(b"x" * 301, 1, 301) == 6


def test_every_bound_is_clipped(table: Any) -> None:
    huge = 10**30
    assert table.lookup(b"gpt-4o", 0, huge) == 0
    assert table.lookup(b"gpt-4o", -huge, 6) == 0
    assert table.lookup(b"gpt-4o", -1, 7) == 0
    for start, end in ((6, 6), (6, 12), (huge, 6), (huge, huge), (0, -1), (0, -huge), (-1, -1), (5, 2)):
        assert table.lookup(b"gpt-4o", start, end) == -1
        assert table.may_contain(b"gpt-4o", start, end) is False
    assert table.lookup(b"", 0, 1) == -1
    assert table.lookup(b"", -1, -1) == -1


def test_an_overlong_slice_is_ruled_out(table: Any) -> None:
    body = b"y" * 1_000_000
    assert table.lookup(body, 0, len(body)) == -1
    assert table.may_contain(body, 0, len(body)) is False
    assert table.may_contain(body, 0, 301) is False


def test_without_a_filter_anything_short_may_be_there(modeltable: ModuleType) -> None:
    assert modeltable.ModelTable([b"abcd"], False).may_contain(b"zz", 0, 2) is True


def test_an_empty_table(modeltable: ModuleType, bloom: bool) -> None:
    table = modeltable.ModelTable([], bloom)
    assert len(table) == 0
    assert table.lookup(b"m", 0, 1) == -1
    assert table.may_contain(b"m", 0, 1) is False


@pytest.mark.parametrize("length", [*range(1, 40), 63, 64, 65, MAX_NAME_BYTES])
def test_every_byte_of_a_name_counts(modeltable: ModuleType, bloom: bool, length: int) -> None:
    name = bytes(random.Random(length).randbytes(length))
    table = modeltable.ModelTable([b"other", name], bloom)
    assert table.lookup(b"-" + name + b"-", 1, 1 + length) == 1
    for at in {0, 1 % length, length // 2, length - 1}:
        changed = bytearray(name)
        changed[at] ^= 0x10
        assert table.lookup(bytes(changed), 0, length) == -1


@pytest.mark.parametrize("names", [[b"a", b"b", b"a"], [b""], [b"a", b"x" * (MAX_NAME_BYTES + 1)]])
def test_names_refused(modeltable: ModuleType, names: list[bytes]) -> None:
    with pytest.raises(ValueError, match="model name"):
        modeltable.ModelTable(names)


def test_too_many_names(modeltable: ModuleType) -> None:
    with pytest.raises(ValueError, match="at most"):
        modeltable.ModelTable([b"x"] * (2**20 + 1))


def test_types_refused(modeltable: ModuleType) -> None:
    for wrong in ("gpt-4o", None, bytearray(b"gpt-4o")):
        with pytest.raises(TypeError):
            modeltable.ModelTable([wrong])
    table = modeltable.ModelTable([b"m"])
    for arguments in ((None, 0, 1), ("m", 0, 1.5), (b"m", 0, "1")):
        with pytest.raises(TypeError):
            table.lookup(*arguments)


def test_ten_thousand_names(modeltable: ModuleType, bloom: bool) -> None:
    names = catalogue(10_000)
    table = modeltable.ModelTable(tuple(names), bloom)
    assert [table.lookup(name, 0, len(name)) for name in names] == list(range(10_000))
    assert all(table.may_contain(name, 0, 99) for name in names)
    assert all(table.lookup(name + b"x", 0, 99) == -1 for name in names)


@pytest.mark.parametrize("count", [10_000, 1_000])
def test_false_positives_are_rare(modeltable: ModuleType, count: int) -> None:
    table = modeltable.ModelTable(catalogue(count))
    probes = 50_000
    # Strangers of the same shape as the names, and short enough not to be ruled out by length.
    strangers = [b"provider-%d/model-x%d" % (i % 17, i % 1000) for i in range(probes // 50)]
    strangers += [b"%d" % i for i in range(probes - len(strangers))]
    positives = sum(table.may_contain(name, 0, 99) for name in strangers)
    assert positives < 0.02 * probes
    assert positives > 0  # or the filter is far larger than it should be
    assert all(table.lookup(name, 0, 99) == -1 for name in strangers)
