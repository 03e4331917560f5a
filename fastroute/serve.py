"""The supervisor: binds the sockets, starts the workers and the control plane, restarts what dies, drains on SIGTERM.

It serves nothing itself and has one thread, so its children can be forked: they inherit the checked configuration and
the listening sockets. Those stay open when a worker dies, so that connections wait instead of being refused.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, NoReturn

import msgspec
import uvloop

from fastroute._core._candidates_gates import MAX_ENDPOINTS
from fastroute._core.counters import ATOMIC, Segment
from fastroute._core.limits import Moment, Table, read_boot_id, slots_for
from fastroute.auth.publication import count_published
from fastroute.auth.publish import repair
from fastroute.auth.store import KeyStoreError
from fastroute.build import endpoint_specs, identities
from fastroute.clock import SYSTEM_CLOCK, Clock
from fastroute.config.schema import Config, Server
from fastroute.control.memory import restore
from fastroute.control.plane import ControlPlane
from fastroute.descriptors import allow_for, room_for
from fastroute.downstream.listener import QuietCuts, open_socket
from fastroute.errors import ConfigError, FastrouteError
from fastroute.handout import Handout, receive, send
from fastroute.health.channel import renew
from fastroute.health.channel_rows import channels_of, replaced_keys
from fastroute.observe.access import STDOUT
from fastroute.routing.tally import SPARE_SLOTS, UNCOUNTED, Slots, Tally
from fastroute.rows import SPARE_ROWS, Rows, RowsError
from fastroute.words import DRAINING
from fastroute.worker import Inheritance, run_worker

log = logging.getLogger("fastroute")

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
#: A child that lived this long was well: its next restart is at once again.
WELL_AFTER_S: Final = 30.0
#: After the grace time, children get this long before they are killed.
KILL_AFTER_S: Final = 5.0
CONTROL_STOP_S: Final = 30.0
#: Who wants an end may say so twice at once: GNU timeout signals the supervisor, and then its process group. A signal
#: that comes sooner than this after a drain has begun is the same order, a later one says that it takes too long.
SAME_ORDER_S: Final = 1.0

_CONTROL: Final = -1
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class ServeError(FastrouteError):
    """The gateway cannot start; the message says why."""


class Child:
    """One supervised process: a worker slot, or the control plane."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.pid = 0
        self.started_s = 0.0
        self.restart_at_s = 0.0
        self.backoff_s = 0.0
        self.channel: socket.socket | None = None

    @property
    def name(self) -> str:
        """Return what to call it in a log line."""
        return "control plane" if self.slot == _CONTROL else f"worker {self.slot}"


class Orders:
    """The signals that have come and were not looked at yet. clock: says when they came."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._came: list[tuple[int, int]] = []
        self._counts_from_ns = 0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal. frame: what it has interrupted, for whoever calls handlers."""
        self._came.append((number, self._clock.monotonic_ns()))

    def begin_drain(self) -> None:
        """Pass over what comes within `SAME_ORDER_S` from now on."""
        self._counts_from_ns = self._clock.monotonic_ns() + int(SAME_ORDER_S * 1e9)

    def __bool__(self) -> bool:
        """Return whether any have come."""
        return bool(self._came)

    def take(self) -> set[int]:
        """Return those that count, and forget all."""
        came, self._came = self._came, []
        return {number for number, at_ns in came if at_ns >= self._counts_from_ns}


