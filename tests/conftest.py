"""What holds for every test."""

import gc


def pytest_collection_finish() -> None:
    """Leave the thousands of tests themselves out of every later collection, some of which are part of a test."""
    gc.collect()
    gc.freeze()
