"""Both halves of h1 agree on any bytes cut anywhere, and where they are cut does not matter."""

import asyncio
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core import _h1_py
from fastroute._core._h1_errors import UpstreamError
from tests.fuzz.corpus_responses import cases, chunks, response
from tests.unit.core.test_h1 import Outcome, drive
from tests.unit.core.twins import twins

LOOP_FREE = asyncio.new_event_loop()  # futures need one; it never runs
LOOP_FREE.close()

SMALL = [case.raw for case in cases() if len(case.raw) < 2_000]

WORDS = [
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 204 x\r\n",
        b"HTTP/1.1 304 x\r\n",
        b"HTTP/1.1 100 x\r\n",
    ),
    *(b"HTTP/1.1 ", b"200", b"101", b"Content-Length: ", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(
        b"Transfer-Encoding: ",
        b"chunked",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: a\r\n",
    ),
    *(
        b"A: b\r\n",
        b"a:\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"1",
        b"3",
        b"a",
    ),
    *(
        b"abc",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\nA: b\r\n\r\n",
        b"3;x=y\r\n",
        b"\0",
        b"\x7f",
        b"\xff",
        b"-",
        b"+",
        b"_",
    ),
    *(b"x" * 130, b"x" * 300, b"0" * 17),
]

fields = st.lists(
    st.sampled_from(
        [
            b"A: b",
            b"Content-Type: a/b",
            b"Connection: close",
            b"Connection: a, keep-alive",
            b"B:",
            b"X-Y: \xe9",
            b"C: a b\t",
        ]
    ),
    max_size=4,
)
bodies = st.lists(st.binary(max_size=20), max_size=4)


@st.composite
def well_framed(draw: st.DrawFn) -> bytes:
    """Return an answer that RFC 9112 allows."""
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    line = b"HTTP/%b %d x" % (version, draw(st.sampled_from([200, 201, 204, 304, 404, 529])))
    lines, pieces = draw(fields), draw(bodies)
    how = draw(st.sampled_from(["length", "chunked", "until close"]))
    if how == "chunked" and version == b"1.1":
        end = draw(st.sampled_from([b"0\r\n\r\n", b"00\r\nA: b\r\n\r\n", b"0;x\r\n\r\n"]))
        raw = response(b"Transfer-Encoding: chunked", *lines, line=line, body=chunks(*filter(None, pieces), end=end))
    elif how == "length":
        body = b"".join(pieces)
        raw = response(*lines, b"Content-Length: %d" % len(body), line=line, body=body)
    else:
        raw = response(*lines, line=line, body=b"".join(pieces))
    interim = draw(
        st.lists(st.sampled_from([b"HTTP/1.1 100 x\r\n\r\n", b"HTTP/1.1 103 x\r\nA: b\r\n\r\n"]), max_size=3)
    )
    return b"".join(interim) + raw


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return bytes that were an answer until something was put in, taken out or doubled."""
    raw = draw(st.one_of(well_framed(), st.sampled_from(SMALL)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 12)))
        middle = draw(
            st.one_of(st.just(b""), st.sampled_from(WORDS), st.binary(max_size=3), st.just(raw[start:end] * 2))
        )
        raw = raw[:start] + middle + raw[end:]
    return raw


soup = st.lists(st.sampled_from(WORDS), max_size=20).map(b"".join)
streams = st.one_of(soup, well_framed(), mutated(), mutated(), st.binary(max_size=60))
cuts = st.lists(st.one_of(st.integers(0, 600), st.integers(0, 60)), max_size=8)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, *(min(i, len(data)) for i in at), len(data)})
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("h1", [param for param in twins("h1") if param.id == "c"])
@settings(max_examples=1_000, deadline=None)
@given(stream=streams, at=cuts, head=st.booleans())
def test_the_halves_agree(h1: ModuleType, stream: bytes, at: list[int], head: bool) -> None:
    pieces = cut(stream, at)
    assert drive(h1, LOOP_FREE, pieces, head=head) == drive(_h1_py, LOOP_FREE, pieces, head=head)


@pytest.mark.parametrize("h1", twins("h1"))
@settings(max_examples=500, deadline=None)
@given(stream=streams, at=cuts, head=st.booleans())
def test_where_the_answer_is_cut_does_not_matter(h1: ModuleType, stream: bytes, at: list[int], head: bool) -> None:
    whole = drive(h1, LOOP_FREE, cut(stream, []), head=head)
    parts = drive(h1, LOOP_FREE, cut(stream, at), head=head)
    # Bytes after the end forbid another exchange, whether they come with it or later.
    assert parts._replace(keep_alive=whole.keep_alive) == whole


@pytest.mark.parametrize("h1", twins("h1"))
@settings(max_examples=300, deadline=None)
@given(raw=well_framed(), at=cuts)
def test_what_is_well_framed_is_accepted(h1: ModuleType, raw: bytes, at: list[int]) -> None:
    got = drive(h1, LOOP_FREE, cut(raw, at))
    assert got.complete
    assert got.status >= 200


def run_decoder(h1: ModuleType, pieces: list[bytes]) -> list[tuple[bytes, int, bool] | str]:
    decoder = h1.ChunkedDecoder()
    steps: list[tuple[bytes, int, bool] | str] = []
    try:
        for piece in pieces:
            body, used = decoder.feed(piece)
            steps.append((body, used, decoder.done))
    except UpstreamError as error:
        steps += [error.kind, (decoder.before_fault, -1, decoder.done)]
    return steps


sizes = st.sampled_from(
    [b"1", b"3", b"03", b"0", b"10", b"3;a", b"0x3", b"3 ", b"g", b"0" * 16 + b"3", b"4" + b"0" * 15]
)
ends = st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"A: b\r\n", b"x", b"abc", b"\0"])
chunk_soup = st.lists(st.one_of(sizes, ends, ends, st.binary(max_size=2)), max_size=14).map(b"".join)


@pytest.mark.parametrize("h1", [param for param in twins("h1") if param.id == "c"])
@settings(max_examples=1_000, deadline=None)
@given(stream=chunk_soup, at=cuts)
def test_the_decoders_agree_at_every_step(h1: ModuleType, stream: bytes, at: list[int]) -> None:
    pieces = cut(stream, at)
    assert run_decoder(h1, pieces) == run_decoder(_h1_py, pieces)


def parse(h1: ModuleType, data: bytes) -> object:
    try:
        return h1.parse_response_head(data, frozenset({b"a"}))
    except UpstreamError as error:
        return error.kind


@pytest.mark.parametrize("h1", [param for param in twins("h1") if param.id == "c"])
@settings(max_examples=1_000, deadline=None)
@given(data=streams)
def test_the_head_parsers_agree(h1: ModuleType, data: bytes) -> None:
    assert parse(h1, data) == parse(_h1_py, data)


def test_outcomes_compare_by_all_their_fields() -> None:
    assert Outcome._fields == ("status", "headers", "body", "complete", "keep_alive", "reusable", "kind")
