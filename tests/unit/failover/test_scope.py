"""What error answers are about: samples of every provider, real ones where they are at hand, and anything at all."""

import base64
import json
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.attempts import FAILED, KEY_REJECTED, NEUTRAL, RATE_LIMITED
from fastroute.config.schema import Retry
from fastroute.dialects import openai
from fastroute.failover.classify import Classifier, Outcome
from fastroute.failover.provider_error import MAX_WORDS, ProviderError, read_error
from fastroute.failover.scope import CAUSE_OF_LIMIT, cause_of, limit_scope, renewal_ms
from fastroute.interfaces import CAUSES, Allowance, Header, Scope
from tests.e2e.harness import RECORDINGS, recordings

SAMPLES = json.loads((Path(__file__).parents[2] / "data" / "failover" / "refusals.json").read_text())
CAP_MS = Retry().max_retry_after_ms
JUDGE = Classifier(frozenset(Retry().on_status), CAP_MS)
#: Fri, 31 Dec 2027 23:59:59 GMT
NOW_NS = 1_830_297_599 * 1_000_000_000
VERDICTS = {"limited": RATE_LIMITED, "key": KEY_REJECTED, "neutral": NEUTRAL, "failed": FAILED}


def head(fields: dict[str, Any]) -> list[Header]:
    return [(name.encode(), value.encode()) for name, value in fields.items() if isinstance(value, str)]


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample["name"] for sample in SAMPLES])
def test_samples(sample: dict[str, Any]) -> None:
    body = sample["body"] if isinstance(sample["body"], str) else json.dumps(sample["body"])
    outcome = JUDGE.answer(sample["status"], head(sample["headers"]), body.encode(), openai, NOW_NS)
    expected = {"outcome": "rate_limited", "verdict": "limited", "kind": "", "retryable": True, **sample["expect"]}
    assert outcome.name == expected["outcome"]
    assert outcome.verdict == VERDICTS[expected["verdict"]]
    assert (outcome.kind, outcome.hint_ms, outcome.cause) == (expected["kind"], expected["hint_ms"], expected["cause"])
    assert outcome.scope == expected.get("scope", outcome.scope)
    assert outcome.said_ms == expected.get("said_ms", outcome.said_ms)
    assert outcome.retryable is (expected["retryable"] and not expected["kind"])


def test_every_scope_and_cause_of_an_answer_has_a_sample() -> None:
    assert {sample["expect"].get("scope", "") for sample in SAMPLES} == set(get_args(Scope))
    # An operator switches keys off, and a breaker opens, without an answer that says so.
    assert {sample["expect"]["cause"] for sample in SAMPLES} == set(CAUSES) - {"switched_off", "breaker"}
    assert set(CAUSE_OF_LIMIT.values()) <= set(CAUSES)
    assert len(CAUSES) <= 32


# --- what providers really sent

