"""Errors of the upstream HTTP/1.1 client, shared by both halves of ``h1``."""

from typing import Final, Literal

Kind = Literal[
    "connect",  # no connection: nothing was sent
    "tls",  # the handshake or the certificate failed: nothing was sent
    "closed",  # the peer closed or reset before the first byte of its answer
    "truncated",  # the peer closed or reset in the middle of its answer
    "malformed",  # the answer is not HTTP/1.1 as RFC 9112 has it
    "timeout",  # a deadline passed
    "overflow",  # the pool's queue is full: nothing was sent
    "protocol",  # misuse by the caller
]

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 256
MAX_INTERIM: Final = 10
MAX_TRAILER_BYTES: Final = 8_192
MAX_CHUNK_LINE: Final = 256
HIGH_WATER: Final = 262_144
READ_BUFFER_BYTES: Final = 65_536


class UpstreamError(Exception):
    """The upstream exchange failed.

    kind: what happened, of a closed vocabulary. sent: bytes of the request may have reached the provider, so it may
    have been served and billed.
    """

    def __init__(self, kind: Kind, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.sent = sent
