"""`python -m fastroute` is the `fastroute` command."""

import sys

from fastroute.cli import main

sys.exit(main())
