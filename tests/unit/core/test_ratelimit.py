"""Rate-limit fields of answers: every provider's names, every form of number and time, and what is none."""

from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core._ratelimit_rules import KINDS, MAX_RESET_MS, UNITS_MS
from fastroute.interfaces import Allowance
from tests.e2e.harness import recordings
from tests.unit.core.twins import twins

#: 2026-03-10T22:26:40Z.
WALL_MS = 1_773_181_600_000
DAY_S = 86_400


@pytest.fixture(params=twins("ratelimit"))
def half(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def read(half: ModuleType, *lines: str, wall_ms: int = WALL_MS) -> Any:
    """Return the allowance of a head of such lines, `name: value`."""
    pairs = [line.split(": ", 1) for line in lines]
    return half.read_allowance([(name.encode(), value.encode()) for name, value in pairs], wall_ms)


PROVIDERS: dict[str, tuple[list[str], Allowance]] = {
    "OpenAI": (
        [
            "content-type: application/json",
            "x-ratelimit-limit-requests: 500",
            "x-ratelimit-limit-tokens: 200000",
            "x-ratelimit-remaining-requests: 499",
            "x-ratelimit-remaining-tokens: 199962",
            "x-ratelimit-reset-requests: 120ms",
            "x-ratelimit-reset-tokens: 11ms",
            "x-request-id: req_1",
        ],
        Allowance(500, 499, 120, 200_000, 199_962, 11),
    ),
    "OpenAI, with images": (
        ["x-ratelimit-limit-input-images: 5", "x-ratelimit-limit-tokens: 9", "x-ratelimit-limit-project-tokens: 3"],
        Allowance(tokens_limit=9),
    ),
    "Anthropic": (
        [
            "anthropic-ratelimit-input-tokens-limit: 30000",
            "anthropic-ratelimit-input-tokens-remaining: 29000",
            "anthropic-ratelimit-input-tokens-reset: 2026-03-10T22:26:48Z",
            "anthropic-ratelimit-output-tokens-limit: 8000",
            "anthropic-ratelimit-output-tokens-remaining: 8000",
            "anthropic-ratelimit-output-tokens-reset: 2026-03-10T22:26:50Z",
            "anthropic-ratelimit-requests-limit: 50",
            "anthropic-ratelimit-requests-remaining: 49",
            "anthropic-ratelimit-requests-reset: 2026-03-10T22:26:41Z",
            "anthropic-ratelimit-tokens-limit: 38000",
            "anthropic-ratelimit-tokens-remaining: 37000",
            "anthropic-ratelimit-tokens-reset: 2026-03-10T22:26:48Z",
            "anthropic-ratelimit-unified-5h-utilization: 0.4",
            "anthropic-ratelimit-unified-reset: 1773190000",
            "anthropic-priority-input-tokens-limit: 10",
        ],
        Allowance(50, 49, 1000, 38_000, 37_000, 8000, 30_000, 29_000, 8000, 8000, 8000, 10_000),
    ),
    "Azure": (
        [
            "x-ratelimit-limit-requests: 100",
            "x-ratelimit-limit-tokens: 100000",
            "x-ratelimit-remaining-requests: 99",
            "x-ratelimit-remaining-tokens: 99998",
            "x-ratelimit-reset-requests: 10",
            "x-ratelimit-renewalperiod-requests: 60",
            "x-ratelimit-key: gpt-5-nano",
        ],
        Allowance(100, 99, 10_000, 100_000, 99_998),
    ),
    "Azure, which does not say": (
        ["x-ratelimit-limit-tokens: -1", "x-ratelimit-remaining-tokens: -1", "x-ratelimit-reset-tokens: 0"],
        Allowance(tokens_reset_ms=0),
    ),
    "Groq, whose requests are a day's": (
        [
            "x-ratelimit-limit-requests: 14400",
            "x-ratelimit-limit-tokens: 18000",
            "x-ratelimit-remaining-requests: 14370",
            "x-ratelimit-remaining-tokens: 17997",
            "x-ratelimit-reset-requests: 2m59.56s",
            "x-ratelimit-reset-tokens: 7.66s",
        ],
        Allowance(
            tokens_limit=18_000,
            tokens_remaining=17_997,
            tokens_reset_ms=7660,
            day_requests_limit=14_400,
            day_requests_remaining=14_370,
            day_requests_reset_ms=179_560,
        ),
    ),
    "OpenAI, free of charge": (
        [
            "x-ratelimit-limit-requests: 200",
            "x-ratelimit-remaining-requests: 199",
            "x-ratelimit-reset-requests: 7m12s",
        ],
        Allowance(day_requests_limit=200, day_requests_remaining=199, day_requests_reset_ms=432_000),
    ),
    "Mistral": (
        [
            "x-ratelimit-limit-req-minute: 360",
            "x-ratelimit-remaining-req-minute: 357",
            "x-ratelimit-limit-tokens-minute: 20000000",
            "x-ratelimit-remaining-tokens-minute: 19999990",
            "x-ratelimit-limit-tokens-month: 200000000000",
            "x-ratelimit-remaining-tokens-month: 199999999990",
            "x-ratelimit-tokens-query-cost: 10",
        ],
        Allowance(
            requests_limit=360,
            requests_remaining=357,
            tokens_limit=20_000_000,
            tokens_remaining=19_999_990,
            month_limit=200_000_000_000,
            month_remaining=199_999_999_990,
        ),
    ),
    "Mistral, as it was": (
        [
            "ratelimitbysize-limit: 500000",
            "ratelimitbysize-remaining: 467979",
            "ratelimitbysize-reset: 19",
            "ratelimitbysize-query-cost: 32021",
            "x-ratelimitbysize-limit-minute: 1",
            "x-ratelimitbysize-limit-month: 1000000000",
            "x-ratelimitbysize-remaining-month: 997535046",
        ],
        Allowance(
            tokens_limit=500_000,
            tokens_remaining=467_979,
            tokens_reset_ms=19_000,
            month_limit=1_000_000_000,
            month_remaining=997_535_046,
        ),
    ),
    "Cerebras": (
        [
            "x-ratelimit-limit-requests-day: 14400",
            "x-ratelimit-limit-tokens-minute: 60000",
            "x-ratelimit-remaining-requests-day: 14399",
            "x-ratelimit-remaining-tokens-minute: 59900",
            "x-ratelimit-reset-requests-day: 33011.382867",
            "x-ratelimit-reset-tokens-minute: 11.38",
        ],
        Allowance(
            tokens_limit=60_000,
            tokens_remaining=59_900,
            tokens_reset_ms=11_380,
            day_requests_limit=14_400,
            day_requests_remaining=14_399,
            day_requests_reset_ms=33_011_383,
        ),
    ),
    "Fireworks": (
        ["x-ratelimit-limit-tokens-prompt: 60000", "x-ratelimit-remaining-tokens-generated: 5"],
        Allowance(input_tokens_limit=60_000, output_tokens_remaining=5),
    ),
    "OpenRouter": (
        ["x-ratelimit-limit: 20", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 1773181660000"],
        Allowance(20, 0, 60_000),
    ),
    "Together": (
        [
            "x-ratelimit-limit: 2",
            "x-ratelimit-remaining: 1",
            "x-ratelimit-reset: 2",
            "x-tokenlimit-limit: 3000",
            "x-tokenlimit-remaining: 2900",
        ],
        Allowance(2, 1, 2000, 3000, 2900),
    ),
    "xAI": (
        ["x-ratelimit-limit-requests: 1800", "x-ratelimit-remaining-requests: 1800"],
        Allowance(requests_limit=1800, requests_remaining=1800),
    ),
    "Cohere": (
        [
            "x-trial-endpoint-call-limit: 40",
            "x-trial-endpoint-call-remaining: 36",
            "x-endpoint-monthly-call-limit: 1000",
        ],
        Allowance(requests_limit=40, requests_remaining=36, month_limit=1000),
    ),
    "the IETF draft": (
        ["ratelimit-limit: 100", "ratelimit-remaining: 99", "ratelimit-reset: 50"],
        Allowance(100, 99, 50_000),
    ),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_providers(half: ModuleType, provider: str) -> None:
    lines, expected = PROVIDERS[provider]
    assert read(half, *lines) == expected
    assert isinstance(read(half, *lines), Allowance)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["content-type: application/json", "retry-after: 20", "x-request-id: 1"],
        ["x-ratelimit-limit-req-10-second: 60", "x-ratelimit-limit-audio-seconds-minute: 7200"],
        ["x-ratelimit-limit-requests: unlimited"],
        ["x-ratelimit: 5", "x-ratelimits-limit: 5", "x-ratelimit-limits: 5", "ratelimit: 5", "ratelimit-policy: 5"],
        ["anthropic-ratelimit-requests: 5", "anthropic-ratelimit--limit: 5", "anthropic-ratelimit-limit: 5"],
        ["anthropic-ratelimit-unified-5h-limit: 5", "anthropic-ratelimit-tokens-day-limit: 5"],
        ["x-ratelimitbysize-query-cost: 5", "x-ratelimitbysize-limit-day: 5", "x-tokenlimit-now: 5"],
    ],
)
def test_nothing_is_said(half: ModuleType, lines: list[str]) -> None:
    assert read(half, *lines) is None


@pytest.mark.parametrize(
    ("value", "reset_ms"),
    [
        ("1ms", 1),
        ("20ms", 20),
        ("6m0s", 360_000),
        ("17.399999999s", 17_400),
        ("2m59.56s", 179_560),
        ("59.56s", 59_560),
        ("1h0m0s", 3_600_000),
        ("1h2m3.004s", 3_723_004),
        ("72h0m0s", 3 * DAY_S * 1000),
        ("0s", 0),
        ("0", 0),
        ("500us", 1),
        ("500\u00b5s", 1),
        ("3000000ns", 3),
        (" 33 ", 33_000),
        ("0.5", 500),
        ("0.0001", 1),
        ("59.999", 59_999),
        ("1773181600", 0),
        ("1773181601", 1000),
        ("1773181599", 0),
        ("1773181602500", 2500),
        ("2026-03-10T22:26:48Z", 8000),
        ("2026-03-10t22:26:48z", 8000),
        ("2026-03-10T22:26:48.987654Z", 8000),
        ("2026-03-11T00:26:48+02:00", 8000),
        ("2026-03-10T17:26:48-05:00", 8000),
        ("2026-03-10 22:26:48Z", 8000),
        ("2026-03-01T00:00:00Z", 0),
        ("2024-02-29T00:00:00Z", 0),
        ("0000-01-01T00:00:00Z", 0),
        # Absurd ones are taken for the longest that makes sense.
        ("9999-12-31T23:59:59Z", MAX_RESET_MS),
        ("999999h", MAX_RESET_MS),
        ("999999999", MAX_RESET_MS),
        ("999999999999999", MAX_RESET_MS),
        ("999999999999999h999999999999999h", MAX_RESET_MS),
    ],
)
def test_times(half: ModuleType, value: str, reset_ms: int) -> None:
    assert read(half, f"x-ratelimit-reset-tokens: {value}").tokens_reset_ms == reset_ms


@pytest.mark.parametrize(
    "value",
    [
        "", "-1", "-1s", "+5", "1e9", "nan", "NaN", "inf", "Infinity", "soon", "1.", ".5", "1.s", "s", "5x", "1m2",
        "1 s", "0x10", "1_000", "1,5", "1..2", "1.2.3", "9999999999999999", "1s;2s", "60, 60", "\u0661s", "5S", "1d",
        "2026-13-10T22:26:48Z", "2026-00-10T22:26:48Z", "2026-03-32T22:26:48Z", "2026-03-10T24:26:48Z",
        "2026-03-10T22:60:48Z", "2026-03-10T22:26:61Z", "2026-03-10T22:26:48", "2026-03-10T22:26:48.Z",
        "2026-03-10T22:26:48+0200", "2026-03-10T22:26:48+02:0x", "2026-03-10T22:26:48Zz", "2026-03-10X22:26:48Z",
        "2026/03/10T22:26:48Z", "26-03-10T22:26:48Z", "Tue, 10 Mar 2026 22:26:48 GMT", "1." + "5" * 33,
        "2026-03-10T22:26:48." + "5" * 33 + "Z",
    ],
)  # fmt: skip
def test_what_is_no_time(half: ModuleType, value: str) -> None:
    assert read(half, f"x-ratelimit-reset-tokens: {value}") is None


@pytest.mark.parametrize(
    ("value", "count"),
    [("0", 0), ("1", 1), ("00012", 12), ("30000.9", 30_000), (" 7\t", 7), ("999999999999999", 10**15 - 1)],
)
def test_counts(half: ModuleType, value: str, count: int) -> None:
    assert read(half, f"x-ratelimit-remaining-requests: {value}").requests_remaining == count


@pytest.mark.parametrize("value", ["", "-1", "1e9", "nan", "inf", "ten", "1000000000000000", "0x1", "1 000", "5;w=60"])
def test_what_is_no_count(half: ModuleType, value: str) -> None:
    assert read(half, f"x-ratelimit-remaining-requests: {value}") is None


def test_the_first_of_several_that_is_one_counts(half: ModuleType) -> None:
    name = "x-ratelimit-limit-tokens"
    assert read(half, f"{name}: -1", f"{name}: 5", f"{name}: 6").tokens_limit == 5


def test_a_field_without_a_dimension_is_about_requests_unless_others_are(half: ModuleType) -> None:
    allowance = read(half, "x-ratelimit-limit: 5", "x-ratelimit-limit-requests: 6", "x-ratelimit-reset: 7")
    assert allowance == Allowance(requests_limit=6)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "of_a_day"),
    [
        (10_000, 9_999, "6ms", False),
        (1000, 500, "30s", False),
        (60, 0, "59m0s", False),
        (10, 0, "5h59m59s", False),
        (10, 0, "6h0m0s", True),
        (50, 30, "9h36m0s", True),
        (50, 50, "9h36m0s", False),
        (50, 60, "9h36m0s", False),
        # Seconds without a unit are the rest of a window, whatever was used in it.
        (10_000, 9_999, "60", False),
    ],
)
def test_a_limit_that_takes_days_to_be_renewed_is_one_of_a_day(
    half: ModuleType, limit: int, remaining: int, reset: str, of_a_day: bool
) -> None:
    allowance = read(
        half,
        f"x-ratelimit-limit-requests: {limit}",
        f"x-ratelimit-remaining-requests: {remaining}",
        f"x-ratelimit-reset-requests: {reset}",
    )
    assert (allowance.day_requests_limit >= 0) is of_a_day
    assert (allowance.requests_limit >= 0) is not of_a_day