#: (scope, cause, hint_ms) of recorded refusals, by the beginning of their names.
RECORDED: dict[str, tuple[str, str, int]] = {
    "anthropic/messages-json-401": ("key", "invalid_key", -1),
    "anthropic/messages-stream-401": ("key", "invalid_key", -1),
    "anthropic/messages-json-404": ("model", "model_not_found", -1),
    "anthropic/messages-json-422": ("model", "model_not_found", -1),
    "anthropic/transcribed-chat-completions-429": ("input_token", "input_tokens", 1000),
    "anthropic/transcribed-messages-429-requests": ("request", "requests", 1000),
    "anthropic/transcribed-messages-429-unified": ("day", "day_quota", 13_262_000),
    "azure/chat-completions-json-404": ("model", "model_not_found", -1),
    "azure/transcribed-chat-completions-429": ("token", "tokens", CAP_MS),
    "azure/transcribed-responses-429": ("unknown", "unknown_limit", 1000),
    "bedrock/converse-json-403": ("key", "invalid_key", -1),
    "bedrock/converse-stream-stream-400": ("model", "model_not_found", -1),
    "bedrock/invoke-json-403": ("key", "invalid_key", -1),
    "cohere/chat-v1-json-404": ("model", "model_not_found", -1),
    "cohere/embed-json-404": ("model", "model_not_found", -1),
    "gemini/batchembedcontents-json-400": ("key", "invalid_key", -1),
    "gemini/batchembedcontents-json-404": ("", "", -1),
    "gemini/generatecontent-json-400": ("key", "invalid_key", -1),
    "gemini/generatecontent-json-403": ("key", "invalid_key", -1),
    "gemini/generatecontent-json-404": ("model", "model_not_found", -1),
    "gemini/generatecontent-json-429": ("input_token", "input_tokens", 48_940),
    "groq/transcribed-chat-completions-429": ("token", "tokens", 50_598),
    "mistral/chat-completions-json-401": ("key", "invalid_key", -1),
    "openai/chat-completions-json-401": ("key", "invalid_key", -1),
    "openai/completions-stream-401": ("key", "invalid_key", -1),
    "openai/embeddings-json-401": ("key", "invalid_key", -1),
    "openai/embeddings-json-404": ("model", "model_not_found", -1),
    "openai/responses-json-400-test-responses-create": ("model", "model_not_found", -1),
    "openai/responses-json-401": ("key", "invalid_key", -1),
    "openai/transcribed-chat-completions-429": ("token", "", -1),
    "openai/transcribed-responses-429": ("unknown", "unknown_limit", 1000),
    "openrouter/chat-completions-json-401": ("key", "invalid_key", -1),
    "openrouter/chat-completions-json-429": ("model", "overloaded", 1000),
    "vertex/generatecontent-json-401": ("key", "invalid_key", -1),
    "vertex/generatecontent-json-403": ("model", "model_not_found", -1),
    "vertex/generatecontent-json-429": ("request", "requests", 1000),
    "voyage/embeddings-json-400": ("model", "model_not_found", -1),
    "xai/responses-json-400": ("key", "invalid_key", -1),
}


def test_recorded_refusals() -> None:
    seen = set()
    for recording in recordings():
        status = recording["status"]
        if status < 400:
            continue
        fields, body = recording["response"].get("headers", {}), recording["response"].get("body") or ""
        said = fields.get("date")
        wall_s = parsedate_to_datetime(said).timestamp() if isinstance(said, str) else 0
        outcome = JUDGE.answer(status, head(fields), body.encode(), openai, int(wall_s * 1e9))
        for start, expected in RECORDED.items():
            if recording["id"].startswith(start):
                seen.add(start)
                assert (outcome.scope, outcome.cause, outcome.hint_ms) == expected, recording["id"]
        if status in (401, 403, 429):
            # None of these is about nothing.
            assert outcome.scope
        elif status in (400, 413):
            assert outcome.cause in ("", "invalid_key", "model_not_found")
    assert seen == set(RECORDED)


def test_recorded_sentences() -> None:
    """Messages that tell the time only to people."""
    path = RECORDINGS / "ratelimit_messages.json"
    if not path.exists():
        pytest.skip(f"no recordings at {RECORDINGS.name}")
    for sample in json.loads(path.read_text()):
        body = json.dumps({"error": {"message": sample["message"]}}).encode()
        outcome = JUDGE.answer(429, [], body, openai, NOW_NS)
        assert outcome.scope == "token"
        wait_s = sample["retry_after_s"]
        if wait_s is None:
            assert outcome.verdict == NEUTRAL
            continue
        assert 0 <= outcome.said_ms - wait_s * 1000 < 1
        assert outcome.hint_ms == min(CAP_MS, outcome.said_ms)


