"""What a caller asks of the gateway in header fields."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.downstream.wishes import MAX_NAMES, MAX_SESSION_BYTES, read_traceparent, read_wishes, trace_header
from fastroute.errors import GatewayError
from fastroute.interfaces import NO_WISHES, Wishes

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
USD = 1_000_000_000_000


def values(wishes: Wishes) -> dict[str, Any]:
    return {name: getattr(wishes, name) for name in Wishes.__slots__}


def wish(name: str, value: bytes | str) -> Wishes:
    return read_wishes({f"x-fastroute-{name}".encode(): value if isinstance(value, bytes) else value.encode("latin-1")})


def test_nothing_asked_is_nothing_wished() -> None:
    assert values(read_wishes({})) == values(NO_WISHES)
    assert values(read_wishes({b"host": b"h", b"x-other": b"1", b"user-agent": b"x"})) == values(NO_WISHES)


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("provider", "a", "preferred", ("a",)),
        ("provider", "b, a ,c", "preferred", ("b", "a", "c")),
        ("provider", "a,b,a", "preferred", ("a", "b")),
        ("provider", ",a,,", "preferred", ("a",)),
        ("exclude", "a,b", "excluded", ("a", "b")),
        ("region", "eu,us-east.1", "regions", ("eu", "us-east.1")),
        ("tags", "a,b,a", "tags", frozenset({"a", "b"})),
        ("features", "a=YES,b=no,c=true", "features", {"a": True, "b": False, "c": True}),
        ("features", "a,b=on,c=off,d=0,e=False,f=1", "features",
         {"a": True, "b": True, "c": False, "d": False, "e": False, "f": True}),
        ("priority", "low", "priority", "low"),
        ("priority", " critical ", "priority", "critical"),
        ("session", "user 4711", "session", b"user 4711"),
        ("session", b"\xe9" * MAX_SESSION_BYTES, "session", b"\xe9" * MAX_SESSION_BYTES),
        ("timeout-ms", "1", "timeout_ns", 1_000_000),
        ("timeout-ms", "30000", "timeout_ns", 30_000_000_000),
        ("timeout-ms", "999999999", "timeout_ns", 999_999_999_000_000),
        ("latency-target-ms", "250", "latency_target_ms", 250),
        ("max-cost-usd", "0", "max_cost_pico", 0),
        ("max-cost-usd", "0.01", "max_cost_pico", USD // 100),
        ("max-cost-usd", "1e-6", "max_cost_pico", USD // 1_000_000),
        ("max-cost-usd", "1000000", "max_cost_pico", 1_000_000 * USD),
        # Less than there is money for: nothing may be spent, which is not the same as no ceiling.
        ("max-cost-usd", "1e-13", "max_cost_pico", 0),
    ],
)  # fmt: skip
def test_fields(name: str, value: bytes | str, attribute: str, expected: object) -> None:
    wishes = wish(name, value)
    assert getattr(wishes, attribute) == expected
    others = {other: what for other, what in values(wishes).items() if other != attribute}
    assert others == {other: what for other, what in values(NO_WISHES).items() if other != attribute}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("provider", "exclude", "region", "tags", "features") for value in (
            "", " ", ",", "a b", "a\tb", "a/b", "\u00e4", "a" * 129, "a;b", "<script>",
            ",".join(f"p{i}" for i in range(33)),
        )),
        *((name, value) for name in ("timeout-ms", "latency-target-ms") for value in (
            "", "0", "000", "-1", "+1", "1.5", "1e3", "nan", "soon", "1000000000", "\u00b2", "1_000", "9" * 5000,
        )),
        *(("max-cost-usd", value) for value in (
            "", "-1", "-0.000001", "nan", "sNaN", "inf", "-Infinity", "1000000.01", "1e7", "1e999999", "free", "0x1",
            "1,5", "0." + "0" * 40,
        )),
        *(("priority", value) for value in ("", "urgent", "LOW", "low,high")),
        *(("features", value) for value in ("a=flase", "a=", "a=maybe", "b,a=2", "a=true=false")),
        *(("session", value) for value in ("", "  ", "s" * (MAX_SESSION_BYTES + 1))),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(GatewayError) as caught:
        wish(name, value)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_request_error", f"x-fastroute-{name}")
    assert error.message.startswith(f"x-fastroute-{name} must be ")
    assert len(error.message) < 120
    assert not value.strip() or len(value) < 3 or value not in error.message


def test_as_many_names_as_there_may_be() -> None:
    names = tuple(f"p{i}" for i in range(MAX_NAMES))
    assert wish("provider", ",".join(names)).preferred == names


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a", "a"), (b"Req_1.a-b", "Req_1.a-b"), (b"a" * 128, "a" * 128),
        # Replaced by one of ours: it could not stand in a log or a header.
        (b"", ""), (b"a" * 129, ""), (b"a b", ""), (b"a\x00", ""), (b"\xff", ""), (b"a\n", ""),
    ],
)  # fmt: skip
def test_request_ids(value: bytes, expected: str) -> None:
    assert read_wishes({b"x-request-id": value}).request_id == expected


@given(st.dictionaries(
    st.sampled_from(["provider", "exclude", "region", "tags", "features", "priority", "session", "max-cost-usd",
                     "timeout-ms", "latency-target-ms", "unheard-of"]),
    st.binary(max_size=80),
))  # fmt: skip
def test_any_bytes_are_read_or_refused(fields: dict[str, bytes]) -> None:
    try:
        wishes = read_wishes({f"x-fastroute-{name}".encode(): value for name, value in fields.items()})
    except GatewayError as error:
        assert error.status == 400
        return
    assert wishes.max_cost_pico >= -1
    assert wishes.timeout_ns >= 0
    assert wishes.latency_target_ms >= 0


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("regions", "region"), ("max-cost", "max-cost-usd"), ("timeout", "timeout-ms"), ("providers", "provider"),
        ("excluded", "exclude"), ("latency-ms", "latency-target-ms"), ("tag", "tags"), ("provider\xe9", "provider"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_refused_and_the_right_one_named(word: str, meant: str) -> None:
    with pytest.raises(GatewayError) as caught:
        read_wishes({f"x-fastroute-{word}".encode("latin-1"): b"1"})
    assert (caught.value.status, caught.value.code) == (400, "invalid_request_error")
    assert caught.value.message == f"x-fastroute-{word} is no field of this gateway; x-fastroute-{meant} is"


@pytest.mark.parametrize("word", ["something-new", "unheard-of", "", "x" * 5000])
def test_an_unknown_field_that_resembles_none_asks_for_nothing(word: str) -> None:
    assert values(read_wishes({f"x-fastroute-{word}".encode(): b"1"})) == values(NO_WISHES)


def test_fields_of_answers_that_are_sent_back_ask_for_nothing() -> None:
    words = ("model", "attempts", "strategy", "rule", "overhead-us", "request-id")
    assert values(read_wishes({b"x-fastroute-" + word.encode(): b"1" for word in words})) == values(NO_WISHES)


# --- trace context (W3C)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"00-%b-%b-01" % (TRACE, SPAN), (TRACE, b"01")),
        (b"00-%b-%b-00" % (TRACE, SPAN), (TRACE, b"00")),
        (b"00-%b-%b-ff" % (TRACE, SPAN), (TRACE, b"ff")),
        # A later version may say more, which is not read.
        (b"01-%b-%b-01" % (TRACE, SPAN), (TRACE, b"01")),
        (b"cc-%b-%b-01-what-the-future-brings" % (TRACE, SPAN), (TRACE, b"01")),
    ],
)
def test_a_trace_is_taken_up(value: bytes, expected: tuple[bytes, bytes]) -> None:
    assert read_traceparent(value) == expected
    assert read_wishes({b"traceparent": value}).trace == expected


@pytest.mark.parametrize(
    "value",
    [
        b"", b"00", b"garbage",
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01-" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b-%b-01" % (TRACE, SPAN + b"0"),
        b" 00-%b-%b-01" % (TRACE, SPAN),
        b"cc-%b-%b-01x" % (TRACE, SPAN),
        b"00_%b_%b_01" % (TRACE, SPAN),
    ],
)  # fmt: skip
def test_an_invalid_trace_is_ignored_as_the_standard_has_it(value: bytes) -> None:
    assert read_traceparent(value) is None
    assert read_wishes({b"traceparent": value}).trace is None


@pytest.mark.parametrize("span", [1, 1 << 32 | 5, (1 << 64) - 1])
def test_the_trace_goes_on_with_the_request_as_the_parent(span: int) -> None:
    name, value = trace_header((TRACE, b"01"), span)
    assert name == b"traceparent"
    assert value == b"00-%b-%016x-01" % (TRACE, span)
    assert read_traceparent(value) == (TRACE, b"01")


@pytest.mark.parametrize("value", ["=", "==", "a,=true", "=false"])
def test_a_feature_has_a_name(value: str) -> None:
    with pytest.raises(GatewayError) as caught:
        read_wishes({b"x-fastroute-features": value.encode()})
    assert (caught.value.status, caught.value.param) == (400, "x-fastroute-features")
