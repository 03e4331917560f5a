"""Metering of a server-sent-event stream in passing: the readable reference of `_sse_c`.

Framing follows the WHATWG HTML standard, section 9.2 "Server-sent events": lines end by LF, CRLF or CR, a
blank line ends an event, a leading BOM and comment lines are ignored, several `data:` lines are joined by
LF. Any cut of the stream into feeds gives the same result.

JSON is not decoded. A key is `"name"`, optional white space, `:`, optional white space, and a value that is
neither `null` nor `""`; inside a JSON string the quotes would be escaped, so they cannot match. How deep the
key lies (the number of open braces and brackets before it) separates the provider's own fields from tool
arguments, schemas and echoed user data, which lie deeper:

========================================================  =============  ===================================
key                                                       depth          meaning
========================================================  =============  ===================================
`usage`, `usageMetadata`                                  1 or 2         token counts
`error`, or `"type":"error"`                              1              the stream reports an error
`finish_reason`, `finishReason`, `stop_reason`            1 to 3         the model has finished
`"type":"message_stop"`, `"type":"response.completed"` …  1              terminal marker
`"choices":[]`                                            1              with usage: event carries usage only
========================================================  =============  ===================================

Time is linear in the bytes fed, whatever they are.
"""

import re
from typing import Final

_USAGE: Final = 1
_ERROR: Final = 2
_DONE: Final = 4
_FINISHED: Final = 8
_NO_CHOICES: Final = 16

_LF: Final = 10
_CR: Final = 13
_BOM: Final = b"\xef\xbb\xbf"
_NOWHERE: Final = 1 << 30  # the depth of a place inside a string: deeper than anything

_KEPT_FIRST: Final = 2  # message_start is among the first events, the running totals are among the last
_KEPT: Final = 64

#: `event:` names and `"type"` values that mean something by themselves.
_MARKERS: Final = {
    b"error": _ERROR,
    b"message_stop": _DONE,
    b"response.completed": _DONE,
    b"response.incomplete": _DONE,
    b"response.failed": _DONE | _ERROR,
}
#: Keys with a value of any kind, and how deep they may lie.
_KEYS: Final = {
    b"usage": (_USAGE, 2),
    b"usageMetadata": (_USAGE, 2),
    b"error": (_ERROR, 1),
    b"finish_reason": (_FINISHED, 3),
    b"finishReason": (_FINISHED, 3),
    b"stop_reason": (_FINISHED, 3),
}

_BLANK_LINE: Final = re.compile(rb"(?:\n|\r\n?+)(\r\n?|\n)")
_LINE_END: Final = re.compile(rb"\r\n?|\n")
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_COLON: Final = rb"[ \t\r\n]*:[ \t\r\n]*"
_TELLING: Final = re.compile(
    rb'"(?:(usage|usageMetadata|error|finish_reason|finishReason|stop_reason)"'
    rb'%b(?=[^ \t\r\n])(?!null|"")'
    rb'|type"%b(?="(error|message_stop|response\.(?:completed|incomplete|failed))")'
    rb'|choices"%b\[[ \t\r\n]*\])' % (_COLON, _COLON, _COLON)
)


def _depth(text: bytes, at: int, start: int = 0) -> int:
    """Return how many braces and brackets `text[start:at]` leaves open, `_NOWHERE` if it ends in a string."""
    # The quote added closes that string, or stays; so no search for a closing quote is in vain.
    bare = _STRING.sub(b"", text[start:at] + b'."')
    if not bare.endswith(b'"'):
        return _NOWHERE
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")


def _classify(payload: bytes) -> int:
    """Return the flags of a payload; a key inside a string (so this is no JSON) ends the search."""
    flags = depth = at = 0
    for match in _TELLING.finditer(payload):
        more = _depth(payload, match.start(), at)
        if more == _NOWHERE:
            break
        depth += more
        at = match.start()
        if match[1]:
            flag, deepest = _KEYS[match[1]]
        else:
            flag, deepest = _MARKERS[match[2]] if match[2] else _NO_CHOICES, 1
        if 1 <= depth <= deepest:
            flags |= flag
    return flags


def _is_plain(text: bytes) -> bool:
    """Tell whether no payload in `text` can have a flag; false alarms are allowed, misses are not."""
    return not (
        b"error" in text
        or b"message_stop" in text
        or b"response.completed" in text
        or b"response.incomplete" in text
        or b"response.failed" in text
        or b'finishReason"' in text
        or b'"usageMetadata"' in text
        or text.count(b'_reason"') != text.count(b'_reason":null')
        or text.count(b'"usage"') != text.count(b'"usage":null')
    )


