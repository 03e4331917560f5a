from typing import Any

import h11
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.downstream.http1.heads import (
    BROKEN,
    CHUNKED,
    LENGTH,
    MAX_KNOWN,
    MAX_KNOWN_BYTES,
    MAX_KNOWN_FIELDS,
    NO_BODY,
    BadHeadError,
    HeadTable,
    RequestHead,
    check_begun,
    parse_head,
)

LINE = b"POST /v1/chat/completions?a=b HTTP/1.1\r\n"


def whole(table: HeadTable, data: bytes) -> tuple[int, RequestHead, bytes]:
    found = table.read(data)
    assert found is not None
    return found


def read(table: HeadTable, data: bytes) -> RequestHead:
    return whole(table, data)[1]


def contents(found: RequestHead, digits: bytes) -> dict[str, Any]:
    """Return what is in a head, with `digits` in its content-length."""
    fields = msgspec.structs.asdict(found)
    if digits:
        fields["headers"] = found.headers.copy()
        fields["headers"][found.length_at] = (b"content-length", digits)
    return fields


def head(*fields: bytes, line: bytes = LINE) -> bytes:
    return line + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def test_what_a_head_says() -> None:
    found = parse_head(head(b"Host: h", b"X-Case:  Kept \t", b"Content-Length: 12", b"empty:"))
    assert (found.method, found.path, found.query) == ("POST", b"/v1/chat/completions", b"a=b")
    assert found.headers == [(b"host", b"h"), (b"x-case", b"Kept"), (b"content-length", b"12"), (b"empty", b"")]
    assert (found.framing, found.length_at) == (LENGTH, 2)
    assert (found.http10, found.persistent, found.expects) == (False, True, False)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/a%2Fb?", b"/a%2Fb", b""),
        (b"//x", b"//x", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"http://h:8080/v1/models?x=1", b"/v1/models", b"x=1"),
        (b"https://h", b"/", b""),
        (b"http://h?x=1", b"/", b"x=1"),
    ],
)
def test_targets(target: bytes, path: bytes, query: bytes) -> None:
    found = parse_head(b"GET " + target + b" HTTP/1.1\r\n\r\n")
    assert (found.path, found.query) == (path, query)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET / http/1.1\r\n\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/11.1\r\n\r\n",
        b"G(T / HTTP/1.1\r\n\r\n",
        b"G" * 33 + b" / HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\n\r\n",
        b"GET * HTTP/1.1\r\n\r\n",
        b"CONNECT h:443 HTTP/1.1\r\n\r\n",
        b"GET x/y HTTP/1.1\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\n\r\n",
        head(b"no colon"),
        head(b": value"),
        head(b"name : value"),
        head(b" folded: value"),
        head(b"a: b", b" c"),
        head(b"a: b", b"\tc"),
        head(b"a: \x00"),
        head(b"a: \x7f"),
        head(b"a: b\rc"),
        head(b"a: b\nc: d"),
        head(b"n\xc3\xa4me: x"),
        head(b"n" * 257 + b": x"),
        LINE + b"a: b\n\r\n",
        LINE + b"a: b\r\nrest",
    ],
)
def test_what_is_no_head(data: bytes) -> None:
    with pytest.raises(BadHeadError) as caught:
        parse_head(data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        ((), NO_BODY),
        ((b"content-length: 0",), LENGTH),
        ((b"Content-length: 0005",), LENGTH),
        ((b"content-length:",), BROKEN),
        ((b"content-length: +5",), BROKEN),
        ((b"content-length: 5, 5",), BROKEN),
        ((b"content-length: 5", b"content-length: 5"), BROKEN),
        ((b"content-length: " + b"9" * 16,), BROKEN),
        ((b"transfer-encoding: Chunked",), CHUNKED),
        ((b"transfer-encoding: gzip, chunked",), BROKEN),
        ((b"transfer-encoding: chunked", b"transfer-encoding: chunked"), BROKEN),
        ((b"transfer-encoding: identity",), BROKEN),
        ((b"transfer-encoding:",), BROKEN),
        ((b"transfer-encoding: chunked", b"content-length: 5"), BROKEN),
        ((b"content-length: 5", b"transfer-encoding: chunked"), BROKEN),
    ],
)
def test_framing(fields: tuple[bytes, ...], framing: int) -> None:
    assert parse_head(head(*fields)).framing == framing
    table = HeadTable()
    for _ in range(2):
        assert read(table, head(*fields)).framing == framing


def test_chunks_are_not_of_http_1_0() -> None:
    assert parse_head(head(b"transfer-encoding: chunked", line=b"POST / HTTP/1.0\r\n")).framing == BROKEN


@pytest.mark.parametrize(
    ("version", "fields", "persistent"),
    [
        (b"1", (), True),
        (b"1", (b"connection: close",), False),
        (b"1", (b"connection: x, Close",), False),
        (b"1", (b"connection: x", b"connection: CLOSE"), False),
        (b"1", (b"connection: closed",), True),
        (b"0", (), False),
        (b"0", (b"connection: keep-alive",), True),
        (b"0", (b"connection: keep-alive, close",), False),
    ],
)
def test_who_comes_again(version: bytes, fields: tuple[bytes, ...], persistent: bool) -> None:
    found = parse_head(head(*fields, line=b"GET / HTTP/1." + version + b"\r\n"))
    assert (found.persistent, found.http10) == (persistent, version == b"0")


def test_who_waits_to_be_told_to_go_on() -> None:
    assert parse_head(head(b"Expect: 100-Continue")).expects
    assert not parse_head(head(b"Expect: 100-continue", line=b"POST / HTTP/1.0\r\n")).expects
    assert not parse_head(head(b"Expect: something")).expects


# --- the table


