"""A worker process: one event loop, one listener on the socket it was given, one corridor."""

import asyncio
import gc
import logging
import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import uvloop

from fastroute._core.counters import Segment
from fastroute._core.limits import Limiter, Table
from fastroute.admission import Admission
from fastroute.app import App
from fastroute.auth.published import PublishedKeys
from fastroute.auth.watch import KeyWatch
from fastroute.billing.boot import allocate_boot
from fastroute.billing.journal import JournalWriter
from fastroute.billing.segments import journal_directory
from fastroute.build import Surroundings, build_snapshot
from fastroute.clock import SYSTEM_CLOCK, system_rng
from fastroute.config.schema import Config
from fastroute.context import Context
from fastroute.descriptors import room_for
from fastroute.downstream.http1.listener import DirectListener, LaneLimits, Refuse
from fastroute.downstream.listener import Listener
from fastroute.downstream.request import Limits, RequestReader
from fastroute.downstream.watch import Watch
from fastroute.gateway import Gateway
from fastroute.handout import Handout, receive
from fastroute.health.weighing import Weighing
from fastroute.observe.access import AccessLog
from fastroute.outgoing import Outbox
from fastroute.routing.tally import Tally
from fastroute.snapshot import Snapshot
from fastroute.words import DRAINING

log = logging.getLogger("fastroute")

#: After the grace time, interrupted requests get this long to say so to their clients.
LAST_WORDS_S = 2.0

#: How often to look whether a snapshot that was replaced is still in use.
RETIRE_S = 1.0

#: A request that is answered leaves no reference cycle behind; one that an exception ends may, for its traceback leads
#: back to what it came through. So the collector has to look, but not after every few hundred objects.
GC_THRESHOLDS = (20_000, 20, 20)


class Inheritance(NamedTuple):
    """What the supervisor hands to a child: configuration, sockets, and a channel.

    tally: of the rules. limits_path: the table of limits. channel: where configurations come from that are read later,
    and whose end says that the child is to end, too; None while there is no child.
    """

    handout: Handout
    segment_path: str
    data_socket: socket.socket
    admin_socket: socket.socket
    tally: Tally
    limits_path: str
    channel: socket.socket | None = None


