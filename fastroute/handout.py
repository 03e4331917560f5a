"""A configuration on its way from the supervisor to its children, when it has been read again."""

import array
import os
import socket
import tempfile
from typing import Any, NamedTuple

import msgspec

from fastroute.config.schema import Config
from fastroute.config.secret import Secret, decode_secret

_MESSAGE = b"configuration"


class Handout(NamedTuple):
    """generation: 1 for the configuration of the start. rows: those of its endpoints, see `rows`.

    rule_slots: where its rules are counted, see `routing.tally`.
    """

    generation: int
    rows: tuple[int, ...]
    config: Config
    rule_slots: tuple[int, ...] = ()


def send(channel: socket.socket, handout: Handout) -> None:
    """Hand a configuration to the process at the other end, without waiting for it. Raises OSError.

    It goes through memory that has no name in any file system, because it holds credentials.
    """
    with _nameless() as file:
        file.write(msgspec.msgpack.encode(tuple(handout), enc_hook=_reveal))
        file.flush()
        rights = array.array("i", [file.fileno()])
        # Not `socket.send_fds`, which takes flags and does not pass them on.
        channel.sendmsg([_MESSAGE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_DONTWAIT)


def receive(channel: socket.socket) -> Handout | None:
    """Return what was sent, None if nothing more comes: the other end has ended it, or is gone.

    Also if no descriptor was free to take it: who cannot be reached is to start anew.
    """
    message, descriptors, _, _ = socket.recv_fds(channel, len(_MESSAGE), 1)
    if not message or not descriptors:
        return None
    with os.fdopen(descriptors[0], "rb") as file:
        # The descriptor shares its position with the writer's.
        file.seek(0)
        content = file.read()
    return msgspec.msgpack.decode(content, type=Handout, dec_hook=decode_secret)


def _nameless() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("fastroute-configuration"), "w+b")
    return tempfile.TemporaryFile()


def _reveal(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"cannot hand out {type(value).__name__}")
