"""A token as the first segment of a path: what it leads to, and what is left of the path."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.auth.keys import digest
from fastroute.auth.path_tokens import Lane, Lanes, PathCaller
from fastroute.downstream.operations import find_operation
from fastroute.errors import GatewayError
from fastroute.interfaces import Principal

TOKEN = b"5c1f6f0e-9a51-4f43-8c1c-2f0f9f2b7d11"
LANES = Lanes({digest(TOKEN): Lane("single", "pooled"), digest(b"other"): Lane("single 2", "pooled 2")})


class Downstream:
    def __init__(self, path: bytes) -> None:
        self.path = path


def entered(path: bytes) -> tuple[Any, bytes]:
    """Return which snapshot a path leads to, and the path that is left."""
    downstream = Downstream(path)
    return LANES.enter(downstream), downstream.path


@pytest.mark.parametrize(
    ("rest", "lane", "left"),
    [
        (b"/v1/messages", "single", b"/v1/messages"),
        (b"/lb/v1/messages", "pooled", b"/v1/messages"),
        (b"/lb/v1beta/models/m:generateContent", "pooled", b"/v1beta/models/m:generateContent"),
        (b"/v1beta/models/m:generateContent", "single", b"/v1beta/models/m:generateContent"),
        (b"/lb/v1/load-balancer/status", "pooled", b"load-balancer/status"),
        (b"/v1/load-balancer/status", "single", b"/v1/load-balancer/status"),
        (b"/lb/lb/v1/messages", "pooled", b"/lb/v1/messages"),
        (b"/lb", "single", b"/lb"),
        (b"/", "single", b"/"),
        (b"//v1/messages", "single", b"//v1/messages"),
    ],
)
def test_a_token_is_taken_out(rest: bytes, lane: str, left: bytes) -> None:
    assert entered(b"/" + TOKEN + rest) == (lane, left)
    assert entered(b"/other" + rest) == (f"{lane} 2", left)


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/messages", b"/v1beta/models/m:generateContent", b"/", b"", b"*", b"//", b"/" + TOKEN, TOKEN,
        b"/wrong/v1/messages", b"//" + TOKEN + b"/v1/messages", b"/" + TOKEN.upper() + b"/v1/messages",
        b"/" + TOKEN[:-1] + b"/v1/messages", b"/" + digest(TOKEN).hex().encode() + b"/v1/messages", b"/lb/v1/messages",
        b"/%35" + TOKEN[1:] + b"/v1/messages",
    ],
)  # fmt: skip
def test_any_other_path_stays_as_it_is(path: bytes) -> None:
    assert entered(path) == (None, path)


@given(st.binary(max_size=40).map(lambda rest: b"/" + rest))
def test_whatever_the_path_nobody_gets_in_without_a_token(path: bytes) -> None:
    lane, left = entered(path)
    if not path.startswith((b"/" + TOKEN + b"/", b"/other/")):
        assert (lane, left) == (None, path)


@given(st.binary(max_size=40))
def test_no_path_of_a_client_is_that_of_the_status(rest: bytes) -> None:
    """What stands for it inside begins with no slash; the paths themselves lead nowhere without a token."""
    for path in (b"/" + rest, b"/v1/load-balancer/status", b"/load-balancer/status"):
        try:
            operation, _ = find_operation("GET", path)
        except GatewayError:
            continue
        assert not operation.name.startswith("load_balancer")


def test_the_caller_is_known_whatever_else_is_sent() -> None:
    principal = Principal("path-token-1", "default")
    caller = PathCaller(principal)
    for fields in ({}, {b"authorization": b"Bearer nonsense"}, {b"x-api-key": b"dummy"}):
        assert caller.identify(fields, b"key=dummy") is principal
    assert not caller.expired(principal)
    caller.forget()
