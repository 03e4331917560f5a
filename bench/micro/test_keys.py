"""What it costs to find a virtual key that was made at run time: among 10 and among 100,000, before any cache.

A round looks 1000 keys up; divide by 1000. `find` is the published table alone, `identify` is what a head that has not
been seen before pays: hashing the secret, looking its digest up, decoding its terms (`cold`) or not (`warm`).
"""

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from fastroute.auth.files import table_path
from fastroute.auth.keys import ANONYMOUS, KeyTable
from fastroute.auth.published import PublishedKeys, StoredKey
from fastroute.auth.table import Row, encode_table
from fastroute.interfaces import Principal

LOOKUPS = 1000
TERMS = [b'{"tenant":"tenant-%d","limits":{"rpm":%d}}' % (n, 100 + n) for n in range(50)]


@pytest.fixture(params=[10, 100_000])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def published(count: int, tmp_path: Path) -> PublishedKeys:
    digests = sorted((hashlib.sha256(b"sk-%d" % n).digest(), n) for n in range(count))
    rows = [Row(one, f"key-{n}", TERMS[n % len(TERMS)], 0, False) for one, n in digests]
    Path(table_path(str(tmp_path))).write_bytes(encode_table(rows, 1))
    keys = PublishedKeys(str(tmp_path))
    keys.refresh()
    return keys


def asked(count: int) -> list[bytes]:
    rng = random.Random(count)
    return [b"sk-%d" % rng.randrange(count) for _ in range(LOOKUPS)]


def test_find(benchmark: Any, published: PublishedKeys, count: int) -> None:
    digests = [hashlib.sha256(one).digest() for one in asked(count)]
    find = published._table.find

    def run() -> int:
        return sum(find(one) is not None for one in digests)

    assert benchmark(run) == LOOKUPS


def test_find_nobody(benchmark: Any, published: PublishedKeys) -> None:
    digests = [hashlib.sha256(b"unknown-%d" % n).digest() for n in range(LOOKUPS)]
    find = published._table.find

    def run() -> int:
        return sum(find(one) is not None for one in digests)

    assert benchmark(run) == 0


@pytest.mark.parametrize("kept", ["cold", "warm"])
def test_identify(benchmark: Any, published: PublishedKeys, count: int, kept: str) -> None:
    def make(stored: StoredKey) -> Principal:
        return Principal(stored.key.id, stored.key.tenant, until_ns=stored.until_ns)

    table = KeyTable({}, ANONYMOUS, published, make)
    fields = [{b"authorization": b"Bearer " + one} for one in asked(count)]

    def run() -> int:
        found = 0
        for one in fields:
            if kept == "cold":
                table.forget()
            found += table.identify(one, b"") is not ANONYMOUS
        return found

    assert benchmark(run) == LOOKUPS
