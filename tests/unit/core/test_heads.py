"""Header fields as keys, as lines and as answers, both halves; what differs between them in anything is a fault."""

from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core import _heads_py
from tests.unit.core.twins import twins


@pytest.fixture(params=twins("heads"))
def heads(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def test_request_head(heads: ModuleType) -> None:
    fields = [(b"a", b"1"), (b"host", b"no"), (b"b", b""), (b"a", b"2")]
    assert heads.request_head(fields, frozenset({b"host"})) == b"a: 1\r\nb: \r\na: 2\r\n"
    assert heads.request_head([], frozenset()) == b""


@pytest.mark.parametrize(
    ("values", "length"),
    [
        *(([], -1), ([b"0"], 0), ([b"5"], 5), ([b"005"], 5), ([b"9" * 18], 10**18 - 1), ([b"5", b"5"], -2)),
        *(
            ([b""], -2),
            ([b"-1"], -2),
            ([b"+5"], -2),
            ([b" 5"], -2),
            ([b"5_0"], -2),
            ([b"9" * 19], -2),
            ([b"x", b"5"], -2),
        ),
    ],
)
def test_the_key_of_a_head_leaves_its_length_out(heads: ModuleType, values: list[bytes], length: int) -> None:
    fields = [(b"a", b"1"), *((b"content-length", value) for value in values), (b"b", b""), (b"content-type", b"t")]
    assert heads.head_key(fields) == (b"a:1\nb:\ncontent-type:t\n", length)


def test_the_key_of_no_head(heads: ModuleType) -> None:
    assert heads.head_key([]) == (b"", -1)
    assert heads.head_key([(b"content-length", b"3")]) == (b"", 3)


def test_the_head_of_an_answer(heads: ModuleType) -> None:
    line, date = b"HTTP/1.1 200 OK\r\n", b"date: now\r\n"
    assert heads.answer_head(line, [], date) == (line + date, -1, False)
    fields = [(b"a", b"b"), (b"content-length", b"12"), (b"date", b"then"), (b"connection", b"close")]
    lines = line + b"a: b\r\ncontent-length: 12\r\ndate: then\r\nconnection: close\r\n"
    assert heads.answer_head(line, fields, date) == (lines, 12, True)
    assert heads.answer_head(line, [(b"connection", b"keep-alive"), (b"x-date", b"")], date)[1:] == (-1, False)


def test_a_whole_answer(heads: ModuleType) -> None:
    line, date = b"HTTP/1.1 200 OK\r\n", b"date: now\r\n"
    fields = [(b"a", b"b"), (b"content-length", b"3")]
    whole = line + b"a: b\r\ncontent-length: 3\r\n" + date + b"\r\nabc"
    assert heads.whole_answer(line, fields, date, b"abc") == whole
    assert heads.whole_answer(line, [(b"content-length", b"0")], date, b"").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"content-length", b"2")],
        [(b"content-length", b"4")],
        [(b"content-length", b"3"), (b"connection", b"close")],
        [(b"content-length", b"3"), (b"connection", b"keep-alive")],
    ],
)
def test_what_is_no_whole_answer(heads: ModuleType, fields: list[tuple[bytes, bytes]]) -> None:
    assert heads.whole_answer(b"HTTP/1.1 200 OK\r\n", fields, b"date: now\r\n", b"abc") == b""


