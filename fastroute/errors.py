"""Every refusal fastroute can utter, as one exception type that carries who is at fault and what to tell the client.

Rooms raise `GatewayError`; `downstream.reply` is the one door that turns it into bytes of the caller's dialect.
"""

from typing import Literal

Fault = Literal["downstream", "upstream", "gateway"]


class FastrouteError(Exception):
    """Base of all errors raised by fastroute."""


class ConfigError(FastrouteError):
    """The configuration cannot be used; `faults` holds one printable line per fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class SwitchError(FastrouteError, ImportError):
    """The environment asks for a half of the core that there is not, or in words that mean nothing."""


class GatewayError(FastrouteError):
    """A request that ends without an upstream answer.

    status: HTTP status. code: machine-readable word of a closed vocabulary (`model_not_found`, ...).
    param: the field at fault, if any. retry_after_s: seconds for `Retry-After`, if a later try may succeed.
    close: the connection's framing can no longer be trusted. fault, retry_safe: who erred, and whether the same
    request can be sent again without risk of being served twice. rules: ids of the routing rules that refuse it.
    headers: further fields of the reply.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        fault: Fault = "downstream",
        retry_safe: bool = False,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.fault: Fault = fault
        self.retry_safe = retry_safe
        self.close = close
        self.rules: tuple[str, ...] = ()
        self.headers: tuple[tuple[bytes, bytes], ...] = ()


def ceil_seconds(wait_ms: int) -> int:
    """Return a wait in whole seconds, rounded up, but for a millisecond: so far its ends are rounded up themselves."""
    return -(-wait_ms // 1000) if wait_ms <= 1 else -((1 - wait_ms) // 1000)
