"""The only judge of failure: statuses, bodies, and attempts that got no answer."""

import json
from typing import Any

import pytest

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, OK, RATE_LIMITED
from fastroute.config.schema import Retry
from fastroute.dialects import anthropic, gemini, openai
from fastroute.failover.classify import (
    CANCELLED,
    CLIENT_ERROR,
    DEFAULT_COOLDOWN_MS,
    STREAM_BROKEN,
    TIMEOUT,
    Classifier,
    Outcome,
)
from fastroute.interfaces import Header

CAP_MS = Retry().max_retry_after_ms
DEFAULT = Classifier(frozenset(Retry().on_status), CAP_MS)
NOTHING = Classifier(frozenset(), CAP_MS)
EVERYTHING = Classifier(frozenset(range(400, 600)), CAP_MS)
WALL_NS = 1_830_297_599_000_000_000


def answer(
    status: int, body: object = None, *headers: Header, dialect: Any = openai, classifier: Classifier = DEFAULT
) -> Outcome:
    """Return the verdict on an error answer with that JSON body."""
    return classifier.answer(status, list(headers), json.dumps(body).encode(), dialect, WALL_NS)


# --- statuses

#: (statuses, outcome, whether another endpoint may be tried, verdict on this one), by the default configuration.
STATUSES: list[tuple[list[int], str, bool, int]] = [
    ([200, 201, 202, 204, 206, 299], "ok", False, OK),
    ([300, 301, 302, 303, 307, 308, 399], "upstream_error", False, FAILED),
    ([401, 402, 403], "client_error", True, KEY_REJECTED),
    ([429, 529], "rate_limited", True, RATE_LIMITED),
    ([408, 500, 502, 503, 504], "upstream_error", True, FAILED),
    ([501, 505, 507, 520, 522, 524, 599], "upstream_error", False, FAILED),
    ([400, 404, 405, 406, 409, 410, 411, 413, 414, 415, 422, 425, 431, 451, 499], "client_error", False, NEUTRAL),
]
CASES = [(status, *rest) for statuses, *rest in STATUSES for status in statuses]


@pytest.mark.parametrize(("status", "name", "retryable", "verdict"), CASES)
def test_statuses(status: int, name: str, retryable: bool, verdict: int) -> None:
    outcome = DEFAULT.status(status)
    assert (outcome.name, outcome.retryable, outcome.verdict) == (name, retryable, verdict)
    assert (outcome.kind, outcome.hint_ms, outcome.killer) == ("", -1, False)


@pytest.mark.parametrize("status", range(200, 600))
def test_every_status_has_a_verdict_that_the_configuration_cannot_turn_round(status: int) -> None:
    """`on_status` decides whether another endpoint is tried; what the answer says of this one is not up to it."""
    without, default, with_it = NOTHING.status(status), DEFAULT.status(status), EVERYTHING.status(status)
    assert not without.retryable or without.verdict == KEY_REJECTED
    assert default in (without, with_it)
    if status >= 400:
        assert with_it.retryable
    if status >= 500 or status in (401, 402, 403, 408, 429):
        assert without.but(retryable=True) == with_it
    assert without.verdict == NEUTRAL or status not in (400, 404, 409, 413, 422)


@pytest.mark.parametrize("status", range(200, 300))
def test_an_answer_is_never_tried_again(status: int) -> None:
    assert not EVERYTHING.status(status).retryable


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429, 529])
def test_one_bad_client_never_opens_a_breaker(status: int) -> None:
    """Only FAILED counts towards a breaker."""
    assert DEFAULT.status(status).verdict != FAILED
    assert answer(status).verdict != FAILED


# --- Retry-After