def _fields(block: bytes) -> tuple[bytes, bytes]:
    """Return (`event` value, `data` payload) of one event, each b"" if absent."""
    if block.startswith(b"data: ") and block.find(b"\n") == len(block) - 1 and b"\r" not in block:
        return b"", block[6:-1]
    event = b""
    data = []
    for line in block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return event, b"\n".join(data)


def _find_blank_line(buf: bytes, start: int, scan: int) -> tuple[int, int] | None:
    """Return where the blank line that ends the event at `start` begins and ends; none lies before `scan`."""
    match: re.Match[bytes] | None
    if start < len(buf) and buf[start] in (_LF, _CR):
        match = _LINE_END.match(buf, start)
        return (start, match.end()) if match else None
    match = _BLANK_LINE.search(buf, scan)
    return match.span(1) if match else None


class StreamMeter:
    """Reads along a server-sent-event stream and forwards it.

    keep_all: keep every payload with usage (the first 2 and the last 62), not only the last one.
    strip_usage: hold complete events with `"choices":[]` and usage back from the client; nothing else is
    changed, and only the bytes of the last, still incomplete event wait. Comments inside a removed event go
    with it.
    whole_events: nothing is removed, but the bytes of the incomplete event wait all the same, so that what was
    forwarded always ends with a whole event and another one can follow.
    max_event_bytes: a longer event is forwarded, but neither kept nor metered, and sets `overflowed`. Memory
    is bounded by this for the incomplete event, plus 1 (keep_all: 64) payloads and one error payload of that
    size.

    Attributes to read: `usage_events` (payloads with usage), `error_event` (payload of the first error, or
    None), `events` (events with data, `[DONE]` excluded), `done` (a terminal marker was seen), `finished` (a
    finish reason or a terminal marker was seen), `content_bytes` (payload bytes of events without usage),
    `overflowed`.

    A block without any `data:` that is a bare JSON object with `error` (Vertex ends broken streams so) sets
    `error_event`, but is not an event. Not thread-safe. Raises ValueError for max_event_bytes < 1.
    """

    __slots__ = (
        "_at_start",
        "_dropped",
        "_hold_back",
        "_keep_all",
        "_lf_pending",
        "_max_event_bytes",
        "_skipping",
        "_strip_usage",
        "_tail",
        "content_bytes",
        "done",
        "error_event",
        "events",
        "finished",
        "overflowed",
        "usage_events",
    )

    def __init__(
        self,
        keep_all: bool = False,
        strip_usage: bool = False,
        max_event_bytes: int = 1 << 20,
        whole_events: bool = False,
    ) -> None:
        if max_event_bytes < 1:
            raise ValueError("max_event_bytes must be at least 1")
        self._keep_all = keep_all
        self._strip_usage = strip_usage
        self._hold_back = strip_usage or whole_events
        self._max_event_bytes = max_event_bytes
        self._at_start = True  # a BOM may still come
        self._tail = bytearray()  # the incomplete event; while skipping: a dot and its last byte
        self._skipping = False  # inside an event that is too long
        self._lf_pending = False  # the last blank line ended by CR: a LF now still belongs to it
        self._dropped = False  # the last complete event was not forwarded
        self.usage_events: list[bytes] = []
        self.error_event: bytes | None = None
        self.events = 0
        self.done = False
        self.finished = False
        self.content_bytes = 0
        self.overflowed = False

    @property
    def mid_event(self) -> bool:
        """Whether the forwarded bytes end inside an event: send a blank line before an event of your own."""
        return self._skipping or (bool(self._tail) and not self._hold_back)

    def feed(self, data: bytes) -> bytes:
        """Meter the next bytes; return those to forward now (`data` itself unless events are held back)."""
        if not isinstance(data, bytes):
            raise TypeError(f"expected bytes, got {type(data).__name__}")
        if not data or self._is_one_plain_event(data):
            return data
        lead, fresh = b"", data
        if self._lf_pending:
            self._lf_pending = False
            if data[0] == _LF:
                lead, fresh = b"" if self._dropped else b"\n", data[1:]
        forward = self._advance(fresh)
        if not self._hold_back:
            return data
        return lead + forward if lead else forward

    def finish(self) -> bytes:
        """End the stream: account the unterminated last event and return what was held back of it.

        If that event was cut inside its JSON, it only adds to `content_bytes`. Do not feed afterwards.
        """
        tail = bytes(self._tail)
        self._tail.clear()
        if self._skipping or not tail:
            self._skipping = False
            return b""
        drop = self._end_event(tail, plain=False, cut=True)
        return tail if self._hold_back and not drop else b""

    def _is_one_plain_event(self, data: bytes) -> bool:
        """Meter `data` if it is what most feeds are: one whole event that can have no flag; return whether it is."""
        end = len(data) - 2  # of its only line
        if end >= self._max_event_bytes or not data.startswith(b"data: {") or not data.endswith(b"\n\n"):
            return False
        if self._tail or self._at_start or self._lf_pending or data.find(b"\n") != end or b"\r" in data:
            return False
        if not _is_plain(data):
            return False
        self.events += 1
        self.content_bytes += end - len(b"data: ")
        return True

    def _advance(self, data: bytes) -> bytes:
        """Meter `data`; return what of it (and of the tail) to forward when stripping."""
        tail = self._tail
        if self._at_start:
            data = bytes(tail) + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                tail[:] = data
                return b""
            self._at_start = False
            tail.clear()
            if data.startswith(_BOM):
                return _BOM + self._split(data[len(_BOM) :], 0, 0)
        if not tail:
            return self._split(data, 0, 0)
        sent = len(tail) if self._skipping else 0
        scan = max(len(tail) - 2, 0)
        tail += data
        if not self._skipping and len(tail) <= self._max_event_bytes and not _BLANK_LINE.search(tail, scan):
            return b""  # without copying a long tail again at every feed
        return self._split(bytes(tail), scan, sent)

    def _split(self, buf: bytes, scan: int, sent: int) -> bytes:
        """Meter the complete events of `buf` and hold the rest; `buf[:sent]` was forwarded before."""
        edges = [sent]  # begin and end of every stretch to forward
        start = 0
        plain = _is_plain(buf)
        while blank := _find_blank_line(buf, start, max(scan, start)):
            self._dropped = self._end_event(buf[start : blank[0]], plain)
            if self._dropped:
                edges += (start, blank[1])
            start = blank[1]
            self._lf_pending = start == len(buf) and buf[-1] == _CR
        edges.append(self._hold(buf, start))
        if not self._hold_back:
            return b""
        if edges == [0, len(buf)]:
            return buf
        return b"".join(buf[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))

    def _hold(self, buf: bytes, start: int) -> int:
        """Keep the incomplete event at `buf[start:]`; return where the bytes to forward now end."""
        if not self._skipping and len(buf) - start <= self._max_event_bytes:
            self._tail[:] = buf[start:]
            return start
        self.overflowed = self._skipping = True
        self._tail[:] = b"." + buf[-1:]  # the last byte tells whether a line has just ended
        return len(buf)

    def _end_event(self, block: bytes, plain: bool, cut: bool = False) -> bool:
        """Account one event; return whether the client must not see it.

        block: its lines without the blank one. plain: no payload in it can have a flag. cut: the stream ended
        in it.
        """
        if self._skipping:
            self._skipping = False
            return False
        if len(block) > self._max_event_bytes:
            self.overflowed = True
            return False
        event, payload = _fields(block)
        if not payload:
            if not plain and self.error_event is None:
                self._look_for_bare_error(block)
            return False
        if payload.strip(b" \t") == b"[DONE]":
            self.done = self.finished = True
            return False
        if cut and _depth(payload, len(payload)) > 0:
            self.content_bytes += len(payload)
            return False
        self.events += 1
        flags = _MARKERS.get(event, 0)
        if not plain:
            flags |= _classify(payload)
        return self._record(flags, payload)

    def _record(self, flags: int, payload: bytes) -> bool:
        if flags & _DONE:
            self.done = self.finished = True
        if flags & _FINISHED:
            self.finished = True
        if flags & _ERROR and self.error_event is None:
            self.error_event = payload
        if not flags & _USAGE:
            self.content_bytes += len(payload)
            return False
        if not self._keep_all:
            self.usage_events.clear()
        elif len(self.usage_events) == _KEPT:
            del self.usage_events[_KEPT_FIRST]
        self.usage_events.append(payload)
        return self._strip_usage and flags & (_NO_CHOICES | _ERROR) == _NO_CHOICES

    def _look_for_bare_error(self, block: bytes) -> None:
        text = block.strip(b" \t\r\n")
        if text.startswith(b"{") and _depth(text, len(text)) == 0 and _classify(text) & _ERROR:
            self.error_event = text