# --- reading


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        ('{"error": {"code": "A", "type": "b", "message": "m"}}', {"a", "b"}, "m"),
        ('{"error": {"code": 429, "status": "S"}}', {"429", "s"}, ""),
        ('{"error": {"code": true, "type": null, "message": 5}}', set(), ""),
        ('[{"error": {"code": "a", "message": "m"}}]', {"a"}, "m"),
        ('{"code": "a", "error": "m"}', {"a"}, "m"),
        ('{"message": "m", "__type": "T"}', {"t"}, "m"),
        ('{"detail": "m"}', set(), "m"),
        ('{"detail": [{"msg": "m"}]}', set(), ""),
        ('{"error": {"message": "m", "metadata": {"raw": "r"}}}', set(), "m r"),
        ('{"error": {"details": [{"reason": "R"}, 5, null]}}', {"r"}, ""),
        ("[]", set(), ""),
        ("[5]", set(), ""),
        ("5", set(), ""),
        ('"m"', set(), ""),
        ('{"error": null}', set(), ""),
        ('{"error": []}', set(), ""),
        ('{"error": {"details": {}, "metadata": []}}', set(), ""),
        ('{"error": {"details": [{"violations": 5, "metadata": {"quota_limit": 5}}]}}', set(), ""),
    ],
)
def test_shapes(body: str, words: set[str], message: str) -> None:
    assert read_error([], body.encode()) == ProviderError(frozenset(words), message)


def test_what_is_no_json_says_nothing_but_its_header_may() -> None:
    assert read_error([], b"<html>") == ProviderError(foreign=True)
    assert read_error([], b"") == read_error([], b" \r\n") == ProviderError()
    error = read_error([(b"x-amzn-errortype", b"ThrottlingException:http://x")], b"")
    assert error == ProviderError(frozenset({"throttlingexception"}))


def test_long_ones_are_cut() -> None:
    body = json.dumps({"error": {"message": "m" * 100_000, "code": "c" * 100_000}})
    error = read_error([], body.encode())
    assert len(error.message) == MAX_WORDS
    assert {len(word) for word in error.words} == {128}


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        (b'{"error": {"code": "c", "message": "what there', {"c"}, "what there"),
        (b'{"error": {"message": "m", "code": "c"}, "debug": "xxx', {"c"}, "m"),
        (b'{"error": {"message": "m", "code": "c"}, "debug": [1, {"a": 12', {"c"}, "m"),
        (b'{"error": {"message": "m", "co', set(), "m"),
        (b'{"error": {"message": "m", "code"', set(), "m"),
        (b'{"error": {"message": "m", "code":', set(), "m"),
        (b'{"error": {"message": "m", "code": nul', set(), "m"),
        (b'{"error": {"message": "m",', set(), "m"),
        (b'{"error": {"message": "m"', set(), "m"),
        (b'{"error": {"message": "half \\u00', set(), "half "),
        (b'{"error": {"message": "half \\', set(), "half "),
        (b'{"error": {"message": "\\\\', set(), "\\"),
        (b'{"error": {"message": "half \xe2\x82', set(), "half "),
        (b'{"error": {"code": "c", "message": "half \\ud83d', {"c"}, ""),
        (b'{"error": {"code": "[{,", "message": "a \\"quoted\\" brace }', {"[{,"}, 'a "quoted" brace }'),
        (b'{"error": {"details": [{"reason": "R"}, {"reason": "S", "x', {"r", "s"}, ""),
        (b'[{"error": {"status": "S", "mess', {"s"}, ""),
    ],
)
def test_of_a_document_that_was_cut_all_is_read_that_is_there(body: bytes, words: set[str], message: str) -> None:
    assert read_error([], body) == ProviderError(frozenset(words), message)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[",
        b'"m',
        b"{x",
        b'{"a"',
        b"[}",
        b'{"error": {"message": "m"}}}',
        b'{"error": {}} x',
        b"<p>{",
        b"[" * 90_000,
    ],
)
def test_what_is_no_beginning_of_a_document_is_none(body: bytes) -> None:
    assert read_error([], body) == ProviderError(foreign=True)


