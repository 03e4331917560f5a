"""Pure half of `lines`: the readable reference.

A line is 8 lower-case hex digits of the CRC-32 (ISO 3309, as in zlib) of its payload, a space, the payload, a newline.
A payload is two JSON texts with a tab between them; JSON has no raw tab or newline, so neither can be mistaken.
"""

import mmap
from typing import Final
from zlib import crc32

_PREFIX_BYTES: Final = 9


def put(window: mmap.mmap | bytearray, position: int, head: bytes, checksum: int, body: bytes) -> int:
    """Write the line of `head` and `body` at `position`; return the position behind it, -1 if there is no room.

    head: the first JSON text and the tab. checksum: its CRC-32.
    """
    line = b"%08x %b%b\n" % (crc32(body, checksum), head, body)
    end = position + len(line)
    if position < 0 or end > len(window):
        return -1
    window[position:end] = line
    return end


def split(data: bytes, final: bool) -> tuple[list[bytes], bytes, int, int]:
    """Return (heads, bodies, end, bad lines) of the intact lines in `data`.

    heads: of each, what stands before the tab; bodies: what stands behind it, each ended by a newline. end: where to
    go on; what stands behind it is not judged yet. Empty lines are nothing. final: nobody will write here again, so
    what stands after the last newline is a line too, and bad lines after the last intact one are bad for good. Else
    they may be in the middle of being written, and wait.
    """
    heads: list[bytes] = []
    bodies: list[bytes] = []
    end = bad = waiting = position = 0
    size = len(data)
    while position < size:
        newline = data.find(b"\n", position)
        if newline < 0:
            if not final:
                break
            newline = size
        payload = data[position + _PREFIX_BYTES : newline]
        head, tab, body = payload.partition(b"\t")
        if tab and data[position : position + _PREFIX_BYTES] == b"%08x " % crc32(payload):
            heads.append(head)
            bodies.append(body + b"\n")
            bad += waiting
            waiting = 0
            end = min(newline + 1, size)
        elif newline > position:
            waiting += 1
        elif not waiting:
            end = newline + 1
        position = newline + 1
    if final:
        return heads, b"".join(bodies), size, bad + waiting
    return heads, b"".join(bodies), end, bad
