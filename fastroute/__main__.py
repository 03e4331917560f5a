"""`python -m fastroute` is the `fastroute` command."""

import sys

from fastroute.errors import SwitchError

try:
    from fastroute.cli import main
except SwitchError as error:
    print(f"fastroute: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
