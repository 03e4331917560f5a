"""The control plane's part in virtual keys: the calls of `/admin/v1/keys`, and publishing what others leave behind."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from fastroute.admin.app import Asked
from fastroute.admin.keys import MAX_PAGE, KeyDesk, KeyRequest
from fastroute.auth.publish import BusyError
from fastroute.auth.store import KeyRefusedError, KeyStoreError
from fastroute.config.schema import Config
from fastroute.errors import GatewayError

LOOK_S: Final = 0.5
#: New keys that come in quick succession are published together.
GATHER_S: Final = 0.05

_LOG: Final = logging.getLogger("fastroute")
_STATUS: Final = {"unknown": (404, "not_found"), "taken": (409, "conflict"), "invalid": (400, "invalid_request_error")}
_DECODER: Final = msgspec.json.Decoder(KeyRequest | list[KeyRequest])
_T = TypeVar("_T")


class KeyKeeper:
    """Answers the calls about virtual keys, in threads, so that a database that is slow holds up nothing else."""

    def __init__(self, config: Config, wall_ns: Callable[[], int]) -> None:
        self._desk = KeyDesk(config, wall_ns)
        self._turn = asyncio.Lock()
        self._made = asyncio.Event()
        self._fault = ""

    def configure(self, config: Config) -> None:
        """Go by the keys and tenants of another configuration."""
        self._desk.configure(config)

    async def answer(self, asked: Asked) -> tuple[int, object]:
        """Answer a call about `/admin/v1/keys`. Raises GatewayError."""
        try:
            if asked.rest:
                return await self._one(asked)
            return await self._all(asked)
        except KeyRefusedError as error:
            status, code = _STATUS[error.kind]
            raise GatewayError(status, code, str(error)) from None
        except KeyStoreError as error:
            _LOG.error("%s", error)
            raise GatewayError(503, "keys_unavailable", "virtual keys cannot be changed or listed now") from None

    async def _one(self, asked: Asked) -> tuple[int, object]:
        key_id = asked.rest.decode("ascii", "replace")
        if asked.method == "GET":
            return 200, await self._do(lambda: self._desk.get(key_id))
        if asked.method == "DELETE":
            document = await self._do(lambda: self._revoke(key_id))
            _LOG.info("virtual key %s is revoked", key_id)
            return 200, document
        raise _not_allowed("DELETE, GET")

    async def _all(self, asked: Asked) -> tuple[int, object]:
        if asked.method == "GET":
            after, limit, revoked = _page_asked(asked.query)
            return 200, await self._do(lambda: self._desk.page(after, limit, revoked=revoked))
        if asked.method == "POST":
            requests = _requests(asked.body)
            several = isinstance(requests, list)
            listed = requests if isinstance(requests, list) else [requests]
            made = await self._do(lambda: self._desk.create(listed))
            self._made.set()
            _LOG.info(
                "virtual keys made: %s", ", ".join([str(one["id"]) for one in made[:10]]) + ", ..." * (len(made) > 10)
            )
            return 201, {"keys": made} if several else made[0]
        raise _not_allowed("GET, POST")

    def _revoke(self, key_id: str) -> dict[str, Any]:
        document = self._desk.revoke(key_id)
        try:
            self._desk.publish(wait=False)
        except BusyError:
            # Whoever is at it may have looked before; the next look will tell.
            self._made.set()
        return document

    async def _do(self, call: Callable[[], _T]) -> _T:
        async with self._turn:
            try:
                return await asyncio.to_thread(call)
            except KeyStoreError:
                self._desk.close()
                raise

    async def run(self, stop: asyncio.Event) -> None:
        """Publish what has been committed and not published, until `stop` is set."""
        stopped = asyncio.create_task(stop.wait())
        while True:
            await self._publish()
            made = asyncio.create_task(self._made.wait())
            await asyncio.wait([stopped, made], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            made.cancel()
            if self._made.is_set():
                await asyncio.sleep(GATHER_S)
            if stop.is_set():
                await self._publish()
                self._desk.close()
                return

    async def _publish(self) -> None:
        self._made.clear()
        try:
            await self._do(lambda: self._desk.publish(wait=False))
        except BusyError:
            return
        except KeyStoreError as error:
            if str(error) != self._fault:
                _LOG.error("%s; the virtual keys stay as they are published", error)
            self._fault = str(error)
            return
        if self._fault:
            _LOG.info("virtual keys can be changed again")
        self._fault = ""


def _requests(body: bytes) -> KeyRequest | list[KeyRequest]:
    try:
        requests: KeyRequest | list[KeyRequest] = _DECODER.decode(body)
        return requests
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GatewayError(400, "invalid_request_error", str(error)) from None


def _page_asked(query: bytes) -> tuple[str, int, bool]:
    """Return (after, limit, revoked)."""
    fields = dict(parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True))
    if unknown := fields.keys() - {"after", "limit", "revoked"}:
        raise GatewayError(400, "invalid_request_error", f"unknown parameter '{min(unknown)}'")
    limit, revoked = fields.get("limit", "100"), fields.get("revoked", "0")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MAX_PAGE:
        raise GatewayError(400, "invalid_request_error", f"'limit' must be 1 to {MAX_PAGE}")
    if revoked not in ("0", "1"):
        raise GatewayError(400, "invalid_request_error", "'revoked' must be 0 or 1")
    return fields.get("after", ""), int(limit[:9]), revoked == "1"


def _not_allowed(methods: str) -> GatewayError:
    return GatewayError(405, "method_not_allowed", f"this path takes {methods}", param=methods)
