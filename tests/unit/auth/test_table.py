"""A table finds exactly the keys it was made of, and no damaged one is taken for a table."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.auth.table import REVOKED, Found, Row, Table, TableError, encode_table

# Few first bytes, so that buckets fill up; zeroes, so that two neighbours often hold something like a third.
digests = st.builds(
    lambda head, tail: (head + tail).ljust(32, b"\0"), st.binary(min_size=4, max_size=4), st.binary(max_size=28)
) | st.lists(st.sampled_from([b"\0", b"\1"]), min_size=32, max_size=32).map(b"".join)
rows = st.builds(
    Row,
    digests,
    st.text("abc._-", min_size=1, max_size=64),
    st.sampled_from([b"{}", b'{"tenant":"acme"}']) | st.binary(max_size=50),
    st.integers(0, 2**63),
    st.booleans(),
)
tables = st.lists(rows, max_size=60, unique_by=lambda row: row.digest).map(sorted)


def expected(row: Row) -> Found:
    return REVOKED if row.revoked else Found(*row[1:])


@given(tables, st.lists(digests))
def test_what_is_in_it_is_found_and_nothing_else(rows: list[Row], others: list[bytes]) -> None:
    table = Table(encode_table(rows, 7, base=3, closed=bool(rows)))
    assert (table.generation, table.base, table.closed, table.count) == (7, 3, bool(rows), len(rows))
    known = {row.digest: expected(row) for row in rows}
    for one in [*known, *others]:
        assert table.find(one) == known.get(one)
    assert [row[1:] for row in table.rows()] == [expected(row) for row in rows]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000, 5000])
def test_of_every_size(count: int) -> None:
    rows = sorted(
        Row(struct.pack(">Q", n * 0x9E3779B97F4A7C15 % 2**64) * 4, f"k{n}", b"{}", n, False) for n in range(count)
    )
    table = Table(encode_table(rows, 1))
    assert all(table.find(row.digest) == expected(row) for row in rows)
    assert table.find(b"\xff" * 32) is None


def some() -> bytes:
    rows = [Row(bytes([n]) * 32, f"key-{n}", b'{"tenant":"t"}', n, n == 3) for n in range(20)]
    return encode_table(rows, 5)


def test_no_flipped_bit_goes_unnoticed() -> None:
    data = some()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(TableError):
            Table(bytes(damaged))


def test_no_other_length_goes_unnoticed() -> None:
    data = some()
    for length in range(len(data)):
        with pytest.raises(TableError):
            Table(data[:length])
    with pytest.raises(TableError):
        Table(data + b"\0")


@given(st.binary(max_size=400))
def test_garbage_is_no_table(data: bytes) -> None:
    with pytest.raises(TableError):
        Table(data)
    with pytest.raises(TableError):
        Table(some()[:16] + data)


def test_equal_terms_stand_there_once() -> None:
    terms = b"x" * 1000
    rows = [Row(n.to_bytes(32, "big"), f"k{n:04d}", terms, 0, False) for n in range(100)]
    assert len(encode_table(rows, 1)) < 128 + 100 * (32 + 16 + 9 + 4) + 2 * len(terms)


def test_a_table_that_would_be_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastroute.auth.table.MAX_TABLE_BYTES", 1 << 20)
    rows = [Row(n.to_bytes(32, "big"), "k", n.to_bytes(1, "big") * 100_000, 0, False) for n in range(20)]
    with pytest.raises(TableError, match="MiB"):
        encode_table(rows, 1)
