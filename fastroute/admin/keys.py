"""Making, listing and revoking virtual keys: what `fastroute keys` and `/admin/v1/keys` do, the one like the other.

A secret is made here, told once in the answer to whoever asked for the key, and kept nowhere.
"""

import datetime
import secrets
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from fastroute.auth.keys import digest
from fastroute.auth.publication import Publication
from fastroute.auth.publish import Publisher
from fastroute.auth.store import KeyRecord, KeyRefusedError, KeyStore, KeyStoreError, NewKey
from fastroute.auth.terms import MAX_MODELS, Terms, decode_terms, encode_terms
from fastroute.config.ceilings import Limits
from fastroute.config.fields import Identifier, ModelName, Sha256Hex
from fastroute.config.schema import ApiKey, Budget, Config

PREFIX: Final = "sk-fr-"
SECRET_BYTES: Final = 32
MAX_PAGE: Final = 1000
MAX_AT_ONCE: Final = 100_000
#: Farthest expiry: 100 years.
MAX_LIFE_S: Final = 100 * 366 * 86_400
#: The bounds of the configuration (`Usd`), which msgspec does not know for decimal numbers.
MAX_BUDGET_USD: Final = 10**9
BUDGET_PLACES: Final = 9
BUDGET_FORM: Final = f"a number from 0 to {MAX_BUDGET_USD} with at most {BUDGET_PLACES} decimal places"

Document = dict[str, Any]


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to be made. id: without one, it is given one. expires_at, expires_in_s: one of them, or it never expires.

    key_sha256: of a secret that its owner has already; without, a secret is made.
    """

    id: Identifier | None = None
    tenant: Identifier = "default"
    models: Annotated[tuple[ModelName, ...], Meta(min_length=1, max_length=MAX_MODELS)] = ("*",)
    limits: Limits | None = None
    budget: Budget | None = None
    expires_at: datetime.datetime | None = None
    expires_in_s: Annotated[int, Meta(ge=1, le=MAX_LIFE_S)] | None = None
    key_sha256: Sha256Hex | None = None


class KeyDesk:
    """Makes, lists and revokes the virtual keys of one state directory. One call at a time; each may block.

    Calls raise KeyRefusedError: what was asked for cannot be done, and KeyStoreError: nothing can be done now. A change
    is published only by `publish`, and takes effect with that.
    """

    def __init__(self, config: Config, wall_ns: Callable[[], int], state_dir: str | None = None) -> None:
        self._state_dir = state_dir or config.server.state_dir
        self._wall_ns = wall_ns
        self._open_store: KeyStore | None = None
        self._publisher = Publisher(self._state_dir)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go by the keys and tenants of another configuration."""
        self._config = config
        self._ids = {key.id: key for key in config.auth.keys}
        self._tenants = {tenant.id for tenant in config.tenants}
        self._digests: set[bytes] | None = None

    def is_open(self) -> bool:
        """Return whether callers need no key: the next one that is made closes the gateway to those without."""
        if self._config.auth.keys or self._config.auth.path_tokens:
            return False
        published = Publication(self._state_dir)
        published.refresh()
        return not published.closed

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        if self._open_store is not None:
            self._open_store.close()
            self._open_store = None

    def create(self, requests: list[KeyRequest]) -> list[Document]:
        """Make keys, all or none; return their documents with their secrets."""
        if not 0 < len(requests) <= MAX_AT_ONCE:
            # None at all would close an open gateway to everybody.
            raise KeyRefusedError("invalid", f"1 to {MAX_AT_ONCE} virtual keys at once")
        made = [self._new(request) for request in requests]
        records = self._store().add([new for new, _ in made])
        return [
            {**self._document(record), **({"key": secret} if secret else {})}
            for record, (_, secret) in zip(records, made, strict=True)
        ]

    def revoke(self, key_id: str) -> Document:
        """Revoke a key; return its document."""
        if key_id in self._ids:
            raise KeyRefusedError("taken", f"'{key_id}' is a key of the configuration: remove it there and reload")
        if not KeyStore.exists(self._state_dir):
            raise KeyRefusedError("unknown", f"there is no virtual key '{key_id}'")
        return self._document(self._store().revoke(key_id))

    def get(self, key_id: str) -> Document:
        """Return the document of a key that was not revoked."""
        if key_id in self._ids:
            return _configured(self._ids[key_id])
        if not KeyStore.exists(self._state_dir):
            raise KeyRefusedError("unknown", f"there is no virtual key '{key_id}'")
        return self._document(self._store().get(key_id))

    def page(self, after: str, limit: int, *, revoked: bool = False) -> Document:
        """Return up to `limit` keys and what to ask for to get more; those of the configuration come first."""
        place, in_store = _place(after)
        keys = list(self._ids.values()) if not in_store else []
        shown = [_configured(key) for key in keys[place : place + limit]]
        if place + limit < len(keys):
            return {"keys": shown, "next": f"c{place + limit}"}
        room, number = limit - len(shown), place if in_store else 0
        if not KeyStore.exists(self._state_dir):
            return {"keys": shown, "next": None}
        records = self._store().page(number, room + 1, revoked=revoked)
        more = len(records) > room
        last = records[room - 1].number if more and room else number
        return {
            "keys": shown + [self._document(record) for record in records[:room]],
            "next": f"s{last}" if more else None,
        }

    def publish(self, *, wait: bool) -> bool:
        """Publish what has been committed, by whomever; return whether there was anything."""
        if not KeyStore.exists(self._state_dir):
            return False
        return self._publisher.publish(self._store(), wait=wait)

    # ---

    def _store(self) -> KeyStore:
        if self._open_store is not None and self._open_store.moved:
            self.close()
        if self._open_store is None:
            self._open_store = KeyStore.open(self._state_dir, self._wall_ns)
        return self._open_store

    def _new(self, request: KeyRequest) -> tuple[NewKey, str]:
        """Return a key to be stored and its secret, "" if only its owner knows it."""
        key_id = request.id or f"key-{secrets.token_hex(6)}"
        if key_id in self._ids:
            raise KeyRefusedError("taken", f"there is a key '{key_id}' in the configuration already")
        if self._tenants and request.tenant not in self._tenants and request.tenant != ApiKey(id="").tenant:
            raise KeyRefusedError("invalid", f"no entry of tenants has the id '{request.tenant}'")
        if request.budget is not None and not _is_budget(request.budget.usd):
            raise KeyRefusedError("invalid", f"budget: usd must be {BUDGET_FORM}")
        terms = Terms(tenant=request.tenant, models=request.models, limits=request.limits, budget=request.budget)
        if request.key_sha256 is None:
            secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
            known = digest(secret.encode())
        else:
            secret, known = "", bytes.fromhex(request.key_sha256)
            if known in self._configured_digests():
                raise KeyRefusedError("taken", "a key of the configuration has the same secret")
        return NewKey(key_id, known, encode_terms(terms), self._expiry_ms(request)), secret

    def _expiry_ms(self, request: KeyRequest) -> int:
        now_ms = self._wall_ns() // 1_000_000
        if request.expires_at is None:
            return now_ms + request.expires_in_s * 1000 if request.expires_in_s is not None else 0
        if request.expires_in_s is not None:
            raise KeyRefusedError("invalid", "give one of expires_at and expires_in_s")
        if request.expires_at.tzinfo is None:
            raise KeyRefusedError("invalid", "expires_at needs a time zone, such as Z")
        at_ms = int(request.expires_at.timestamp() * 1000)
        if not now_ms < at_ms <= now_ms + MAX_LIFE_S * 1000:
            raise KeyRefusedError("invalid", "expires_at must be in the future, at most 100 years")
        return at_ms

    def _configured_digests(self) -> set[bytes]:
        if self._digests is None:
            self._digests = {_digest_of(key) for key in self._ids.values()}
        return self._digests

    def _document(self, record: KeyRecord) -> Document:
        expired = 0 < record.expires_ms <= self._wall_ns() // 1_000_000
        state = "revoked" if record.revoked_ms else "expired" if expired else "active"
        try:
            terms = decode_terms(record.terms)
        except ValueError:
            # Of a newer fastroute: such a key is refused until it is understood.
            terms, state = Terms(), "unreadable"
        return {
            **_terms_document(terms.key(record.id), "store"),
            "state": state,
            "created_at": _time(record.created_ms),
            "expires_at": _time(record.expires_ms),
            "revoked_at": _time(record.revoked_ms),
            "key_sha256": record.digest.hex(),
        }


