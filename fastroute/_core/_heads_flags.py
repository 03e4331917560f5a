"""What header fields may say, and how a length is written; both halves of `heads` use it."""

from typing import Final

# Of an answer, one bit each.
#: The answer is an event stream.
EVENTS: Final = 1
#: It says of what type it is.
TYPED: Final = 2
#: The provider has given it an id.
IDENTIFIED: Final = 4
#: It is encoded, in whatever way.
ENCODED: Final = 8
#: Some field may tell of a limit.
LIMITS: Final = 16

EVENT_STREAM: Final = b"text/event-stream"

#: How a request's length is usually written, from the end of the line before to the digits. Both are of one length.
LENGTH_FIELDS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
#: Of a content-length.
MAX_LENGTH_DIGITS: Final = 15
