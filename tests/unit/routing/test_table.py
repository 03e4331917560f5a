"""Model names to routes."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from fastroute.errors import GatewayError
from fastroute.interfaces import Step
from fastroute.routing.table import MAX_MODEL_BYTES, Route, RouteTable, unknown_model

OPENAI: Any = {"openai": "pool-openai"}
BOTH: Any = {"openai": "pool-openai", "gemini": "pool-gemini"}


def route(name: str, pools: Any = OPENAI) -> Route:
    return Route(name, "p2c", pools)


def table(exact: Sequence[str] = (), globs: Sequence[str] = ()) -> RouteTable:
    return RouteTable({name: route(name) for name in exact}, [(glob, route("")) for glob in globs])


def resolve(routes: RouteTable, name: str | bytes, dialect: Any = "openai") -> tuple[str, Route]:
    named = name if isinstance(name, bytes) else name.encode()
    body = b'{"model": "' + named + b'"}'
    return routes.resolve(body, 11, 11 + len(named), dialect)


def refused(routes: RouteTable, name: str | bytes, dialect: Any = "openai") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        resolve(routes, name, dialect)
    return caught.value


def test_exact_names() -> None:
    routes = table(["gpt-4o", "gpt-4o-mini", "\u00e9l\u00e8ve"])
    for name in routes.names:
        found, route_ = resolve(routes, name)
        assert found == route_.name == name
        assert route_.model_header == (b"x-fastroute-model", name.encode())
    for name in ("gpt-4", "gpt-4o-min", "GPT-4o", "", "gpt-4o ", "gpt-4o\x00"):
        assert refused(routes, name).status == 404


def test_an_alias_is_its_target_under_another_name() -> None:
    target = route("gpt-4o")
    routes = RouteTable({"gpt-4o": target, "best": target}, [])
    assert resolve(routes, "best") == ("best", target)
    assert routes.names == ("gpt-4o", "best")
    assert routes.pools == {("gpt-4o", "openai"): "pool-openai"}


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("gpt-*", "gpt-4o", True), ("gpt-*", "gpt-", True), ("gpt-*", "my-gpt-4", False), ("*", "anything", True),
        ("*-mini", "o4-mini", True), ("a*b*c", "a-b-c", True), ("a*b*c", "a-c-b", False), ("a*a", "a", False),
        # Nothing but the asterisk is special, as in rules, tenants and keys.
        ("gpt-?*", "gpt-4", False), ("gpt-?*", "gpt-?4", True), ("[ab]*", "a1", False), ("[ab]*", "[ab]1", True),
        ("gpt.*", "gpt-4", False),
    ],
)  # fmt: skip
def test_globs(glob: str, name: str, expected: bool) -> None:
    routes = table(globs=[glob])
    if expected:
        found, route_ = resolve(routes, name)
        assert (found, route_.name, route_.model_header) == (name, "", None)
    else:
        assert refused(routes, name).status == 404


def test_an_exact_name_wins_and_globs_count_in_their_order() -> None:
    first, second, exact = route(""), route(""), route("gpt-4o")
    routes = RouteTable({"gpt-4o": exact}, [("gpt-4*", first), ("gpt-*", second)])
    assert resolve(routes, "gpt-4o")[1] is exact
    assert resolve(routes, "gpt-4")[1] is first
    assert resolve(routes, "gpt-5")[1] is second
    assert routes.names == ("gpt-4o",)
    assert set(routes.pools) == {("gpt-4o", "openai"), ("gpt-4*", "openai"), ("gpt-*", "openai")}


def test_a_route_counts_only_in_the_dialects_it_is_served_in() -> None:
    routes = RouteTable({"m": route("m"), "n": route("n", BOTH)}, [("*", route("", {"gemini": "p"}))])
    assert resolve(routes, "m")[1].name == "m"
    assert resolve(routes, "m", "gemini")[1].name == ""
    assert resolve(routes, "n", "gemini")[1].name == "n"
    assert refused(routes, "m", "anthropic").status == 404


@pytest.mark.parametrize("name", ["a b", "a\tb", "a\nb", "a\x7fb", "a\x00", " ", "", "x" * (MAX_MODEL_BYTES + 1)])
def test_what_cannot_be_a_name_matches_no_glob(name: str) -> None:
    assert refused(table(globs=["*"]), name).status == 404
    assert resolve(table(globs=["*"]), "x" * MAX_MODEL_BYTES)


def test_a_pattern_that_nearly_matches_takes_no_time() -> None:
    routes = table(globs=["*a" * 60 + "*b"])
    assert refused(routes, "a" * MAX_MODEL_BYTES).status == 404


def test_a_model_of_the_configuration_is_found_or_not() -> None:
    routes = table(["m"], ["gpt-*"])
    found = routes.find("m", "openai")
    assert found is not None
    assert found.name == "m"
    assert routes.find("gpt-4", "openai") is not None
    assert routes.find("other", "openai") is None
    assert routes.find("m", "anthropic") is None


def test_chains_come_with_the_route() -> None:
    steps = (Step(("a",), None, None),)
    one = Route("m", "p2c", cast(Any, {}), steps, (), steps)
    assert (one.fallbacks, one.on_context_window, one.on_content_policy) == (steps, (), steps)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"gpt-5", "'gpt-5'"), (b"", "''"), (b"a\nb\x1b[31m", "'a\ufffdb\ufffd[31m'"), (b"\xff\xfe", "'\ufffd\ufffd'"),
        (b"x" * 500, "'" + "x" * 64 + "'"),
    ],
)  # fmt: skip
def test_an_unknown_model_is_shown_so_that_it_can_be_logged(name: bytes, shown: str) -> None:
    error = unknown_model(name)
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert shown in error.message
    assert error.message.isprintable()
