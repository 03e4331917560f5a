"""What one field means for another: listeners, credentials and providers. `references` checks names that name
names.

All checks take a Config in which values that were already reported are BROKEN, and report into the same list.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from fastroute.config.faults import Faults, Path, show_path
from fastroute.config.headers import MAX_HEADERS, set_fault, value_fault
from fastroute.config.presets import PRESETS, UNSUPPORTED_TYPES, Preset
from fastroute.config.references import check_references
from fastroute.config.schema import ApiKey, Auth, Config, Provider, Server
from fastroute.config.secret import Secret
from fastroute.config.shape import Broken
from fastroute.config.watching import AdaptiveLimit

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})\Z")
_URL_UNUSABLE: Final = re.compile(r"[^\x21-\x7e]|[\\<>\"{}|^`]")
_CREDENTIAL: Final = re.compile(r"[\x21-\x7e]{1,8192}\Z")
_PATH_TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}\Z")
#: Bit 0 stands for no region, bit 63 for one that no provider is in.
MAX_REGIONS: Final = 62
#: First path segments that mean something else.
_TAKEN_SEGMENTS: Final = frozenset({"v1", "v1beta", "lb", "livez", "readyz", ".", ".."})
_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.", "ip6-localhost"})


def check(config: Config, faults: Faults) -> None:
    """Report everything that is wrong between fields."""
    _check_server(config.server, faults)
    _check_auth(config.auth, faults)
    _check_providers(config, faults)
    _check_regions(config, faults)
    backoff = config.routing.retry.backoff
    if isinstance(backoff.base_ms, int) and isinstance(backoff.max_ms, int) and backoff.max_ms < backoff.base_ms:
        faults.add(("routing", "retry", "backoff", "max_ms"), "must not be less than base_ms")
    check_references(config, faults)


def is_loopback(host: str) -> bool:
    """Return whether listening on `host` is reachable from this machine only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def present(values: Iterable[Any], path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the items of a list that are not broken, with their paths."""
    for at, value in enumerate(values):
        if not isinstance(value, Broken):
            yield (*path, at), value


def _check_regions(config: Config, faults: Faults) -> None:
    """Report the first provider whose region is one too many: a request's are kept in one 64-bit word."""
    regions: set[str] = set()
    for path, provider in present(config.providers, ("providers",)):
        if isinstance(provider.region, str) and provider.region:
            regions.add(provider.region)
            if len(regions) > MAX_REGIONS:
                faults.add((*path, "region"), f"is a region too many: there may be {MAX_REGIONS}")
                return


def _check_server(server: Server, faults: Faults) -> None:
    for path, host in ((("server", "host"), server.host), (("server", "admin", "host"), server.admin.host)):
        if isinstance(host, str) and not _is_host(host):
            faults.add(path, "must be an IP address or a host name, without scheme, brackets or port")
    if not isinstance(server.port, int) or isinstance(server.admin, Broken) or isinstance(server.admin.port, Broken):
        return
    if server.admin_port > 65535:
        faults.add(("server", "port"), "leaves no port above it for the admin listener: set server.admin.port")
    elif server.admin_port == server.port != 0:
        faults.add(("server", "admin", "port"), "must differ from server.port")
    key = server.admin.key
    if isinstance(key, Secret):
        _check_credential(key, ("server", "admin", "key"), faults)


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST_NAME.match(host) is not None
    return True


def _check_auth(auth: Auth, faults: Faults) -> None:
    keys = list(present(auth.keys, ("auth", "keys")))
    faults.unique(((*path, "id"), key.id) for path, key in keys)
    digests: dict[bytes, Path] = {}
    for path, key in keys:
        digest = _check_key(path, key, faults)
        if digest is not None and digest in digests:
            faults.add(path, f"has the same secret as {show_path(digests[digest])}")
        elif digest is not None:
            digests[digest] = path
    tokens: dict[str, Path] = {}
    for path, token in present(auth.path_tokens, ("auth", "path_tokens")):
        text = token.reveal()
        if not _PATH_TOKEN.match(text):
            faults.add(path, "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")
        elif text in _TAKEN_SEGMENTS:
            faults.add(path, "is a path of the gateway itself")
        if text in tokens:
            faults.add(path, f"is the same as {show_path(tokens[text])}")
        tokens.setdefault(text, path)


def _check_key(path: Path, key: ApiKey, faults: Faults) -> bytes | None:
    """Check one client key; return the SHA-256 of its secret."""
    secret, digest = key.key, key.key_sha256
    if isinstance(secret, Broken) or isinstance(digest, Broken):
        return None
    if (secret is None) == (digest is None):
        faults.add(path, "needs exactly one of 'key' and 'key_sha256'")
        return None
    if digest is not None:
        return bytes.fromhex(digest)
    if secret is None or not _check_credential(secret, (*path, "key"), faults):
        return None
    return hashlib.sha256(secret.reveal().encode("utf-8")).digest()


def _check_credential(secret: Secret, path: Path, faults: Faults) -> bool:
    if _CREDENTIAL.match(secret.reveal()):
        return True
    faults.add(path, "holds a character that cannot be sent in a header (a space or line end?), or is too long")
    return False


def _check_providers(config: Config, faults: Faults) -> None:
    if isinstance(config.providers, Broken):
        return
    if not config.providers:
        faults.add(("providers",), "at least one provider is needed")
    providers = list(present(config.providers, ("providers",)))
    faults.unique(((*path, "id"), provider.id) for path, provider in providers)
    for path, provider in providers:
        preset = _check_type(path, provider, faults)
        if preset is not None:
            _check_against_preset(path, provider, preset, faults)
        if provider.base_url:
            _check_base_url((*path, "base_url"), provider.base_url, config.server, faults)
        if provider.http2 and provider.transport == "fast":
            faults.add((*path, "http2"), "needs transport: httpx")
        _check_provider_keys(path, provider, faults)
        _check_models(path, provider, faults)
        _check_adaptive((*path, "adaptive"), provider.adaptive, faults)
        _check_headers((*path, "headers"), provider.headers, faults)


def _check_type(path: Path, provider: Provider, faults: Faults) -> Preset | None:
    name, where = provider.type, (*path, "type")
    if not isinstance(name, str):
        return None
    if name in UNSUPPORTED_TYPES:
        shown = faults.quote(where, name)
        faults.add(where, f"type {shown} is not supported by this version")
    elif name not in PRESETS:
        near = faults.suggest(name, PRESETS) if faults.is_literal(where) else ""
        near = near or f" (known: {', '.join(PRESETS)})"
        faults.add(where, f"unknown type {faults.quote(where, name)}{near}")
    return PRESETS.get(name)


def _check_against_preset(path: Path, provider: Provider, preset: Preset, faults: Faults) -> None:
    if preset.needs_base_url and provider.base_url == "" and not preset.base_url:
        faults.add((*path, "base_url"), "is required for this type")
    if not preset.needs_base_url and provider.base_url:
        faults.add((*path, "base_url"), "this type has no upstream")
    if preset.needs_key and provider.keys == ():
        faults.add((*path, "keys"), "this type needs at least one key")
    dialect = provider.dialect if isinstance(provider.dialect, str) else preset.dialect
    if provider.type != "custom" and dialect != preset.dialect:
        faults.add((*path, "dialect"), f"only type custom has a choice; this type speaks {preset.dialect}")


def _check_base_url(path: Path, url: str, server: Server, faults: Faults) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        faults.add(path, "is not a URL")
        return
    if parts.scheme not in ("http", "https") or not parts.hostname:
        faults.add(path, "must begin with http:// or https:// and a host")
    elif "@" in parts.netloc:
        faults.add(path, "must not carry a user name or password: put credentials into keys")
    elif "?" in url or "#" in url:
        faults.add(path, "must not have a query or fragment")
    elif _URL_UNUSABLE.search(url) or not _is_host(parts.hostname) or port == 0:
        faults.add(path, "has a host, port or character that is not valid in a URL")
    elif _is_ourselves(parts, server):
        faults.add(path, "points at this gateway itself: requests would go round in circles")


def _is_ourselves(parts: SplitResult, server: Server) -> bool:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port != server.port or not isinstance(server.host, str) or parts.hostname is None:
        return False
    wide = server.host in ("0.0.0.0", "::")
    return parts.hostname == server.host or (
        is_loopback(parts.hostname) and (wide or server.host in ("localhost", "127.0.0.1", "::1"))
        and (wide or "localhost" in (server.host, parts.hostname))
    )  # fmt: skip


def _check_provider_keys(path: Path, provider: Provider, faults: Faults) -> None:
    if provider.key_strategy is not None and provider.keys == ():
        faults.add((*path, "key_strategy"), "there are no keys to choose from")
    keys = list(present(provider.keys, (*path, "keys")))
    faults.unique(((*where, "id"), key.id) for where, key in keys)
    seen: dict[str, Path] = {}
    for where, key in keys:
        if not isinstance(key.key, Secret) or not _check_credential(key.key, where, faults):
            continue
        text = key.key.reveal()
        if text in seen:
            faults.add(where, f"has the same secret as {show_path(seen[text])}")
        seen.setdefault(text, where)


def _check_models(path: Path, provider: Provider, faults: Faults) -> None:
    if provider.models == ():
        faults.add((*path, "models"), "at least one model is needed")
    seen: dict[tuple[str, str], Path] = {}
    for where, model in present(provider.models, (*path, "models")):
        if not isinstance(model.name, str) or isinstance(model.upstream, Broken):
            continue
        if model.upstream is not None and "*" in model.upstream:
            faults.add((*where, "upstream"), "must be one model, not a pattern")
        sent = (model.name, model.upstream or model.name)
        if sent in seen:
            faults.add(where, f"is the same model as {show_path(seen[sent])}")
        seen.setdefault(sent, where)


def _check_adaptive(path: Path, adaptive: AdaptiveLimit | None, faults: Faults) -> None:
    if adaptive is None or isinstance(adaptive, Broken):
        return
    least, most, first = adaptive.min, adaptive.max, adaptive.initial
    if isinstance(least, int) and isinstance(most, int) and most < least:
        faults.add((*path, "max"), "must not be less than min")
    elif isinstance(first, int) and isinstance(least, int) and first < least:
        faults.add((*path, "initial"), "must not be less than min")
    elif isinstance(first, int) and isinstance(most, int) and first > most:
        faults.add((*path, "initial"), "must not be greater than max")


def _check_headers(path: Path, headers: dict[str, Secret], faults: Faults) -> None:
    if isinstance(headers, Broken):
        return
    if len(headers) > MAX_HEADERS:
        faults.add(path, f"at most {MAX_HEADERS} headers")
    seen: set[str] = set()
    for name, value in headers.items():
        where, lower = (*path, name), name.lower()
        fault = set_fault(name)
        if fault is not None:
            faults.add(where, fault)
        elif lower in seen:
            faults.add(where, "is set twice (header names ignore case)")
        seen.add(lower)
        fault = value_fault(value.reveal() if isinstance(value, Secret) else "-")
        if fault is not None:
            faults.add(where, fault)
