"""What a caller is shown of the models is what its requests may be sent to somebody for."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute.errors import GatewayError
from fastroute.interfaces import DialectName, Principal
from fastroute.routing.listing import Offer, model_document
from tests.unit.routing.stand import Stand, provider

TENANTS: list[dict[str, Any]] = [
    {"id": "all"},
    {"id": "fond", "preferred_providers": ["b"]},
    {"id": "a", "allowed_providers": ["a"]},
    {"id": "b", "allowed_providers": ["b"]},
    {"id": "c", "allowed_providers": ["c"]},
    {"id": "not-b", "denied_providers": ["b"]},
    {"id": "none", "denied_providers": ["a", "b", "c", "d", "a-glob"]},
    {"id": "d-named", "allowed_providers": ["d"], "allowed_models": ["glob-*", "claude", "by-model"]},
    {"id": "lender", "allowed_providers": ["c"], "allowed_models": ["by-model", "only-c"]},
    {"id": "borrower", "allowed_providers": ["c"], "allowed_models": ["by-model"]},
]
KEYS = {"any": None, "few": re.compile("m|only-.*|by-model|glob-1")}
NAMES = [
    "m", "nick", "only-a", "only-c", "tiered", "by-provider", "by-model", "by-glob", "claude", "both", "drained",
    "glob-1", "glob-22", "no-such", "no such",
]  # fmt: skip
DIALECTS: tuple[DialectName, ...] = ("openai", "anthropic", "gemini")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    providers = [
        provider("a", "m", "only-a", "tiered", "by-provider", "by-model", "by-glob", "both"),
        provider("b", "m", "tiered", {"name": "drained", "weight": 0}),
        provider("c", "m", "only-c", "by-provider"),
        provider("d", "claude", "both", "glob-*", type="anthropic"),
        provider("a-glob", "glo*", type="openai"),
    ]
    routes = [
        {"model": "tiered", "tiers": [["b"]]},
        {"model": "by-provider", "tiers": [["a"]], "fallbacks": [{"provider": "c"}]},
        {"model": "by-model", "tiers": [["a"]], "fallbacks": [{"model": "only-c"}]},
        {"model": "by-glob", "tiers": [["a"]], "fallbacks": [{"model": "glob-7"}]},
    ]
    made = Stand(
        tmp_path_factory.mktemp("stand"), *providers, routes=routes, tenants=TENANTS, aliases={"nick": "only-a"}
    )
    with made as stand:
        yield stand


def is_served(stand: Stand, principal: Principal, model: str, dialect: DialectName) -> bool:
    """Whether a request is sent to somebody, or only nobody is well: what the corridor does, step by step."""
    ctx = stand.context(model, dialect=dialect)
    ctx.principal = principal
    try:
        if not principal.may_use(model):
            return False
        plan = stand.planned(ctx)
    except GatewayError as error:
        assert error.status == 404
        return False
    while stand.planner.gate(plan, stand.now_ms) == 0:
        if stand.planner.refuse(plan, stand.now_ms).code == "no_healthy_provider":
            return True
        if not stand.planner.advance(plan, ctx):
            return False
    return True


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("tenant", [*[one["id"] for one in TENANTS], "default", "ghost"])
def test_what_is_offered_is_what_is_served(tenant: str, key: str, stand: Stand) -> None:
    principal = Principal(key, tenant, KEYS[key])
    offer = Offer(stand.planner, principal)
    found = {name for name in NAMES if offer.has(name)}
    assert found == {name for name in NAMES if any(is_served(stand, principal, name, one) for one in DIALECTS)}
    assert set(offer.names()) == {name for name in found if not name.startswith("glob-")}


def test_what_these_are(stand: Stand) -> None:
    def names(tenant: str, key: str = "any") -> set[str]:
        return set(Offer(stand.planner, Principal(key, tenant, KEYS[key])).names())

    every = {*NAMES} - {"glob-1", "glob-22", "no-such", "no such"}
    assert names("all") == names("fond") == names("default") == every
    assert names("none") == names("ghost") == set()
    assert names("a") == every - {"only-c", "tiered", "claude", "drained"}
    assert names("c") == {"m", "only-c", "by-provider", "by-model"}
    assert names("d-named") == {"claude"}
    assert (names("lender"), names("borrower")) == ({"by-model", "only-c"}, set())
    assert names("all", "few") == {"m", "only-a", "only-c", "by-model"}


def test_one_that_is_not_offered_looks_like_one_that_is_not_there(stand: Stand) -> None:
    offer = Offer(stand.planner, Principal("any", "a"))
    for dialect in DIALECTS:
        text = json.loads(model_document(offer, dialect, b"only-a"))
        assert "only-a" in text.get("id", text.get("name"))
        for name in (b"only-c", b"no-such"):
            with pytest.raises(GatewayError) as caught:
                model_document(offer, dialect, name)
            assert caught.value.message == f"the model '{name.decode()}' does not exist or you may not use it"
