"""Retry-After in every form that providers have for it."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.failover.retry_after import retry_after_ms, should_retry
from fastroute.interfaces import Header

#: Fri, 31 Dec 2027 23:59:59 GMT
NOW_S = 1_830_297_599
NOW_NS = NOW_S * 1_000_000_000

GEMINI = (
    b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": '
    b'"type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "%b"}]}}'
)


def wait(*headers: Header, body: bytes = b"") -> int | None:
    return retry_after_ms(list(headers), body, NOW_NS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0), (b"1", 1000), (b"7", 7000), (b"120", 120_000), (b" 7 ", 7000), (b"007", 7000),
        (b"1.5", 1500), (b"0.2", 200), (b"0.0001", 1), (b"20.04466179", 20045),
        # What is absurd is a number all the same; the classifier caps it.
        (b"1000000000", 10**12), (b"999999999999", 999_999_999_999_000),
    ],
)  # fmt: skip
def test_seconds(value: bytes, expected: int) -> None:
    assert wait((b"retry-after", value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Sat, 01 Jan 2028 00:00:00 GMT", 1000),
        (b"Sat, 01 Jan 2028 00:01:00 GMT", 61_000),
        (b"Fri, 31 Dec 2027 23:59:59 GMT", 0),
        # The forms that RFC 9110 calls obsolete.
        (b"Saturday, 01-Jan-28 00:00:09 GMT", 10_000),
        (b"Sat Jan  1 00:00:09 2028", 10_000),
        # Another zone than HTTP allows, read as what it says.
        (b"Sat, 01 Jan 2028 01:00:00 +0100", 1000),
        (b"Sat, 01 Jan 2028 00:00:00 -0000", 1000),
        # Past dates: now.
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0),
        (b"Sun Nov  6 08:49:37 1994", 0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_dates(value: bytes, expected: int) -> None:
    assert wait((b"retry-after", value)) == expected


def test_a_date_without_a_zone_is_in_gmt_wherever_the_gateway_is(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            assert wait((b"retry-after", b"Sat Jan  1 00:00:09 2028")) == 10_000
    finally:
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"nan", b"NaN", b"inf", b"-inf", b"Infinity", b"-1", b"-0.5", b"+5", b"1e9", b"1e400", b"0x10",
        b"1_000", b"5s", b"5,5", b"5 6", b".5", b"5.", b"soon", b"9" * 400, b"\xb2", b"\xff\xfe",
        b"Fri, 31 Feb 2028 00:00:00 GMT", b"Fri, 31 Dec 2027 25:00:00 GMT", b"Fri, 31 Dec 2027 23:59:59 +9999",
        # Numbers that no C integer holds.
        b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT", b"Fri, 31 Dec 2027 23:" + b"2" * 30 + b":59 GMT",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", [b"retry-after", b"retry-after-ms"])
def test_garbage_counts_as_not_said(name: bytes, value: bytes) -> None:
    assert wait((name, value)) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(b"0", 0), (b"20", 20), (b"20.4", 21), (b"7000", 7000), (b"1000000000", 10**9)]
)
def test_milliseconds(value: bytes, expected: int) -> None:
    assert wait((b"retry-after-ms", value)) == expected


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (b"26s", 26_000), (b"0s", 0), (b"20.044661790s", 20_045), (b"0.5s", 500),
        (b"26", None), (b"-1s", None), (b"NaNs", None), (b"1e9s", None), (b"9" * 10 + b"s", None), (b"", None),
    ],
)  # fmt: skip
def test_the_retry_delay_of_google(delay: bytes, expected: int | None) -> None:
    assert wait(body=GEMINI % delay) == expected


def test_nothing_said() -> None:
    assert wait() is None
    assert wait((b"content-type", b"application/json"), body=b'{"error": {}}') is None


def test_the_finer_form_is_believed_first_and_garbage_last() -> None:
    fine, coarse, body = (b"retry-after-ms", b"20"), (b"retry-after", b"7"), GEMINI % b"26s"
    assert wait(coarse, fine, body=body) == 20
    assert wait(coarse, body=body) == 7000
    assert wait((b"retry-after-ms", b"nan"), coarse, body=body) == 7000
    assert wait((b"retry-after-ms", b"nan"), (b"retry-after", b"soon"), body=body) == 26_000


@given(st.binary(max_size=60))
def test_no_value_breaks_it(value: bytes) -> None:
    for name in (b"retry-after", b"retry-after-ms"):
        found = wait((name, value))
        assert found is None or found >= 0


@given(st.text("0123456789 :-+,GMTFriDec", max_size=40))
def test_nothing_like_a_date_breaks_it(value: str) -> None:
    found = wait((b"retry-after", value.encode()))
    assert found is None or found >= 0


@given(st.integers(0, 253_402_300_799))
def test_every_date_is_read_as_it_was_meant(at_s: int) -> None:
    assert wait((b"retry-after", formatdate(at_s, usegmt=True).encode())) == max(0, (at_s - NOW_S) * 1000)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"true", True), (b"false", False), (b"True", True), (b"FALSE", False), (b"", None), (b"1", None), (b"no", None)],
)
def test_should_retry(value: bytes, expected: bool | None) -> None:
    assert should_retry([(b"x-should-retry", value)]) is expected
    assert should_retry([]) is None


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (b"Please try again in 174ms.", 174),
        (b"Please try again in 3.89s. Visit", 3890),
        (b"Please try again in 50.597142857s.", 50_598),
        (b"Please try again in 7m12s.", 432_000),
        (b"Please try again in 2m59.56s.", 179_560),
        (b"Please try again in 1h2m3.5s.", 3_723_500),
        (b"Please retry after 33 seconds. Please go here", 33_000),
        (b"Please retry after 1 second.", 1000),
        (b"please retry after 20 milliseconds", 20),
        (b"Please retry in 48.939935699s.", 48_940),
        (b"PLEASE TRY AGAIN IN 5S", 5000),
        (b"Try again in 5 minutes", 300_000),
        (b"Try again in 1 hour 30 minutes.", 5_400_000),
        (b"try again in a while", None),
        (b"try again in -5s", None),
        (b"try again in 1e9s", None),
        (b"try again in 5 potatoes", None),
        (b"try again in 5stones", None),
        (b"try again in 9999999999s", None),
        (b"try again in infs", None),
        (b"5s", None),
    ],
)
def test_sentences(sentence: bytes, expected: int | None) -> None:
    assert wait(body=b'{"error": {"message": "' + sentence + b'"}}') == expected


def test_google_says_in_a_sentence_what_it_has_cut_off_elsewhere() -> None:
    assert wait(body=GEMINI % b"48s" + b" Please retry in 48.939935699s.") == 48_940
    assert wait(body=GEMINI % b"49s" + b" Please retry in 48.939935699s.") == 49_000


def test_azure() -> None:
    assert wait((b"x-ms-retry-after-ms", b"250"), (b"retry-after", b"1")) == 250
    assert wait((b"retry-after-ms", b"20"), (b"x-ms-retry-after-ms", b"250")) == 20
    # 0 milliseconds and a second.
    assert wait((b"retry-after-ms", b"0"), (b"retry-after", b"1")) == 1000
    assert wait((b"retry-after-ms", b"0"), (b"retry-after", b"soon")) == 0
    assert wait((b"retry-after-ms", b"0")) == 0
