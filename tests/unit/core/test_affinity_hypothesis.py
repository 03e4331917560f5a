"""The two halves of `affinity` hash alike, make the same choices, and remember the same."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.twins import twins
from tests.unit.fleet import Fleet

PURE, COMPILED = (param.values[0] for param in twins("affinity"))
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled half is not built")

BLOCK = 4
WEIGHTS = st.sampled_from([0.1, 0.5, 1.0, 1.0, 2.0, 7.3])
LOADS = st.one_of(st.integers(0, 6), st.integers(-3, 100))
#: Few letters and short blocks, so that prompts have beginnings in common.
PROMPT = st.text("ab", max_size=6).map(lambda text: b"".join(letter.encode() * BLOCK for letter in text))


class Twins:
    """The same fleet in both halves."""

    def __init__(self, folder: str, weights: list[float]) -> None:
        self.fleets = [Fleet(Path(folder), weights, half=half) for half in (PURE, COMPILED)]

    def set_loads(self, loads: list[int]) -> None:
        for fleet in self.fleets:
            fleet.set_loads(loads)

    def only(self, positions: list[int]) -> None:
        for fleet in self.fleets:
            fleet.only(positions)

    def close(self) -> None:
        for fleet in self.fleets:
            fleet.segment.close()


def agreed(results: list[Any]) -> Any:
    assert results[0] == results[1]
    return results[0]


@given(st.binary(max_size=200))
def test_same_hash(data: bytes) -> None:
    assert PURE.hash64(data) == COMPILED.hash64(data)


@settings(deadline=None)
@given(st.lists(WEIGHTS, min_size=1, max_size=12), st.data())
def test_same_rendezvous(weights: list[float], data: st.DataObject) -> None:
    n = len(weights)
    with tempfile.TemporaryDirectory() as folder:
        both = Twins(folder, weights)
        nodes = [half.Rendezvous(both.fleets[0].ids) for half in (PURE, COMPILED)]
        for _ in range(3):
            both.set_loads(data.draw(st.lists(LOADS, min_size=n, max_size=n)))
            among = data.draw(st.sets(st.integers(0, n - 1)))
            both.only(sorted(among))
            key = data.draw(st.binary(max_size=40))
            balance = data.draw(st.floats(1.01, 100))
            picks = [one.pick(fleet.candidates, key, 5, balance) for one, fleet in zip(nodes, both.fleets, strict=True)]
            assert agreed(picks) in (among or {-1})
        both.close()


@settings(deadline=None)
@given(st.integers(1, 5) | st.just(66), st.sampled_from([8, 16, 64]), st.data())
def test_same_table(n: int, slots: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        both = Twins(folder, data.draw(st.lists(WEIGHTS, min_size=n, max_size=n)))
        ids = both.fleets[0].ids
        tables = [half.PrefixTable(ids, slots, BLOCK) for half in (PURE, COMPILED)]
        seen: set[bytes] = set()
        for _ in range(data.draw(st.integers(1, 25))):
            prompt = data.draw(PROMPT)
            seen.add(prompt)
            match data.draw(st.sampled_from(["pick"] * 8 + ["forget", "adopt"])):
                case "forget":
                    at = data.draw(st.integers(0, n - 1))
                    for table in tables:
                        table.forget(at, prompt, 0, len(prompt), b"")
                case "adopt":
                    positions = data.draw(st.lists(st.integers(-1, n - 1), min_size=n, max_size=n))
                    size = data.draw(st.sampled_from([8, 16, 64]))
                    fresh = [half.PrefixTable(ids, size, BLOCK) for half in (PURE, COMPILED)]
                    for one, old in zip(fresh, tables, strict=True):
                        one.adopt(old, positions)
                    tables = fresh
                case _:
                    both.set_loads(data.draw(st.lists(LOADS, min_size=n, max_size=n)))
                    among = data.draw(st.sets(st.integers(0, n - 1)))
                    both.only(sorted(among))
                    picks = [
                        table.pick(fleet.candidates, prompt, 0, len(prompt), b"", 5, 1.25)
                        for table, fleet in zip(tables, both.fleets, strict=True)
                    ]
                    assert agreed(picks) in (among or {-1})
            agreed([len(table) for table in tables])
        for prompt in seen:
            for position in range(n):
                agreed([table.depth(position, prompt, 0, len(prompt), b"") for table in tables])
        both.close()
