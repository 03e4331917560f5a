"""One gateway per test module, of the half of the core that this process's environment asks for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.harness import Gateway
from tests.e2e.stage import Stage, client_of


@pytest.fixture(scope="module")
def gateway_config() -> dict[str, Any]:
    """Return the configuration of `gateway`; a module that needs another one overrides this fixture."""
    return {"providers": [{"id": "echo", "type": "echo", "models": ["echo-1", "echo-2"]}]}


@pytest.fixture(scope="module")
def gateway(gateway_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A running gateway, shared by the tests of a module."""
    directory: Path = tmp_path_factory.mktemp("gateway")
    with Gateway(gateway_config, directory) as running:
        yield running


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A scripted provider, shared by the tests of a module; a `gateway_config` has to lead to it."""
    with Stage() as running:
        yield running
        assert running.upstream.protocol_errors == []


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of `gateway` with the test's key."""
    with client_of(gateway) as made:
        yield made


@pytest.fixture
def unhurt(gateway: Gateway) -> None:
    """Endpoints that nothing has happened to: what tests before this one did to them is forgotten."""
    gateway.wait_idle()
    gateway.forget_health()
