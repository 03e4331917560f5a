"""The control plane: everything that is no request, in a process of its own under `serve`.

An ordinary async object, so that tests and embedders can run it inside their own process too.
"""

import asyncio
import importlib
import os
import socket
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from fastroute._core.counters import Segment
from fastroute.admin.app import AdminApp, Call
from fastroute.admin.channels import channels_document, read_switch, switch_key
from fastroute.admin.explain import answer, read_question
from fastroute.admin.limits import limits_document
from fastroute.admin.rules import rules_document
from fastroute.billing.ingest import Ingestor
from fastroute.billing.segments import journal_directory
from fastroute.build import Surroundings, build_snapshot, identities
from fastroute.clock import SYSTEM_CLOCK, system_rng
from fastroute.control.keys import KeyKeeper
from fastroute.control.memory import MemoryKeeper
from fastroute.downstream.listener import Listener
from fastroute.handout import Handout
from fastroute.routing.explain import Document
from fastroute.routing.tally import Tally
from fastroute.rows import Identity
from fastroute.snapshot import Snapshot
from fastroute.upstream.tls import client_context
from fastroute.words import DRAINING

INGEST_INTERVAL_S: Final = 1.0
LEDGER_FILE: Final = "ledger.db"


class ControlPlane:
    """Ledger ingestion and the admin listener."""

    def __init__(self, handout: Handout, segment: Segment, admin_socket: socket.socket, tally: Tally) -> None:
        """tally: of what the rules of the configuration have matched."""
        config = handout.config
        self._handout = handout
        state_dir = config.server.state_dir
        self._ingestor = Ingestor(os.path.join(state_dir, LEDGER_FILE), journal_directory(state_dir))
        key = config.server.admin.key
        self._segment = segment
        self._snapshot: Snapshot | None = None
        self._tally = tally
        calls: dict[bytes, dict[str, Call]] = {
            b"/admin/v1/channels": {"GET": self._channels, "POST": self._switch_key},
            b"/admin/v1/explain": {"POST": self._explain},
            b"/admin/v1/limits": {"GET": self._limits},
            b"/admin/v1/rules": {"GET": self._rules},
        }
        self._keys = KeyKeeper(config, SYSTEM_CLOCK.wall_ns)
        self._memory = MemoryKeeper(state_dir, segment, self._rows, SYSTEM_CLOCK)
        self._app = AdminApp(
            key.reveal() if key else None,
            lambda: segment.word(DRAINING) == 0,
            calls,
            {b"/admin/v1/keys": self._keys.answer},
        )
        self._socket = admin_socket
        self._prober: Any = None

    def _built(self) -> Snapshot:
        """Return a snapshot of this process, which goes by what all workers have seen."""
        if self._snapshot is None:
            rng = system_rng()
            loop = asyncio.get_running_loop()
            around = Surroundings(loop, self._segment, SYSTEM_CLOCK, partial(rng.getrandbits, 64), os.environ)
            handout = self._handout
            self._snapshot = build_snapshot(handout.config, around, handout.generation, rows=handout.rows)
        return self._snapshot

    def _explain(self, body: bytes) -> Document:
        """Answer by what would be chosen now."""
        document = answer(read_question(body), self._handout.config, self._built(), SYSTEM_CLOCK)
        matches = {rule["id"]: rule["matches"] for rule in self._rules(b"")["rules"]}
        document["rule_matches"] = {name: matches[name] for name in document["rules"]}
        return document

    def _rules(self, body: bytes) -> dict[str, Any]:
        """Return the rules in force. body: of the call, which is not looked at."""
        handout = self._handout
        return rules_document(handout.config, handout.generation, handout.rule_slots, self._tally.total)

    def _channels(self, body: bytes) -> dict[str, Any]:
        """Return the state of keys and models. body: of the call, which is not looked at."""
        snapshot = self._built()
        return channels_document(snapshot.channels, snapshot.attempts, self._segment, SYSTEM_CLOCK)

    def _switch_key(self, body: bytes) -> dict[str, Any]:
        """Switch a key off or on."""
        return switch_key(read_switch(body), self._built().channels, SYSTEM_CLOCK.monotonic_ns() // 1_000_000)

    def _limits(self, body: bytes) -> dict[str, Any]:
        """Return what has been learnt of the endpoints. body: of the call, which is not looked at."""
        return limits_document(self._built(), SYSTEM_CLOCK.monotonic_ns() // 1_000_000)

    def _rows(self) -> Iterable[tuple[Identity, int]]:
        """Return what is counted where."""
        handout = self._handout
        return zip(identities(handout.config), handout.rows, strict=True)

    def reload(self, handout: Handout) -> None:
        """Go by another configuration from now on, except for what belongs to the server."""
        self._handout = handout
        self._snapshot = None
        self._keys.configure(handout.config)
        self._probe()

    def _probe(self) -> None:
        """Probe the providers that are to be probed."""
        rows, config = self._handout.rows, self._handout.config
        if self._prober is None and all(provider.probe is None for provider in config.providers):
            return
        # Imported only where something is probed: httpx costs several megabytes.
        module = importlib.import_module("fastroute.health.probe")
        names = identities(config)

        def rows_of(provider: str) -> list[int]:
            return [row for row, identity in zip(rows, names, strict=True) if identity[0] == provider and identity[2]]

        if self._prober is None:
            client = module.make_client(client_context(os.environ))
            self._prober = module.Prober(self._segment, client, SYSTEM_CLOCK.monotonic_ns, system_rng().random)
        self._prober.watch(module.targets(config.providers, rows_of))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what the journals hold by then is in the ledger afterwards."""
        limits = self._handout.config.server.limits
        listener = Listener(
            self._app,
            self._socket,
            backlog=128,
            max_connections=256,
            max_header_bytes=limits.max_header_bytes,
            header_timeout_ms=limits.header_timeout_ms,
        )
        self._probe()
        serving = asyncio.create_task(listener.serve())
        keeping = asyncio.create_task(self._keys.run(stop))
        remembering = asyncio.create_task(self._memory.run(stop))
        await self._ingestor.run(stop, INGEST_INTERVAL_S)
        await keeping
        await remembering
        if self._prober is not None:
            await self._prober.close()
        listener.stop()
        await serving
