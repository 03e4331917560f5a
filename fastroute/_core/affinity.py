"""Keeping requests together: rendezvous hashing with bounded loads, and who was sent which prompt prefix."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._affinity_py import PrefixTable, Rendezvous, hash64
else:
    from fastroute._core._affinity_c import PrefixTable, Rendezvous, hash64

__all__ = ["PrefixTable", "Rendezvous", "hash64"]
