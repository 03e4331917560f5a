"""What every strategy that has nothing of its own to learn or to take over shares."""

from collections.abc import Sequence
from typing import Any

from fastroute.interfaces import Ask, PoolInfo, Result


class BaseStrategy:
    """A strategy without private state. `observe.does_nothing` spares the caller the call."""

    name = ""
    #: Whether session and prompt are wanted in the question.
    reads_prompt = False

    def __init__(self, info: PoolInfo) -> None:
        self._info = info
        self._bits = info.random_bits

    def observe(self, position: int, ask: Ask, result: Result) -> None:
        """Learn nothing."""

    observe.does_nothing = True  # type: ignore[attr-defined]

    def adopt(self, previous: Any, positions: Sequence[int]) -> None:
        """Take nothing over: what this strategy looks at lives in the segment."""
