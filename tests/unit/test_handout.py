"""A configuration crosses from one process to another whole, secrets included, and through no file."""

import socket
import threading

import pytest

from fastroute.config.environment import from_environment
from fastroute.handout import Handout, receive, send


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_what_is_sent_is_what_arrives() -> None:
    config = from_environment({"OPENAI_API_KEY": "sk-handed-out"})
    ours, theirs = pair()
    with ours, theirs:
        send(ours, Handout(7, (3, 1, 2), config))
        send(ours, Handout(8, (), config))
        first = receive(theirs)
        second = receive(theirs)
    assert first == Handout(7, (3, 1, 2), config)
    assert first is not None
    assert first.config.providers[0].keys[0].key.reveal() == "sk-handed-out"
    assert second is not None
    assert second.generation == 8


def test_the_other_end_is_gone() -> None:
    ours, theirs = pair()
    ours.close()
    with theirs:
        assert receive(theirs) is None


def test_what_was_sent_before_the_end_arrives() -> None:
    ours, theirs = pair()
    with ours, theirs:
        send(ours, Handout(7, (), from_environment({})))
        ours.shutdown(socket.SHUT_WR)
        assert receive(theirs) == Handout(7, (), from_environment({}))
        assert receive(theirs) is None
        with pytest.raises(BrokenPipeError):
            send(ours, Handout(8, (), from_environment({})))


def test_who_does_not_read_is_not_waited_for() -> None:
    ours, theirs = pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    handout, errors = Handout(7, (), from_environment({})), []

    def fill() -> None:
        try:
            while True:
                send(ours, handout)
        except OSError as error:
            errors.append(type(error))

    filling = threading.Thread(target=fill)
    with ours:
        with theirs:
            filling.start()
            filling.join(20)
            waiting = filling.is_alive()
        # Who waits is woken by the end of the other side.
        filling.join()
    assert (waiting, errors) == (False, [BlockingIOError])
