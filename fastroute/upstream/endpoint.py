"""An endpoint: one provider, key and model that can be dialled, with everything that is constant about it."""

from typing import Any
from urllib.parse import quote

from fastroute.upstream.transport import Transport

Header = tuple[bytes, bytes]


class Endpoint:
    """One dialable endpoint. Its runtime numbers live in the shared segment, under `index`.

    upstream_model: the name the provider knows, "" for "as the client called it". base_path: the path of the base
    URL. Timeouts are nanoseconds. card: its prices, None if they are unknown. limits: the ceilings of its key
    (`_core.limits.Ceilings`), None if there are none. key: the state of the provider's key over all its models, None
    where nobody keeps one. secret: the credential that it is asked with, b"" for none.
    """

    __slots__ = (
        "_starts",
        "authority",
        "base_path",
        "card",
        "connect_ns",
        "default_headers",
        "dialect",
        "first_byte_ns",
        "fixed",
        "id",
        "idle_ns",
        "include_usage",
        "index",
        "key",
        "key_id",
        "limits",
        "provider",
        "reply_header",
        "secret",
        "total_ns",
        "transport",
        "upstream_model",
        "weight",
    )

    def __init__(
        self,
        *,
        index: int,
        provider: str,
        key_id: str,
        model: str,
        upstream_model: str,
        weight: int,
        dialect: Any,
        authority: bytes,
        base_path: bytes,
        fixed: list[Header],
        default_headers: tuple[Header, ...],
        include_usage: bool,
        timeouts: Any,
        transport: Transport,
        card: Any = None,
        limits: Any = None,
        key: Any = None,
        secret: bytes = b"",
    ) -> None:
        self.index = index
        self.id = f"{provider}/{key_id}/{model}"
        self.provider = provider
        self.key_id = key_id
        self.upstream_model = upstream_model
        self.weight = weight
        self.dialect = dialect
        self.authority = authority
        self.base_path = base_path
        self.fixed = fixed
        self.default_headers = default_headers
        self.include_usage = include_usage
        self.connect_ns = timeouts.connect_ms * 1_000_000
        self.first_byte_ns = timeouts.first_byte_ms * 1_000_000
        self.idle_ns = timeouts.idle_ms * 1_000_000
        self.total_ns = timeouts.total_ms * 1_000_000
        self.transport = transport
        self.card = card
        self.limits = limits
        self.key = key
        self.secret = secret
        self.reply_header: Header = (b"x-fastroute-provider", provider.encode())
        self._starts: dict[str, tuple[bytes, bytes]] = {}

    def __repr__(self) -> str:
        return f"<Endpoint {self.id}>"

    def missing_defaults(self, headers: list[Header]) -> bytes:
        """Return the lines of those default fields that the client did not send."""
        present = {name for name, _ in headers}
        return b"".join(name + b": " + value + b"\r\n" for name, value in self.default_headers if name not in present)

    def target(self, operation: Any, model: str, query: bytes) -> bytes:
        """Return the request target for an operation. model: as the provider knows it."""
        base: bytes = self.base_path
        if not base.endswith(operation.version) and self.dialect.NAME != "openai":
            base += operation.version
        path: bytes
        if operation.model_in_path:
            path = base + b"/models/" + quote(model, safe="").encode() + b":" + operation.name.encode()
        else:
            path = base + bytes(operation.suffix)
        return path + b"?" + query if query else path

    def begin(self, operation: Any, model: str, query: bytes) -> tuple[bytes, bytes]:
        """Return (target, request line and the fields that are ours, each with its line end); see `target`."""
        plain = not query and not operation.model_in_path
        if plain:
            known = self._starts.get(operation.name)
            if known is not None:
                return known
        target = self.target(operation, model, query)
        lines = [b"POST " + target + b" HTTP/1.1", b"host: " + self.authority]
        lines += [name + b": " + value for name, value in self.fixed]
        begun = target, b"\r\n".join(lines) + b"\r\n"
        if plain:
            self._starts[operation.name] = begun
        return begun
