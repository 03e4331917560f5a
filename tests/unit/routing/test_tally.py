"""Counts of rules: a row for each worker in memory that processes share, a slot for each rule for good."""

import os

from fastroute.admin.rules import rules_document
from fastroute.config.schema import Config, Rule, Then
from fastroute.routing.tally import UNCOUNTED, Slots, Tally


def test_what_every_process_counts_is_in_the_total() -> None:
    tally = Tally(4, 3)
    children = []
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            row = tally.row(worker)
            for _ in range(10_000 + worker):
                row[2] += 1
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert [tally.total(slot) for slot in range(3)] == [0, 0, 40_006]


def test_a_rule_keeps_its_slot_and_no_other_rule_gets_it() -> None:
    slots = Slots(4)
    assert slots.assign(["a", "b"]) == (0, 1)
    assert slots.assign(["c", "b"]) == (2, 1)
    assert slots.assign(["a", "d", "c"]) == (0, 3, 2)


def test_rules_beyond_the_table_are_not_counted() -> None:
    slots, tally = Slots(2), Tally(1, 2)
    assert slots.assign(["a", "b", "c"]) == (0, 1, UNCOUNTED)
    row = tally.row(0)
    row[UNCOUNTED] += 1
    assert [tally.total(slot) for slot in (0, 1, UNCOUNTED)] == [0, 0, None]
    assert slots.assign(["c", "a"]) == (UNCOUNTED, 0)


def test_no_two_rows_overlap() -> None:
    for slots in (0, 1, 7, 8, 9):
        tally = Tally(3, slots)
        for worker in range(3):
            for at in range(slots + 1):
                tally.row(worker)[at] += 1
        for worker in range(3):
            assert list(tally.row(worker))[: slots + 1] == [1] * (slots + 1)


def test_the_document_has_every_rule_in_reading_order_and_nothing_of_what_it_does() -> None:
    secret = Then(headers={"authorization": "Bearer sk-of-a-rule"})
    rules = (Rule(id="b", then=secret), Rule(id="a", then=secret, enabled=False), Rule(id="z", then=secret, priority=1))
    counts = {5: 50, 6: 60, UNCOUNTED: None}
    document = rules_document(Config(rules=rules), 3, (5, UNCOUNTED, 6), counts.__getitem__)
    assert document == {
        "generation": 3,
        "rules": [
            {"id": "z", "priority": 1, "enabled": True, "matches": 60},
            {"id": "a", "priority": 0, "enabled": False, "matches": None},
            {"id": "b", "priority": 0, "enabled": True, "matches": 50},
        ],
    }