def test_lengths_of_one_head() -> None:
    table = HeadTable()
    for digits in (b"7", b"12", b"0", b"0012", b"999999999999999"):
        data = head(b"host: h", b"Content-Length: " + digits, b"x: y")
        end, found, length = whole(table, data + b"{}")
        assert (end, length, found.framing, found.length_at) == (len(data), digits, LENGTH, 1)


def test_a_head_is_one_object_whatever_its_length() -> None:
    table = HeadTable()
    first, second, other = (read(table, head(b"content-length: " + value)) for value in (b"5", b"60", b"5\r\na: b"))
    assert first is second
    assert first is not other
    assert len({first, second, other}) == 2


def test_a_head_that_has_not_come_whole() -> None:
    assert HeadTable().read(head(b"content-length: 5")[:-1]) is None


def test_a_length_without_digits_is_not_taken_for_one_with() -> None:
    table = HeadTable()
    assert whole(table, head(b"Content-Length: 5"))[2] == b"5"
    for value in (b"", b" ", b"5 5", b"+5", b"5;"):
        _, found, digits = whole(table, head(b"Content-Length: " + value))
        assert (found.framing, digits) == (BROKEN, b"")


def test_a_length_that_is_written_in_an_unusual_way() -> None:
    table = HeadTable()
    for digits in (b"5", b"007"):
        assert whole(table, head(b"Content-length:\t" + digits + b" "))[2] == digits


def test_heads_of_many_fields_are_not_remembered() -> None:
    """Within the same bytes, each field of a few bytes takes a hundred more."""
    table = HeadTable()
    for fields, known in ((MAX_KNOWN_FIELDS, 1), (MAX_KNOWN_FIELDS + 1, 0)):
        for last in (b"a: b", b"content-length: 5"):
            data = head(*[b"a: b"] * (fields - 1), last)
            assert len(data) < MAX_KNOWN_BYTES
            assert [read(table, data) is read(table, data) for _ in range(2)] == [bool(known)] * 2


def test_the_table_is_bounded() -> None:
    table = HeadTable()
    for number in range(3 * MAX_KNOWN):
        table.read(head(b"x: %d" % number))
        table.read(head(b"x: %d" % number, b"content-length: 5"))
    table.read(head(b"x: " + b"y" * MAX_KNOWN_BYTES))
    known: Any = table
    assert max(len(known._known), len(known._known_but_length)) <= MAX_KNOWN
    assert all(len(data) <= MAX_KNOWN_BYTES for data in known._known)


VALUES = st.sampled_from(
    [b"", b" ", b"1", b"23", b"4 ", b"+5", b"6, 6", b"chunked", b"close", b"h", b"\t7", b"0x8", b"9" * 15, b"9" * 16]
)
NAMES = st.sampled_from([b"Content-Length: ", b"content-length: ", b"Content-length:", b"Transfer-Encoding: ", b"x: "])
HEADS = st.lists(st.builds(lambda name, value: name + value, NAMES, VALUES), max_size=4).map(lambda all_: head(*all_))


@settings(deadline=None)
@given(st.lists(HEADS, min_size=2, max_size=12))
def test_whoever_was_read_before_a_head_is_read_the_same(heads: list[bytes]) -> None:
    table = HeadTable()
    for data in heads:
        alone = parse_head(data)
        end, found, digits = whole(table, data)
        assert end == len(data)
        assert digits == (alone.headers[alone.length_at][1] if alone.framing == LENGTH else b"")
        assert contents(found, digits) == contents(alone, digits)


PARTS = [b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"a", b":", b"b", b"\t", b"\0", b"\xff"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=20))
def test_what_is_taken_is_what_another_parser_takes(parts: list[bytes]) -> None:
    data = b"GET /a HTTP/1.1\r\nhost: h\r\n" + b"".join(parts) + b"\r\n\r\n"
    data = data[: data.index(b"\r\n\r\n") + 4]
    try:
        found = parse_head(data)
    except BadHeadError:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(data)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (found.method.encode(), found.path)
    assert [(name, value) for name, value in event.headers] == found.headers


# --- half a head


@settings(deadline=None)
@given(st.integers(0, 200))
def test_every_beginning_of_a_head_may_become_one(end: int) -> None:
    data = head(b"Host: h", b"Content-Length: 12", b"authorization: Bearer x")
    if data[:end]:
        check_begun(data[:end])
    check_begun(b"\r")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xc8",
        b"\x00",
        b"GET /\r\n",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nhost: h\n",
        b"PRI * HTTP/2.0\r\n",
        b"GET / FTP",
        b"GET\t/",
        b"X" * 33,
    ],
)
def test_what_cannot_become_one(data: bytes) -> None:
    with pytest.raises(BadHeadError):
        check_begun(data)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=12), st.data())
def test_what_has_passed_before_need_not_be_read_again(parts: list[bytes], data: Any) -> None:
    begun = b"GET /a HTTP/1.1\r\nhost: h\r"[: data.draw(st.integers(1, 26))] + b"".join(parts)
    checked = data.draw(st.integers(0, len(begun)))

    def passes(taken: bytes, before: int = 0) -> bool:
        try:
            check_begun(taken, before)
        except BadHeadError:
            return False
        return True

    if not checked or passes(begun[:checked]):
        assert passes(begun, checked) == passes(begun)


class Counted(bytes):
    """Bytes that count how many of them were counted over."""

    looked_at = 0

    def count(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        self.looked_at += len(self) - start
        return super().count(sub, start, end)


def test_a_head_in_many_pieces_is_not_read_anew_with_each() -> None:
    whole = Counted(LINE + b"a:\r\n" * 1000)
    check_begun(whole)
    assert whole.looked_at == 2 * len(whole)
    again = Counted(whole)
    check_begun(again, len(whole) - 4)
    assert again.looked_at == 4 + 5