def clashes(config: Config, wall_ns: Callable[[], int]) -> list[str]:
    """Return the ids that a key of the configuration and a virtual key of its state directory have both.

    A database that cannot be asked keeps no gateway from starting: what its keys may do is published.
    """
    state_dir = config.server.state_dir
    if not KeyStore.exists(state_dir) or not config.auth.keys:
        return []
    try:
        with KeyStore.open(state_dir, wall_ns) as store:
            return store.taken([key.id for key in config.auth.keys])
    except KeyStoreError:
        return []


def stored_key(state_dir: str, key_id: str, wall_ns: Callable[[], int]) -> ApiKey:
    """Return a key that was made at run time. Raises KeyRefusedError if there is none of that id, KeyStoreError."""
    if not KeyStore.exists(state_dir):
        raise KeyRefusedError("unknown", f"there is no virtual key '{key_id}'")
    with KeyStore.open(state_dir, wall_ns) as store:
        record = store.get(key_id)
    try:
        return decode_terms(record.terms).key(key_id)
    except ValueError as error:
        raise KeyStoreError(f"the terms of '{key_id}' cannot be read: {error}") from None


def _is_budget(usd: Decimal) -> bool:
    if not usd.is_finite() or not 0 <= usd <= MAX_BUDGET_USD:
        return False
    exponent = usd.normalize().as_tuple().exponent
    return isinstance(exponent, int) and -exponent <= BUDGET_PLACES


def _configured(key: ApiKey) -> Document:
    return {
        **_terms_document(key, "config"),
        "state": "active",
        "created_at": None,
        "expires_at": None,
        "revoked_at": None,
        "key_sha256": None,
    }


def _terms_document(key: ApiKey, source: str) -> Document:
    return {
        "id": key.id,
        "source": source,
        "tenant": key.tenant,
        "models": list(key.models),
        "limits": msgspec.to_builtins(key.limits),
        "budget": msgspec.to_builtins(key.budget),
    }


def _digest_of(key: ApiKey) -> bytes:
    return digest(key.key.reveal().encode()) if key.key else bytes.fromhex(key.key_sha256 or "")


def _place(after: str) -> tuple[int, bool]:
    """Return where a page starts, and whether that is in the store."""
    if not after:
        return 0, False
    if after[0] not in "cs" or not after[1:].isdecimal() or len(after) > 19:
        raise KeyRefusedError("invalid", "'after' must be the 'next' of another page")
    return int(after[1:]), after[0] == "s"


def _time(at_ms: int) -> str | None:
    """Return a time as RFC 3339 has it, None for none."""
    if not at_ms:
        return None
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).isoformat(timespec="milliseconds")
