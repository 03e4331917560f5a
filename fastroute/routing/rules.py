"""Routing rules, compiled: which of them apply to a request, found by intersecting sets of rules held as bits.

Bit i stands for the i-th rule in reading order: higher priority first, equal ones by id. For every thing that rules
look at there is a map from its value to the set of rules that this value does not rule out; a request's set is the
intersection of one entry of each, so that 1,000 rules cost what the things they look at cost. What no map can hold
(any, not, prompt sizes, patterns of headers, models nobody has listed) is asked of the rules that are left, in order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from fastroute.config.patterns import any_matches
from fastroute.config.schema import Action, Config, Reject, Rule, Then
from fastroute.interfaces import Header
from fastroute.routing.match import (
    HEADER,
    KEY,
    MODEL,
    NANOSECONDS_PER_MINUTE,
    PRIORITY,
    REGION,
    STREAM,
    TAGS,
    TENANT,
    WINDOW,
    Atom,
    Facts,
    Predicate,
    Windows,
    atoms,
    holds_all,
)
from fastroute.routing.tally import Counts

__all__ = ["NO_DECISION", "Decision", "Facts", "RuleTable", "compile_rules"]

#: Seconds that `Retry-After` says where a rejecting rule says none.
RETRY_AFTER_S: Final = 60
#: Rules that a header names; further ones are three dots.
MAX_SHOWN_RULES: Final = 16
#: Listed models times patterns that are compared when rules are compiled; beyond, they are when a request comes.
MAX_COMPARED: Final = 1_000_000

#: (status, message) by the reason of a rejection.
_REASONS: Final = {
    "rate_limit_exceeded": (429, "too many requests"),
    "unauthorized_model": (403, "this model may not be used"),
    "invalid_request": (400, "the request is not accepted"),
    "maintenance_mode": (503, "down for maintenance"),
    "custom": (403, "refused by a routing rule"),
}
_CODES: Final = {"invalid_request": "invalid_request_error", "custom": "refused_by_rule"}

#: How the things that have one value each are read.
_READERS: Final[dict[str, Callable[[Facts], Any]]] = {
    TENANT: attrgetter("tenant"),
    KEY: attrgetter("key_id"),
    REGION: attrgetter("region"),
    STREAM: attrgetter("stream"),
}


class Decision(msgspec.Struct, frozen=True):
    """What the rules that apply to a request say together; None and empty mean that they say nothing.

    providers: a byte for each provider of the configuration, 0 for one that must not be used. tags: those added.
    headers: to be set on the request that goes upstream, names in lower case. reject: (status, code, message, seconds
    to wait or None). rule_ids: the rules, in reading order; header_value: the same for a header.
    """

    providers: bytes | None = None
    strategy: str | None = None
    priority: str | None = None
    tags: frozenset[str] = frozenset()
    headers: tuple[Header, ...] = ()
    reject: tuple[int, str, str, int | None] | None = None
    rule_ids: tuple[str, ...] = ()
    header_value: bytes = b""


NO_DECISION: Final = Decision()


class _Entry(NamedTuple):
    """One rule. checks: what no map holds; model: to be asked too when the request's model is in no map.

    slot: where its matches are counted.
    """

    decision: Decision
    checks: tuple[Predicate, ...]
    model: Predicate | None
    ends: bool
    changes: bool
    slot: int


class _Index:
    """For one thing: the rules that each value leaves, and those that any other value leaves."""

    def __init__(self, everything: int) -> None:
        self.sets: dict[Any, int] = {}
        #: Rules that do not look at this thing.
        self.free = everything

    def add(self, bit: int, values: Iterable[object]) -> None:
        """Let the rule of `bit` through for these values only."""
        self.free &= ~bit
        for value in values:
            self.sets[value] = self.sets.get(value, 0) | bit

    def close(self) -> None:
        """Add the rules that look elsewhere to every set. Equal sets are one object."""
        shared: dict[int, int] = {}
        for value, bits in self.sets.items():
            self.sets[value] = shared.setdefault(bits | self.free, bits | self.free)


class RuleTable:
    """The rules of one snapshot. Immutable but for the counts of matches and the sets of the current minute."""

    def __init__(
        self,
        rules: list[Rule],
        providers: Mapping[str, int],
        model_names: Iterable[str],
        slots: Mapping[str, int],
        counts: Counts,
    ) -> None:
        """Compile enabled rules, in reading order. model_names: models that are looked up rather than compared.

        counts: of matches, those of a rule at the slot of its id; this table adds to them.
        """
        self.active = bool(rules)
        self._all = (1 << len(rules)) - 1
        self._windows = Windows()
        self._minute = -1
        self._open = self._all
        self._indexes: dict[str, _Index] = {}
        self._globs: dict[str, int] = {}
        self._pattern_rules = 0
        self._rules = tuple(self._entry(rule, 1 << at, providers, slots[rule.id]) for at, rule in enumerate(rules))
        self._counts = counts
        self._index_models(model_names)
        for index in self._indexes.values():
            index.close()
        single = [(read, self._indexes[name]) for name, read in _READERS.items() if name in self._indexes]
        self._single = tuple((read, index.sets.get, index.free) for read, index in single)
        self._models = self._indexes.get(MODEL)
        self._priority = self._indexes.get(PRIORITY)
        self._tags = self._indexes.get(TAGS)
        self._times = self._indexes.get(WINDOW)
        self._headers = {
            name.removeprefix(HEADER).encode(): index
            for name, index in self._indexes.items()
            if name.startswith(HEADER)
        }
        self._header_rules = 0
        for index in self._headers.values():
            self._header_rules |= self._all & ~index.free
        self._timed = bool(self._windows.open)
        self._moves = self._priority is not None or self._tags is not None

    def _entry(self, rule: Rule, bit: int, providers: Mapping[str, int], slot: int) -> _Entry:
        """Compile one rule, and put what can be looked up of it into the maps."""
        seen: set[str] = set()
        checks: list[Predicate] = []
        model: Predicate | None = None
        for atom in atoms(rule.when, self._windows):
            if not _can_be_looked_up(atom) or atom.field in seen:
                checks.append(atom.holds)
                continue
            seen.add(atom.field)
            self._indexes.setdefault(atom.field, _Index(self._all)).add(bit, atom.values)
            if atom.globs:
                model = atom.holds
                self._pattern_rules |= bit
                for glob in atom.globs:
                    self._globs[glob] = self._globs.get(glob, 0) | bit
        decision = _decision(rule, providers)
        return _Entry(
            decision,
            tuple(checks),
            model,
            ends=decision.providers is not None or decision.reject is not None,
            changes=decision.priority is not None or bool(decision.tags),
            slot=slot,
        )

    def _index_models(self, model_names: Iterable[str]) -> None:
        index = self._indexes.get(MODEL)
        if index is None:
            return
        names = list(model_names)
        if len(names) * len(self._globs) <= MAX_COMPARED:
            for name in names:
                index.sets.setdefault(name, 0)
        for glob, bits in self._globs.items():
            for name in index.sets:
                if any_matches((glob,), name):
                    index.sets[name] |= bits

    @property
    def matches(self) -> dict[str, int]:
        """Return how often each rule has applied here, by its id."""
        return {entry.decision.rule_ids[0]: self._counts[entry.slot] for entry in self._rules}

    def decide(self, facts: Facts) -> Decision:
        """Return what the rules say of a request, NO_DECISION if none applies; count the ones that do.

        Of two rules that set the same thing the first read wins. A rule that routes or rejects is the last one read.
        """
        left = self._all
        if not left:
            return NO_DECISION
        for read, get, free in self._single:
            left &= get(read(facts), free)
        known = True
        if self._models is not None:
            sets = self._models.sets
            bits = sets.get(facts.model)
            if bits is None:
                known = False
                bits = self._models.free | self._pattern_rules
            if facts.called != facts.model:
                also = sets.get(facts.called)
                if also is None:
                    known = False
                    also = self._models.free | self._pattern_rules
                bits |= also
            left &= bits
        if self._timed:
            left &= self._open_now(facts.wall_ns // NANOSECONDS_PER_MINUTE)
        if left & self._header_rules:
            left &= self._by_headers(facts)
        now = left & self._by_standing(facts) if self._moves else left
        return self._read(now, left, facts, known) if now else NO_DECISION

    def _read(self, now: int, left: int, facts: Facts, known: bool) -> Decision:
        """Read the rules of the set `now`. left: those that could apply with another priority or other tags."""
        found: list[Decision] = []
        rules = self._rules
        while now:
            bit = now & -now
            now ^= bit
            decision, checks, model, ends, changes, slot = rules[bit.bit_length() - 1]
            if checks and not holds_all(checks, facts):
                continue
            if model is not None and not known and not model(facts):
                continue
            self._counts[slot] += 1
            if ends and not found:
                return decision
            found.append(decision)
            if ends:
                break
            if changes:
                facts = _changed(facts, found)
                if self._moves:
                    now = left & self._by_standing(facts) & -(bit << 1)
        if not found:
            return NO_DECISION
        return found[0] if len(found) == 1 else _together(found)

    def _open_now(self, minute: int) -> int:
        """Return the rules that the current minute leaves; worked out when the minute is another one."""
        if minute != self._minute:
            self._windows.refresh(minute)
            if self._times is not None:
                bits = self._times.free
                for number, is_open in enumerate(self._windows.open):
                    if is_open:
                        bits |= self._times.sets.get(number, 0)
                self._open = bits
            self._minute = minute
        return self._open

    def _by_headers(self, facts: Facts) -> int:
        bits = dict.fromkeys(self._headers, 0)
        for name, value in facts.headers:
            index = self._headers.get(name)
            if index is not None:
                bits[name] |= index.sets.get(value, 0)
        left = self._all
        for name, index in self._headers.items():
            left &= bits[name] | index.free
        return left

    def _by_standing(self, facts: Facts) -> int:
        """Return the rules that the request's priority and tags leave; the only things that rules change."""
        left = self._all
        if self._priority is not None:
            left = self._priority.sets.get(facts.priority, self._priority.free)
        if self._tags is not None:
            bits = self._tags.free
            for tag in facts.tags:
                bits |= self._tags.sets.get(tag, 0)
            left &= bits
        return left