def run_worker(slot: int, inherited: Inheritance) -> None:
    """Serve until the supervisor ends the channel, or is gone; returns after the drain."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Worker(slot, inherited).run())


class _Worker:
    def __init__(self, slot: int, inherited: Inheritance) -> None:
        self._slot = slot
        self._inherited = inherited
        self._config = inherited.handout.config
        self._segment = Segment.open(inherited.segment_path)
        self._closing: asyncio.Task[None] | None = None
        self._retiring: list[Snapshot] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        config = self._config
        journal = _open_journal(config)
        watch = Watch(loop, SYSTEM_CLOCK.monotonic_ns, _departed)
        rng = system_rng()
        counts = self._inherited.tally.row(self._slot)
        limiter = Limiter(Table.open(self._inherited.limits_path), self._slot)
        keys = PublishedKeys(config.server.state_dir, self._segment)
        keys.refresh()
        random_bits = partial(rng.getrandbits, 64)
        outbox = Outbox(loop)
        around = Surroundings(loop, self._segment, SYSTEM_CLOCK, random_bits, os.environ, counts, limiter, keys, outbox)
        limits = config.server.limits
        access = _open_access_log(config, loop)
        handout = self._inherited.handout
        admission = Admission(limiter, SYSTEM_CLOCK, loop)
        admission.configure(config.limits.queue)
        admission.watch_table()
        gateway = Gateway(
            snapshot=build_snapshot(
                config, around, handout.generation, rows=handout.rows, rule_slots=handout.rule_slots
            ),
            reader=RequestReader(
                Limits(
                    limits.max_body_bytes,
                    limits.max_json_depth,
                    limits.max_uri_bytes,
                    limits.body_timeout_ms * 1_000_000,
                )
            ),
            random_bits=around.random_bits,
            worker=self._slot,
            journal=journal,
            watch=watch,
            clock=SYSTEM_CLOCK,
            loop=loop,
            id_prefix=f"fr-{secrets.token_hex(4)}-",
            access=access,
            admission=admission,
        )
        weighing = Weighing(loop, lambda: gateway.snapshot, SYSTEM_CLOCK.monotonic_ns)
        listener = self._listener(App(gateway, lambda: self._segment.word(DRAINING) == 0), outbox, gateway.reject)
        stop = self._stopper(loop, listener, watch)
        self._watch_channel(loop, gateway, watch, around, admission, stop)
        weighing.start()
        key_watch = KeyWatch(loop, keys, lambda: gateway.snapshot.heads.forget())
        key_watch.start()
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await listener.serve()
        weighing.stop()
        key_watch.stop()
        if self._closing is not None:
            self._closing.cancel()
        for transport in gateway.snapshot.transports.values():
            await transport.close()
        journal.close()
        if access is not None:
            access.close()

    def _listener(self, app: App, outbox: Outbox, refuse: Refuse) -> Listener | DirectListener:
        server = self._config.server
        limits = server.limits
        max_connections = room_for(limits.max_connections)
        if server.lane == "direct":
            return DirectListener(
                app.serve,
                self._inherited.data_socket,
                LaneLimits(
                    max_connections,
                    limits.max_header_bytes + limits.max_uri_bytes,
                    limits.header_timeout_ms / 1000,
                    limits.write_timeout_ms / 1000,
                    limits.min_body_rate_bytes_s,
                ),
                backlog=server.backlog,
                wall_ns=SYSTEM_CLOCK.wall_ns,
                outbox=outbox,
                refuse=refuse,
            )
        return Listener(
            app,
            self._inherited.data_socket,
            backlog=server.backlog,
            max_connections=max_connections,
            max_header_bytes=limits.max_header_bytes,
            header_timeout_ms=limits.header_timeout_ms,
        )

    def _stopper(
        self, loop: asyncio.AbstractEventLoop, listener: Listener | DirectListener, watch: Watch
    ) -> Callable[[], None]:
        """Return what begins the drain; to be called once."""

        def stop() -> None:
            listener.stop()
            grace_s = self._config.server.drain.grace_ms / 1000
            loop.call_later(grace_s, watch.drain)
            loop.call_later(grace_s + LAST_WORDS_S, os._exit, 0)

        return stop

    def _watch_channel(
        self,
        loop: asyncio.AbstractEventLoop,
        gateway: Gateway,
        watch: Watch,
        around: Surroundings,
        admission: Admission,
        stop: Callable[[], None],
    ) -> None:
        channel = self._inherited.channel
        if channel is None:
            return

        def reload() -> None:
            handout = receive(channel)
            if handout is None:
                loop.remove_reader(channel)
                stop()
                return
            old = gateway.snapshot
            try:
                new = build_snapshot(
                    handout.config,
                    around,
                    handout.generation,
                    rows=handout.rows,
                    rule_slots=handout.rule_slots,
                    previous=old,
                )
            except Exception:  # whatever is wrong with the new configuration, the old one goes on
                log.exception("configuration %d cannot be put in force; the one before stays", handout.generation)
                return
            gateway.snapshot = new
            admission.configure(handout.config.limits.queue)
            if gateway.access is not None:
                gateway.access.reopen()
            self._retiring.append(old)
            if self._closing is None or self._closing.done():
                self._closing = loop.create_task(self._close_retired(gateway, watch))
            log.info("configuration %d is in force", handout.generation)

        loop.add_reader(channel, reload)

    async def _close_retired(self, gateway: Gateway, watch: Watch) -> None:
        """Close the connections of snapshots that were replaced, once no request in flight began with one."""
        while self._retiring:
            await asyncio.sleep(RETIRE_S)
            busy = watch.snapshots()
            if busy - {gateway.snapshot.generation}:
                continue
            kept = set(gateway.snapshot.transports)
            retired, self._retiring = self._retiring, []
            gone = {key: transport for old in retired for key, transport in old.transports.items() if key not in kept}
            for transport in gone.values():
                await transport.close()


def _open_journal(config: Config) -> JournalWriter:
    state_dir = config.server.state_dir
    return JournalWriter(
        journal_directory(state_dir), allocate_boot(state_dir), next_boot=lambda: allocate_boot(state_dir)
    )


def _open_access_log(config: Config, loop: asyncio.AbstractEventLoop) -> AccessLog | None:
    path = config.server.access_log
    return AccessLog(path, loop, SYSTEM_CLOCK.monotonic_ns) if path is not None else None


async def _departed(ctx: Context) -> None:
    await ctx.downstream.departed()
