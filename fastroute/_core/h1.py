"""Upstream HTTP/1.1: strict response framing over asyncio's buffered protocols. RFC 9110, RFC 9112."""

from typing import TYPE_CHECKING

from fastroute._core._h1_errors import UpstreamError
from fastroute._core._switch import USE_EXTENSIONS

if TYPE_CHECKING or not USE_EXTENSIONS:
    from fastroute._core._h1_py import ChunkedDecoder, Connection, parse_response_head
else:
    from fastroute._core._h1_c import ChunkedDecoder, Connection, parse_response_head

__all__ = ["ChunkedDecoder", "Connection", "UpstreamError", "parse_response_head"]
