"""One transport for each provider: what connects to it, and keeps its connections over a reload."""

import asyncio
import importlib
import ssl
from collections.abc import Mapping, Sequence
from functools import cached_property
from urllib.parse import urlsplit

from fastroute._core._h1_errors import READ_BUFFER_BYTES
from fastroute.clock import Clock
from fastroute.config.schema import Provider
from fastroute.outgoing import Outbox
from fastroute.upstream.pool import Origin
from fastroute.upstream.pool import Pool as ConnectionPool
from fastroute.upstream.tls import client_context
from fastroute.upstream.transport import FastTransport, Transport
from fastroute.upstream.transport_echo import EchoTransport

#: What a provider's connections depend on: its id, kind of transport, scheme, authority, HTTP/2, connections at most.
TransportKey = tuple[str, str, str, str, bool, int]


def transport_key(provider: Provider) -> TransportKey:
    """Return what a provider's connections depend on: one whose key is unchanged keeps them over a reload."""
    url = urlsplit(provider.base_url)
    echo = provider.type == "echo"
    return (
        provider.id,
        "echo" if echo else provider.transport,
        url.scheme,
        url.netloc,
        provider.http2,
        provider.max_connections,
    )


def build_transports(
    providers: Sequence[Provider],
    loop: asyncio.AbstractEventLoop,
    clock: Clock,
    env: Mapping[str, str],
    old: Mapping[TransportKey, Transport],
    outbox: Outbox | None = None,
) -> dict[TransportKey, Transport]:
    """Return one transport for each provider; those of `old` that will do are kept, with their connections."""
    make = _TransportMaker(loop, clock, env, outbox)
    keys = {transport_key(provider): provider for provider in providers}
    return {key: old[key] if key in old else make(provider) for key, provider in keys.items()}


class _TransportMaker:
    """Makes transports, which share one read buffer and one TLS context."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, env: Mapping[str, str], outbox: Outbox | None
    ) -> None:
        self._loop = loop
        self._outbox = outbox
        self._clock = clock
        self._env = env
        self._buffer = bytearray(READ_BUFFER_BYTES)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # When the first transport wants it: reading the certificates takes longer than all the rest of a reload, which
        # mostly keeps the transports that there are.
        return client_context(self._env)

    def __call__(self, provider: Provider) -> Transport:
        if provider.type == "echo":
            return EchoTransport(self._clock.wall_ns)
        url = urlsplit(provider.base_url)
        if provider.transport == "httpx":
            # Imported only where it is chosen: it costs every worker several megabytes.
            module = importlib.import_module("fastroute.upstream.transport_httpx")
            transport: Transport = module.HttpxTransport(
                f"{url.scheme}://{url.netloc}",
                self._tls,
                http2=provider.http2,
                max_connections=provider.max_connections,
            )
            return transport
        context = self._tls if url.scheme == "https" else None
        origin = Origin(url.hostname or "", url.port or (443 if context else 80), context)
        pool = ConnectionPool(
            self._loop, origin, self._buffer, self._clock.monotonic_ns, provider.max_connections, self._outbox
        )
        return FastTransport(pool, self._clock.monotonic_ns)
