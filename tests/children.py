"""What child processes of the tests need: the fastroute that is under test, and the tests' own modules."""

import os
from collections.abc import Mapping
from pathlib import Path

import fastroute


def with_paths(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with a PYTHONPATH on which the fastroute of this process comes before that of the checkout."""
    paths = [str(Path(fastroute.__file__).parents[1]), str(Path(__file__).parents[1])]
    return {**env, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [env.get("PYTHONPATH")])])}
