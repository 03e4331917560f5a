"""Wherever a credential is compared, the comparison takes as long however much of it is right.

How long it takes cannot be seen from here; what is seen is that nothing is found where `hmac.compare_digest` says no,
and what it was asked.
"""

import hmac
from collections.abc import Callable

import pytest

from fastroute.admin.app import AdminApp
from fastroute.auth.keys import KeyTable, digest
from fastroute.auth.path_tokens import Lane, Lanes
from fastroute.auth.table import Row, Table, encode_table
from fastroute.config.secret import Secret
from fastroute.downstream.asgi import AsgiDownstream
from fastroute.interfaces import Principal

SECRET = "sk-a-secret"
KNOWN = digest(SECRET.encode())
BEARER = b"Bearer " + SECRET.encode()
TABLE = Table(encode_table([Row(KNOWN, "id", b"{}", 0, False)], 1))


def is_admin() -> bool:
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}

    async def nothing(*_: object) -> dict[str, object]:
        return {}

    downstream = AsgiDownstream({**scope, "headers": [(b"authorization", BEARER)]}, nothing, nothing)  # type: ignore[arg-type]
    return AdminApp(SECRET, lambda: True, {}, {})._allowed(downstream)


@pytest.mark.parametrize(
    ("is_known", "compared"),
    [
        pytest.param(lambda: KeyTable({KNOWN: Principal("id", "t")}).find(SECRET.encode()), KNOWN, id="key"),
        pytest.param(lambda: TABLE.find(KNOWN), KNOWN, id="key made at run time"),
        pytest.param(lambda: Lanes({KNOWN: Lane(1, 2)}).find(SECRET.encode()), KNOWN, id="token of a path"),
        pytest.param(is_admin, BEARER, id="key of the administrator"),
        pytest.param(lambda: Secret(SECRET) == Secret(SECRET), SECRET.encode(), id="secret of the configuration"),
    ],
)
def test_it_decides(is_known: Callable[[], object], compared: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_known()
    asked: list[tuple[bytes, bytes]] = []

    def no(one: bytes, other: bytes) -> bool:
        asked.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", no)
    assert not is_known()
    assert asked == [(compared, compared)]