LINE = b"POST / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("fields", "digits"),
    [
        (b"Content-Length: 5\r\n", b"5"),
        (b"a: b\r\ncontent-length: 0012\r\nc: d\r\n", b"0012"),
        (b"content-length: " + b"9" * 15 + b"\r\n", b"9" * 15),
        (b"content-length: 1\r\nContent-Length: 22\r\n", b"1"),
        (b"Content-Length: 22\r\ncontent-length: 1\r\n", b"22"),
        (b"content-length: " + b"9" * 16 + b"\r\n", b""),
        (b"content-length: x\r\ncontent-length: 1\r\n", b""),
        (b"CONTENT-LENGTH: 5\r\n", b""),
        (b"content-length:5\r\n", b""),
        (b"content-length: \r\n", b""),
        (b"content-length: 5 \r\n", b""),
        (b"content-length: 5\r6\r\n", b""),
        (b"x-content-length: 5\r\n", b""),
        (b"a: b\ncontent-length: 5\r\n", b""),
        (b"", b""),
    ],
)
def test_a_head_is_found_with_its_length_beside_it(heads: ModuleType, fields: bytes, digits: bytes) -> None:
    head = LINE + fields + b"\r\n"
    key = head.replace(b": " + digits + b"\r", b": \r", 1) if digits else head
    for rest in (b"", b"{}", b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n"):
        assert heads.find_head(head + rest) == (len(head), key, digits)


def test_a_head_that_has_not_come_whole(heads: ModuleType) -> None:
    head = LINE + b"content-length: 5\r\n\r\n"
    for size in range(len(head)):
        assert heads.find_head(head[:size]) == (-1, b"", b"")


LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\r\n\r\n"]
FIELDS = [b"Content-Length: ", b"content-length: ", b"content-length:"]
PIECES = st.sampled_from([*LINE_ENDS, *FIELDS, b"5", b"12", b" ", b"a"])


@pytest.mark.parametrize("heads", [param for param in twins("heads") if param.id == "c"])
@settings(max_examples=1_000, deadline=None)
@given(pieces=st.lists(PIECES, max_size=12))
def test_heads_are_found_alike(heads: ModuleType, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert heads.find_head(data) == _heads_py.find_head(data)


field_names = st.sampled_from([b"a", b"b", b"content-length", b"content-type", b"content-lengths"])
field_values = st.one_of(st.sampled_from([b"", b"0", b"12", b"1" * 18, b"1" * 19, b"-1"]), st.binary(max_size=6))
header_lists = st.lists(st.tuples(field_names, field_values), max_size=8)


@pytest.mark.parametrize("heads", [param for param in twins("heads") if param.id == "c"])
@settings(max_examples=500, deadline=None)
@given(headers=header_lists)
def test_the_head_makers_agree(heads: ModuleType, headers: list[tuple[bytes, bytes]]) -> None:
    drop = frozenset({b"b", b"content-length"})
    assert heads.head_key(headers) == _heads_py.head_key(headers)
    assert heads.request_head(headers, drop) == _heads_py.request_head(headers, drop)


answer_names = st.sampled_from(
    [b"content-type", b"x-request-id", b"content-encoding", b"x-ratelimit-limit-requests", b"retry-after", b"limit"]
)
answer_values = st.one_of(
    st.sampled_from([b"text/event-stream", b"Text/Event-STREAM; charset=utf-8", b"text/event", b"identity", b"gzip"]),
    st.binary(max_size=20),
)


@pytest.mark.parametrize("heads", [param for param in twins("heads") if param.id == "c"])
@settings(max_examples=500, deadline=None)
@given(headers=st.lists(st.tuples(st.one_of(answer_names, st.binary(max_size=18)), answer_values), max_size=6))
def test_answers_are_surveyed_alike(heads: ModuleType, headers: list[tuple[bytes, bytes]]) -> None:
    assert heads.answer_flags(headers) == _heads_py.answer_flags(headers)


reply_fields = st.one_of(
    st.tuples(st.just(b"content-length"), st.integers(0, 10**15).map(lambda n: b"%d" % n)),
    st.tuples(
        st.sampled_from([b"date", b"dates", b"connection"]), st.sampled_from([b"", b"close", b"Close", b"closed"])
    ),
    st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=9)),
)


@pytest.mark.parametrize("heads", [param for param in twins("heads") if param.id == "c"])
@settings(max_examples=500, deadline=None)
@given(headers=st.lists(reply_fields, max_size=6))
def test_the_makers_of_answers_agree(heads: ModuleType, headers: list[tuple[bytes, bytes]]) -> None:
    made = (b"HTTP/1.1 200 OK\r\n", headers, b"date: now\r\n")
    assert heads.answer_head(*made) == _heads_py.answer_head(*made)
    for body in (b"", b"a"):
        assert heads.whole_answer(*made, body) == _heads_py.whole_answer(*made, body)
