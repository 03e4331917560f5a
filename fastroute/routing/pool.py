"""A pool: every endpoint that serves one model in one dialect, the gates before them, and the strategies to choose."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastroute._core.candidates import Candidates
from fastroute.interfaces import DialectName, Header, PoolInfo, Strategy

#: Tokens per byte of JSON before any answer has told better: the rule of thumb for English text.
FIRST_TOKENS_PER_BYTE: Final = 0.25
MIN_TOKENS_PER_BYTE: Final = 0.02
MAX_TOKENS_PER_BYTE: Final = 1.0
#: Tokens of an answer before any answer has told better.
FIRST_OUTPUT_TOKENS: Final = 300.0
#: How far one answer moves the two figures. One in LEARN_EVERY is looked at: they change slowly, if at all.
_LEARNING_RATE: Final = 0.1
LEARN_EVERY: Final = 8

#: Makes a strategy by its name. Raises KeyError for a name that nobody registered.
Maker = Callable[[str, PoolInfo], Strategy]


#: What a request of average size counts for in a pool's in-flight work: 1000 tokens of prompt and 300 of answer.
REFERENCE_WORK: Final = 7000
#: A token of answer keeps a replica as busy as this many tokens of prompt (prefill is done in parallel).
OUTPUT_TOKEN_WORK: Final = 20


def answer_work(output_tokens: float) -> int:
    """Return the in-flight work of an answer of that length, in thousandths of a reference request."""
    return int(output_tokens) * OUTPUT_TOKEN_WORK * 1000 // REFERENCE_WORK + 1


def prompt_work(prompt_tokens: int) -> int:
    """Return the in-flight work of a prompt of that length, in thousandths of a reference request."""
    return prompt_tokens * 1000 // REFERENCE_WORK


class Chooser:
    """A strategy of a pool, with the header field that names it."""

    __slots__ = ("header", "label", "learns", "name", "reads_prompt", "strategy")

    def __init__(self, name: str, strategy: Strategy, learns: bool) -> None:
        self.name = name
        self.strategy = strategy
        self.learns = learns
        #: Whether it looks at session or prompt, which are left out of the question otherwise.
        self.reads_prompt: bool = getattr(strategy, "reads_prompt", True)
        #: What is shown: the pool of one provider goes by how its keys are chosen.
        self.label: str = getattr(strategy, "label", name)
        self.header: Header = (b"x-fastroute-strategy", self.label.encode())


class Pool:
    """Positions 0..n-1 of `endpoints` are those of `candidates` and of every strategy.

    limited: some endpoint has a known context window, output limit or lack of a capability, so that requests have to
    be measured. blind: some endpoint takes no images. Strategies are made when first wanted; there are no more of them
    than names.
    """

    __slots__ = (
        "_choosers",
        "_make",
        "answer_work",
        "blind",
        "candidates",
        "dialect",
        "endpoints",
        "info",
        "limited",
        "model",
        "output_tokens",
        "tokens_per_byte",
    )

    def __init__(
        self,
        model: str,
        dialect: DialectName,
        endpoints: tuple[Any, ...],
        candidates: Candidates,
        info: PoolInfo,
        make: Maker,
        *,
        limited: bool,
        blind: bool,
    ) -> None:
        self.model = model
        self.dialect = dialect
        self.endpoints = endpoints
        self.candidates = candidates
        self.info = info
        self.limited = limited
        self.blind = blind
        self.tokens_per_byte = FIRST_TOKENS_PER_BYTE
        self.output_tokens = FIRST_OUTPUT_TOKENS
        self.answer_work = answer_work(FIRST_OUTPUT_TOKENS)
        self._make = make
        self._choosers: dict[str, Chooser] = {}

    def chooser(self, name: str) -> Chooser:
        """Return the pool's strategy of that name. Raises KeyError for a name that nobody registered."""
        return self._choosers.get(name) or self._add(name)

    def _add(self, name: str) -> Chooser:
        strategy = self._make(name, self.info)
        chooser = self._choosers[name] = Chooser(name, strategy, _learns(strategy))
        return chooser

    def learn(self, request_bytes: int, input_tokens: int, output_tokens: int) -> None:
        """Note what the provider counted for a request of that size; estimates follow it."""
        if request_bytes > 0 and input_tokens > 0:
            seen = min(MAX_TOKENS_PER_BYTE, max(MIN_TOKENS_PER_BYTE, input_tokens / request_bytes))
            self.tokens_per_byte += _LEARNING_RATE * (seen - self.tokens_per_byte)
        if output_tokens > 0:
            self.output_tokens += _LEARNING_RATE * (output_tokens - self.output_tokens)
            self.answer_work = answer_work(self.output_tokens)

    def adopt(self, previous: "Pool") -> None:
        """Take over what the same pool of the snapshot before had learnt, for the endpoints both have."""
        self.tokens_per_byte = previous.tokens_per_byte
        self.output_tokens = previous.output_tokens
        self.answer_work = previous.answer_work
        before = {row: position for position, row in enumerate(previous.info.rows)}
        positions = [before.get(row, -1) for row in self.info.rows]
        for name, chooser in previous._choosers.items():
            self._adopt(name, chooser.strategy, positions)

    def _adopt(self, name: str, strategy: Strategy, positions: Sequence[int]) -> None:
        try:
            mine = self.chooser(name)
        except KeyError:
            return
        if not hasattr(mine.strategy, "route"):
            # What chose among keys as well has the strategy proper inside.
            strategy = getattr(strategy, "route", strategy)
        if strategy is not None:
            mine.strategy.adopt(strategy, positions)


def _learns(strategy: Strategy) -> bool:
    """Whether the strategy has an `observe` of its own; calling one that does nothing would cost every request."""
    return not getattr(type(strategy).observe, "does_nothing", False)
