"""A pool's endpoints as flat arrays, and the gates that leave the candidates among them."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._candidates_py import Candidates, Need
else:
    from fastroute._core._candidates_c import Candidates, Need

__all__ = ["Candidates", "Need"]
