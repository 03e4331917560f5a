"""Ports for servers of the tests, which nobody else is given between the choice and the use.

They are below the range that the system takes ports of outgoing connections from, and each is handed out once by a
process; processes begin at different places.
"""

import os
import socket
from collections.abc import Iterator
from itertools import chain
from typing import Final

FIRST: Final = 10_000
#: Linux gives outgoing connections 32768 and up.
END: Final = 32_000
#: How far apart two processes with neighbouring ids begin.
STRIDE: Final = 997


def _ports(start: int) -> Iterator[int]:
    while True:
        yield from chain(range(start, END), range(FIRST, start))


_LEFT = _ports(FIRST + os.getpid() * STRIDE % (END - FIRST))


def free_ports(count: int) -> list[int]:
    """Return ports on 127.0.0.1 that nobody listens on."""
    return [next(port for port in _LEFT if _is_free(port)) for _ in range(count)]


def two_free_ports_in_a_row() -> int:
    """Return the first of two neighbouring ports that are free."""
    first, second = free_ports(2)
    while second != first + 1:
        first, second = second, free_ports(1)[0]
    return first


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
