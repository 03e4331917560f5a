"""What a request is thought to use, and what becomes of a place in the queue that comes too late."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastroute._core._limits_file import Moment, Subject
from fastroute._core.limits import Ceilings, Limiter, Table
from fastroute.admission import BYTES_PER_TOKEN_AT_MOST, _Seat, measure
from fastroute.downstream.operations import find_operation
from tests.unit.routing.stand import Stand, provider

#: What answers are thought to come to before any has told better.
EXPECTED = 300


def measured(tmp_path: Path, path: str = "", dialect: Any = "openai", **body: Any) -> tuple[int, int, int]:
    """Return (what is surely wanted beyond the prompt, what is likely beyond it, tokens of the prompt)."""
    kind = {"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"}[dialect]
    with Stand(tmp_path, provider("a") | {"type": kind}) as stand:
        ctx = stand.context(dialect=dialect, **body)
        plan = stand.planned(ctx)
        if path:
            ctx.operation = find_operation("POST", path.encode())[0]
        least, likely = measure(ctx, plan)
        sure = ctx.request_bytes // BYTES_PER_TOKEN_AT_MOST
        return least - sure, likely - ctx.prompt_tokens, ctx.prompt_tokens


@pytest.mark.parametrize(
    ("dialect", "body", "sure", "likely"),
    [
        ("openai", {}, 0, EXPECTED),
        ("openai", {"max_tokens": 50}, 50, 50),
        ("openai", {"max_completion_tokens": 70}, 70, 70),
        ("openai", {"max_output_tokens": 80}, 80, 80),
        ("openai", {"max_tokens": 50, "max_completion_tokens": 70}, 70, 70),
        ("openai", {"max_tokens": 50, "n": 3}, 150, 150),
        ("openai", {"n": 3}, 0, 3 * EXPECTED),
        ("openai", {"max_tokens": 0}, 0, EXPECTED),
        ("openai", {"max_tokens": None, "n": None}, 0, EXPECTED),
        ("openai", {"max_tokens": -5}, 0, EXPECTED),
        ("openai", {"max_tokens": 1.5}, 0, EXPECTED),
        ("openai", {"max_tokens": 1e300}, 0, EXPECTED),
        ("openai", {"max_tokens": 10**18}, 10**18, 10**18),
        ("anthropic", {"max_tokens": 1024}, 1024, 1024),
        ("gemini", {"generationConfig": {"maxOutputTokens": 40, "candidateCount": 2}}, 80, 80),
        ("gemini", {"generation_config": {"max_output_tokens": 40}}, 40, 40),
        ("gemini", {}, 0, EXPECTED),
    ],
)
def test_what_an_answer_may_come_to(tmp_path: Path, dialect: str, body: dict[str, Any], sure: int, likely: int) -> None:
    assert measured(tmp_path, dialect=dialect, **body)[:2] == (sure, likely)


def test_embeddings_have_no_answer(tmp_path: Path) -> None:
    assert measured(tmp_path, "/v1/embeddings", max_tokens=50)[:2] == (0, 0)


def test_counting_tokens_uses_none(tmp_path: Path) -> None:
    with Stand(tmp_path, provider("a") | {"type": "anthropic"}) as stand:
        ctx = stand.context(dialect="anthropic", max_tokens=50)
        plan = stand.planned(ctx)
        ctx.operation = find_operation("POST", b"/v1/messages/count_tokens")[0]
        assert measure(ctx, plan) == (0, 0)


def test_a_prompt_is_sure_to_have_but_a_few_tokens(tmp_path: Path) -> None:
    """An image in it makes it long, not expensive: only its provider can say."""
    with Stand(tmp_path) as stand:
        ctx = stand.context(messages=[{"role": "user", "content": "x" * 100_000}])
        least, likely = measure(ctx, stand.planned(ctx))
    assert least == ctx.request_bytes // 50 == 2001
    assert likely == ctx.prompt_tokens + EXPECTED > 25_000


@pytest.mark.parametrize("end", ["cancelled", "turned away"])
def test_a_place_that_comes_too_late_is_given_back(tmp_path: Path, end: str) -> None:
    """The client has left, but its request has not yet had the time to leave the queue when there is room for it."""
    table = Table.create(str(tmp_path / "limits"), 1, Moment(bytes(16), 0, 0), 64)
    limiter = Limiter(table, 0)
    ceilings = Ceilings(table, [Subject("key:a", rpm=1, concurrency=1, rpd=1)])
    loop = asyncio.new_event_loop()
    ctx: Any = SimpleNamespace(principal=SimpleNamespace(tenant="t"), grant=None)
    seat = _Seat(loop, ctx, 1, ceilings, None, 0, 0)
    if end == "cancelled":
        seat.future.cancel()
    else:
        seat.turn_away()
        seat.turn_away()
    grant = limiter.admit(ceilings, None, 0, 0, 1, 1)
    assert grant is not None
    seat.let_in(grant)
    assert ctx.grant is None
    assert not grant.open
    assert limiter.admit(ceilings, None, 0, 0, 1, 1) is not None
    loop.close()
    table.close()
