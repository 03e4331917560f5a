"""Tenant policies."""

from decimal import Decimal
from typing import Any

import pytest

from fastroute.config.schema import Config, Tenant
from fastroute.routing.tenants import UNKNOWN, UNRESTRICTED, TenantTable, compile_tenants

PROVIDERS = {"one": 0, "two": 1, "three": 2}


def compiled(**values: Any) -> TenantTable:
    return compile_tenants(Config(tenants=(Tenant(id="acme", **values),)), PROVIDERS)


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ({}, None),
        ({"allowed_providers": ("one", "two", "three")}, None),
        ({"allowed_providers": ("two",)}, b"\0\1\0"),
        ({"denied_providers": ("one",)}, b"\0\1\1"),
        ({"allowed_providers": ("one", "two"), "denied_providers": ("one",)}, b"\0\1\0"),
        ({"denied_providers": ("one", "two", "three")}, b"\0\0\0"),
        ({"preferred_providers": ("three",)}, b"\2\2\1"),
        ({"preferred_providers": ("three", "one")}, b"\2\3\1"),
        ({"preferred_providers": ("three",), "denied_providers": ("one",)}, b"\0\2\1"),
        ({"preferred_providers": ("one",), "denied_providers": ("one",)}, b"\0\2\2"),
    ],
)
def test_order(values: Any, order: bytes | None) -> None:
    assert compiled(**values)["acme"].order == order


def test_more_preferred_providers_than_a_byte_counts() -> None:
    names = tuple(f"p{at}" for at in range(400))
    config = Config(tenants=(Tenant(id="acme", preferred_providers=names[:300]),))
    order = compile_tenants(config, {name: at for at, name in enumerate(names)})["acme"].order
    assert order is not None
    assert list(order[:254]) == list(range(1, 255))
    assert set(order[254:]) == {255}


@pytest.mark.parametrize(
    ("models", "model", "expected"),
    [
        (("*",), "x", True), (("gpt-4o",), "gpt-4o", True), (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-*",), "gpt-4o-mini", True), (("a", "gpt-*"), "a", True), (("a", "*"), "z", True),
        (("gpt-?",), "gpt-4", False),
    ],
)  # fmt: skip
def test_models(models: tuple[str, ...], model: str, expected: bool) -> None:
    assert compiled(allowed_models=models)["acme"].may_use(model) is expected


def test_strategy_and_price() -> None:
    policy = compiled(strategy="least_latency", max_cost_per_request_usd=Decimal("0.000000001"))["acme"]
    assert policy.strategy == "least_latency"
    assert policy.max_cost_pico == 1000
    assert compiled(max_cost_per_request_usd=Decimal(0))["acme"].max_cost_pico == 0
    assert compiled()["acme"] == UNRESTRICTED


def test_without_tenants_there_is_no_table() -> None:
    table = compile_tenants(Config(), PROVIDERS)
    assert not table
    assert table["anybody"] is UNRESTRICTED


def test_once_there_are_tenants_an_unknown_one_may_nothing() -> None:
    table = compiled()
    assert table.get("ghost") is UNKNOWN
    assert not UNKNOWN.may_use("gpt-4o")
    assert not UNKNOWN.may_use("")


def test_the_default_tenant_is_always_there() -> None:
    assert compiled().get("default") is UNRESTRICTED
    config = Config(tenants=(Tenant(id="default", allowed_providers=("one",)),))
    assert compile_tenants(config, PROVIDERS)["default"].order == b"\1\0\0"
