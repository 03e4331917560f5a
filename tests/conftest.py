"""What holds for every test."""

import gc

from hypothesis import settings

# The same examples in every run: whether a change passes is to depend on the change.
# `tox -e c -- --hypothesis-profile=explore` looks for others.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Leave the thousands of tests themselves out of every later collection, some of which are part of a test."""
    gc.collect()
    gc.freeze()