def compile_rules(
    config: Config,
    model_names: Iterable[str],
    slots: Sequence[int] | None = None,
    counts: Counts | None = None,
) -> RuleTable:
    """Return the rules of a checked configuration. model_names: every model and alias that is known by name.

    slots: of all rules of the configuration, in its order, among the `counts`; without them the table keeps its own.
    """
    if slots is None or counts is None:
        slots = range(len(config.rules))
        counts = [0] * len(config.rules)
    slot_of = dict(zip((rule.id for rule in config.rules), slots, strict=True))
    rules = sorted((rule for rule in config.rules if rule.enabled), key=lambda rule: (-rule.priority, rule.id))
    providers = {provider.id: number for number, provider in enumerate(config.providers)}
    return RuleTable(rules, providers, model_names, slot_of, counts)


def _can_be_looked_up(atom: Atom) -> bool:
    """Whether the values of an atom can be the keys of a map. Patterns are spelled out for known models only."""
    return bool(atom.field) and (not atom.globs or atom.field == MODEL)


def _changed(facts: Facts, found: list[Decision]) -> Facts:
    """Return the facts that later rules see."""
    priority = next((one.priority for one in found if one.priority is not None), None)
    return facts.changed(priority or facts.priority, facts.tags | found[-1].tags)


def _together(found: list[Decision]) -> Decision:
    """Return several decisions as one: whoever sets something first has set it."""
    ids = tuple(one.rule_ids[0] for one in found)
    headers: dict[bytes, bytes] = {}
    for one in found:
        for name, value in one.headers:
            headers.setdefault(name, value)
    return Decision(
        providers=found[-1].providers,
        strategy=next((one.strategy for one in found if one.strategy is not None), None),
        priority=next((one.priority for one in found if one.priority is not None), None),
        tags=frozenset().union(*(one.tags for one in found)),
        headers=tuple(headers.items()),
        reject=found[-1].reject,
        rule_ids=ids,
        header_value=_shown(ids),
    )