class Supervisor:
    """The process group. `run` returns the exit status."""

    def __init__(
        self,
        config: Config,
        announce: Callable[[Config, int, int], None],
        read_again: Callable[[], Config] | None = None,
    ) -> None:
        """read_again: returns the configuration as it is now, or raises ConfigError; None if there is no file."""
        self._config = config
        self._read_again = read_again
        self._announce = announce
        self._children: list[Child] = []
        self._orders = Orders(SYSTEM_CLOCK)
        self._draining = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain. Raises ServeError if it cannot start."""
        server = self._config.server
        lock_fd = _lock_state_dir(server.state_dir)
        _try_access_log(server.access_log)
        _publish_keys(server.state_dir)
        data = _bind(server.host, server.port, server.backlog)
        admin = _bind(server.admin.host, server.admin_port, 128)
        segment_path = os.path.join(server.state_dir, "segment")
        names = identities(self._config)
        with _making(segment_path):
            self._segment = Segment.create(segment_path, server.workers, min(MAX_ENDPOINTS, len(names) + SPARE_ROWS))
        self._rows = Rows(self._segment.endpoints, self._segment.clear_endpoint, self._segment.in_flight)
        rules = [rule.id for rule in self._config.rules]
        self._slots = Slots(len(rules) + SPARE_SLOTS)
        tally = Tally(server.workers, len(rules) + SPARE_SLOTS)
        handout = Handout(1, self._rows.assign(names), self._config, self._slots.assign(rules))
        restore(server.state_dir, self._segment, dict(zip(names, handout.rows, strict=True)), SYSTEM_CLOCK)
        limits_path = os.path.join(server.state_dir, "limits")
        moment = Moment(read_boot_id(), SYSTEM_CLOCK.monotonic_ns(), SYSTEM_CLOCK.wall_ns())
        slots = slots_for(count_published(server.state_dir) + len(self._config.auth.keys))
        with _making(limits_path):
            self._limits = Table.create(limits_path, server.workers, moment, slots)
        self._inherited = Inheritance(handout, segment_path, data, admin, tally, limits_path)
        wanted = server.limits.max_connections
        allow_for(wanted)
        if "server.limits.max_connections" in self._config.given and (room := room_for(wanted)) < wanted:
            log.warning("at most %d connections per worker: it may not open more files (ulimit -n)", room)
        if not ATOMIC and server.workers > 1:
            log.warning("the pure-Python core has no atomics: what %d workers count is not exact", server.workers)
        self._catch_signals()
        self._children = [Child(_CONTROL), *(Child(slot) for slot in range(server.workers))]
        for child in self._children:
            self._start(child)
        self._announce(self._config, data.getsockname()[1], admin.getsockname()[1])
        self._watch()
        status = self._drain(data)
        # Nothing is left to be ended sooner, and the interpreter, when it ends, would give them back to the system.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(lock_fd)
        return status

    # --- watching

    def _catch_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, self._orders.note)

    def _watch(self) -> None:
        """Restart children as they die, until told to stop."""
        while not self._told_to_stop():
            self._reap()
            now_s = _now_s()
            due = [child for child in self._children if not child.pid]
            for child in due:
                if child.restart_at_s <= now_s:
                    self._start(child)
            waiting = [child.restart_at_s - now_s for child in self._children if not child.pid]
            self._wait(min(waiting, default=3600.0))

    def _told_to_stop(self) -> bool:
        numbers = self._orders.take()
        if signal.SIGHUP in numbers and not self._draining:
            self._reload()
        return signal.SIGTERM in numbers or signal.SIGINT in numbers

    def _reload(self) -> None:
        """Read the configuration again and hand it to every child. A faulty one changes nothing."""
        if self._read_again is None:
            log.warning("SIGHUP: there is no configuration file to read again")
            return
        try:
            config = self._read_again()
            rows = self._rows.assign(identities(config))
        except ConfigError as error:
            log.error("SIGHUP: the configuration stays as it is:\n%s", "\n".join(error.faults))
            return
        except RowsError as error:
            log.error("SIGHUP: the configuration stays as it is: %s", error)
            return
        old = self._inherited.handout
        for name in changed_fields(old.config.server, config.server):
            log.warning("SIGHUP: server.%s has changed, which takes a restart", name)
        config = msgspec.structs.replace(config, server=old.config.server)
        slots = self._slots.assign([rule.id for rule in config.rules])
        if UNCOUNTED in slots:
            log.warning("SIGHUP: %d rules are not counted until a restart", slots.count(UNCOUNTED))
        specs = endpoint_specs(config)
        renew(self._segment, channels_of(specs, rows[: len(specs)]), replaced_keys(old.config, config))
        handout = Handout(old.generation + 1, rows, config, slots)
        self._inherited = self._inherited._replace(handout=handout)
        for child in self._children:
            self._hand_out(child, handout)
        log.info("SIGHUP: configuration %d handed out", handout.generation)

    def _hand_out(self, child: Child, handout: Handout) -> None:
        if not child.pid or child.channel is None:
            return
        try:
            send(child.channel, handout)
        except OSError as error:
            # It is dying, or does not read: its successor starts with the new configuration.
            log.error("%s (pid %d) cannot be reached: %s; restarting it", child.name, child.pid, error.strerror)
            _dismiss(child)

    def _wait(self, seconds: float) -> None:
        """Sleep until a signal comes or the time is up."""
        if self._orders:
            return
        select.select([self._wake_read], [], [], max(0.0, seconds))
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        """Note which children have died, and when each is to be started again."""
        for child in self._children:
            if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
                self._died(child)

    def _died(self, child: Child) -> None:
        if child.slot != _CONTROL:
            # Its requests died with it.
            self._segment.clear_worker(child.slot)
            self._limits.clear_worker(child.slot)
        now_s = _now_s()
        lived_s = now_s - child.started_s
        if lived_s >= WELL_AFTER_S:
            child.backoff_s = 0.0
        log.error("%s (pid %d) died after %.1f s; restart in %.1f s", child.name, child.pid, lived_s, child.backoff_s)
        child.pid = 0
        child.restart_at_s = now_s + child.backoff_s
        child.backoff_s = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, child.backoff_s * 2))

    # --- children

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if child.channel is not None:
            child.channel.close()
        child.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Until the child has put our handlers away a signal must wait: they would only tell its copy of us.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        pid = os.fork()
        if pid == 0:
            self._become(child, theirs, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        child.pid = pid
        child.started_s = _now_s()

    def _become(self, child: Child, channel: socket.socket, mask: set[int | signal.Signals]) -> NoReturn:
        """Be the child. Never returns into the supervisor's code."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Terminals and service managers signal all processes at once. When a child ends is the supervisor's affair:
            # readiness goes first, and the control plane last.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            # Ours too: a channel ends with the supervisor only if nobody else holds its end of it.
            for other in self._children:
                if other.channel is not None:
                    other.channel.close()
            inherited = self._inherited._replace(channel=channel)
            prefer_throughput()
            # A listener is gone only when the last process that holds it has let it go.
            if child.slot == _CONTROL:
                inherited.data_socket.close()
                _run_control(inherited)
            else:
                inherited.admin_socket.close()
                run_worker(child.slot, inherited)
            status = 0
        except BaseException:  # whatever it is, it ends this process, and only this one
            log.exception("%s failed", child.name)
        finally:
            logging.shutdown()
            os._exit(status)

    def _drain(self, data: socket.socket) -> int:
        """Readiness goes first, then the listeners, then requests finish, then the ledger is brought up to date."""
        drain = self._config.server.drain
        self._draining = True
        self._orders.begin_drain()
        self._segment.set_word(DRAINING, 1)
        log.info("draining")
        patient = self._hold(drain.readiness_delay_ms / 1000)
        data.close()
        workers = [child for child in self._children if child.slot != _CONTROL]
        status = self._stop(workers, drain.grace_ms / 1000 + KILL_AFTER_S if patient else 0.0)
        control = [child for child in self._children if child.slot == _CONTROL]
        return max(status, self._stop(control, CONTROL_STOP_S))

    def _hold(self, seconds: float) -> bool:
        """Let time pass; return False, at once, when told to stop once more."""
        end_s = _now_s() + seconds
        while (left_s := end_s - _now_s()) > 0:
            self._wait(left_s)
            if self._told_to_stop():
                return False
        return True

    def _stop(self, children: list[Child], timeout_s: float) -> int:
        """Ask children to end and wait; kill those that do not. Returns 0 if all ended by themselves."""
        for child in children:
            if child.pid:
                _dismiss(child)
        end_s = _now_s() + timeout_s
        status = 0
        while True:
            left = [child for child in children if child.pid and not os.waitpid(child.pid, os.WNOHANG)[0]]
            for child in children:
                if child not in left:
                    child.pid = 0
            if not left:
                return status
            impatient = self._told_to_stop()
            if impatient or _now_s() >= end_s:
                for child in left:
                    log.error("%s did not end in time; killed", child.name)
                    os.kill(child.pid, signal.SIGKILL)
                    os.waitpid(child.pid, 0)
                    child.pid = 0
                return 1
            self._wait(min(1.0, end_s - _now_s()))


