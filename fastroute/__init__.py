"""fastroute: an LLM gateway that routes, relays, fails over, meters and bills."""

import os

from fastroute import _pure

__version__ = "0.1.0"

# What was compiled reads the fields of a structure where the compiler has put them. A class from its source has them
# elsewhere: one that lacks takes all with it.
if os.environ.get("FASTROUTE_NO_EXTENSIONS") == "1" or _pure.missing_modules():
    _pure.install()
