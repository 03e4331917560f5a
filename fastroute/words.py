"""Which control word of the shared segment means what."""

from typing import Final

#: 1 once the process group drains: no worker is ready any more.
DRAINING: Final = 0
#: Which state of the virtual keys is in force: the highest generation that a worker has taken over.
KEYS_GENERATION: Final = 1
