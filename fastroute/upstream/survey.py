"""What the header fields of an answer say that matters to the corridor."""

from typing import Final

import msgspec

from fastroute._core._heads_flags import ENCODED, EVENTS, IDENTIFIED, LIMITS, TYPED
from fastroute._core.h1 import UpstreamError
from fastroute._core.heads import answer_flags
from fastroute.interfaces import Header

_EVENT_STARTS: Final = (b"data:", b"event:", b"id:", b":")


class Survey(msgspec.Struct, frozen=True):
    """events: the answer is an event stream. has_request_id: the provider has given it an id. has_limits: it may say
    how much of which limit is left.
    """

    events: bool
    has_request_id: bool
    has_limits: bool = False


#: Of an answer that has not come.
NO_SURVEY: Final = Survey(False, False)

_SURVEYS: Final = tuple(
    Survey(bool(flags & EVENTS), bool(flags & IDENTIFIED), bool(flags & LIMITS)) for flags in range(2 * LIMITS)
)


def survey(headers: list[Header], first: bytes) -> Survey:
    """Look through an answer's header fields once. Raises UpstreamError for an encoding nobody asked for.

    first: how the body begins, which tells an event stream whose provider did not say what it is.
    """
    flags = answer_flags(headers)
    if flags & ENCODED:
        raise UpstreamError("malformed", "the provider encoded an answer that was to be plain")
    if not flags & TYPED and first.startswith(_EVENT_STARTS):
        flags |= EVENTS
    return _SURVEYS[flags]
