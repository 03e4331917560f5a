"""What the header fields of an answer may say, one bit each; both halves of `h1` use them."""

from typing import Final

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