def _dismiss(child: Child) -> None:
    """Ask a child to end: it does when its channel ends, however young it was when it was asked."""
    if child.channel is not None:
        with contextlib.suppress(OSError):  # it is gone already
            child.channel.shutdown(socket.SHUT_WR)


def prefer_throughput() -> None:
    """Tell the kernel that threads of this process need not preempt each other when they wake up.

    With Granian, a request crosses threads several times; each crossing that preempts the thread it came from is a
    context switch more. Needs no privilege; where it is refused, or not Linux, things stay as they are.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def changed_fields(old: Server, new: Server) -> list[str]:
    """Return the names of the fields in which two configurations of the server differ."""
    return [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]


def _now_s() -> float:
    return SYSTEM_CLOCK.monotonic_ns() / 1e9


def _bind(host: str, port: int, backlog: int) -> socket.socket:
    try:
        return open_socket(host, port, backlog)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


@contextlib.contextmanager
def _making(path: str) -> Iterator[None]:
    """Say which file it was that could not be made. A start on a full disk is refused."""
    try:
        yield
    except OSError as error:
        raise ServeError(f"cannot make {path}: {error.strerror or error}") from None


def _try_access_log(path: str | None) -> None:
    if path is None or path == STDOUT:
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640))
    except OSError as error:
        raise ServeError(f"cannot write the access log {path}: {error.strerror or error}") from None


def _publish_keys(state_dir: str) -> None:
    """Publish virtual keys that were committed and not published; workers read nothing else."""
    try:
        repair(state_dir, SYSTEM_CLOCK.wall_ns)
    except KeyStoreError as error:
        log.error("%s; the virtual keys stay as they were published", error)


def _lock_state_dir(state_dir: str) -> int:
    """Take the state directory for this process group alone; return the descriptor that holds the lock."""
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServeError(f"cannot use the state directory {state_dir}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ServeError(f"another fastroute uses the state directory {state_dir}") from None
    return fd


def _run_control(inherited: Inheritance) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        segment = Segment.open(inherited.segment_path)
        plane = ControlPlane(inherited.handout, segment, inherited.admin_socket, inherited.tally)
        if inherited.channel is not None:
            channel = inherited.channel

            def reload() -> None:
                handout = receive(channel)
                if handout is None:
                    loop.remove_reader(channel)
                    stop.set()
                else:
                    plane.reload(handout)

            loop.add_reader(channel, reload)
        await plane.run(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def configure_logging() -> None:
    """Log to standard error; the server below only speaks up when something is wrong."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
    )
    for name in ("_granian", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.addFilter(QuietCuts())
