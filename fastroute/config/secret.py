"""A credential that does not show itself: masked in print, unpicklable, compared in constant time."""

import hmac
from typing import Any, Final, NoReturn, Self

MASK: Final = "Secret(***)"


class Secret:
    """Holds a credential; only `reveal` hands it out.

    Equality takes the same time wherever two values of one length differ. Not hashable (look secrets up by digest),
    not picklable, not encodable by msgspec: whatever crosses a process boundary has to reveal it on purpose.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]
    _value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """Return the credential itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode("utf-8"), other._value.encode("utf-8"))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret is immutable")

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def decode_secret(wanted: type, value: Any) -> Any:
    """`dec_hook` for msgspec: build a Secret from a string. Raises TypeError, without the value, for anything else."""
    if wanted is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError(f"expected a string for {wanted.__name__}")
