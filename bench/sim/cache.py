"""A server's prefix cache: the blocks of prompts it has read lately, each known by all the text up to its end."""

from typing import Final

BLOCK_BYTES: Final = 64


class PrefixCache:
    """Forgets the block that was used longest ago."""

    def __init__(self, blocks: int) -> None:
        self._room = blocks
        # In the order of last use.
        self._blocks: dict[int, None] = {}

    def read(self, prompt: bytes) -> tuple[int, int]:
        """Read a prompt; return (blocks that were there already, all its whole blocks)."""
        chain = 0
        hits = count = 0
        unbroken = True
        for at in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
            chain = hash((chain, prompt[at : at + BLOCK_BYTES]))
            count += 1
            unbroken = unbroken and chain in self._blocks
            hits += unbroken
            self._blocks.pop(chain, None)
            self._blocks[chain] = None
        while len(self._blocks) > self._room:
            del self._blocks[next(iter(self._blocks))]
        return hits, count