def test_of_a_document_that_goes_on_for_ever_only_the_beginning_is_read() -> None:
    begin = b'{"error": {"code": "c", "message": "m"}, "list": ['
    many = begin + b"[]," * 200_000 + b'{"code": "d"'
    long = begin + b'"' + b"x" * 200_000
    assert read_error([], many) == read_error([], long) == ProviderError(frozenset({"c"}), "m")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["error", "message", "code", "type", "status", "details", "violations", "quotaId", "metadata", "raw",
             "detail", "reason", "quota_limit", "msg"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


def outcome_of(status: int, headers: list[Header], body: bytes) -> Outcome:
    outcome = JUDGE.answer(status, headers, body, openai, NOW_NS)
    assert outcome.scope in get_args(Scope)
    assert outcome.cause in CAUSES
    assert -1 <= outcome.hint_ms <= CAP_MS
    assert outcome.said_ms >= -1
    return outcome


@given(st.integers(400, 599), json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_any_body_is_judged(status: int, body: bytes) -> None:
    outcome = outcome_of(status, [], body)
    if status >= 500 and status not in (503, 529):
        assert outcome.cause == ""


@given(st.integers(400, 599), json_values.map(lambda value: json.dumps(value).encode()), st.data())
def test_any_beginning_of_a_body_is_judged(status: int, body: bytes, data: st.DataObject) -> None:
    outcome_of(status, [], body[: data.draw(st.integers(0, len(body)))])


names = st.sampled_from(
    [b"retry-after", b"retry-after-ms", b"x-ms-retry-after-ms", b"x-ratelimit-reset-tokens", b"x-amzn-errortype",
     b"x-ratelimit-remaining-tokens", b"anthropic-ratelimit-requests-reset", b"anthropic-ratelimit-unified-status"]
)  # fmt: skip
absurd = st.sampled_from([b"-1", b"nan", b"inf", b"1e9", b"1000000000", b"0", b"", b"rejected", b"9" * 400])


@given(st.sampled_from([400, 401, 429, 503, 529]), st.lists(st.tuples(names, absurd | st.binary(max_size=20))))
def test_any_head_is_judged(status: int, headers: list[Header]) -> None:
    outcome_of(status, headers, b"")


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
@given(text=st.text(max_size=100))
def test_what_a_caller_has_thought_up_takes_nothing_out(status: int, text: str) -> None:
    """Providers quote it, after words of their own."""
    for sample in SAMPLES:
        error = sample["body"].get("error") if isinstance(sample["body"], dict) else None
        if isinstance(error, dict) and "max_tokens" not in str(error):
            quoted = f"Invalid value: '{text}{error.get('message')}'"
            body = json.dumps({"error": {"message": quoted, "code": "invalid_value"}}).encode()
            cause = cause_of(status, read_error([], body))
            # A refusal that has no reason at all is a matter of the key.
            assert cause == ("no_permission" if status == 403 else "") or "supported" in quoted


# --- fields


@pytest.mark.parametrize(
    ("allowance", "scope", "wait_ms"),
    [
        (None, "unknown", None),
        (Allowance(), "unknown", None),
        (Allowance(requests_remaining=1, requests_reset_ms=5), "unknown", None),
        (Allowance(requests_remaining=0, requests_reset_ms=5), "request", 5),
        (Allowance(requests_remaining=0, requests_reset_ms=0), "request", None),
        (Allowance(requests_remaining=0), "request", None),
        (Allowance(tokens_remaining=0, tokens_reset_ms=7, requests_reset_ms=9), "token", 7),
        (Allowance(tokens_remaining=0, tokens_reset_ms=7, input_tokens_remaining=0), "input_token", 7),
        (Allowance(output_tokens_remaining=0, output_tokens_reset_ms=3), "output_token", 3),
        (Allowance(requests_remaining=0, requests_reset_ms=5, day_requests_remaining=0), "day", 5),
        (Allowance(day_tokens_remaining=0, day_tokens_reset_ms=8), "day", 8),
        (Allowance(month_remaining=0, month_reset_ms=9), "day", 9),
    ],
)
def test_the_limit_of_which_nothing_is_left(allowance: Allowance | None, scope: str, wait_ms: int | None) -> None:
    assert limit_scope([], ProviderError(), allowance) == scope
    assert renewal_ms(allowance) == wait_ms


def test_bodies_in_base64_of_the_recordings_are_not_errors() -> None:
    """The test above reads `body` only."""
    for recording in recordings():
        if recording["status"] >= 400 and "body_b64" in recording["response"]:
            assert not base64.b64decode(recording["response"]["body_b64"])
