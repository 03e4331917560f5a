"""Where virtual keys are kept in the state directory."""

import os
from typing import Final

#: The database: the truth, of whoever makes and revokes keys.
STORE_FILE: Final = "keys.db"
#: What workers read: all keys at some time, and what has changed since.
TABLE_FILE: Final = "keys.table"
RECENT_FILE: Final = "keys.recent"
#: Held by whoever publishes.
LOCK_FILE: Final = "keys.lock"


def store_path(state_dir: str) -> str:
    """Return the path of the database."""
    return os.path.join(state_dir, STORE_FILE)


def table_path(state_dir: str) -> str:
    """Return the path of the published table."""
    return os.path.join(state_dir, TABLE_FILE)


def recent_path(state_dir: str) -> str:
    """Return the path of the changes since the published table."""
    return os.path.join(state_dir, RECENT_FILE)


def lock_path(state_dir: str) -> str:
    """Return the path of the publisher's lock."""
    return os.path.join(state_dir, LOCK_FILE)
