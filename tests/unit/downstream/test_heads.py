"""Heads are recognised exactly, and only those that were let in are remembered."""

from typing import Any

import pytest

from fastroute.auth.keys import KeyTable, digest
from fastroute.downstream.heads import MAX_KNOWN_HEADS, MAX_SEEN_BYTES, HeadReader
from fastroute.errors import GatewayError
from fastroute.interfaces import Header, Principal
from fastroute.upstream.headers import OUR_FIELDS, REQUEST_DROP

ALICE, BOB = Principal("alice", "a"), Principal("bob", "b")


def reader() -> HeadReader:
    keys = KeyTable({digest(b"sk-alice"): ALICE, digest(b"sk-bob"): BOB})
    return HeadReader(keys, REQUEST_DROP, OUR_FIELDS, 100, 32_768)


def head(key: bytes = b"sk-alice", *more: Header, length: bytes = b"5") -> list[Header]:
    return [(b"host", b"h"), (b"authorization", b"Bearer " + key), *more, (b"content-length", length)]


def test_the_second_time_is_the_same_as_the_first() -> None:
    heads = reader()
    first = heads.read_fields(head(b"sk-alice", (b"user-agent", b"x")), b"")
    again = heads.read_fields(head(b"sk-alice", (b"user-agent", b"x"), length=b"77"), b"")
    assert again[0] is first[0]
    assert (first[1], again[1]) == (5, 77)
    assert first[0].lines == b"user-agent: x\r\n"
    assert first[0].principal is ALICE


def test_one_byte_makes_another_head() -> None:
    heads = reader()
    assert heads.read_fields(head(b"sk-alice"), b"")[0].principal is ALICE
    assert heads.read_fields(head(b"sk-bob"), b"")[0].principal is BOB
    for key in (b"sk-alic", b"sk-alicee", b"sk-Alice"):
        with pytest.raises(GatewayError) as caught:
            heads.read_fields(head(key), b"")
        assert caught.value.status == 401


def test_the_same_bytes_cut_differently_are_another_head() -> None:
    heads = reader()
    first = heads.read_fields([*head(), (b"a", b"bc")], b"")[0]
    second = heads.read_fields([*head(), (b"ab", b"c")], b"")[0]
    assert (first.lines, second.lines) == (b"a: bc\r\n", b"ab: c\r\n")


def test_a_key_in_the_query_is_read_every_time() -> None:
    heads = reader()
    fields = [(b"host", b"h"), (b"content-length", b"5")]
    assert heads.read_fields(fields, b"key=sk-alice")[0].principal is ALICE
    assert heads.read_fields(fields, b"key=sk-bob")[0].principal is BOB
    with pytest.raises(GatewayError):
        heads.read_fields(fields, b"")


def test_what_is_addressed_to_us_is_not_remembered() -> None:
    heads = reader()
    for field in (b"x-request-id", b"x-fastroute-provider", b"x-fastroute-unheard-of", b"connection"):
        assert heads.read_fields(head(b"sk-alice", (field, b"v")), b"")[0].ours
    assert not heads._known


def test_memory_is_bounded() -> None:
    heads = reader()
    for number in range(2 * MAX_KNOWN_HEADS + 10):
        heads.read_fields(head(b"sk-alice", (b"traceparent", b"%d" % number)), b"")
    assert len(heads._known) <= MAX_KNOWN_HEADS


@pytest.mark.parametrize(
    "fields",
    [
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5")],
        [(b"transfer-encoding", b"gzip, chunked")],
    ],
)
def test_ambiguous_framing_is_refused_even_in_a_known_head(fields: list[Header]) -> None:
    heads = reader()
    heads.read_fields(head(), b"")
    with pytest.raises(GatewayError) as caught:
        heads.read_fields([*head(), *fields], b"")
    assert caught.value.status == 400


