"""The queue before the ceilings: order, fairness, bounds, on a clock that tests turn."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._limits_file import DAY_NS, PERIOD_NS, Moment
from fastroute._core.limits import Ceilings, Limiter, Subject, Table
from fastroute.limits.queue import (
    LEVELS,
    MAX_CHARGE,
    MAX_PACES,
    POLL_NS,
    QUANTUM_TOKENS,
    FairQueue,
    Waiting,
    subject_names,
)

S = 1_000_000_000
NOW = 10**12
WALL = 20_000 * DAY_NS
LOW, NORMAL, HIGH, CRITICAL = range(4)


class Line:
    """A queue of 1000, and what became of those who waited in it, in the order in which it did."""

    def __init__(self, folder: Path, capacity: int = 1000) -> None:
        self.table = Table.create(str(folder / "limits"), 1, Moment(bytes(16), NOW, WALL), 1024)
        self.limiter = Limiter(self.table, 0)
        self.queue = FairQueue(self.limiter, capacity)
        self.now = 0.0
        self.let_in: list[Any] = []
        self.turned_away: list[Any] = []

    def ceilings(self, name: str, **limits: int) -> Ceilings:
        return Ceilings(self.table, [Subject(name, **limits)])

    def times(self) -> tuple[int, int]:
        return NOW + int(self.now * S), WALL + int(self.now * S)

    def exhaust(self, *ceilings: Ceilings) -> None:
        """Take whatever there is."""
        for one in ceilings:
            while self.limiter.admit(one, None, 0, 1, *self.times()):
                pass

    def wait(
        self,
        label: object,
        model: Ceilings | None,
        caller: Ceilings | None = None,
        *,
        tenant: str = "t",
        level: int = NORMAL,
        tokens: int = 0,
    ) -> "Guest | None":
        guest = Guest(self, label, tenant, level, caller, model, 0, tokens, 0)
        return guest if self.queue.join(guest) else None

    def pump(self, after_s: float = 0.0) -> list[Any]:
        """Let time pass; return who has been let in since."""
        self.now += after_s
        before = len(self.let_in)
        self.again_ns = self.queue.pump(*self.times())
        return self.let_in[before:]


class Guest(Waiting):
    __slots__ = ("grant", "label", "line")

    def __init__(self, line: Line, label: object, *rest: Any) -> None:
        super().__init__(*rest)
        self.line = line
        self.label = label
        self.grant: Any = None

    def let_in(self, grant: Any) -> None:
        self.grant = grant
        self.line.let_in.append(self.label)

    def turn_away(self) -> None:
        self.line.turned_away.append(self.label)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.table.close()


def test_first_come_first_served(line: Line) -> None:
    model = line.ceilings("model:m", rpm=60)
    line.exhaust(model)
    for number in range(5):
        assert line.wait(number, model)
    assert line.pump() == []
    assert line.again_ns == S
    assert line.pump(1) == [0]
    assert line.pump(0.999) == []
    assert line.pump(2.001) == [1, 2, 3]
    assert line.pump(1) == [4]
    assert (len(line.queue), line.again_ns) == (0, -1)


def test_higher_priorities_go_first(line: Line) -> None:
    model = line.ceilings("model:m", rpm=60)
    line.exhaust(model)
    for level in (LOW, NORMAL, CRITICAL, HIGH, NORMAL, CRITICAL):
        line.wait(LEVELS[level], model, level=level)
    assert line.pump(6) == ["critical", "critical", "high", "normal", "normal", "low"]


def test_nobody_is_overtaken_by_the_same_or_a_lower_priority(line: Line) -> None:
    model, other = line.ceilings("model:m", rpm=60), line.ceilings("model:n", rpm=60)
    line.wait("x", model, level=NORMAL)
    assert [line.queue.is_ahead(level, subject_names(None, model)) for level in range(4)] == [True, True, False, False]
    assert not line.queue.is_ahead(LOW, subject_names(None, other))
    assert line.queue.is_ahead(LOW, subject_names(model, other))


def test_tenants_take_turns(line: Line) -> None:
    model = line.ceilings("model:m", rpm=60)
    line.exhaust(model)
    for number in range(20):
        line.wait(("many", number), model, tenant="many", tokens=QUANTUM_TOKENS)
    line.wait(("few", 0), model, tenant="few", tokens=QUANTUM_TOKENS)
    line.wait(("few", 1), model, tenant="few", tokens=QUANTUM_TOKENS)
    assert line.pump(4) == [("many", 0), ("few", 0), ("many", 1), ("few", 1)]


def test_turns_are_counted_in_tokens(line: Line) -> None:
    """One tenant's requests are ten times as large: it gets as many tokens as the other, in a tenth of the requests."""
    model = line.ceilings("model:m", rpm=60)
    line.exhaust(model)
    for _ in range(400):
        line.wait("large", model, tenant="large", tokens=5000)
        line.wait("small", model, tenant="small", tokens=500)
    seen: Counter[str] = Counter()
    for _ in range(330):
        seen.update(line.pump(1))
    assert seen.total() == 330
    assert abs(seen["large"] * 5000 - seen["small"] * 500) <= 2 * QUANTUM_TOKENS + 5000


