"""The corridor without processes or listener: a real Gateway in this event loop, driven by two functions as its client.

Its upstreams are real (`MockUpstream` over TCP), its journal is a real one; what is left out is the HTTP server below
and the supervisor. So a test can look at everything that a request holds, and stop it at any of its awaits.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastroute._core.counters import IN_FLIGHT, Segment
from fastroute._core.limits import Limiter, Moment, Table, read_boot_id
from fastroute.admission import Admission
from fastroute.billing.boot import allocate_boot
from fastroute.billing.journal import JournalWriter
from fastroute.billing.segments import journal_directory, list_segments, read_segment
from fastroute.build import Surroundings, build_snapshot, endpoint_specs
from fastroute.clock import SYSTEM_CLOCK, system_rng
from fastroute.config import load_file
from fastroute.context import Context
from fastroute.downstream.asgi import BODY, START, AsgiDownstream
from fastroute.downstream.lane import AnswerCutError
from fastroute.downstream.request import Limits, RequestReader
from fastroute.downstream.watch import Watch
from fastroute.gateway import Gateway
from fastroute.interfaces import Record
from fastroute.outgoing import Outbox
from fastroute.upstream.pool import Pool
from fastroute.upstream.transport import FastTransport

KEY = "sk-a-key-of-the-tests"
LIMIT_SLOTS = 64
Header = tuple[bytes, bytes]

#: For tests of what becomes of one request, however many have failed before it.
NO_BREAKER = {"failure_threshold": 10_000, "failure_rate": 1, "min_requests": 1_000_000}


class Client:
    """One request as the server below would hand it over, and what it was answered.

    pieces: the request body as it arrives. pace: awaited before each message is taken, so that a client can be slow.
    cut: the answer was broken off on purpose.
    """

    def __init__(
        self,
        path: str,
        *pieces: bytes,
        headers: tuple[Header, ...] = (),
        length: bool = True,
        pace: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        target, _, query = path.partition("?")
        own = [(b"host", b"gateway"), (b"authorization", b"Bearer " + KEY.encode())]
        own.append((b"content-type", b"application/json"))
        if length:
            own.append((b"content-length", b"%d" % sum(map(len, pieces))))
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": [*own, *headers],
        }
        self._pieces = list(pieces)
        self._pace = pace
        self.gone = asyncio.Event()
        self.status = 0
        self.headers: list[Header] = []
        self.chunks: list[bytes] = []
        self.finished = False
        self.cut = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    async def receive(self) -> MutableMapping[str, Any]:
        await self._wait()
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self._wait()
        assert not self.finished, "a message after the last one"
        if message["type"] == START:
            assert self.status == 0, "two heads"
            self.status, self.headers = message["status"], message["headers"]
            return
        assert message["type"] == BODY
        assert self.status, "a body before its head"
        self.chunks.append(message["body"])
        self.finished = not message["more_body"]

    async def _wait(self) -> None:
        if self._pace is not None:
            await self._pace()
        else:
            await asyncio.sleep(0)


class WatchedWatch(Watch):
    """A watch that remembers the request that came last, and once it was told to `begin` all since then."""

    last: Context | None = None
    seen: tuple[Context, ...] | None = None

    def begin(self) -> None:
        """Forget those that have come so far."""
        self.last, self.seen = None, ()

    def enter(self, ctx: Context) -> None:
        self.last = ctx
        if self.seen is not None:
            self.seen = (*self.seen, ctx)
        super().enter(ctx)


async def _departed(ctx: Context) -> None:
    await ctx.downstream.departed()


class InProcess:
    """A gateway in the running loop; an async context manager. config: as in a file, `auth` and `server` filled in."""

    def __init__(self, config: Mapping[str, Any], make_outbox: type[Outbox] = Outbox) -> None:
        self._make_outbox = make_outbox
        self._directory = tempfile.TemporaryDirectory(prefix="fastroute-test-")
        state = str(Path(self._directory.name) / "state")
        document = {"auth": {"keys": [{"id": "app", "key": KEY}]}, **config}
        document["server"] = {**document.get("server", {}), "state_dir": state}
        file = Path(self._directory.name) / "fastroute.json"
        file.write_text(json.dumps(document))
        self.config = load_file(str(file), {})
        self._state = state

    async def __aenter__(self) -> Self:
        config, loop = self.config, asyncio.get_running_loop()
        self.journal = JournalWriter(journal_directory(self._state), allocate_boot(self._state))
        path = str(Path(self._state) / "segment")
        self.segment = Segment.create(path, 1, len(endpoint_specs(config)))
        rng = system_rng(1)
        moment = Moment(read_boot_id(), SYSTEM_CLOCK.monotonic_ns(), SYSTEM_CLOCK.wall_ns())
        self.limits = Table.create(str(Path(self._state) / "limits"), 1, moment, LIMIT_SLOTS)
        self.limiter = Limiter(self.limits, 0)
        admission = Admission(self.limiter, SYSTEM_CLOCK, loop)
        admission.configure(config.limits.queue)
        self.outbox = self._make_outbox(loop)
        around = Surroundings(
            loop,
            self.segment,
            SYSTEM_CLOCK,
            lambda: rng.getrandbits(64),
            {},
            limiter=self.limiter,
            outbox=self.outbox,
        )
        self.watch = WatchedWatch(loop, SYSTEM_CLOCK.monotonic_ns, _departed)
        limits = config.server.limits
        self.snapshot = build_snapshot(config, around)
        self.gateway = Gateway(
            snapshot=self.snapshot,
            reader=RequestReader(
                Limits(
                    limits.max_body_bytes, limits.max_json_depth, limits.max_uri_bytes, limits.body_timeout_ms * 10**6
                )
            ),
            random_bits=around.random_bits,
            worker=0,
            journal=self.journal,
            watch=self.watch,
            clock=SYSTEM_CLOCK,
            loop=loop,
            id_prefix="fr-test-",
            admission=admission,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self.snapshot.transports.values():
            await transport.close()
        await asyncio.sleep(0)
        self.journal.close()
        self.segment.close()
        self.limits.close()
        self._directory.cleanup()

    # --- requests

    async def serve(self, client: Client) -> None:
        """Serve one request to its end, as the server below does."""
        try:
            await self.gateway.handle(AsgiDownstream(client.scope, client.receive, client.send))
        except AnswerCutError:
            client.cut = True

    async def post(self, path: str, body: bytes, **options: Any) -> Client:
        """Serve one request and return its client."""
        client = Client(path, body, **options)
        await self.serve(client)
        return client

    # --- what is left behind

    @property
    def pools(self) -> list[Pool]:
        transports = [
            transport for transport in self.snapshot.transports.values() if isinstance(transport, FastTransport)
        ]
        return [transport._pool for transport in transports]

    def records(self) -> list[Record]:
        """Return what the journal holds, oldest first."""
        records: list[Record] = []
        for segment in list_segments(journal_directory(self._state)):
            offset = 0
            while True:
                found, after, skipped = read_segment(segment.path, offset)
                assert skipped == 0
                records += found
                if after == offset:
                    break
                offset = after
        return sorted(records, key=lambda record: record.id)

    async def quiet(self, others: set["asyncio.Task[Any]"]) -> list[str]:
        """Return what the requests so far have left behind after a moment. others: tasks that may stay."""
        for _ in range(200):
            left = self._left(others)
            if not left:
                return []
            await asyncio.sleep(0.002)
        return left

    def _left(self, others: set["asyncio.Task[Any]"]) -> list[str]:
        left = [f"in flight: {n}" for n in self.segment.totals(IN_FLIGHT) if n]
        left += [f"held by {n}: {self.limits.held(n)}" for n in range(LIMIT_SLOTS) if self.limits.held(n)]
        left += [repr(pool) for pool in self.pools if pool.live != pool.idle or pool._waiters]
        if len(self.watch):
            left.append(f"watched: {len(self.watch)}")
        left += [f"task: {task!r}" for task in asyncio.all_tasks() - others if not task.done()]
        return left


class Stepper:
    """Awaits a coroutine and calls `at(number, future)` whenever it is about to wait, with what it waits for."""

    def __init__(self, work: Awaitable[Any], at: Callable[[int, Any], None]) -> None:
        self._work = work
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        number = 0
        error: BaseException | None = None
        while True:
            try:
                awaited = steps.throw(error) if error is not None else steps.send(None)
            except StopIteration as end:
                return end.value
            error = None
            self._at(number, awaited)
            number += 1
            try:
                yield awaited
            except BaseException as caught:  # noqa: BLE001 - handed on to where it belongs
                error = caught


async def run_stepped(work: Awaitable[Any], at: Callable[[int, Any], None]) -> None:
    """Await `work`, calling `at` at each of its awaits; its own cancellation ends it quietly."""
    with suppress(asyncio.CancelledError):
        await Stepper(work, at)