def test_several_lines_of_a_wish_are_one_list() -> None:
    more = [(b"x-fastroute-exclude", b"a"), (b"x-other", b"1"), (b"x-fastroute-exclude", b"b, c"), (b"x-other", b"2")]
    fields = reader().read_fields(head(b"sk-alice", *more), b"")[0].fields
    assert (fields[b"x-fastroute-exclude"], fields[b"x-other"]) == (b"a,b, c", b"2")


def test_forgotten_heads_are_authenticated_anew() -> None:
    principals = {digest(b"sk-alice"): ALICE}
    keys = KeyTable(principals)
    heads = HeadReader(keys, REQUEST_DROP, OUR_FIELDS, 100, 32_768)
    heads.read_fields(head(), b"")
    keys._principals.clear()
    keys._stored = Closed()
    assert heads.read_fields(head(), b"")[0].principal is ALICE
    heads.forget()
    with pytest.raises(GatewayError) as caught:
        heads.read_fields(head(), b"")
    assert caught.value.status == 401


class Closed:
    closed = True

    def find(self, known: bytes) -> None:
        return None


def test_a_remembered_head_ends_with_its_key() -> None:
    wall = [0]
    passing = Principal("guest", "g", until_ns=1000)
    keys = KeyTable({digest(b"sk-alice"): ALICE, digest(b"sk-guest"): passing}, wall_ns=lambda: wall[0])
    heads = HeadReader(keys, REQUEST_DROP, OUR_FIELDS, 100, 32_768)
    first = heads.read_fields(head(b"sk-guest"), b"")[0]
    wall[0] = 999
    assert heads.read_fields(head(b"sk-guest"), b"")[0] is first
    for now in (1000, 5000):
        wall[0] = now
        with pytest.raises(GatewayError) as caught:
            heads.read_fields(head(b"sk-guest"), b"")
        assert caught.value.status == 401
    assert heads.read_fields(head(), b"")[0].principal is ALICE


def test_heads_of_keys_that_expire_are_bounded_too() -> None:
    keys = KeyTable({digest(b"sk-guest"): Principal("guest", "g", until_ns=1000)}, wall_ns=lambda: 0)
    heads = HeadReader(keys, REQUEST_DROP, OUR_FIELDS, 100, 32_768)
    for number in range(MAX_KNOWN_HEADS + 10):
        heads.read_fields(head(b"sk-guest", (b"traceparent", b"%d" % number)), b"")
    assert len(heads._passing) <= MAX_KNOWN_HEADS
    assert not heads._known


class Seen:
    """A request of a lane that recognises heads."""

    head: object = "what the lane knows it by"
    length = 5
    query = b""

    def __init__(self, headers: list[Header]) -> None:
        self.asked = 0
        self._headers = headers

    @property
    def headers(self) -> list[Header]:
        self.asked += 1
        return self._headers


def test_a_head_that_its_lane_recognises_is_not_looked_at_again() -> None:
    heads = reader()
    request: Any = Seen(head(length=b"5"))
    first = heads.read(request)
    request.length = 7
    assert heads.read(request) == (first[0], 7)
    assert request.asked == 1
    heads.forget()
    heads.read(request)
    assert request.asked == 2


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (head(b"sk-alice", (b"traceparent", b"x")), b""),
        (head(), b"key=sk-alice"),
        (head(b"sk-guest"), b""),
        (head(b"sk-alice", (b"cookie", b"x" * MAX_SEEN_BYTES)), b""),
    ],
)
def test_a_head_that_is_not_to_be_remembered_is_not_recognised_either(headers: list[Header], query: bytes) -> None:
    guest = Principal("guest", "g", until_ns=1000)
    keys = KeyTable({digest(b"sk-alice"): ALICE, digest(b"sk-guest"): guest}, wall_ns=lambda: 0)
    heads = HeadReader(keys, REQUEST_DROP, OUR_FIELDS, 100, 32_768)
    request: Any = Seen(headers)
    request.query = query
    heads.read(request)
    heads.read(request)
    assert request.asked == 2