def test_a_large_request_is_not_overtaken_for_ever(line: Line) -> None:
    model = line.ceilings("model:m", tpm=6000)
    line.exhaust(model)
    line.wait("large", model, tenant="a", tokens=3000)
    for number in range(100):
        line.wait(number, model, tenant=f"b{number}", tokens=10)
    assert line.pump(29) == []
    assert line.pump(1)[0] == "large"


def test_one_who_waits_for_another_ceiling_holds_nobody_up(line: Line) -> None:
    model = line.ceilings("model:m", rpm=600)
    poor, rich = line.ceilings("key:poor", rpm=1), line.ceilings("key:rich", rpm=600)
    line.exhaust(poor)
    line.wait("poor", model, poor)
    line.wait("poor too", model, poor)
    line.wait("rich", model, rich)
    line.wait("low", model, rich, level=LOW)
    assert line.pump() == ["rich", "low"]
    assert line.again_ns == S
    assert line.pump(60) == ["poor"]


def test_two_keys_of_a_tenant_take_turns(line: Line) -> None:
    model = line.ceilings("model:m", rpm=60)
    one, two = line.ceilings("key:one", rpm=600), line.ceilings("key:two", rpm=600)
    line.exhaust(model)
    for number in range(3):
        line.wait(("one", number), model, one)
    for number in range(3):
        line.wait(("two", number), model, two)
    assert [name for name, _ in line.pump(6)] == ["one", "two"] * 3


def test_concurrency_is_looked_at_again_soon(line: Line) -> None:
    model = line.ceilings("model:m", concurrency=1)
    grant = line.limiter.admit(model, None, 0, 0, *line.times())
    line.wait("x", model)
    assert line.pump() == []
    assert line.again_ns == POLL_NS
    grant.settle(0)
    assert line.pump() == ["x"]


def test_the_estimate_counts_who_is_before_one(line: Line) -> None:
    model = line.ceilings("model:m", rpm=60, tpm=60_000)
    key = line.ceilings("key:k", rpm=600)
    line.exhaust(model)
    for number in range(9):
        line.wait(number, model, tokens=2000)
    line.wait("low", model, level=LOW, tokens=10_000)

    def estimate(level: int, tokens: int = 0) -> float:
        guest = Guest(line, "", "t", level, key, model, 0, tokens, 0)
        return line.queue.estimate_ns(guest, *line.times()) / S

    assert estimate(HIGH) == 1
    assert estimate(NORMAL) == 10
    assert estimate(LOW) == 11
    assert estimate(NORMAL, 60_000) == pytest.approx(18.06)


def test_the_estimate_knows_how_fast_places_become_free(line: Line) -> None:
    """One place, each holder keeps it for two seconds; the guess is forgotten when nobody has waited for long."""
    model = line.ceilings("model:m", concurrency=1)
    grant = line.limiter.admit(model, None, 0, 0, *line.times())
    guests = [line.wait(number, model) for number in range(6)]

    def estimate() -> float:
        guest = Guest(line, "", "t", NORMAL, None, model, 0, 0, 0)
        return line.queue.estimate_ns(guest, *line.times()) / S

    assert estimate() == 0
    for number in range(3):
        line.now += 2
        grant.settle(0)
        assert line.pump() == [number]
        grant = guests[number].grant
    # Three wait before this one.
    assert estimate() == pytest.approx(8)
    for guest in guests[3:]:
        line.queue.leave(guest)
    # Nobody waits before it: it may have to wait, but not for others.
    assert estimate() == 0
    line.now += 100
    late = [line.wait(("late", number), model) for number in range(3)]
    assert estimate() == 0
    grant.settle(0)
    assert line.pump() == [("late", 0)]
    line.now += 1
    late[0].grant.settle(0)
    assert line.pump() == [("late", 1)]
    # The time in which nobody waited is no part of it: 2 s, and then 1 s.
    assert estimate() == pytest.approx(2 * 1.75)


