"""What stands in for an object of the gateway: methods of compiled classes cannot be replaced."""

from typing import Any


class StandIn:
    """Does what `real` does, but for what is replaced."""

    def __init__(self, real: Any, **replaced: Any) -> None:
        self._real = real
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