def _shown(ids: tuple[str, ...]) -> bytes:
    return ",".join(ids if len(ids) <= MAX_SHOWN_RULES else (*ids[:MAX_SHOWN_RULES], "...")).encode()


def _decision(rule: Rule, providers: Mapping[str, int]) -> Decision:
    """Return what one rule says: its action and those of its chain, of which the first to set a thing has set it."""
    actions = _actions(rule.then)
    headers: dict[bytes, bytes] = {}
    for action in actions:
        for name, value in (action.headers or {}).items():
            headers.setdefault(name.lower().encode(), value.encode())
    pools = [action.pool or ((action.provider,) if action.provider is not None else ()) for action in actions]
    pool = next((names for names in pools if names), None)
    reject = next((action.reject for action in actions if action.reject is not None), None)
    return Decision(
        providers=_order(pool, providers) if pool is not None else None,
        strategy=next((action.strategy for action in actions if action.strategy is not None), None),
        priority=next((action.priority for action in actions if action.priority is not None), None),
        tags=frozenset(tag for action in actions for tag in action.tags or ()),
        headers=tuple(headers.items()),
        reject=_rejection(reject) if reject is not None else None,
        rule_ids=(rule.id,),
        header_value=rule.id.encode(),
    )


def _actions(then: Then) -> list[Action]:
    return [then, *(then.chain or ())]


def _order(pool: Iterable[str], providers: Mapping[str, int]) -> bytes:
    order = bytearray(len(providers))
    for name in pool:
        order[providers[name]] = 1
    return bytes(order)


def _rejection(reject: Reject) -> tuple[int, str, str, int | None]:
    status, message = _REASONS[reject.reason]
    status = reject.status or status
    wait_s = reject.retry_after_s or (RETRY_AFTER_S if status in (429, 503) else None)
    code = _CODES.get(reject.reason, reject.reason)
    return status, code, message if reject.message is None else reject.message, wait_s
