"""Active health checks: a GET that costs nothing, for providers whose configuration has one. Run by the control plane.

A provider that fails several in a row gets its endpoints' breakers opened, for all workers, until it passes again; then
they may be tried by requests, which close the breakers as after any other outage. The open time ends soon enough that
nothing stays shut if nobody is left to renew it.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from fastroute._core._attempts_rules import OPEN, Word, pack_word, unpack_word
from fastroute._core.counters import BREAKER, Segment
from fastroute.config.schema import Provider
from fastroute.config.watching import Probe

#: After this many failures in a row the provider is down.
FAILURES: Final = 3

_LOG = logging.getLogger(__name__)


class Target(NamedTuple):
    """What is probed. rows: of the provider's endpoints in the segment."""

    provider: str
    url: str
    probe: Probe
    rows: tuple[int, ...]


def targets(providers: Sequence[Provider], rows_of: Callable[[str], Sequence[int]]) -> list[Target]:
    """Return what there is to probe. rows_of: the rows of a provider's endpoints."""
    found = []
    for provider in providers:
        if provider.probe is not None and provider.base_url:
            url = urlsplit(provider.base_url)
            address = f"{url.scheme}://{url.netloc}{provider.probe.path}"
            found.append(Target(provider.id, address, provider.probe, tuple(rows_of(provider.id))))
    return found


def make_client(context: ssl.SSLContext) -> httpx.AsyncClient:
    """Return a client that goes straight to where it is sent: no proxies from the environment, no redirects."""
    return httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False)


class Prober:
    """Probes until it is stopped. client: sends the requests, without any credential."""

    def __init__(
        self,
        segment: Segment,
        client: httpx.AsyncClient,
        monotonic_ns: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._segment = segment
        self._client = client
        self._now = monotonic_ns
        self._random = random
        self._tasks: list[asyncio.Task[None]] = []

    def watch(self, found: Sequence[Target]) -> None:
        """Probe these from now on, and nothing else."""
        self.stop()
        self._tasks = [asyncio.get_running_loop().create_task(self._run(target)) for target in found]

    def stop(self) -> None:
        """Probe nothing any more."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def close(self) -> None:
        """Stop, and close the client."""
        self.stop()
        await self._client.aclose()

    async def _run(self, target: Target) -> None:
        interval_s = target.probe.interval_ms / 1000
        # Gateways that were started together do not probe in step.
        await asyncio.sleep(interval_s * self._random())
        failed = 0
        while True:
            fault = await self._check(target)
            if fault is not None:
                failed += 1
                if failed == FAILURES:
                    _LOG.warning("provider %s fails its probe: %s", target.provider, fault)
                if failed >= FAILURES:
                    self._keep_open(target)
            elif failed:
                if failed >= FAILURES:
                    _LOG.info("provider %s passes its probe again", target.provider)
                    self._let_try(target)
                failed = 0
            await asyncio.sleep(interval_s)

    async def _check(self, target: Target) -> str | None:
        """Return what is wrong with a provider, None if it is well."""
        try:
            async with asyncio.timeout(target.probe.timeout_ms / 1000):
                async with self._client.stream("GET", target.url) as response:
                    return None if response.status_code < 400 else f"status {response.status_code}"
        except TimeoutError:
            return "no answer in time"
        except httpx.HTTPError as error:
            return type(error).__name__

    def _keep_open(self, target: Target) -> None:
        """Keep the endpoints' breakers open until after the next two probes."""
        until_ms = self._now() // 1_000_000 + 2 * target.probe.interval_ms + target.probe.timeout_ms
        for row in target.rows:
            open_breaker(self._segment, row, until_ms)

    def _let_try(self, target: Target) -> None:
        now_ms = self._now() // 1_000_000
        for row in target.rows:
            end_open_time(self._segment, row, now_ms)


def open_breaker(segment: Segment, row: int, until_ms: int) -> None:
    """Open an endpoint's breaker, at least until then. Results of attempts under way no longer move it."""
    while True:
        cell = segment.cell(row, BREAKER)
        word = unpack_word(cell)
        if word.state == OPEN and word.until_ms >= until_ms:
            return
        if segment.cas_cell(row, BREAKER, cell, pack_word(Word(OPEN, 0, word.generation + 1, until_ms))):
            return


def end_open_time(segment: Segment, row: int, now_ms: int) -> None:
    """Let the next request probe the endpoint, if its breaker is open."""
    cell = segment.cell(row, BREAKER)
    word = unpack_word(cell)
    if word.state == OPEN and word.until_ms > now_ms:
        # One that has moved meanwhile needs no help.
        segment.cas_cell(row, BREAKER, cell, pack_word(word._replace(until_ms=now_ms)))
