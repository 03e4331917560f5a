"""A strategy of a third party, kept from taking requests down with it.

One that raises, or names an endpoint that no gate has let through, is stood in for by the default strategy, for that
choice. It is asked again for the next one: what it stumbled over may have been that request. Each kind of failure is
logged once for each pool, with its traceback, for its author.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from operator import index
from typing import Any

from fastroute.balance.p2c import PowerOfTwoChoices
from fastroute.interfaces import Ask, PoolInfo, Result, Strategy

_LOG = logging.getLogger(__name__)


class Guarded:
    """Has the strategy `inner`, or None if it could not even be made."""

    def __init__(self, name: str, load: Callable[[], Any], info: PoolInfo) -> None:
        """load: imports the factory of the strategy."""
        self.name = name
        self._logged: set[str] = set()
        self._stand_in = PowerOfTwoChoices(info)
        self.inner: Strategy | None = None
        try:
            self.inner = load()(info)
        except Exception:  # noqa: BLE001 - whatever their code does, requests go on
            self._complain("cannot be made")
        self.reads_prompt: bool = getattr(self.inner, "reads_prompt", True)

    def pick(self, candidates: Any, ask: Ask) -> int:
        """Return the chosen position, -1 if there are no candidates."""
        return self._ask(getattr(self.inner, "pick", None), candidates, ask)

    def peek(self, candidates: Any, ask: Ask) -> int:
        """Return what `pick` would, without its claims, if the strategy can tell."""
        return self._ask(getattr(self.inner, "peek", None) or getattr(self.inner, "pick", None), candidates, ask)

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Let the strategy learn."""
        if self.inner is None:
            return
        try:
            self.inner.observe(position, ask, result)
        except Exception:  # noqa: BLE001 - as above
            self._complain("cannot learn")

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Let the strategy take over what the one before it had learnt."""
        before = getattr(previous, "inner", None)
        if self.inner is None or before is None:
            return
        try:
            self.inner.adopt(before, positions)
        except Exception:  # noqa: BLE001 - as above
            self._complain("cannot take over what it had learnt")

    def _ask(self, choose: Callable[[Any, Ask], int] | None, candidates: Any, ask: Ask) -> int:
        if choose is not None:
            try:
                position = index(choose(candidates, ask))
                if position in (candidates or (-1,)):
                    return position
            except Exception:  # noqa: BLE001 - as above
                self._complain("cannot choose")
            else:
                self._complain("chooses what is no candidate")
        return self._stand_in.pick(candidates, ask)

    def _complain(self, what: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            _LOG.error("strategy '%s' %s; p2c stands in", self.name, what, exc_info=sys.exc_info()[0] is not None)
