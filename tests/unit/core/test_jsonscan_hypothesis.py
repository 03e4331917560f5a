"""jsonscan: both halves give the same answer to anything, and accept what json and orjson accept."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastroute._core import _jsonscan_py
from fastroute._core._jsonscan_errors import ScanError
from tests.unit.core.twins import twins

FIELDS = ("model", "stream", "a")
DEPTH = 6

KEYS = st.sampled_from(["model", "stream", "a", "b", "mod\u00e9l"]) | st.text(max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.text('"\\{}[],:a', max_size=8)
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=4), max_leaves=12)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: \r")])

#: Pieces that go wrong next to each other.
PIECES = st.sampled_from(
    [bytes([byte]) for byte in b' \n\x00\x1f\x0b{}[],:"\\/-+.0123456789eEtfnu\x7f\x80\xc3\xff']
    + [
        b'"model":',
        b'"mod\\u0065l":',
        b'{"a":',
        b"true",
        b"null",
        b"1e308",
        b"1e309",
        b"-0",
        b"01",
        b"1.",
        b'""',
    ]
    + [
        b"\\ud800",
        b"\\udc00",
        b"\\u00",
        b"\\n",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
        b"\xef\xbb\xbf",
    ]
    + [b"9" * 308, b"9" * 513, b"0." + b"0" * 509, b"[" * 5, b"]" * 5, b"x" * 17]
)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Draw a valid JSON object as bytes, in one of several spellings."""
    value = draw(OBJECTS)
    ascii_only = draw(st.booleans())
    text = json.dumps(value, ensure_ascii=ascii_only, separators=draw(SEPARATORS))
    return text.encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a valid body with a few pieces put in, taken out or repeated."""
    body = draw(written())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 8)))
        middle = draw(PIECES | st.binary(max_size=4) | st.just(body[start:end] * 2))
        body = body[:start] + middle + body[end:]
    return body


BODIES = written() | mutated() | st.lists(PIECES, max_size=12).map(b"".join) | st.binary(max_size=30)
BODIES |= st.lists(PIECES, max_size=8).map(lambda pieces: b'{"a":' + b"".join(pieces) + b"}")
BODIES |= st.lists(PIECES, max_size=8).map(lambda pieces: b'{"a":"' + b"".join(pieces) + b'"}')


@pytest.fixture(scope="module", params=twins("jsonscan"))
def half(request: pytest.FixtureRequest) -> Any:
    return request.param


def verdict(scan: Any, body: bytes) -> tuple[Any, ...]:
    try:
        return ("accepted", *scan(body))
    except ScanError as error:
        return ("refused", error.code, error.offset, error.key, str(error))


@settings(max_examples=600, deadline=None)
@given(BODIES)
@example(b'{"a":{"x":[[[[[[]]]]]],"x":1}}')
@example(b'{"a":"\xe2\x82')
@example(b'{"a":0e99999}')
def test_halves_agree(half: Any, body: bytes) -> None:
    reference = _jsonscan_py.Scanner(FIELDS, DEPTH)
    walked = verdict(lambda b: _jsonscan_py._Walk(b, reference._index, DEPTH).run(), body)
    assert verdict(half.Scanner(FIELDS, DEPTH).scan, body) == walked


@settings(max_examples=300, deadline=None)
@given(body=written())
def test_valid_objects_are_accepted_and_located(half: Any, body: bytes) -> None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:  # lone surrogates, which json writes and RFC 8259 section 8.2 warns of
        assert verdict(half.Scanner(FIELDS).scan, body)[0] == "refused"
        return
    result = half.Scanner(FIELDS).scan(body)
    assert result[-1] == len(value)
    for i, field in enumerate(FIELDS):
        kind, start, end = result[3 * i : 3 * i + 3]
        assert (kind == 0) == (field not in value)
        if kind:
            assert orjson.loads(body[start:end]) == value[field]
        if kind in (1, 2):
            assert (b"\\" in body[start:end]) == (kind == 2)
            assert half.unescape(body, start, end) == value[field].encode()


@settings(max_examples=400, deadline=None)
@given(body=mutated())
def test_what_is_accepted_is_json(half: Any, body: bytes) -> None:
    """What is accepted, json and orjson accept; what is refused as malformed, orjson refuses."""
    outcome = verdict(half.Scanner(FIELDS).scan, body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        assert outcome[0] == "refused"
        return
    if outcome[0] == "accepted":
        assert isinstance(value, dict)
        assert isinstance(json.loads(body), dict)
    else:
        assert outcome[1] in ("not_object", "duplicate_key", "number_out_of_range", "too_deep")


@settings(max_examples=400, deadline=None)
@given(
    whole=st.integers(0, 10**320) | st.integers(0, 99),
    fraction=st.text("0123456789", max_size=330),
    exponent=st.integers(-700, 700) | st.integers(-(10**30), 10**30) | st.none(),
)
def test_number_range_is_that_of_a_double(half: Any, whole: int, fraction: str, exponent: int | None) -> None:
    token = f"{whole}" + (f".{fraction}" if fraction else "") + ("" if exponent is None else f"e{exponent}")
    outcome = verdict(half.Scanner(["a"]).scan, b'{"a":' + token.encode() + b"}")
    expected = "refused" if len(token) > 512 or math.isinf(float(token)) else "accepted"
    assert outcome[0] == expected


@settings(max_examples=300, deadline=None)
@given(body=written() | mutated(), start=st.integers(-2, 60), length=st.integers(-2, 60))
def test_unescape_agrees(half: Any, body: bytes, start: int, length: int) -> None:
    def outcome(module: Any) -> Any:
        try:
            return module.unescape(body, start, start + length)
        except ValueError as error:
            return str(error)

    assert outcome(half) == outcome(_jsonscan_py)