def test_paces_are_remembered_of_so_many(line: Line) -> None:
    for number in range(MAX_PACES + 50):
        line.queue._pace(f"key:{number}")
    assert len(line.queue._paces) == MAX_PACES


def test_a_full_queue_takes_only_what_is_of_higher_priority(tmp_path: Path) -> None:
    line = Line(tmp_path, capacity=3)
    model = line.ceilings("model:m", rpm=60)
    line.exhaust(model)
    assert line.wait("low 1", model, level=LOW)
    assert line.wait("low 2", model, level=LOW)
    assert line.wait("normal", model)
    assert line.wait("low 3", model, level=LOW) is None
    assert line.wait("high", model, level=HIGH)
    assert line.turned_away == ["low 2"]
    assert line.wait("critical", model, level=CRITICAL)
    assert line.wait("high 2", model, level=HIGH)
    assert line.turned_away == ["low 2", "low 1", "normal"]
    assert line.wait("high 3", model, level=HIGH) is None
    assert len(line.queue) == 3
    assert line.pump(3) == ["critical", "high", "high 2"]
    line.table.close()


def test_who_has_left_is_not_let_in(line: Line) -> None:
    model = line.ceilings("model:m", rpm=60)
    line.exhaust(model)
    guests = [line.wait(number, model) for number in range(4)]
    for guest in guests[:2]:
        line.queue.leave(guest)
        line.queue.leave(guest)
    assert len(line.queue) == 2
    assert line.pump(10) == [2, 3]
    line.queue.leave(guests[2])
    assert len(line.queue) == 0


def test_without_room_there_is_no_queue(tmp_path: Path) -> None:
    line = Line(tmp_path, capacity=0)
    assert line.wait("x", line.ceilings("model:m", rpm=1)) is None
    line.table.close()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "join", "join", "leave", "pump", "settle"]),
            st.integers(0, 3),
            st.integers(0, 3),
            st.integers(0, 3),
            st.sampled_from([0, 1, 50, 9000, 10 * MAX_CHARGE]),
        ),
        max_size=80,
    )
)
def test_everybody_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    """Whatever happens, the queue holds exactly those who joined and have neither left nor been let in."""
    line = Line(tmp_path_factory.mktemp("queue"), capacity=12)
    callers = [line.ceilings(f"key:{n}", rpm=5, concurrency=2) for n in range(3)] + [None]
    models = [line.ceilings(f"model:{n}", rpm=20, tpm=30_000) for n in range(3)] + [None]
    inside: list[Guest] = []
    for what, level, caller, model, tokens in steps:
        if what == "join":
            if callers[caller] is not None or models[model] is not None:
                guest = line.wait("", models[model], callers[caller], tenant=f"t{caller}", level=level, tokens=tokens)
                inside += [guest] if guest is not None else []
        elif what == "leave" and inside:
            line.queue.leave(inside[tokens % len(inside)])
        elif what == "settle":
            for guest in inside:
                if guest.grant is not None:
                    guest.grant.settle(tokens)
        else:
            line.pump(tokens / 100)
        waiting = [guest for guest in inside if guest.queued]
        assert len(line.queue) == len(waiting) <= 12
        assert all(guest.grant is None for guest in waiting)
        assert sum(guest.grant is not None for guest in inside) == len(line.let_in)
        assert sum(len(one.order) for one in line.queue._levels) == len(waiting)
    for guest in inside:
        line.queue.leave(guest)
    assert all(not one.ring and not one.order and not one.ahead for one in line.queue._levels)
    assert line.queue.pump(NOW + 100 * PERIOD_NS, WALL) == -1
    line.table.close()