@pytest.mark.parametrize("status", [429, 529])
@pytest.mark.parametrize(
    ("headers", "hint_ms"),
    [
        ([], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"7")], 7000),
        ([(b"retry-after", b"0")], 0),
        ([(b"retry-after-ms", b"20")], 20),
        ([(b"retry-after", b"120")], 120_000),
        ([(b"retry-after", b"121")], 121_000),
        ([(b"retry-after", b"600")], 600_000),
        ([(b"retry-after", b"86400")], CAP_MS),
        ([(b"retry-after", b"86401")], CAP_MS),
        ([(b"retry-after", b"1000000000")], CAP_MS),
        ([(b"retry-after", b"Sat, 01 Jan 2028 00:00:09 GMT")], 10_000),
        ([(b"retry-after", b"Sat, 01 Jan 2050 00:00:09 GMT")], CAP_MS),
        ([(b"retry-after", b"Sun, 06 Nov 1994 08:49:37 GMT")], 0),
        ([(b"retry-after", b"nan")], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"inf")], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"-3")], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"soon")], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"1e9")], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"9" * 10_240)], DEFAULT_COOLDOWN_MS),
        ([(b"retry-after", b"Sat, 01 Jan 2028 00:00:09 GMT " * 340)], 10_000),
    ],
)
def test_a_rate_limit_says_how_long(status: int, headers: list[Header], hint_ms: int) -> None:
    outcome = answer(status, None, *headers)
    assert (outcome.name, outcome.verdict, outcome.hint_ms) == ("rate_limited", RATE_LIMITED, hint_ms)


def test_the_rate_limit_of_gemini_says_how_long_in_its_body() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "26s"}]
    body = {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": details,
        }
    }
    outcome = answer(429, body, dialect=gemini)
    assert (outcome.name, outcome.verdict, outcome.hint_ms, outcome.kind) == ("rate_limited", RATE_LIMITED, 26_000, "")


def test_503_with_a_time_is_a_rate_limit_and_without_one_a_fault() -> None:
    """The provider knows when it is back: it is left alone until then, and its breaker is not told."""
    said = answer(503, None, (b"retry-after", b"9"))
    assert (said.name, said.retryable, said.verdict, said.hint_ms) == ("upstream_error", True, RATE_LIMITED, 9000)
    assert answer(503).verdict == FAILED
    assert answer(503).hint_ms == -1


@pytest.mark.parametrize("status", [400, 401, 408, 500, 502, 504])
def test_nobody_else_is_left_alone_for_long(status: int) -> None:
    assert answer(status, None, (b"retry-after", b"9")).hint_ms == -1


def test_the_cap_of_the_configuration_holds() -> None:
    none = Classifier(frozenset({429}), 0)
    assert none.answer(429, [(b"retry-after", b"9")], b"", openai, WALL_NS).hint_ms == 0


@pytest.mark.parametrize("value", [b"true", b"false", b"", b"perhaps"])
@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_what_a_provider_says_of_retries_is_about_itself(status: int, value: bytes) -> None:
    """`x-should-retry: false` keeps the same endpoint from being asked again; another one knows nothing of it."""
    plain, told = answer(status), answer(status, None, (b"x-should-retry", value))
    assert told.again is (value != b"false")
    assert told.but(again=True) == plain


# --- bodies

