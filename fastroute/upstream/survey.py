"""What the header fields of an answer say that matters to the corridor."""

from typing import Final, NamedTuple

from fastroute._core.h1 import UpstreamError
from fastroute.interfaces import Header

_EVENT_STREAM: Final = b"text/event-stream"
_EVENT_STARTS: Final = (b"data:", b"event:", b"id:", b":")


class Survey(NamedTuple):
    """events: the answer is an event stream. has_request_id: the provider has given it an id."""

    events: bool
    has_request_id: bool


#: Of an answer that has not come.
NO_SURVEY: Final = Survey(False, False)

_SURVEYS: Final = tuple(tuple(Survey(events, ids) for ids in (False, True)) for events in (False, True))


def survey(headers: list[Header], first: bytes) -> Survey:
    """Look through an answer's header fields once. Raises UpstreamError for an encoding nobody asked for.

    first: how the body begins, which tells an event stream whose provider did not say what it is.
    """
    fields = dict(headers)
    kind = fields.get(b"content-type")
    events = first.startswith(_EVENT_STARTS) if kind is None else kind[: len(_EVENT_STREAM)].lower() == _EVENT_STREAM
    if b"content-encoding" in fields:
        # Of several fields of one name the dictionary has kept but one.
        for name, value in headers:
            if name == b"content-encoding" and value.lower() != b"identity":
                raise UpstreamError("malformed", "the provider encoded an answer that was to be plain")
    return _SURVEYS[events][b"x-request-id" in fields]
