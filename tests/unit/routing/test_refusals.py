"""What a caller is told when a gate has taken the last endpoint."""

import pytest

from fastroute._core import _candidates_gates as gates
from fastroute._core._candidates_gates import GATE_NAMES
from fastroute.dialects import DIALECTS
from fastroute.downstream.reply import error_reply
from fastroute.routing.refusals import refusal

#: (gate, status, code, field at fault, who erred, words that name the stage).
EXPECTED: list[tuple[int, int, str, str | None, str, str]] = [
    (gates.PASSED, 503, "no_healthy_provider", None, "gateway", "available"),
    (gates.TRIED, 503, "no_healthy_provider", None, "gateway", "available"),
    (gates.REQUEST, 400, "invalid_request_error", "x-fastroute-exclude", "downstream", "x-fastroute-exclude"),
    (gates.TENANT, 403, "provider_not_allowed", "model", "downstream", "you may use"),
    (gates.RULE, 403, "provider_not_allowed", "model", "downstream", "routing rule"),
    (gates.DRAINED, 503, "no_healthy_provider", None, "gateway", "drained"),
    (gates.CAPABILITY, 400, "unsupported_capability", None, "downstream", "streaming, tools or images"),
    (gates.CONTEXT, 400, "context_length_exceeded", "messages", "downstream", "context window"),
    (gates.OUTPUT, 400, "invalid_request_error", "max_tokens", "downstream", "output tokens"),
    (gates.REGION, 403, "region_not_available", "x-fastroute-region", "downstream", "region"),
    (gates.COST, 402, "budget_exceeded", "x-fastroute-max-cost-usd", "downstream", "cost more"),
    (gates.KEY, 503, "no_healthy_provider", None, "gateway", "credential"),
    (gates.MODEL, 404, "model_not_found", "model", "upstream", "has this model"),
    (gates.QUOTA, 429, "rate_limit_exceeded", None, "upstream", "quota"),
    (gates.BREAKER, 503, "no_healthy_provider", None, "gateway", "healthy"),
    (gates.COOLDOWN, 429, "rate_limit_exceeded", None, "upstream", "rate limited"),
    (gates.FULL, 429, "rate_limit_exceeded", None, "upstream", "under way"),
]


def test_every_gate_has_one() -> None:
    assert [gate for gate, *_ in EXPECTED] == list(range(len(GATE_NAMES)))


@pytest.mark.parametrize(("gate", "status", "code", "param", "fault", "words"), EXPECTED)
def test_refusals(gate: int, status: int, code: str, param: str | None, fault: str, words: str) -> None:
    error = refusal(gate, 1500)
    assert (error.status, error.code, error.param, error.fault) == (status, code, param, fault)
    assert words in error.message
    # Sent again as it is, it may do better later, or never.
    assert error.retry_safe is (status in (429, 503))
    assert (error.retry_after_s is not None) is (status in (429, 503))
    assert not error.close


def test_no_two_stages_sound_the_same() -> None:
    told = [refusal(gate, 1500).message for gate in range(gates.REQUEST, len(GATE_NAMES))]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("gate", [gates.KEY, gates.QUOTA, gates.BREAKER, gates.COOLDOWN])
@pytest.mark.parametrize(
    ("wait_ms", "seconds"),
    [
        (1, 1),
        (999, 1),
        (1000, 1),
        # What the clocks' rounding alone has made of a second is one.
        (1001, 1),
        (1002, 2),
        (59_500, 60),
        (0, 1),
        (-5, 1),
        (-(10**9), 1),
        (300_000, 300),
        (10**12, 86_400),
    ],
)
def test_the_time_to_wait_is_in_whole_seconds_and_at_least_one(gate: int, wait_ms: int, seconds: int) -> None:
    assert refusal(gate, wait_ms).retry_after_s == seconds


@pytest.mark.parametrize("gate", [gates.TRIED, gates.DRAINED])
def test_what_no_clock_brings_back_says_no_time_of_its_own(gate: int) -> None:
    assert {refusal(gate, wait_ms).retry_after_s for wait_ms in (-1_000_000, 0, 5000)} == {1}


@pytest.mark.parametrize("gate", range(len(GATE_NAMES)))
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
def test_it_leaves_in_the_callers_dialect_and_never_as_a_fault_of_ours(gate: int, dialect: object) -> None:
    error = refusal(gate, 1500)
    status, headers, body = error_reply(error, dialect, "r-1")  # type: ignore[arg-type]
    assert status == error.status != 500
    assert error.message.encode() in body
    assert (b"retry-after" in dict(headers)) is (error.retry_after_s is not None)