CONTEXT_WINDOW = [
    (openai, 400, {"error": {"message": "Please reduce the length", "code": "context_length_exceeded"}}),
    (openai, 400, {"error": {"message": "Your input exceeds the context window of this model.", "code": None}}),
    (openai, 400, {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000"}),
    (openai, 413, {"error": {"code": "context_length_exceeded"}}),
    (openai, 422, {"error": {"message": "Input is too long for requested model."}}),
    (anthropic, 400, {"type": "error", "error": {"message": "prompt is too long: 208310 tokens > 200000 maximum"}}),
    (anthropic, 400, {"error": {"message": "input length and `max_tokens` exceed context limit: 1 + 2 > 2, decrease"}}),
    (gemini, 400, {"error": {"message": "The input token count (1200000) exceeds the maximum number of tokens"}}),
]  # fmt: skip
CONTENT_POLICY = [
    (openai, 400, {"error": {"code": "content_policy_violation", "message": "Your request was rejected"}}),
    (openai, 400, {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (openai, 400, {"error": {"message": "triggering Azure OpenAI's content management policy", "code": None}}),
    (anthropic, 400, {"error": {"message": "Output blocked by content filtering policy"}}),
    (gemini, 400, {"promptFeedback": {"blockReason": "SAFETY"}}),
    (gemini, 400, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
]
QUOTA = [
    (openai, 429, {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}),
    (openai, 429, {"error": {"message": "You exceeded your current quota, please check your plan"}}),
    (openai, 400, {"error": {"code": "billing_hard_limit_reached"}}),
    (openai, 403, {"error": {"code": "billing_not_active"}}),
    (openai, 402, {"error": {"code": "insufficient_quota"}}),
    (anthropic, 400, {"error": {"message": "Your credit balance is too low to access the Anthropic API."}}),
]  # fmt: skip


@pytest.mark.parametrize("classifier", [DEFAULT, NOTHING, EVERYTHING], ids=["default", "nothing", "everything"])
@pytest.mark.parametrize(
    ("kind", "dialect", "status", "body"),
    [("context_window", *case) for case in CONTEXT_WINDOW] + [("content_policy", *case) for case in CONTENT_POLICY],
)
def test_what_another_model_may_not_refuse(
    kind: str, dialect: Any, status: int, body: object, classifier: Classifier
) -> None:
    """It goes along a chain of its own. Siblings would refuse it too, and none of them is to blame, whatever is set."""
    assert answer(status, body, dialect=dialect, classifier=classifier) == CLIENT_ERROR.but(kind=kind)


@pytest.mark.parametrize(("dialect", "status", "body"), QUOTA)
@pytest.mark.parametrize("headers", [[], [(b"retry-after", b"9")]])
def test_money_that_has_run_out_is_a_matter_of_the_key(
    dialect: Any, status: int, body: object, headers: list[Header]
) -> None:
    """Waiting does not bring it back, another key may have some."""
    outcome = answer(status, body, *headers, dialect=dialect)
    assert (outcome.verdict, outcome.retryable, outcome.hint_ms) == (KEY_REJECTED, True, -1)


@pytest.mark.parametrize(("dialect", "_status", "body"), CONTEXT_WINDOW + CONTENT_POLICY)
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_words_in_another_answer_mean_nothing(dialect: Any, _status: int, body: object, status: int) -> None:
    assert answer(status, body, dialect=dialect) == answer(status, {}, dialect=dialect)


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"{", b"[" * 60_000, b'{"error": null}', b"<html>"])
@pytest.mark.parametrize("dialect", [openai, anthropic, gemini])
def test_bodies_that_say_nothing(body: bytes, dialect: Any) -> None:
    for status in (400, 429, 500):
        outcome = DEFAULT.answer(status, [], body, dialect, WALL_NS)
        assert outcome.kind == ""
        assert outcome.but(hint_ms=-1) == DEFAULT.status(status)


# --- no answer at all


@pytest.mark.parametrize("kind", ["connect", "tls", "closed"])
def test_what_was_not_sent_is_always_safe_to_send_elsewhere(kind: str) -> None:
    outcome = DEFAULT.transport(kind, sent=False)
    assert (outcome.name, outcome.retryable, outcome.verdict) == ("upstream_error", True, FAILED)
    assert not outcome.killer


@pytest.mark.parametrize("kind", ["closed", "truncated", "malformed"])
def test_a_connection_that_broke_after_the_request_was_sent_may_have_been_killed_by_it(kind: str) -> None:
    outcome = DEFAULT.transport(kind, sent=True)
    assert (outcome.name, outcome.retryable, outcome.verdict) == ("upstream_error", True, FAILED)
    assert outcome.killer


def test_our_own_queue_being_full_is_nobodys_fault() -> None:
    outcome = DEFAULT.transport("overflow", sent=False)
    assert (outcome.name, outcome.retryable, outcome.verdict) == ("upstream_error", True, NEUTRAL)
    assert not outcome.killer


def test_timeouts() -> None:
    """A prompt that hangs replicas is one that kills them; a connection that was never made is none."""
    assert DEFAULT.transport("timeout", sent=True) == TIMEOUT
    assert TIMEOUT.killer
    assert DEFAULT.transport("timeout", sent=False) == TIMEOUT.but(killer=False)
    assert (TIMEOUT.name, TIMEOUT.retryable, TIMEOUT.verdict) == ("timeout", True, FAILED)


def test_no_answer_with_a_status_counts_as_a_killed_replica() -> None:
    """A replica that answers is alive; only broken connections and timeouts count towards `max_replicas`."""
    assert not any(EVERYTHING.status(status).killer for status in range(200, 600))
    assert not answer(500).killer


def test_from_the_first_byte_on_nothing_is_tried_again() -> None:
    assert not STREAM_BROKEN.retryable
    assert STREAM_BROKEN.verdict == FAILED


def test_a_client_that_left_is_nobodys_fault() -> None:
    assert (CANCELLED.retryable, CANCELLED.verdict) == (False, NEUTRAL)