def test_tokens_of_a_day_and_of_a_month(half: ModuleType) -> None:
    """The second is what OpenAI said to somebody who pays nothing."""
    name = "x-ratelimit-{}-tokens"
    lines = [name.format("limit") + ": 100000", name.format("remaining") + ": 90000"]
    assert read(half, *lines, name.format("reset") + ": 2h24m0s").day_tokens_limit == 100_000
    lines[1] = name.format("remaining") + ": 88447"
    allowance = read(half, *lines, name.format("reset") + ": 83h10m39.057s")
    assert allowance == Allowance(month_limit=100_000, month_remaining=88_447, month_reset_ms=299_439_057)


def test_a_limit_of_a_day_that_is_named_stays(half: ModuleType) -> None:
    allowance = read(
        half,
        "x-ratelimit-limit-requests: 10",
        "x-ratelimit-remaining-requests: 0",
        "x-ratelimit-reset-requests: 6h",
        "x-ratelimit-limit-requests-day: 7",
    )
    assert (allowance.requests_limit, allowance.day_requests_limit) == (10, 7)


@pytest.mark.parametrize("headers", [None, [b"x"], [(b"x",)], [("x-ratelimit-limit", "5")]])
def test_only_header_fields_are_read(half: ModuleType, headers: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        half.read_allowance(headers, WALL_MS)


# --- the halves agree

names = st.sampled_from(
    [f"x-ratelimit-{what}-{kind.decode()}" for what in ("limit", "remaining", "reset") for kind in KINDS]
    + [f"anthropic-ratelimit-{kind.decode()}-{what}" for what in ("limit", "remaining", "reset") for kind in KINDS]
    + [f"{prefix}-{what}" for what in ("limit", "remaining", "reset")
       for prefix in ("x-ratelimit", "ratelimit", "ratelimitbysize", "x-ratelimitbysize", "x-tokenlimit",
                      "x-trial-endpoint-call")]
    + ["x-ratelimitbysize-limit-month", "x-endpoint-monthly-call-limit", "content-type", "x-request-id"]
).map(str.encode)  # fmt: skip
names |= st.builds(lambda name, cut: name[:cut], names, st.integers(0, 40))
names |= st.builds(lambda name, more: name + more, names, st.sampled_from([b"-", b"x", b"-day", b"-reset"]))
digits = st.integers(0, 10**16).map(str)
numbers = digits | st.builds(lambda whole, rest: f"{whole}.{rest}", digits, st.text("0123456789", max_size=34))
units = st.sampled_from([unit.decode() for unit in UNITS_MS])
durations = st.lists(st.builds(lambda number, unit: number + unit, numbers, units), min_size=1, max_size=4).map("".join)
dates = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.datetimes(timezones=st.timezones()).map(
    lambda at: at.isoformat()
)
near = st.integers(WALL_MS // 1000 - 10**6, WALL_MS // 1000 + 10**7)
values = numbers | durations | dates | near.map(str) | near.map(lambda at: str(at * 1000)) | st.text(max_size=30)
values |= st.builds(
    lambda value, at, what: value[:at] + what + value[at:], values, st.integers(0, 20), st.text(max_size=2)
)
heads = st.lists(st.tuples(names, values.map(str.encode) | st.binary(max_size=30)), max_size=12)


@given(heads, st.integers(0, 2 * WALL_MS))
def test_the_halves_agree_on_any_head(head: list[tuple[bytes, bytes]], wall_ms: int) -> None:
    pure, compiled = (param.values[0] for param in twins("ratelimit"))
    if compiled is None:
        pytest.skip("the compiled half is not built")
    allowance = pure.read_allowance(head, wall_ms)
    assert compiled.read_allowance(head, wall_ms) == allowance
    if allowance is not None:
        assert all(-1 <= value < 10**15 for value in allowance)
        assert all(reset_ms <= MAX_RESET_MS for reset_ms in allowance[2::3])


# --- what providers really sent

#: Of a field that holds something, whatever it is.
SPEAKS_OF_LIMITS = ("x-ratelimit-", "anthropic-ratelimit-requests", "ratelimitbysize-", "x-trial-endpoint-")


def test_recorded_answers(half: ModuleType) -> None:
    """Every count that a provider sent is found again, and every time is one that makes sense."""
    seen = 0
    for recording in recordings():
        fields = recording["response"].get("headers", {})
        head = [(name.encode(), value.encode()) for name, value in fields.items() if isinstance(value, str)]
        said = fields.get("date")
        wall_ms = int(parsedate_to_datetime(said).timestamp() * 1000) if isinstance(said, str) else None
        allowance = half.read_allowance(head, wall_ms or WALL_MS)
        speaking = {name: value for name, value in fields.items() if name.startswith(SPEAKS_OF_LIMITS)}
        counts = {int(value) for name, value in speaking.items() if not _is_beside(name) and value.isdecimal()}
        if not counts:
            continue
        seen += 1
        assert allowance is not None
        assert counts <= set(allowance), recording["source"]
        for limit, remaining in zip(allowance[0::3], allowance[1::3], strict=True):
            assert remaining <= limit or limit < 0
        if wall_ms is not None:
            # A token bucket or a minute's window; the answer took no longer than that to be written.
            assert all(reset_ms <= 120_000 for reset_ms in allowance[2:12:3])
    assert seen >= 40


def _is_beside(name: str) -> bool:
    """Whether a field of that name is about something else, or about a window of seconds."""
    beside = ("reset", "cost", "images", "audio", "10-second", "renewalperiod", "unified", "key", "abuse")
    return any(word in name for word in beside)
