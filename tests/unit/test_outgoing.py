import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from fastroute.outgoing import KEPT_BYTES, Outbox, Outgoing


class Loop:
    """Counts its turns."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> int:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()
        return len(soon)


class Transport:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.closing = False
        self.broken = False

    def write(self, data: bytes | memoryview) -> None:
        if self.broken:
            raise RuntimeError("the handler is closed")
        assert not self.closing
        self.calls.append(bytes(data))

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.calls.extend(pieces)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 100

    def get_extra_info(self, name: str) -> str:
        return f"its {name}"

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)


class Stage:
    def __init__(self, connections: int) -> None:
        self.loop = Loop()
        self.outbox = Outbox(self.loop)  # type: ignore[arg-type]
        self.transports = [Transport() for _ in range(connections)]
        self.all = [self.outbox.take_over(transport) for transport in self.transports]

    def be_busy(self) -> None:
        """Have a turn with several connections, and forget what they wrote."""
        for outgoing in self.all:
            outgoing.write(b"busy")
        self.loop.turn()
        for transport in self.transports:
            transport.calls.clear()


@pytest.fixture
def busy() -> Stage:
    stage = Stage(3)
    stage.be_busy()
    return stage


def test_one_at_a_time_is_sent_at_once() -> None:
    stage = Stage(1)
    for turn in range(3):
        stage.all[0].write(b"a")
        assert stage.transports[0].calls == [b"a"] * (turn + 1)
        assert stage.loop.turn() == 1


def test_the_others_of_a_turn_wait_for_its_end() -> None:
    stage = Stage(3)
    for outgoing in stage.all:
        outgoing.write(b"a")
    assert [transport.calls for transport in stage.transports] == [[b"a"], [], []]
    assert stage.loop.turn() == 1
    assert [transport.calls for transport in stage.transports] == [[b"a"]] * 3


def test_in_a_busy_loop_all_wait(busy: Stage) -> None:
    for outgoing in busy.all:
        outgoing.write(b"a")
    assert not any(transport.calls for transport in busy.transports)
    assert busy.loop.turn() == 1
    assert [transport.calls for transport in busy.transports] == [[b"a"]] * 3


def test_a_loop_that_has_calmed_down_sends_at_once_again(busy: Stage) -> None:
    busy.all[0].write(b"a")
    assert busy.transports[0].calls == []
    busy.loop.turn()
    busy.all[1].write(b"b")
    assert busy.transports[1].calls == [b"b"]


def test_pieces_of_one_turn_are_one_write(busy: Stage) -> None:
    first = busy.all[0]
    first.write(b"head")
    first.write(memoryview(b"-body"))
    first.write(b"")
    assert first.get_write_buffer_size() == 100 + 9
    busy.loop.turn()
    assert busy.transports[0].calls == [b"head-body"]
    assert first.get_write_buffer_size() == 100


def test_what_is_kept_is_the_bytes_of_that_time(busy: Stage) -> None:
    data = bytearray(b"before")
    busy.all[0].write(memoryview(data))
    data[:] = b"behind"
    busy.loop.turn()
    assert busy.transports[0].calls == [b"before"]


def test_much_is_not_kept_and_stays_in_order(busy: Stage) -> None:
    first, much = busy.all[0], b"m" * KEPT_BYTES
    first.write(b"a")
    first.write(much)
    assert busy.transports[0].calls == [b"a", much]
    first.write(b"b")
    busy.loop.turn()
    assert busy.transports[0].calls == [b"a", much, b"b"]


def test_pieces_go_at_once_behind_what_was_kept(busy: Stage) -> None:
    busy.all[0].write(b"a")
    busy.all[0].writelines((b"b", b"c"))
    assert busy.transports[0].calls == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("end", "calls"),
    [
        (Outgoing.close, [b"a", "close"]),
        (Outgoing.write_eof, [b"a", "write_eof"]),
        (Outgoing.abort, ["abort"]),
        (Outgoing.flush, [b"a"]),
        (Outgoing.pause_reading, ["pause_reading", b"a"]),
        (Outgoing.resume_reading, ["resume_reading", b"a"]),
    ],
)
def test_what_comes_after_a_write(busy: Stage, end: Callable[[Outgoing], None], calls: list[Any]) -> None:
    busy.all[0].write(b"a")
    end(busy.all[0])
    busy.loop.turn()
    assert busy.transports[0].calls == calls


def test_nothing_is_written_to_a_connection_that_has_ended(busy: Stage) -> None:
    busy.all[0].write(b"a")
    busy.transports[0].closing = True
    busy.loop.turn()
    assert busy.transports[0].calls == []


def test_one_that_fails_does_not_keep_the_others_waiting(busy: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for outgoing in busy.all:
        outgoing.write(b"a")
    busy.transports[1].broken = True
    with caplog.at_level(logging.ERROR, "fastroute"):
        busy.loop.turn()
    assert [transport.calls for transport in busy.transports] == [[b"a"], ["abort"], [b"a"]]
    assert "as it was written to" in caplog.text


def test_what_is_written_as_others_are_sent_goes_with_the_next_turn(busy: Stage) -> None:
    first, second = busy.all[:2]
    first.write(b"a")
    busy.transports[0].write = lambda data: second.write(b"b")  # type: ignore[method-assign]
    assert busy.loop.turn() == 1
    busy.loop.turn()
    assert busy.transports[1].calls == [b"b"]


def test_it_knows_what_its_transport_knows(busy: Stage) -> None:
    assert busy.all[0].get_extra_info("socket") == "its socket"


def test_over_a_loop_of_its_own() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        outbox = Outbox(loop)
        received: list[asyncio.Future[bytes]] = []

        class Peer(asyncio.Protocol):
            def __init__(self) -> None:
                self.whole: asyncio.Future[bytes] = loop.create_future()
                self.data = b""
                received.append(self.whole)

            def data_received(self, data: bytes) -> None:
                self.data += data

            def eof_received(self) -> None:
                self.whole.set_result(self.data)

        server = await loop.create_server(Peer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        links = [await loop.create_connection(asyncio.Protocol, "127.0.0.1", port) for _ in range(4)]
        outgoing = [outbox.take_over(transport) for transport, _ in links]
        for turn in range(3):
            for one in outgoing:
                one.write(b"%d" % turn)
            await asyncio.sleep(0)
        for one in outgoing:
            one.write(b" end")
            one.close()
        assert await asyncio.gather(*received) == [b"012 end"] * 4
        server.close()

    asyncio.run(asyncio.wait_for(test(), 10))
