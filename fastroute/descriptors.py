"""How many files a process may open, and what of them clients may have."""

import resource
from contextlib import suppress
from typing import Final

#: For what is open whoever calls: journals, shared tables, listeners, channels, an access log, a resolver.
RESERVED: Final = 64
#: A client's connection, and the one to a provider that it makes necessary.
PER_CLIENT: Final = 2


def allow_for(connections: int) -> None:
    """Have this process and its children open as many files as so many clients need, or as many as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = PER_CLIENT * connections + RESERVED
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    # Where it is not allowed, there is room for fewer.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))


def room_for(connections: int) -> int:
    """Return how many clients may be let in: `connections`, or fewer if files run out before; at least one.

    Who is let in when they have run out is thrown out at once, and the requests of others fail.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (soft - RESERVED) // PER_CLIENT))
