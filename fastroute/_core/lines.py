"""Writing and splitting of journal lines; see `_lines_py` for their form."""

from typing import TYPE_CHECKING

from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._lines_py import put, split
else:
    from fastroute._core._lines_c import put, split

__all__ = ["put", "split"]
