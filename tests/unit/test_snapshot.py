"""What a reload builds anew, and what it keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastroute import transports
from fastroute.build import Surroundings, build_snapshot
from tests.unit.routing.stand import Stand, provider


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The environments that TLS contexts have been made from."""
    made: list[Any] = []
    original: Callable[[Any], Any] = transports.client_context
    monkeypatch.setattr(transports, "client_context", lambda env: made.append(env) or original(env))
    return made


@pytest.mark.parametrize(("url", "expected"), [("https://h.test/v1", 1), ("http://127.0.0.1:1/v1", 0)])
def test_certificates_are_read_only_for_connections_that_are_new(
    url: str, expected: int, tmp_path: Path, contexts: list[Any]
) -> None:
    """Reading them takes longer than all the rest of a reload, and every worker stands still meanwhile."""
    places = [provider(name, base_url=url) for name in "ab"]
    with Stand(tmp_path, *places) as stand:
        assert len(contexts) == expected
        around = Surroundings(stand._loop, stand.segment, stand.clock, lambda: 0, {})
        again = build_snapshot(stand.config, around, 2, previous=stand.snapshot)
        assert len(contexts) == expected
        assert again.transports == stand.snapshot.transports
